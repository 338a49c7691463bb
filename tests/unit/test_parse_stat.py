"""stat, status, environ and auxv: recorded text, names chosen by an enemy, garbage."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocscope.errors import BadInput
from allocscope.parse import auxv, environ, stat, status

STAT = (
    b"7317 (%s) %s 7307 7307 3826 0 -1 %d 100 0 0 0 0 0 0 0 20 0 4 0 122575 3133440 393 "
    b"18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)

STATUS = b"""\
Name:\tpostgres: a (b)
Umask:\t0022
State:\tS (sleeping)
Tgid:\t7319
Ngid:\t0
Pid:\t7320
PPid:\t7307
TracerPid:\t41
Uid:\t1000\t1001\t1002\t1003
Gid:\t0\t0\t0\t0
NSpid:\t7320\t12\t1
VmPeak:\t    3060 kB
VmHWM:\t    1736 kB
VmRSS:\t    1700 kB
VmPTE:\t      44 kB
VmSwap:\t       8 kB
Threads:\t1
CapEff:\t000001fffeffffff
Seccomp:\t2
Cpus_allowed_list:\t0-1,4
x86_Thread_features:\tshstk wrss
x86_Thread_features_locked:\tshstk wrss
"""

KERNEL_THREAD = b"""\
Name:\tkthreadd
State:\tS (sleeping)
Tgid:\t2
TracerPid:\t0
Uid:\t0\t0\t0\t0
"""


def test_stat_fields():
    found = stat.parse(STAT % (b"cat", b"S", 4194304))
    assert (found.pid, found.comm, found.state, found.ppid) == (7317, "cat", "S", 7307)
    assert (found.thread_count, found.start_ticks) == (4, 122575)
    assert not found.kernel_thread
    assert not found.dead


@pytest.mark.parametrize("comm", [b"a b", b") R 1 (", b"(sd-pam)", b"x\ny", b"\xff\xfe", b""])
def test_stat_with_any_name(comm):
    found = stat.parse(STAT % (comm, b"D", 0))
    assert found.comm.encode("utf-8", "surrogateescape") == comm
    assert (found.state, found.start_ticks) == ("D", 122575)


def test_stat_of_a_kernel_thread():
    assert stat.parse(STAT % (b"kthreadd", b"S", 0x00208040)).kernel_thread


@pytest.mark.parametrize("state", [b"Z", b"X"])
def test_stat_of_the_dead(state):
    assert stat.parse(STAT % (b"a", state, 0)).dead


@pytest.mark.parametrize("text", [b"", b"1 (a", b"1 (a) S 1 2 3", b"x" + STAT, STAT[:60]])
def test_stat_cut_off(text):
    with pytest.raises(BadInput, match="stat"):
        stat.parse(text)


def test_status_lines():
    found = status.parse(STATUS)
    assert (found.state, found.tracer_pid, found.uid, found.tgid) == ("S", 41, 1001, 7319)
    assert (found.rss_bytes, found.peak_rss_bytes) == (1700 * 1024, 1736 * 1024)
    assert (found.page_table_bytes, found.swap_bytes) == (44 * 1024, 8 * 1024)
    assert (found.seccomp, found.ns_pid, found.cpus_allowed) == (2, (7320, 12, 1), "0-1,4")
    assert found.shadow_stack
    assert found.effective_capabilities == 0x1FFFEFFFFFF


def test_status_without_memory_knows_no_sizes():
    found = status.parse(KERNEL_THREAD)
    assert found.rss_bytes is found.peak_rss_bytes is found.swap_bytes is None
    assert not found.shadow_stack


def test_a_locked_feature_that_is_off_is_off():
    off = STATUS.replace(b"features:\tshstk wrss\n", b"features:\t\n", 1)
    assert not status.parse(off).shadow_stack


@pytest.mark.parametrize("missing", [b"State", b"Uid", b"TracerPid", b"Tgid"])
def test_status_without_a_line_that_every_kernel_prints(missing):
    with pytest.raises(BadInput, match="status"):
        status.parse(STATUS.replace(missing, b"Xyz"))


def test_environ_keeps_what_concerns_malloc():
    block = b"PATH=/bin\0MALLOC_ARENA_MAX=2\0GLIBC_TUNABLES=a=b\0SECRET=x\0MALLOC_TOP_PAD_=\0"
    block += b"LD_PRELOAD=/x.so\0\0MALLOC_ARENA_MAX=9\0MALLOC_\0=\0"
    assert environ.parse(block) == {
        "MALLOC_ARENA_MAX": "2",
        "GLIBC_TUNABLES": "a=b",
        "MALLOC_TOP_PAD_": "",
        "LD_PRELOAD": "/x.so",
    }


def test_tunables():
    text = "glibc.malloc.arena_max=2:junk::glibc.malloc.arena_max=3:=5:glibc.malloc.mxfast=0x40"
    assert environ.tunables(text) == {
        "glibc.malloc.arena_max": "3",
        "glibc.malloc.mxfast": "0x40",
    }


def test_auxv():
    words = (6, 4096, 23, 1, 7, 0x7F00, 3, 0x40, 5, 13, 9, 0x1234, 0, 0, 6, 8192)
    found = auxv.parse(struct.pack("<16Q", *words))
    assert (found.base, found.phdr, found.phnum, found.entry) == (0x7F00, 0x40, 13, 0x1234)
    assert (found.page_bytes, found.secure) == (4096, True)


@pytest.mark.parametrize("data", [b"", b"\1" * 15, struct.pack("<4Q", 6, 4096, 23, 0)])
def test_auxv_cut_off(data):
    with pytest.raises(BadInput, match="auxv"):
        auxv.parse(data)


@given(st.binary(max_size=400))
def test_garbage_is_parsed_or_refused(data):
    environ.tunables(data.decode("latin-1"))
    environ.parse(data)
    for parse in (stat.parse, status.parse, auxv.parse):
        try:
            parse(data)
        except BadInput:
            continue


@given(st.lists(st.sampled_from(STATUS.split(b"\n")), max_size=20), st.binary(max_size=20))
def test_status_in_pieces_is_parsed_or_refused(lines, junk):
    try:
        status.parse(b"\n".join(lines).replace(b"\t", b"\t" + junk, 2))
    except BadInput:
        return
