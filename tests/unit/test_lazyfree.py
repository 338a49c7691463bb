"""lazyfree: the page, the schema, owners by structures made here, what the helper refuses."""

from __future__ import annotations

import errno
import os

import heaps
import pytest
import reports
from test_render_json import validate

from allocscope.app import lazyfree as app
from allocscope.model.lazyfree import LazyfreeData, LazyMapping, LazyOwner, Owner, Reclaimed
from allocscope.model.process import Mapping
from allocscope.model.report import Caveat, Method, Report
from allocscope.native import ffi, lib
from allocscope.owners import allocators as owners
from allocscope.owners.mimalloc import Mimalloc
from allocscope.owners.page_maps import Jemalloc, Tcmalloc
from allocscope.owners.recogniser import Recogniser, data_of
from allocscope.render import json
from allocscope.render import lazyfree as page
from allocscope.render.page import Look

MIB = 1 << 20
AREA = 0x7F00_0000_0000
DONE = Reclaimed(4 * MIB, 3 * MIB, 0, 5_000_000, 10 * MIB, 7 * MIB, 4 * MIB, 1 * MIB)


def mapping(owner: Owner = owners.UNKNOWN, path: str = "", locked: bool = False) -> LazyMapping:
    return LazyMapping(AREA, AREA + 8 * MIB, path, owner, 6 * MIB, 4 * MIB, 4096, locked)


def report(*mappings: LazyMapping, done: Reclaimed | None = None) -> Report[LazyfreeData]:
    held = sum(m.lazyfree_bytes for m in mappings)
    names = tuple(LazyOwner(m.owner.name, 1, 6 * MIB, 4 * MIB) for m in mappings)
    data = LazyfreeData(10 * MIB, held, 4096, True, names, mappings, done)
    method = Method("passive", 0, 1_000_000, "validated")
    caveats = (Caveat("left", "Some bytes stayed."),)
    return Report(reports.process(), None, None, method, data, caveats)


@pytest.mark.parametrize("width", [80, 100])
def test_the_page(width: int) -> None:
    evidence = "a very long story about a radix tree " * 4
    found = report(
        mapping(Owner("jemalloc", evidence)), mapping(path="/dev/zero\x1b[2J", locked=True)
    )
    lines = page.lazyfree(found, Look(width)).splitlines()
    assert lines[0].startswith("8.0 MiB of RSS 10.0 MiB is given back with MADV_FREE (jemalloc 4.0")
    assert max(map(len, lines)) <= width
    assert not any("\x1b" in line for line in lines)
    assert any(line.startswith("jemalloc: a very long") for line in lines)
    assert "note: Some bytes stayed. [left]" in lines


def test_nothing_held() -> None:
    assert page.headline(report().data) == "Nothing of RSS 10.0 MiB is held by MADV_FREE."


def test_a_reclaim_is_told_with_the_figures_before_and_after() -> None:
    shown = page.lazyfree(report(mapping(), done=DONE), Look(200))
    assert "4.0 MiB of RSS 10.0 MiB was given back" in shown
    assert "Reclaimed 3.0 MiB in 5.0 ms: RSS 10.0 MiB before, 7.0 MiB after" in shown


def test_the_json_keeps_its_schema() -> None:
    for done in (None, DONE):
        answer = json.envelope(report(mapping(), done=done), "lazyfree", 1.0)
        validate(answer, "lazyfree")
        assert answer["data"]["mappings"][0]["start"] == f"{AREA:#x}"


def test_figures_of_two_moments_are_called_partial() -> None:
    data = report(mapping()).data
    still = app.report(reports.process(), app.Reading(data, changed=False), 0)
    assert (still.method.consistency, still.caveats) == ("validated", ())
    moving = app.report(reports.process(), app.Reading(data, changed=True), 0)
    assert moving.method.consistency == "partial"
    assert [caveat.code for caveat in moving.caveats] == ["changed-meanwhile"]


def anonymous(start: int, size: int, path: str = "") -> Mapping:
    return Mapping(start, start + size, "rw-p", 0, "00:00", 0, path)


def test_a_mapping_that_bears_a_name_is_its_owners() -> None:
    found = owners.name_of(anonymous(AREA, MIB, "[anon: Go: heap]"))
    assert (found.name, "Go: heap" in found.evidence) == ("Go: heap", True)
    assert owners.name_of(anonymous(AREA, MIB)) == owners.UNKNOWN


def owner(memory: heaps.SpanMemory, of: Mapping, recogniser: Recogniser) -> Owner:
    """Whose the mapping is, by this recogniser alone."""
    span = (of.start, of.end)
    found = list(owners.allocator_claims(memory, [of], [span], [recogniser]))
    if not found:
        return owners.UNKNOWN
    [claim] = found
    assert (claim.start, claim.end, claim.key) == (*span, "other-allocator")
    return Owner(claim.owner, claim.evidence)


DATA, LEAF, DESCRIPTOR = 0x5500_0000_0000, 0x7E00_0000_0000, 0x7E80_0000_0080
LEVEL = (1 << 18) - 1


def jemalloc_image(address: int) -> heaps.Image:
    """A radix tree whose descriptor for the page AREA says that it begins at ``address``."""
    image = heaps.Image()
    image.words(DATA + 8 * (AREA >> 30 & LEVEL), LEAF)
    image.words(LEAF + 8 * (AREA >> 12 & LEVEL), 0x00E8_0000_0000_0000 | DESCRIPTOR | 1)
    image.words(DESCRIPTOR, 0x1234, address)
    image.words(AREA, 1)
    return image


@pytest.mark.parametrize(("address", "known"), [(AREA, True), (AREA + 4096, False), (0, False)])
def test_jemalloc_is_known_by_its_radix_tree(address: int, known: bool) -> None:
    memory = jemalloc_image(address).memory()
    recogniser = Jemalloc(memory, [anonymous(DATA, 4 * MIB)])
    for _ in range(2):  # the second time with the tree's place known
        found = owner(memory, anonymous(AREA, MIB), recogniser)
        assert found.name == ("jemalloc" if known else "unknown")
        assert (f"{DESCRIPTOR:#x}" in found.evidence) == known


KEY = 0xDE2C_309E_7346_0517


@pytest.mark.parametrize(
    ("word", "start", "known"),
    [
        (AREA ^ KEY, AREA, True),
        (AREA ^ KEY, AREA + 4 * MIB, True),  # protection has cut the segment in two
        (AREA ^ KEY, AREA + 32 * MIB, False),  # behind the segment
        (AREA ^ KEY ^ 1, AREA, False),
        (AREA ^ DATA, AREA, False),  # an address is no key
    ],
)
def test_mimalloc_is_known_by_its_segment_headers(word: int, start: int, known: bool) -> None:
    image = heaps.Image()
    image.words(DATA, DATA, KEY)
    image.words(AREA + 216, word)
    memory = image.memory()
    recogniser = Mimalloc(memory, [anonymous(DATA, 4096)])
    found = owner(memory, anonymous(start, 4 * MIB), recogniser)
    assert found.name == ("mimalloc" if known else "unknown")


@pytest.mark.parametrize(
    ("first", "count", "known"),
    [(0, 4, True), (-3, 4, True), (-4, 4, False), (1, 4, False), (0, 0, False)],
)
def test_tcmalloc_is_known_by_its_page_map(first: int, count: int, known: bool) -> None:
    """A span of so many pages of 8 KiB, that begins so many of them from the mapping's start."""
    number = AREA >> 13
    image = heaps.Image()
    image.words(DATA + 8 * (number >> 18), LEAF)
    image.words(LEAF + 8 * (number & LEVEL), DESCRIPTOR)
    image.words(DESCRIPTOR, number + first, count)
    image.words(AREA, 1)
    memory = image.memory()
    recogniser = Tcmalloc(memory, [anonymous(DATA, 4 * MIB)])
    for _ in range(2):
        found = owner(memory, anonymous(AREA, MIB), recogniser)
        assert found.name == ("tcmalloc" if known else "unknown")
        assert (f"{DESCRIPTOR:#x}" in found.evidence) == known


def test_data_is_a_files_writable_part_and_its_bss() -> None:
    library = Mapping(0x1000, 0x2000, "rw-p", 0, "fe:00", 5, "/lib/libjemalloc.so.2")
    code = Mapping(0x0, 0x1000, "r-xp", 0, "fe:00", 5, "/lib/libjemalloc.so.2")
    bss, other = anonymous(0x2000, 0x1000), anonymous(0x9000, 0x1000)
    assert data_of([code, library, bss, other], library.path) == [library, bss]


def test_the_helper_refuses_what_it_cannot_do() -> None:
    out, count, resume = ffi.new("as_run[4]"), ffi.new("size_t *"), ffi.new("uint64_t *")
    source = ffi.new("as_source **")
    assert lib.as_source_spans(ffi.NULL, 0, ffi.NULL, 0, source) == 0
    try:
        code = lib.as_lazy_runs(source[0], -1, AREA, AREA + MIB, out, 4, count, resume)
        assert (code, count[0], resume[0]) == (errno.EINVAL, 0, AREA)
    finally:
        lib.as_source_close(source[0])
    advised = ffi.new("uint64_t *")
    runs = ffi.new("as_run[]", [(AREA, AREA + 4096, 1)])
    assert lib.as_page_out(-1, runs, 1, advised) in (errno.EBADF, errno.ENOSYS, errno.EPERM)
    assert advised[0] == 0


def test_unreadable_kpageflags_mark_nothing() -> None:
    """A descriptor that is no kpageflags: what cannot be read is not lazily freed."""
    source = ffi.new("as_source **")
    assert lib.as_source_process(os.getpid(), source) == 0
    out, count, resume = ffi.new("as_run[4]"), ffi.new("size_t *"), ffi.new("uint64_t *")
    data = bytearray(4 * MIB)
    start = ffi.cast("uint64_t", ffi.cast("uintptr_t", ffi.from_buffer(data)))
    with open(os.devnull, "rb") as nothing:
        code = lib.as_lazy_runs(
            source[0], nothing.fileno(), int(start), int(start) + MIB, out, 4, count, resume
        )
    lib.as_source_close(source[0])
    assert code in (0, errno.EPERM)  # EPERM: this user sees no frames
    assert count[0] == 0
