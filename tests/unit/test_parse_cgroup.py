"""Control groups: membership, mounts, limits, lists of CPUs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocscope.errors import BadInput
from allocscope.parse import cgroup

MEMBERSHIPS = b"""\
9:name=systemd:/user.slice
4:memory:/docker/ab cd:ef
2:cpu,cpuacct:/docker/abcdef
0::/unified
"""

MOUNTINFO = rb"""22 27 0:20 / /proc rw,relatime shared:5 - proc proc rw
30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
33 25 0:29 /docker/ab\040cd:ef /sys/fs/cgroup/memory\011x ro master:4 shared:1 - cgroup cgroup rw,memory
34 25 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
"""  # noqa: E501


def test_memberships():
    found = cgroup.memberships(MEMBERSHIPS)
    assert [(m.hierarchy, m.controllers, m.path) for m in found] == [
        (9, ("name=systemd",), "/user.slice"),
        (4, ("memory",), "/docker/ab cd:ef"),
        (2, ("cpu", "cpuacct"), "/docker/abcdef"),
        (0, (), "/unified"),
    ]


def test_mounts():
    unified, memory, cpu = cgroup.mounts(MOUNTINFO)
    assert (unified.version, unified.root, unified.point) == (2, "/", "/sys/fs/cgroup/unified")
    assert (memory.root, memory.point) == ("/docker/ab cd:ef", "/sys/fs/cgroup/memory\tx")
    assert cpu.options == ("rw", "cpu", "cpuacct")


@pytest.mark.parametrize(
    ("text", "cpus"),
    [(b"max 100000\n", None), (b"200000 100000\n", 2.0), (b"50000 100000\n", 0.5)],
)
def test_cpu_max(text, cpus):
    assert cgroup.cpu_max(text) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [(b"-1\n", None), (b"150000\n", 1.5)])
def test_cpu_quota(quota, cpus):
    assert cgroup.cpu_quota(quota, b"100000\n") == cpus


@pytest.mark.parametrize(
    ("text", "limit"),
    [(b"max\n", None), (b"9223372036854771712\n", None), (b"1048576\n", 1048576), (b"0\n", 0)],
)
def test_memory_limit(text, limit):
    assert cgroup.limit_bytes(text) == limit


@pytest.mark.parametrize(("text", "count"), [("0-3,8\n", 5), ("0", 1), ("", 0), ("0-1,4-7", 6)])
def test_cpu_list(text, count):
    assert cgroup.cpu_list(text) == count


@given(st.binary(max_size=200))
def test_garbage_is_parsed_or_refused(data):
    parsers = (
        cgroup.memberships,
        cgroup.mounts,
        cgroup.cpu_max,
        cgroup.limit_bytes,
        cgroup.usage_bytes,
        cgroup.flat_keyed,
        lambda text: cgroup.cpu_quota(text, text),
        lambda text: cgroup.cpu_list(text.decode("latin-1")),
    )
    for parse in parsers:
        try:
            parse(data)
        except BadInput:
            continue


V2_STAT = b"""\
anon 104857600
file 73400320
kernel 9437184
kernel_stack 163840
pagetables 1048576
sock 4096
shmem 20971520
zswap 1048576
zswapped 4194304
inactive_file 31457280
active_file 20971520
slab_reclaimable 6291456
slab_unreclaimable 1048576
slab 7340032
"""
V1_STAT = b"""\
cache 14368768
rss 10915840
shmem 9084928
inactive_file 28672
active_file 5255168
total_cache 2952978432
total_rss 132825088
total_shmem 9084928
total_inactive_file 1524113408
total_active_file 1419780096
"""


def test_memory_of_a_group_by_kind() -> None:
    mib = 1 << 20
    found = cgroup.memory(2, "/group", b"188743680\n", V2_STAT, b"")
    assert (found.usage_bytes, found.anonymous_bytes) == (180 * mib, 100 * mib)
    assert (found.file_bytes, found.shared_bytes) == (50 * mib, 20 * mib)
    assert (found.kernel_bytes, found.socket_bytes) == (9 * mib, 4096)
    assert (found.slab_reclaimable_bytes, found.slab_unreclaimable_bytes) == (6 * mib, mib)
    assert (found.zswap_bytes, found.zswapped_bytes) == (mib, 4 * mib)
    assert found.reclaimable_bytes == (30 + 20 + 6) * mib


def test_memory_of_a_group_of_version_1_counts_those_below() -> None:
    found = cgroup.memory(1, "/group", b"3085803520\n", V1_STAT, b"2097152\n")
    assert (found.anonymous_bytes, found.file_bytes) == (132825088, 2952978432 - 9084928)
    assert (found.kernel_bytes, found.slab_reclaimable_bytes) == (2 << 20, None)
    assert found.reclaimable_bytes == 1524113408 + 1419780096


def test_what_a_group_does_not_tell_is_unknown() -> None:
    found = cgroup.memory(2, "/group", b"4096\n", b"anon 4096\n", b"")
    assert (found.anonymous_bytes, found.file_bytes, found.reclaimable_bytes) == (4096, None, None)
    with pytest.raises(BadInput):
        cgroup.memory(2, "/group", b"", b"", b"")
