"""maps and smaps: recorded text, hostile paths, very long listings, garbage."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocscope.errors import BadInput
from allocscope.model.process import Mapping
from allocscope.parse import maps, smaps

MAPS = b"""\
55f6d721f000-55f6d7221000 r--p 00000000 fe:00 260386                     /usr/bin/head
55f6d7227000-55f6d722a000 r-xp 00008000 fe:00 260386                     /usr/bin/head (deleted)
55f6d81b8000-55f6d81d9000 rw-p 00000000 00:00 0                          [heap]
7f9b14000000-7f9b14021000 rw-p 00000000 00:00 0 
7f9b14021000-7f9b18000000 ---p 00000000 00:00 0 
7f9b18400000-7f9b18500000 rw-s 00000000 00:01 2053                       /memfd:a b  c (deleted)
7f9b18600000-7f9b18601000 rw-p 00000000 00:00 0                          [anon: glibc: malloc arena]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""  # noqa: W291

FIGURES = b"""\
Size:                132 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                 %d kB
Pss:                  99 kB
Shared_Clean:          1 kB
Shared_Dirty:          2 kB
Private_Clean:         3 kB
Private_Dirty:         4 kB
Referenced:           98 kB
Anonymous:            96 kB
LazyFree:              5 kB
AnonHugePages:         6 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:       0 kB
Swap:                  7 kB
SwapPss:               8 kB
Locked:                9 kB
THPeligible:           0
VmFlags: rd wr mr mw me ac sd 
"""  # noqa: W291

ROLLUP = b"""\
55beda976000-7ffde7e47000 ---p 00000000 00:00 0                          [rollup]
Rss:                1740 kB
Pss:                 346 kB
Pss_Dirty:           112 kB
Pss_Anon:            112 kB
Pss_File:            234 kB
Pss_Shmem:             0 kB
Shared_Clean:       1580 kB
Shared_Dirty:          0 kB
Private_Clean:        48 kB
Private_Dirty:       112 kB
Referenced:         1740 kB
Anonymous:           112 kB
LazyFree:              0 kB
AnonHugePages:         0 kB
Swap:                 20 kB
SwapPss:              10 kB
Locked:                0 kB
"""


def line(path: bytes) -> bytes:
    return b"1000-2000 r--p 00000000 fe:00 7                          " + path + b"\n"


def listing(count: int) -> bytes:
    """``count`` mappings of a page each, a third of them of a file."""
    return b"".join(
        b"7f%010x-7f%010x rw-p 00000000 00:00 %d                 %s\n"
        % (at, at + 0x1000, at % 7, b"" if at % 3 else b"/usr/lib/x86_64-linux-gnu/libfoo.so.6")
        for at in range(0, count * 0x2000, 0x2000)
    )


def test_every_field_of_a_line():
    assert maps.parse(MAPS)[1] == Mapping(
        0x55F6D7227000, 0x55F6D722A000, "r-xp", 0x8000, "fe:00", 260386, "/usr/bin/head (deleted)"
    )


def test_paths_are_kept_as_they_were_printed():
    assert [mapping.path for mapping in maps.parse(MAPS)] == [
        "/usr/bin/head",
        "/usr/bin/head (deleted)",
        "[heap]",
        "",
        "",
        "/memfd:a b  c (deleted)",
        "[anon: glibc: malloc arena]",
        "[vsyscall]",
    ]


def test_the_highest_address_fits():
    assert maps.parse(MAPS)[-1].end == 0xFFFFFFFFFF601000


def test_private_memory_without_a_file_is_anonymous():
    anonymous = [mapping.start for mapping in maps.parse(MAPS) if mapping.anonymous]
    assert [hex(start) for start in anonymous] == [
        "0x55f6d81b8000",
        "0x7f9b14000000",
        "0x7f9b14021000",
        "0x7f9b18600000",
        "0xffffffffff600000",
    ]


def test_text_reads_like_bytes():
    assert maps.parse(MAPS.decode()) == maps.parse(MAPS)


def test_no_mapping_at_all():
    assert maps.parse(b"") == ()


@pytest.mark.parametrize(
    "path",
    [b"/a\\012b", b"/with\rreturn", b"/\x85nel\x0bvt\x1cfs", b"/trailing blank ", b"/\xff\xfe"],
)
def test_only_the_newline_ends_a_line(path):
    (mapping,) = maps.parse(line(path))
    assert mapping.path.encode("utf-8", "surrogateescape") == path


def test_an_escaped_newline_can_be_turned_back():
    (mapping,) = maps.parse(line(b"/a\\012b"))
    assert maps.unescape(mapping.path) == "/a\nb"


def test_a_forged_line_inside_a_path_stays_a_path():
    forged = b"/x\\0127f00-7f01 rwxp 00000000 00:00 0 [heap]"
    assert len(maps.parse(line(forged))) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"garbage\n",
        b"1000-2000\n",
        b"1000 2000 r--p 0 fe:00 7\n",
        b"1000-2000 r-p 0 fe:00 7\n",
        b"1000-2000 r--p zz fe:00 7\n",
        b"1000-2000 r--p 0 fe:00 -\n",
        b"\n",
        MAPS[:-1],
    ],
)
def test_what_is_not_a_listing_is_refused(text):
    with pytest.raises(BadInput, match="maps"):
        maps.parse(text)


def test_a_long_listing_is_parsed_in_linear_time():
    """Each further mapping costs the same, in calls of functions: a clock would tell of the machine
    too."""
    few, many = calls_to_parse(listing(1_000)), calls_to_parse(listing(8_000))
    assert few < many < 9 * few


def calls_to_parse(text: bytes) -> int:
    """How many functions are called, of Python or C, while a listing is parsed."""
    calls = []

    def count(_frame: object, event: str, _argument: object) -> None:
        if event in ("call", "c_call"):
            calls.append(event)

    sys.setprofile(count)
    try:
        mappings = maps.parse(text)
    finally:
        sys.setprofile(None)
    assert len(mappings) == text.count(b"\n")
    return len(calls)


@given(st.binary(max_size=300) | st.text(alphabet="0123456789abcdef-rwxps :\n/", max_size=200))
def test_garbage_is_parsed_or_refused(text):
    for parse in (maps.parse, smaps.parse, smaps.rollup, smaps.total):
        data = text if isinstance(text, bytes) else text.encode()
        try:
            parse(data)
        except BadInput:
            continue


def test_smaps_figures_in_bytes():
    header, other = line(b"/a"), MAPS.split(b"\n")[3] + b"\n"
    first, second = smaps.parse(header + FIGURES % 100 + other + FIGURES % 8)
    assert first.mapping.path == "/a"
    assert second.mapping.start == 0x7F9B14000000
    assert (first.rss_bytes, second.rss_bytes) == (100 * 1024, 8 * 1024)
    assert first.private_clean_bytes == 3 * 1024
    assert first.private_dirty_bytes == 4 * 1024
    assert first.anonymous_bytes == 96 * 1024
    assert first.lazyfree_bytes == 5 * 1024
    assert first.anon_huge_bytes == 6 * 1024
    assert first.swap_bytes == 7 * 1024
    assert first.locked_bytes == 9 * 1024


def test_smaps_lists_the_mappings_of_maps():
    headers = MAPS.split(b"\n")[:-1]
    text = b"".join(header + b"\n" + FIGURES % 4 for header in headers)
    assert tuple(entry.mapping for entry in smaps.parse(text)) == maps.parse(MAPS)


def test_a_path_cannot_forge_figures():
    (entry,) = smaps.parse(line(b"/Rss:    9 kB\\012Rss:    9 kB") + FIGURES % 1)
    assert entry.rss_bytes == 1024


@pytest.mark.parametrize("cut", range(1, 400, 13))
def test_smaps_cut_off_anywhere_in_its_last_mapping_is_refused_or_whole(cut):
    whole = line(b"/a") + FIGURES % 1
    try:
        (entry,) = smaps.parse(whole[:-cut])
    except BadInput:
        return
    assert entry.rss_bytes == 1024
    assert whole[:-cut].endswith(b"\n")


def test_smaps_of_a_mapping_without_figures_is_refused():
    with pytest.raises(BadInput, match="smaps"):
        smaps.parse(line(b"/a") + line(b"/b") + FIGURES % 1)


def test_rollup():
    found = smaps.rollup(ROLLUP)
    assert found.rss_bytes == 1740 * 1024
    assert found.pss_anon_bytes == 112 * 1024
    assert found.swap_pss_bytes == 10 * 1024


def test_rollup_of_a_kernel_without_some_lines_is_none_there():
    old = ROLLUP.replace(b"Pss_Anon:            112 kB\n", b"").replace(
        b"LazyFree:              0 kB\n", b""
    )
    found = smaps.rollup(old)
    assert found.pss_anon_bytes is None
    assert found.lazyfree_bytes is None
    assert found.pss_file_bytes == 234 * 1024


@pytest.mark.parametrize("text", [b"", ROLLUP + ROLLUP, ROLLUP.replace(b"Pss:", b"Qss:")])
def test_rollup_of_something_else_is_refused(text):
    with pytest.raises(BadInput, match="smaps"):
        smaps.rollup(text)
