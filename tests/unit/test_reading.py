"""Reading a whole made-up malloc, sound ones first."""

from __future__ import annotations

import pytest
from unit.mallocs import RELEASES, Arena, Malloc, furnished

from allocscope.account import arenas as account
from allocscope.glibc.reading import HeapReading, read_heap
from allocscope.model.heap import Figures


def read(malloc: Malloc, **options: object) -> HeapReading:
    malloc.write()
    with malloc.memory() as memory:
        return read_heap(
            malloc.subject(memory),
            version=malloc.version,
            expired=lambda: False,
            **options,  # type: ignore[arg-type]
        )


def figures_of(reading: HeapReading, index: int) -> Figures:
    return account.arena(reading.arenas[index], None, "validated").figures


def assert_sound(malloc: Malloc, reading: HeapReading) -> None:
    """Every arena validated, and its figures are those of the chunks that were put in."""
    assert [item.state.address for item in reading.arenas] == [a.address for a in malloc.arenas]
    for index, arena in enumerate(malloc.arenas):
        assert reading.arenas[index].problems == ()
        assert_figures(malloc, arena, figures_of(reading, index))


def assert_figures(malloc: Malloc, arena: Arena, found: Figures) -> None:
    is_main = arena is malloc.main
    overhead = found.overhead
    assert found.system_bytes == malloc.system_bytes(arena)
    assert (found.live_count, found.live_bytes) == (arena.count("live"), arena.bytes("live"))
    assert (found.tcache_count, found.tcache_bytes) == (
        arena.count("tcache"),
        arena.bytes("tcache"),
    )
    assert found.fastbin_count == arena.count("fastbin")
    assert found.fastbin_bytes == arena.bytes("fastbin")
    assert (found.bin_count, found.bin_bytes) == (arena.count("bin"), arena.bytes("bin"))
    assert found.top_bytes == arena.bytes("top")
    assert overhead.tcache_struct_bytes == arena.bytes("tcache_struct")
    assert overhead.fencepost_bytes == arena.bytes("fencepost")
    assert overhead.arena_headers_bytes == malloc.header_bytes(arena)
    assert overhead.alignment_bytes == malloc.alignment_bytes(arena)
    assert overhead.foreign_brk_bytes == (malloc.foreign_bytes if is_main else 0)
    assert found.unread_bytes == 0
    assert found.residue_bytes == 0


@pytest.mark.parametrize("version", RELEASES)
def test_one_of_everything(version: str) -> None:
    malloc = furnished(version)
    reading = read(malloc)
    assert_sound(malloc, reading)
    assert reading.rounds == 1
    assert reading.safe_linking == malloc.release.mangled
    assert version in reading.layout.versions
    assert reading.mmapped == tuple(malloc.mappings)
    assert reading.parked.broken == ()
    assert [(t.tid, t.arena) for t in reading.threads] == [
        (t.tid, t.arena.address) for t in malloc.threads
    ]
    assert [t.tcache.address if t.tcache else 0 for t in reading.threads] == [
        t.tcache for t in malloc.threads
    ]
    by_tid = {tid: len(chunks) for tid, chunks in reading.parked.by_tid.items()}
    assert by_tid == {100: 5, 101: 1}
