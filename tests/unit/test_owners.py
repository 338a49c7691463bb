"""Mappings divided among owners: claims that overlap, pages that are shared, names."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocscope.model.owners import Claim, OwnerKey
from allocscope.model.process import Mapping, SmapsEntry
from allocscope.model.walk import Residency
from allocscope.owners.divide import by_byte, disjoint, divide
from allocscope.owners.mapped import Files, by_mapping, files_of

PAGE = 4096
BASE = 0x7F00_0000_0000
FILES = Files(frozenset({"/usr/lib/libx.so"}), frozenset({"00:1a", "00:01"}))


def claim(start: int, end: int, owner: str = "a", key: OwnerKey = "runtime-heap") -> Claim:
    return Claim(BASE + start, BASE + end, key, owner, "seen")


def mapping(
    path: str = "", perms: str = "rw-p", *, pages: int = 16, inode: int = 0, device: str = "00:00"
) -> Mapping:
    return Mapping(BASE, BASE + pages * PAGE, perms, 0, device, inode, path)


def entry(
    of: Mapping, rss: int, *, dirty: int | None = None, lazyfree: int = 0, swap: int = 0
) -> SmapsEntry:
    return SmapsEntry(of, rss, rss if dirty is None else dirty, 0, lazyfree, swap, rss, 0, 0)


def present(start: int, end: int) -> Residency:
    """Every page of the lower half of the address space's 16 pages is there, the others swapped."""
    there = max(0, min(end, BASE + 8 * PAGE) - start)
    return Residency(there, end - start - there, 0, 0)


# ---- claims ----


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=12),
)
def test_a_byte_belongs_to_the_first_that_claims_it(pairs: list[tuple[int, int]]) -> None:
    claims = [claim(start, start + size, str(i)) for i, (start, size) in enumerate(pairs)]
    cut = disjoint(claims)
    assert all(one.end <= other.start for one, other in itertools.pairwise(cut))
    owners = {at: one.owner for one in cut for at in range(one.start, one.end)}
    expected: dict[int, str] = {}
    for one in claims:
        for at in range(one.start, one.end):
            expected.setdefault(at, one.owner)
    assert owners == expected


# ---- division ----


def test_a_mapping_with_one_owner_keeps_the_kernels_figures() -> None:
    only = entry(mapping(), 5 * PAGE, dirty=2 * PAGE, lazyfree=PAGE, swap=3 * PAGE)
    for claims in ([], [claim(-PAGE, 17 * PAGE)]):
        [part] = divide([only], claims, FILES, lambda *_: pytest.fail("nothing to count"))
        assert part.whole
        assert part.key == ("runtime-heap" if claims else "unexplained")
        assert (part.resident_bytes, part.private_dirty_bytes) == (5 * PAGE, 2 * PAGE)
        assert (part.lazyfree_bytes, part.swapped_bytes) == (PAGE, 3 * PAGE)


def test_a_mapping_with_several_owners_is_counted_by_byte() -> None:
    shared = entry(mapping(), 8 * PAGE, swap=8 * PAGE)
    parts = divide([shared], [claim(100, 2 * PAGE + 50)], FILES, present)
    assert [(part.start - BASE, part.end - BASE, part.key) for part in parts] == [
        (0, 100, "unexplained"),
        (100, 2 * PAGE + 50, "runtime-heap"),
        (2 * PAGE + 50, 16 * PAGE, "unexplained"),
    ]
    assert [part.resident_bytes for part in parts] == [100, 2 * PAGE - 50, 6 * PAGE - 50]
    assert [part.swapped_bytes for part in parts] == [0, 0, 8 * PAGE]
    assert [part.private_dirty_bytes for part in parts] == [p.resident_bytes for p in parts]
    assert [part.lazyfree_bytes for part in parts] == [0, 0, 0]


def test_what_smaps_tells_only_of_the_whole_is_unknown_of_its_parts() -> None:
    mixed = entry(mapping(), 8 * PAGE, dirty=7 * PAGE, lazyfree=PAGE)
    parts = divide([mixed], [claim(0, PAGE)], FILES, present)
    assert [(part.private_dirty_bytes, part.lazyfree_bytes) for part in parts] == [(None, None)] * 2


def test_a_claim_over_several_mappings_is_cut_at_their_borders() -> None:
    low = mapping(pages=1)
    high = Mapping(BASE + PAGE, BASE + 2 * PAGE, "r--p", 0, "00:00", 0, "")
    parts = divide([entry(low, 0), entry(high, 0)], [claim(0, 2 * PAGE)], FILES, present)
    assert [(part.start, part.perms) for part in parts] == [(BASE, "rw-p"), (BASE + PAGE, "r--p")]


@given(st.integers(0, 16 * PAGE), st.integers(0, 16 * PAGE))
def test_any_split_adds_up(one: int, other: int) -> None:
    low, high = sorted((one, other))
    cuts = [0, low, high, 16 * PAGE]
    parts = [by_byte(present, BASE + a, BASE + b) for a, b in itertools.pairwise(cuts) if a < b]
    assert sum(part.resident_bytes for part in parts) == 8 * PAGE
    assert sum(part.swapped_bytes for part in parts) == 8 * PAGE


# ---- names ----


@pytest.mark.parametrize(
    ("of", "key"),
    [
        (mapping("[stack]"), "thread-stacks"),
        (mapping("[vdso]", "r-xp"), "loader-and-special"),
        (mapping("[vvar]", "r--p"), "loader-and-special"),
        (mapping("[heap]"), "unexplained"),
        (mapping(""), "unexplained"),
        (mapping("", "---p"), "loader-and-special"),
        (mapping("[anon: glibc: pthread stack: 12]"), "thread-stacks"),
        (mapping("[anon: Go: heap]"), "runtime-heap"),
        (mapping("[anon:jemalloc_pg]"), "other-allocator"),
        (mapping("[anon:my own]"), "unexplained"),
        (mapping("/usr/lib/libx.so", "r-xp", inode=7, device="fe:00"), "file-private"),
        (mapping("/usr/lib/libx.so", "rw-p", inode=7, device="fe:00"), "program-data"),
        (mapping("/data/table", "rw-p", inode=8, device="fe:00"), "file-private"),
        (mapping("/data/table", "rw-s", inode=8, device="fe:00"), "file-shared"),
        (mapping("/dev/zero (deleted)", "rw-s", inode=9, device="00:01"), "shared-memory"),
        (mapping("/memfd:x (deleted)", "rw-s", inode=9, device="00:01"), "shared-memory"),
        (mapping("/SYSV00000000 (deleted)", "rw-s", inode=9, device="00:01"), "shared-memory"),
        (mapping("/run/x", "rw-s", inode=9, device="00:1a"), "shared-memory"),
        (mapping("", "rw-s"), "shared-memory"),
    ],
)
def test_what_the_kernel_names_is_believed(of: Mapping, key: OwnerKey) -> None:
    found = by_mapping(of, FILES, of.start, of.end)
    assert found.key == key
    assert found.evidence


def test_a_program_is_a_file_with_code() -> None:
    code = mapping("/bin/x", "r-xp", inode=3)
    assert files_of([code, mapping("/bin/y", "r--p", inode=4)], []).programs == {"/bin/x"}
