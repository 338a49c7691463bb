"""The ledger over a made-up malloc of everything: rows, holdings, drift."""

from __future__ import annotations

import dataclasses

import pytest
from unit.heaps import PAGE
from unit.mallocs import RELEASES, Malloc, furnished

from allocscope.account import ledger as account
from allocscope.glibc.reading import read_heap
from allocscope.model.ledger import Ledger
from allocscope.model.owners import Holding
from allocscope.model.process import Mapping, SmapsEntry
from allocscope.model.situation import ArenaResidence
from allocscope.owners.divide import by_byte, divide
from allocscope.owners.heap import heap_claims
from allocscope.owners.mapped import Files

NO_FILES = Files(frozenset(), frozenset())


def smaps_of(malloc: Malloc) -> tuple[SmapsEntry, ...]:
    """What the kernel would say of the malloc's memory: every page that is there, as one mapping
    for each run of pages."""
    runs: list[list[int]] = []
    for start, end, flags in malloc.image.runs():
        if runs and runs[-1][1] == start:
            runs[-1][1] = end
        else:
            runs.append([start, end])
        assert flags == 1
    return tuple(
        SmapsEntry(
            mapping=Mapping(start, end, "rw-p", 0, "00:00", 0, ""),
            rss_bytes=end - start,
            private_dirty_bytes=end - start,
            private_clean_bytes=0,
            lazyfree_bytes=0,
            swap_bytes=0,
            anonymous_bytes=end - start,
            anon_huge_bytes=0,
            locked_bytes=0,
        )
        for start, end in runs
    )


def kept(
    malloc: Malloc, entries: tuple[SmapsEntry, ...]
) -> tuple[Ledger, tuple[Holding, ...], list[ArenaResidence]]:
    with malloc.memory() as memory:
        reading = read_heap(malloc.subject(memory), version=malloc.version, expired=lambda: False)

        def resident(start: int, end: int) -> int:
            return by_byte(memory.residency, start, end).resident_bytes

        parts = divide(entries, heap_claims(reading), NO_FILES, memory.residency)
        ledger = account.ledger(entries, parts, reading, resident)
        return ledger, parts, [account.residence(arena, resident) for arena in reading.arenas]


@pytest.mark.parametrize("version", RELEASES)
def test_every_resident_byte_is_in_one_row(version: str) -> None:
    malloc = furnished(version)
    malloc.write()
    entries = smaps_of(malloc)
    ledger, holdings, residence = kept(malloc, entries)
    assert ledger.rss_bytes == sum(entry.rss_bytes for entry in entries)
    assert ledger.drift_bytes == 0
    assert sum(part.resident_bytes for part in holdings) == ledger.rss_bytes
    assert [part.start for part in holdings] == sorted(part.start for part in holdings)

    def chunks(kind: str) -> int:
        return sum(arena.bytes(kind) for arena in malloc.arenas)

    assert ledger.row("glibc-live").resident_bytes == chunks("live")
    assert ledger.row("glibc-tcache").resident_bytes == chunks("tcache")
    assert ledger.row("glibc-fastbin").resident_bytes == chunks("fastbin")
    assert ledger.row("glibc-top").resident_bytes == chunks("top")
    assert ledger.resident("glibc-free-whole-pages", "glibc-free-shared-pages") == chunks("bin")
    mapped = sum(end - start for start, end in malloc.mappings)
    assert ledger.row("glibc-mmapped").virtual_bytes == mapped
    overhead = chunks("tcache_struct") + chunks("fencepost") + malloc.foreign_bytes
    assert ledger.row("glibc-overhead").resident_bytes >= overhead
    heap_rows = ledger.rss_bytes - ledger.resident(
        "glibc-mmapped", "unexplained", "loader-and-special"
    )
    assert sum(arena.resident_bytes for arena in residence) == heap_rows


def test_foreign_memory_between_pieces_of_the_main_heap_is_counted_by_byte() -> None:
    malloc = Malloc("2.36")
    malloc.main.row.live(0x5010)
    malloc.main.row.free(0x2020)
    malloc.main.row.live_up_to(malloc.main.row.first // PAGE * PAGE + 16 * PAGE - 32)
    malloc.main.row.fenceposts()
    malloc.foreign_brk(0x1230)
    malloc.main.row.live(0x3000)
    malloc.main.row.live(0x20)
    malloc.main.end_at_page(2)
    malloc.write()
    ledger, _, _ = kept(malloc, smaps_of(malloc))
    assert ledger.drift_bytes == 0
    overhead = ledger.row("glibc-overhead").resident_bytes
    assert malloc.foreign_bytes >= 0x1230
    assert overhead >= malloc.foreign_bytes + malloc.main.bytes("fencepost")
    assert ledger.row("glibc-live").resident_bytes == malloc.main.bytes("live")


def test_what_the_kernel_counts_more_is_drift() -> None:
    malloc = furnished("2.36")
    malloc.write()
    entries = list(smaps_of(malloc))
    first = malloc.main.rows[0].first
    heap = next(
        index
        for index, entry in enumerate(entries)
        if entry.mapping.start <= first < entry.mapping.end
    )
    entries[heap] = dataclasses.replace(entries[heap], rss_bytes=entries[heap].rss_bytes + PAGE)
    ledger, _, _ = kept(malloc, tuple(entries))
    assert ledger.drift_bytes == PAGE
    assert sum(row.resident_bytes for row in ledger.rows) + ledger.drift_bytes == ledger.rss_bytes


@pytest.mark.parametrize(
    ("drift", "too_much"), [(0, False), (1000, False), (1001, True), (-1001, True)]
)
def test_a_thousandth_of_rss_is_the_most_drift(drift: int, too_much: bool) -> None:
    assert account.too_much_drift(Ledger(1_000_000, (), drift)) == too_much
