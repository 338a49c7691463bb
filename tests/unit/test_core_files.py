"""Core files as targets: of made-up mallocs of every release, with gaps, packed, and damaged."""

from __future__ import annotations

import gzip
import lzma
import operator
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit import cores
from unit.cores import R, Segment, W
from unit.mallocs import BRK, LIBC_DATA, PAGE, RELEASES, furnished

from allocscope.app import arenas_core
from allocscope.app.arenas_core import arenas_of_core
from allocscope.errors import BadInput, MissingPart, NoGlibcHeap
from allocscope.files.core import Core
from allocscope.model.heap import ArenasData
from allocscope.model.report import Report

Write = Callable[[bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(data: bytes) -> Path:
        path = tmp_path / "core.1"
        path.write_bytes(data)
        return path

    return written


def report(path: Path, exe: Path | None = None) -> Report[ArenasData]:
    return arenas_of_core(path, exe=exe, deadline_s=60)


def codes(found: Report[ArenasData]) -> list[str]:
    return [caveat.code for caveat in found.caveats]


# ---- sound ones ----


@pytest.mark.parametrize("version", RELEASES)
def test_a_core_of_every_release(version: str, write: Write) -> None:
    malloc = furnished(version).write()
    found = report(write(cores.of_malloc(malloc)))
    assert not found.partial
    for arena, made in zip(found.data.arenas, malloc.arenas, strict=True):
        figures = arena.figures
        assert arena.address == made.address
        assert (figures.live_count, figures.live_bytes) == (made.count("live"), made.bytes("live"))
        assert figures.tcache_bytes == made.bytes("tcache")
        assert figures.fastbin_bytes == made.bytes("fastbin")
        assert figures.bin_bytes == made.bytes("bin")
        assert figures.top_bytes == made.bytes("top")
        assert (figures.residue_bytes, figures.unread_bytes) == (0, 0)
        counted = "attached_threads" in malloc.release.state
        assert arena.attached_threads == (made.attached_threads if counted else None)
    assert found.data.mmapped.found_count == len(malloc.mappings)
    assert [t.tid for t in found.data.threads] == [t.tid for t in malloc.threads]
    assert found.libc is not None
    assert found.libc.path == cores.LIBC_PATH
    state, heap, tcache, _ = (found.libc.layout or "").split("/")
    assert heap == f"heap{malloc.release.heap_info_bytes}"
    assert (tcache == "none") == (malloc.release.tcache_bins == 0)
    assert state == {2184: "A", 2192: "B", 2200: "C", 2112: "D"}[malloc.release.state["size"]]


def test_brk_is_found_without_its_name(write: Write) -> None:
    malloc = furnished("2.36").write()
    malloc.image.words(malloc.brk_spans[0][1] - 8, 1)  # a page of zeros was never touched
    found = report(write(cores.of_malloc(malloc)))
    [heap] = found.data.arenas[0].heaps
    assert (heap.start, heap.holds_top) == (malloc.sbrk_base, True)
    assert heap.trimmable_bytes == PAGE  # its top reaches the end of the break


def test_without_file_names_all_small_memory_is_searched(write: Write) -> None:
    malloc = furnished("2.36").write()
    libc = cores.held(malloc, LIBC_DATA, LIBC_DATA + 2 * PAGE)
    segments = [cores.held(malloc, start, end) for start, end in malloc.spans]
    found = report(write(cores.core(sorted([*segments, libc], key=lambda s: s.start))))
    assert len(found.data.arenas) == len(malloc.arenas)
    assert (found.process.pid, found.process.comm, found.process.exe) == (0, "", "")
    assert "tcaches-by-shape" in codes(found)
    assert not found.partial
    totals = found.data.totals
    assert totals.live_count == sum(arena.count("live") for arena in malloc.arenas)
    assert totals.tcache_count == sum(arena.count("tcache") for arena in malloc.arenas)


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress])
def test_a_packed_core(pack: Callable[[bytes], bytes], write: Write) -> None:
    data = cores.of_malloc(furnished("2.36").write())
    plain = report(write(data)).data
    assert report(write(pack(data))).data == plain


def test_a_gap_in_the_heap_is_said_and_counted(write: Write) -> None:
    """Pages that the core leaves out: their chunks are unread, and the answer is partial."""
    malloc = furnished("2.36").write()
    whole = report(write(cores.of_malloc(malloc)))
    arena = malloc.arenas[1]
    first = arena.heaps[0] // PAGE
    for number in range(first + 4, first + 0x20):
        malloc.image.pages.pop(number, None)
        malloc.image.states.pop(number, None)
    found = report(write(cores.of_malloc(malloc)))
    assert found.partial
    assert {"core-incomplete", "unread"} <= set(codes(found))
    assert whole.data.arenas[2] == found.data.arenas[2]
    hurt = found.data.arenas[1].figures
    assert hurt.unread_bytes > 0
    assert hurt.residue_bytes == 0
    assert found.data.arenas[1].heaps[1] == whole.data.arenas[1].heaps[1]


def test_a_thread_whose_control_block_is_zeros(write: Write) -> None:
    """As gdb writes mappings that it cannot read in one piece."""
    malloc = furnished("2.36").write()
    worker = malloc.threads[1]
    malloc.image.words(worker.tcb, 0, 0, 0)
    found = report(write(cores.of_malloc(malloc)))
    assert found.partial
    [text] = [c.message for c in found.caveats if c.code == "core-without-threads"]
    assert "1 of 3 threads" in text
    before_tcaches = furnished("2.23").write()
    before_tcaches.image.words(before_tcaches.threads[1].tcb, 0, 0, 0)
    assert not report(write(cores.of_malloc(before_tcaches))).partial


def test_a_core_without_libcs_data(write: Write) -> None:
    malloc = furnished("2.36").write()
    for page in range(2):
        malloc.image.states.pop(LIBC_DATA // PAGE + page)
    with pytest.raises(NoGlibcHeap, match="does not hold the data of /usr/lib/libc") as caught:
        report(write(cores.of_malloc(malloc)))
    assert "coredump_filter" in caught.value.hint


def test_a_core_of_something_without_glibc(write: Write) -> None:
    with pytest.raises(NoGlibcHeap, match="holds no glibc malloc"):
        report(write(cores.core([Segment(BRK, PAGE, bytes(PAGE))])))


def test_a_damaged_heap_is_partial_and_says_where(write: Write) -> None:
    malloc = furnished("2.36").write()
    malloc.image.words(malloc.main.row.chunks[1].address + 8, 0x4141414141414141)
    found = report(write(cores.of_malloc(malloc)))
    assert found.partial
    assert "arena-damaged" in codes(found)
    assert found.data.arenas[1].consistency == "frozen"


def test_another_allocator_is_named(write: Write) -> None:
    malloc = furnished("2.36").write()
    jemalloc = (0x7F8100000000, 0x7F8100001000, "/opt/lib/libjemalloc.so.2")
    found = report(write(cores.of_malloc(malloc, more_files=[jemalloc])))
    [text] = [c.message for c in found.caveats if c.code == "other-allocator"]
    assert text.startswith("jemalloc is mapped too")


# ---- the program ----


def test_exe_is_the_program_or_a_caveat(write: Write, tmp_path: Path) -> None:
    core = write(cores.of_malloc(furnished("2.36").write()))
    found = report(core, Path("/bin/true"))
    assert found.process.exe == "/bin/true"
    text = tmp_path / "text"
    text.write_text("no program")
    with pytest.raises(BadInput):
        report(core, text)


# ---- what is no core, or no longer one ----

SOUND = [Segment(BRK, 2 * PAGE, bytes(PAGE)), Segment(BRK + 4 * PAGE, PAGE, bytes(PAGE), R)]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cannot be read as an ELF file"),
        (b"#!/bin/sh\n", "cannot be read as an ELF file"),
        (b"\x7fELF", "cannot be read as an ELF file"),
        (cores.core(SOUND)[:40], "cannot be read as an ELF file"),
        (cores.core(SOUND, kind=2), "no core"),
        (cores.core(SOUND, machine=40), "another machine (ARM"),
        (cores.core([]), "holds no memory"),
        (cores.core(SOUND)[:100], "truncated"),
        (cores.core(SOUND)[:-1], "truncated"),
        (cores.core([SOUND[0], SOUND[0]]), "overlaps"),
        (cores.core([Segment(BRK + 8, PAGE, b"")]), "not made of pages"),
        (cores.core([Segment(BRK, PAGE, bytes(2 * PAGE))]), "damaged"),
        (lzma.compress(cores.core(SOUND))[:-20], "cannot be unpacked"),
        (gzip.compress(cores.core(SOUND))[:-12], "cannot be unpacked"),
        (b"\x1f\x8b" + b"garbage", "cannot be unpacked"),
    ],
)
def test_what_cannot_be_read_as_a_core(data: bytes, says: str, write: Write) -> None:
    with pytest.raises(BadInput) as caught:
        report(write(data))
    assert says in caught.value.message


def test_a_core_of_a_32_bit_program_for_x86_64(write: Write) -> None:
    data = bytearray(cores.core(SOUND))
    data[4] = 1
    with pytest.raises(BadInput, match=r"another machine .x64, 32-bit"):
        report(write(bytes(data)))


def test_a_compression_that_is_not_unpacked(write: Write) -> None:
    with pytest.raises(MissingPart) as caught:
        report(write(b"\x04\x22\x4d\x18 rest"))
    assert "lz4 -d" in caught.value.hint


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, says in ((fifo, "not a regular file"), (tmp_path / "none", "No such file")):
        with pytest.raises(BadInput, match=says):
            report(path)


def test_a_program_header_table_of_absurd_size(write: Write) -> None:
    data = bytearray(cores.core(SOUND))
    struct.pack_into("<H", data, 54, 0)  # e_phentsize
    with pytest.raises(BadInput, match="program headers of 0 bytes"):
        report(write(bytes(data)))


def test_segments_that_are_all_the_same_bytes(write: Write) -> None:
    """A small file must not make work for a large one."""
    data = bytearray(cores.core([Segment(BRK + i * PAGE, PAGE, bytes(PAGE)) for i in range(9)]))
    for number in range(1, 10):
        struct.pack_into("<Q", data, 64 + 56 * number + 8, 0)
    short = bytes(data[: -5 * PAGE])
    with pytest.raises(BadInput, match="share their bytes"):
        report(write(short))


# ---- mappings ----


def test_mappings_know_their_files_and_permissions(write: Write) -> None:
    segments = [
        Segment(0x1000, PAGE, b"", R),
        Segment(0x2000, PAGE, bytes(PAGE), R | W),
        Segment(0x3000, PAGE, bytes(PAGE), R | W),
    ]
    notes = cores.file_note([(0x1000, 0x3000, "/bin/a b")])
    with Core(write(cores.core(segments, notes)), deadline_ns=1 << 62) as core:
        told = [(m.start, m.perms, m.path, m.anonymous) for m in core.mappings()]
        assert core.runs(0, 0x10000) == [(0x2000, 0x4000)]
        assert [s.start for s in core.missing] == []
    assert told == [
        (0x1000, "r--p", "/bin/a b", False),
        (0x2000, "rw-p", "/bin/a b", False),
        (0x3000, "rw-p", "", True),
    ]


# ---- while it is read ----


@pytest.mark.parametrize("step", ["look_at", "heap.read"])
@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_core_that_is_cut_off_while_it_is_read(
    step: str, left: int, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``left`` halves of it stay: none, one, or nearly both."""
    path = write(cores.of_malloc(furnished("2.36").write()))
    size = path.stat().st_size
    where = f"allocscope.app.arenas_core.{step}"
    told = operator.attrgetter(step)(arenas_core)

    def cut(*arguments: Any, **options: Any) -> Any:
        os.truncate(path, (0, size // 2, size - 1)[left])
        return told(*arguments, **options)

    monkeypatch.setattr(where, cut)
    with pytest.raises(BadInput, match="became shorter while it was read"):
        report(path)
