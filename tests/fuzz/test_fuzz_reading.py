"""Whole mallocs with damage anywhere: only allocscope's own errors may escape."""

from __future__ import annotations

import contextlib
import copy
import functools

from hypothesis import given, settings
from hypothesis import strategies as st
from unit.heaps import PAGE, PRESENT
from unit.mallocs import LIBC_DATA, RELEASES, Malloc, Thread, furnished

from allocscope.account import arenas as account
from allocscope.errors import AllocscopeError
from allocscope.files.spans import SpanMemory
from allocscope.glibc.lists import in_use_bytes, process_lists
from allocscope.glibc.locate import locate
from allocscope.glibc.mmapped import find_mmapped
from allocscope.glibc.reading import read_heap

FUZZ = settings.get_profile("fuzz")
VERSIONS = sorted(RELEASES)


@functools.cache
def whole(version: str) -> Malloc:
    return furnished(version).write()


@functools.cache
def words_that_matter(version: str) -> list[int]:
    """Addresses of all that a reading follows."""
    malloc = whole(version)
    places = [
        chunk.address + 8 * i
        for a in malloc.arenas
        for r in a.rows
        for chunk in r.chunks
        for i in range(4)
    ]
    for arena in malloc.arenas:
        places += range(arena.address, arena.address + malloc.release.state["size"], 8)
        places += [start + 8 * i for start in arena.heaps for i in range(4)]
    for thread in malloc.threads:
        places += [thread.tcb + offset for offset in (0, 16)]
        places += [thread.tcb + Thread.ARENA_OFFSET, thread.tcb + Thread.TCACHE_OFFSET]
        if thread.tcache:
            places += range(thread.tcache, thread.tcache + malloc.release.tcache_chunk - 16, 8)
    places += range(malloc.par_address, malloc.par_address + 136, 8)
    places += [start + 8 * i for start, _ in malloc.mappings for i in range(2)]
    return places


@st.composite
def damages(draw: st.DrawFn, most: int = 6) -> tuple[str, list[tuple[int, int]], list[int]]:
    """A release, ``(address, value)`` words to write, and pages to take away."""
    version = draw(st.sampled_from(VERSIONS))
    places = words_that_matter(version)
    place = st.sampled_from(places)
    value = st.one_of(
        st.integers(0, 40).map(lambda n: 8 * n),
        st.integers(0, 1 << 20),
        place,
        place.map(lambda address: address // 16 * 16),
        st.sampled_from([1 << 46, 1 << 47, (1 << 47) - 16, 1 << 63, (1 << 64) - 16, (1 << 64) - 1]),
        st.integers(0, (1 << 64) - 1),
    )
    words = draw(st.lists(st.tuples(place, value), max_size=most))
    return version, words, draw(st.lists(place, max_size=2))


def damaged(version: str, words: list[tuple[int, int]], gone: list[int]) -> Malloc:
    malloc = copy.copy(whole(version))
    malloc.image = copy.deepcopy(malloc.image)
    for address, value in words:
        malloc.image.words(address, value)
    for address in gone:
        malloc.image.state(address // PAGE * PAGE, address // PAGE * PAGE + PAGE, 2)
    return malloc


def read_all(malloc: Malloc, memory: SpanMemory, subject_memory: SpanMemory) -> None:
    """Locates in one memory, reads in another, which may have been damaged since."""
    subject = malloc.subject(memory)
    for frozen in (False, True):
        with contextlib.suppress(AllocscopeError):
            reading = read_heap(
                type(subject)(
                    memory=subject_memory,
                    walker=subject_memory,
                    located=subject.located,
                    threads=subject.threads,
                    spans=subject.spans,
                    brk_end=subject.brk_end,
                    safe_linking_default=subject.safe_linking_default,
                ),
                version=malloc.version,
                expired=lambda: False,
                frozen=frozen,
            )
            arenas = [account.arena(item, None, "validated") for item in reading.arenas]
            account.totals([arena.figures for arena in arenas])
            account.size_classes(reading)
            account.thread_caches(reading, {})
            in_use_bytes(reading)
            process_lists(subject_memory, reading)


@settings(FUZZ)
@given(damages())
def test_reading_what_was_damaged_since_it_was_located(
    damage: tuple[str, list[tuple[int, int]], list[int]],
) -> None:
    version, words, gone = damage
    malloc = damaged(version, words, gone)
    with whole(version).memory() as sound, malloc.memory() as memory:
        read_all(malloc, sound, memory)


@settings(FUZZ)
@given(damages())
def test_locating_what_is_damaged(damage: tuple[str, list[tuple[int, int]], list[int]]) -> None:
    malloc = damaged(*damage)
    with malloc.memory() as memory, contextlib.suppress(AllocscopeError):
        if malloc.locate(memory) is not None:
            read_all(malloc, memory, memory)


@settings(FUZZ)
@given(damages(most=2))
def test_damage_is_never_silent(damage: tuple[str, list[tuple[int, int]], list[int]]) -> None:
    """Where nothing is reported, the sum closes."""
    version, words, _ = damage
    malloc = damaged(version, words, [])
    with whole(version).memory() as sound, malloc.memory() as memory:
        subject = malloc.subject(sound)
        fields = {name: getattr(subject, name) for name in type(subject).__slots__}
        with contextlib.suppress(AllocscopeError):
            reading = read_heap(
                type(subject)(**{**fields, "memory": memory, "walker": memory}),
                version=version,
                expired=lambda: False,
            )
            for item in reading.arenas:
                found = account.arena(item, None, "validated").figures
                if not item.problems and found.system_bytes == malloc.system_bytes(
                    malloc.arenas[item.index]
                ):
                    assert found.residue_bytes == 0
                    assert found.unread_bytes == 0


@settings(FUZZ)
@given(st.binary(max_size=600), st.integers(0, 2 * PAGE))
def test_locating_in_random_bytes(data: bytes, offset: int) -> None:
    malloc = damaged("2.36", [], [])
    malloc.image.write(LIBC_DATA + offset, data)
    with malloc.memory() as memory, contextlib.suppress(AllocscopeError):
        locate(memory, [(LIBC_DATA, LIBC_DATA + 3 * PAGE)], malloc.brk_spans)
    repeated = (data or b"\0") * (3 * PAGE // (len(data) or 1) + 1)
    spans = {LIBC_DATA: repeated[: 3 * PAGE]}
    with SpanMemory(spans) as memory, contextlib.suppress(AllocscopeError):
        locate(memory, [(LIBC_DATA, LIBC_DATA + 3 * PAGE)], [(LIBC_DATA, LIBC_DATA + PAGE)])


@settings(FUZZ)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 1 << 17)), max_size=12),
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), max_size=4),
    st.integers(0, 21),
    st.booleans(),
)
def test_mapped_chunks_anywhere(
    headers: list[tuple[int, int]], spans: list[tuple[int, int]], absent: int, usable: bool
) -> None:
    malloc = Malloc("2.36")
    base = 0x7FA000000000
    malloc.image.touch(base, base + 21 * PAGE)
    for page, size in headers:
        malloc.image.words(base + page * PAGE, size % 3 * 16, size // 16 * 16 | 2)
    malloc.image.state(base + absent * PAGE, base + (absent + 1) * PAGE, PRESENT if absent else 0)
    wanted = sorted((base + low * PAGE, base + (low + n) * PAGE) for low, n in spans)
    with malloc.memory() as memory:
        for start, end in find_mmapped(memory, wanted, usable, 1 << 30, 1 << 60):
            assert start < end
            assert start % PAGE == end % PAGE == 0
            assert any(low <= start and end <= high for low, high in wanted)
