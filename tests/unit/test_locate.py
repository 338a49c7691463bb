"""Finding main_arena and mp_: what fits in every point is found, what nearly fits is not."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from unit.mallocs import BRK, LIBC_DATA, PAGE, RELEASES, Malloc, furnished

from allocscope.glibc.locate import Located


def located(malloc: Malloc) -> Located | None:
    with malloc.memory() as memory:
        return malloc.locate(memory)


def only_main(version: str) -> Malloc:
    malloc = Malloc(version)
    malloc.main.row.live(0x400)
    malloc.main.row.free(0x200)
    malloc.main.row.live(0x400)
    malloc.main.end_at_page()
    return malloc


@pytest.mark.parametrize("version", RELEASES)
def test_the_layout_of_each_release_is_among_those_that_fit(version: str) -> None:
    for malloc in (furnished(version).write(), only_main(version).write()):
        found = located(malloc)
        assert found is not None
        assert found.main_arena == malloc.main_arena
        assert found.par.address == malloc.par_address
        assert found.arena_count == len(malloc.arenas)
        fitting = [version for row in found.layouts for version in row.versions]
        assert version in fitting
        alike = {name for name, other in RELEASES.items() if other.state == malloc.release.state}
        assert {name for name in fitting if name in RELEASES} <= alike
        values = {name: getattr(found.par, name) for name in malloc.par}
        assert values == malloc.par


def test_thread_arenas_tell_the_size_of_the_heap_header() -> None:
    found = located(furnished("2.34").write())
    assert found is not None
    assert {row.heap_info_bytes for row in found.layouts} == {32}


@pytest.mark.parametrize("version", ["2.31", "2.36", "2.43", "2.44"])
def test_a_malloc_that_nobody_has_used_yet(version: str) -> None:
    """Up to 2.41 all is zero but ``next`` and the one attached thread."""
    malloc = Malloc(version)
    malloc.par["sbrk_base"] = 0
    malloc.write()
    state = malloc.release.state
    malloc.image.write(malloc.main_arena, bytes(state["size"]))
    malloc.image.words(malloc.main_arena + state["next"], malloc.main_arena)
    malloc.image.words(malloc.main_arena + state["attached_threads"], 1)
    found = located(malloc)
    assert found is not None
    assert (found.main_arena, found.arena_count) == (malloc.main_arena, 1)
    assert found.layout.state.size == state["size"]
    malloc.image.words(malloc.main_arena + state["attached_threads"], 2)
    assert located(malloc) is None


# ---- what nearly fits ----

Breaking = Callable[[Malloc], None]


def state_word(field: str, value: int) -> Breaking:
    def change(malloc: Malloc) -> None:
        malloc.image.words(malloc.main_arena + malloc.release.state[field], value)

    return change


def bin_words(index: int, fd: int, bk: int) -> Breaking:
    """``fd``, ``bk``: relative to the pretended chunk of the bin, or absolute when large."""

    def change(malloc: Malloc) -> None:
        here = malloc.main_arena + malloc.release.state["bins"] + 16 * (index - 1)
        values = [
            value if value == 0 or value > 1 << 40 else here - 16 + value for value in (fd, bk)
        ]
        malloc.image.words(here, *values)

    return change


def half_linked(*indexes: int) -> Breaking:
    """Empty bins whose bk already, or still, leads to a chunk."""

    def change(malloc: Malloc) -> None:
        for index in indexes:
            place = malloc.main_arena + malloc.release.state["bins"] + 16 * (index - 1)
            malloc.image.words(place, place - 16, BRK + 0x300)

    return change


def header_ints(lock: int, flags: int) -> Breaking:
    def change(malloc: Malloc) -> None:
        malloc.image.write(malloc.main_arena, struct.pack("<Ii", lock, flags))

    return change


def heap_word(index: int, value: int) -> Breaking:
    def change(malloc: Malloc) -> None:
        malloc.image.words(malloc.arenas[1].heaps[0] + 8 * index, value)

    return change


def no_pages(malloc: Malloc) -> None:
    malloc.image.state(LIBC_DATA, LIBC_DATA + PAGE, 0)


def arena_moved_off_its_heap(malloc: Malloc) -> None:
    state, arena = malloc.release.state, malloc.arenas[1]
    data = malloc.image.pages[arena.address // PAGE]
    offset = arena.address % PAGE
    elsewhere = arena.address + 0x100
    malloc.image.write(elsewhere, bytes(data[offset : offset + state["size"]]))
    malloc.image.words(malloc.main_arena + state["next"], elsewhere)


BREAKINGS: dict[str, Breaking] = {
    "the lock is no lock": header_ints(3, 0),
    "unknown flags": header_ints(0, 8),
    "negative flags": header_ints(0, -1),
    "no top": state_word("top", 0),
    "an unaligned top": state_word("top", BRK + 8),
    "more memory than there is": state_word("system_mem", 1 << 47),
    "more memory than fits": state_word("max_system_mem", 1 << 47),
    "too many threads": state_word("attached_threads", 1 << 24),
    "a ring that leads nowhere": state_word("next", 0x7E0000000000),
    "a ring that leads to an unaligned place": state_word("next", 0x7F0000000038),
    "bin 127 is in use": bin_words(127, BRK + 0x300, BRK + 0x300),
    "a bin half empty": bin_words(40, 0, 16),
    "a bin of zeros": bin_words(41, 0, 0),
    "a bin of which only fd is empty": bin_words(42, BRK + 0x300, 0),
    "an unaligned chunk in a bin": bin_words(43, BRK + 0x308, BRK + 0x300),
    "a heap of another arena": heap_word(0, 0x7F0000000040),
    "an arena that does not lie behind a heap's header": arena_moved_off_its_heap,
    "no page of it is there": no_pages,
}


@pytest.mark.parametrize("name", BREAKINGS)
@pytest.mark.parametrize("version", ["2.36", "2.44"])
def test_an_arena_that_nearly_fits(version: str, name: str) -> None:
    malloc = furnished(version).write()
    assert located(malloc) is not None
    BREAKINGS[name](malloc)
    assert located(malloc) is None


PAR_BREAKINGS = {
    "more mappings than ever": {"n_mmaps": 1028, "max_n_mmaps": 3},
    "a negative number of mappings": {"n_mmaps": -1},
    "mappings of no memory": {"max_n_mmaps": 1025, "max_mmapped_mem": 0},
    "mapped memory without mappings": {"max_n_mmaps": 0, "n_mmaps": 0},
    "mappings of less than a page": {"mmapped_mem": 4096, "n_mmaps": 1026, "max_n_mmaps": 1026},
    "odd mapped memory": {"mmapped_mem": 0x172008},
    "a switch that is neither on nor off": {"no_dyn_threshold": 2},
    "no arena_test": {"arena_test": 0},
    "a huge arena_max": {"arena_max": 1 << 24},
    "huge pages of no power of two": {"thp_pagesize": 3 << 20},
    "no bins in tcaches": {"tcache_bins": 0},
    "too many bins in tcaches": {"tcache_bins": 77},
    "no size for tcaches": {"tcache_max_bytes": 0},
    "too large a size for tcaches": {"tcache_max_bytes": (4 << 20) + 17},
    "too many chunks in tcaches": {"tcache_count": 65536},
    "a main heap that begins elsewhere": {"sbrk_base": 0x444444444000},
}


@pytest.mark.parametrize("name", PAR_BREAKINGS)
def test_an_mp_that_nearly_fits(name: str) -> None:
    malloc = furnished("2.36")
    malloc.par |= PAR_BREAKINGS[name]
    assert located(malloc.write()) is None


UNDER_WAY: dict[str, Breaking] = {
    "the top has grown, the maximum not yet": state_word("system_mem", 1 << 30),
    "a chunk half linked into a bin": half_linked(42),
    "a chunk half unlinked, and half linked elsewhere": half_linked(1, 42),
}


@pytest.mark.parametrize("name", UNDER_WAY)
@pytest.mark.parametrize("version", ["2.36", "2.44"])
def test_an_arena_in_the_middle_of_an_operation(version: str, name: str) -> None:
    malloc = furnished(version).write()
    UNDER_WAY[name](malloc)
    found = located(malloc)
    assert found is not None
    assert found.main_arena == malloc.main_arena


def test_no_operation_tears_three_bins() -> None:
    malloc = furnished("2.36").write()
    half_linked(1, 42, 43)(malloc)
    assert located(malloc) is None


PAR_UNDER_WAY = {
    "one mapping more, the maximum not yet": {"n_mmaps": 4, "max_n_mmaps": 3},
    "a mapping counted, its bytes not yet": {"mmapped_mem": 4096},
    "its bytes counted, the maximum not yet": {"max_mmapped_mem": 4096},
    "the first mapping counted, no bytes yet": {"mmapped_mem": 0, "max_mmapped_mem": 0},
}


@pytest.mark.parametrize("name", PAR_UNDER_WAY)
def test_an_mp_that_is_being_changed(name: str) -> None:
    malloc = furnished("2.36")
    malloc.par |= PAR_UNDER_WAY[name]
    found = located(malloc.write())
    assert found is not None
    for field, value in PAR_UNDER_WAY[name].items():
        assert getattr(found.par, field) == value


def test_settings_do_not_hide_mp() -> None:
    malloc = furnished("2.36")
    malloc.par |= {
        "trim_threshold": 64 << 20,
        "mmap_threshold": 32 << 20,
        "top_pad": 0,
        "arena_max": 3,
        "no_dyn_threshold": 1,
        "tcache_count": 0,
        "thp_pagesize": 2 << 20,
    }
    found = located(malloc.write())
    assert found is not None
    assert (found.par.address, found.par.arena_max) == (malloc.par_address, 3)


def test_of_two_that_could_be_mp_the_one_with_more_start_values() -> None:
    def with_second(**changes: int) -> Located | None:
        malloc = furnished("2.36").write()
        first = malloc.par_address
        malloc.par_address += 0x200
        malloc.par |= changes
        malloc._write_par()
        found = located(malloc)
        assert found is None or found.par.address == first
        return found

    assert with_second(top_pad=4096) is not None
    assert with_second() is None
