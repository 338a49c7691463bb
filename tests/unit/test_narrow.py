"""Heaps of 32-bit programs, made up: every release's words of 4 bytes, with chunks aligned to 8 and
to 16; and the numbers that follow from a machine's word."""

from __future__ import annotations

import pytest
from unit.heaps import PAGE, Image, Row
from unit.narrow import BRK, RELEASES, Narrow

from allocscope.account.arenas import arena as account
from allocscope.files.words import WordMemory, pack
from allocscope.glibc import structure
from allocscope.glibc.abi import NARROW, NARROW_TO_2_25, WIDE, Abi, of_machine
from allocscope.glibc.reading import HeapReading, read_heap
from allocscope.model.libc import AARCH64, I386, OTHER


def read(malloc: Narrow, robust_lists: bool = True) -> HeapReading:
    with malloc.memory() as memory:
        subject = malloc.subject(memory, robust_lists)
        return read_heap(subject, version=None, expired=lambda: False, frozen=True)


def assert_sound(malloc: Narrow, reading: HeapReading) -> None:
    found = [account(item, None, "frozen").figures for item in reading.arenas]
    assert [(f.residue_bytes, f.unread_bytes) for f in found] == [(0, 0), (0, 0)]
    assert [item.problems for item in reading.arenas] == [(), ()]
    counts = {
        "live": sum(f.live_count for f in found),
        "tcache": sum(f.tcache_count for f in found),
        "fast": sum(f.fastbin_count for f in found),
        "free": sum(f.bin_count for f in found),
    }
    assert counts == {kind: malloc.counts[kind] for kind in counts}
    assert sum(f.live_bytes for f in found) == malloc.bytes["live"]
    assert sum(f.overhead.tcache_struct_bytes for f in found) == malloc.bytes["struct"]
    assert sum(f.overhead.foreign_brk_bytes for f in found) == malloc.foreign_bytes
    assert found[0].overhead.fencepost_bytes == (16 + malloc.slack if malloc.foreign_bytes else 0)


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("foreign_bytes", [0, 0x2000])
def test_one_of_everything(version: str, foreign_bytes: int) -> None:
    malloc = Narrow(version, foreign_bytes)
    reading = read(malloc)
    assert_sound(malloc, reading)
    assert version in reading.layout.versions
    assert reading.layout.abi.alignment == malloc.release.alignment
    assert reading.safe_linking == malloc.release.mangled
    [thread] = reading.threads
    assert thread.arena == malloc.thread_arena
    assert (thread.tcache.address if thread.tcache else 0) == malloc.tcache


@pytest.mark.parametrize("version", [v for v, r in RELEASES.items() if r.tcache_chunk])
def test_a_tcache_is_found_by_its_shape_where_no_thread_tells_of_it(version: str) -> None:
    malloc = Narrow(version)
    reading = read(malloc, robust_lists=False)
    assert_sound(malloc, reading)
    assert reading.shaped_count == 1
    assert reading.threads[0].tcache is None


def test_a_chunk_that_only_has_the_size_of_a_tcache_is_none() -> None:
    malloc = Narrow("2.34")
    malloc.image.write(malloc.tcache, b"\x07\0" + bytes(0x80))  # seven chunks, and no list
    reading = read(malloc, robust_lists=False)
    assert reading.shaped_count == 0


@pytest.mark.parametrize("version", ["2.23", "2.34"])
def test_what_is_recorded_is_read_alike(version: str) -> None:
    malloc = Narrow(version, 0x2000)
    with malloc.memory() as memory:
        memory.keeps_words = True
        subject = malloc.subject(memory)
        first = read_heap(subject, version=None, expired=lambda: False, frozen=True)
        walked = [p.tally.words for item in first.arenas for p in item.pieces if p.tally.words]
        spans = [(0xF7E00000, 0xF7E01000)]
        kept = pack(structure.structure(memory, first, [malloc.TCB], spans))
        runs = b"".join(memory.page_states(low, high) for low, high in [*subject.spans, *spans])
    with WordMemory([*walked, kept], runs, "a recording") as recorded:
        recorded.abi = NARROW
        again = read_heap(
            malloc.subject(recorded),  # type: ignore[arg-type]
            version=None,
            expired=lambda: False,
            frozen=True,
        )
    assert_sound(malloc, again)
    payload = bytes.fromhex("deadbeef")
    assert payload not in kept.words
    assert [t.tcache and t.tcache.address for t in again.threads] == [malloc.tcache or None]


def test_payload_before_a_header_is_not_kept() -> None:
    malloc = Narrow("2.34")
    behind_first = BRK + malloc.slack + 0x190 + 16  # prev_size there belongs to the live chunk
    malloc.image.write(behind_first, bytes.fromhex("deadbeef"))
    with malloc.memory() as memory:
        memory.keeps_words = True
        first = read_heap(malloc.subject(memory), version=None, expired=lambda: False, frozen=True)
        walked = [p.tally.words for item in first.arenas for p in item.pieces if p.tally.words]
    assert walked
    assert all(bytes.fromhex("deadbeef") not in words.words for words in walked)


# ---- what follows from a word ----


@pytest.mark.parametrize(
    ("abi", "smallest", "of_100", "slack", "fastbins", "heap"),
    [
        (WIDE, 32, 112, 0, 10, 64 << 20),
        (NARROW, 16, 112, 8, 11, 1 << 20),
        (NARROW_TO_2_25, 16, 104, 0, 10, 1 << 20),
    ],
    ids=["64-bit", "i386", "i386 up to 2.25"],
)
def test_numbers_of_a_machine(
    abi: Abi, smallest: int, of_100: int, slack: int, fastbins: int, heap: int
) -> None:
    assert (abi.chunk_bytes(0), abi.chunk_bytes(100)) == (smallest, of_100)
    assert (abi.slack_bytes, abi.fastbin_count, abi.heap_max_bytes) == (slack, fastbins, heap)
    first = abi.first_chunk(0x5000)
    assert first == 0x5000 + slack
    assert abi.is_chunk(first)
    assert abi.first_chunk(first + 1) == first + abi.alignment


def test_machines() -> None:
    assert of_machine(I386) == NARROW
    assert of_machine(OTHER) is None
    wide = of_machine(AARCH64, 65536)
    assert wide is not None
    assert (wide.page_bytes, wide.tls_above, wide.word_bytes) == (65536, True, 8)


def test_large_pages_are_released_whole_or_not_at_all() -> None:
    row = Row(0x10000)
    row.live(0x100)
    row.free(0x38000)
    row.live(0x40)
    with row.image().memory() as memory:
        small = memory.walk(row.region()).trimmable_bytes
        memory.abi = Abi(page_bytes=65536)
        large = memory.walk(row.region()).trimmable_bytes
    assert (small, large) == (0x37000, 0x20000)


def test_chunks_lead_to_top_also_where_more_memory_follows_its_region() -> None:
    """Top ends with its page, so its size is no multiple of the alignment."""
    image, at = Image(), 0xF6000000
    image.touch(at, at + 2 * PAGE)
    image.words(at + 8, 0x61 << 32)
    image.words(at + 0x68, (PAGE - 0x68 | 1) << 32)
    with image.memory() as memory:
        memory.abi = NARROW
        assert memory.chain_reaches(at + 8, at + 2 * PAGE, [at + 0x68])
        assert memory.row_start(at + 8, at + 24, at + 2 * PAGE, [at + 0x68]) == at + 8
        assert not memory.chain_reaches(at + 8, at + 2 * PAGE, [])
