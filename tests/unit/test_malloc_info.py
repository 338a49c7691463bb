"""malloc_info's parser and the corrections, on documents that glibc 2.27, 2.36 and 2.39 printed,
and on broken ones.

The truth of the recorded documents is the program's own: sums over the rows that it printed,
counted here.
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from allocscope.account.corrections import corrected, has_garbage
from allocscope.errors import BadInput
from allocscope.model.glibc_says import InfoHeap, SizeRow
from allocscope.parse.malloc_info import parse

SAMPLES = Path(__file__).parent.parent / "samples"
OLD = (SAMPLES / "glibc-2.27.malloc_info.xml").read_bytes()
NEW = (SAMPLES / "glibc-2.39.malloc_info.xml").read_bytes()

MINIMAL = b"""<malloc version="1">
<heap nr="0">
<sizes>
</sizes>
<total type="fast" count="0" size="0"/>
<total type="rest" count="1" size="1000"/>
<system type="current" size="135168"/>
<system type="max" size="135168"/>
<aspace type="total" size="135168"/>
<aspace type="mprotect" size="135168"/>
</heap>
<total type="fast" count="0" size="0"/>
<total type="rest" count="1" size="1000"/>
<total type="mmap" count="0" size="0"/>
<system type="current" size="135168"/>
<system type="max" size="135168"/>
<aspace type="total" size="135168"/>
<aspace type="mprotect" size="135168"/>
</malloc>
"""


def test_reads_every_figure_of_2_39() -> None:
    info = parse(NEW)
    assert [heap.index for heap in info.heaps] == [0, 1, 2, 3]
    main = info.heaps[0]
    assert len(main.sizes) == 25
    assert main.sizes[0] == SizeRow(from_bytes=49, to_bytes=49, total_bytes=49, count=1)
    assert main.unsorted == SizeRow(81, 81, 81, 1)
    assert (main.fast_count, main.fast_bytes) == (0, 0)
    assert (main.rest_count, main.rest_bytes) == (41, 168760)
    assert (main.system_bytes, main.max_system_bytes) == (405504, 405504)
    assert (main.aspace_bytes, main.aspace_mprotect_bytes) == (405504, 405504)
    assert main.subheap_count is None
    assert [heap.subheap_count for heap in info.heaps[1:]] == [1, 1, 1]
    assert (info.rest_count, info.rest_bytes) == (280, 633828)
    assert (info.mmap_count, info.mmap_bytes) == (1, 303104)
    assert (info.system_bytes, info.aspace_mprotect_bytes) == (1585152, 1585152)


@pytest.mark.parametrize("document", [OLD, NEW], ids=["2.27", "2.39"])
def test_heaps_add_up_to_the_totals(document: bytes) -> None:
    info = parse(document)
    for total, part in [
        (info.rest_count, [heap.rest_count for heap in info.heaps]),
        (info.rest_bytes, [heap.rest_bytes for heap in info.heaps]),
        (info.system_bytes, [heap.system_bytes for heap in info.heaps]),
        (info.aspace_bytes, [heap.aspace_bytes for heap in info.heaps]),
    ]:
        assert total == sum(part)


def test_top_is_seen_to_be_in_rest_or_not() -> None:
    assert [free.top_bytes for free in corrected(parse(OLD))] == [None] * 4
    new = corrected(parse(NEW))
    assert all(free.top_bytes is not None and free.top_bytes % 16 == 0 for free in new)
    # Row totals of heap 3 (53532 + …): its one unsorted and ten sizes against its own rest figure.
    rows = re.findall(rb'total="(\d+)" count="(\d+)"', NEW.split(b'<heap nr="3">')[1])
    printed, count = sum(int(total) for total, _ in rows), sum(int(n) for _, n in rows)
    assert (new[3].bin_count, new[3].bin_bytes) == (count, printed - count)
    assert new[3].top_bytes == 53855 - printed


def test_corrected_sizes_are_chunk_sizes() -> None:
    for document in (OLD, NEW):
        for free in corrected(parse(document)):
            assert free.bin_bytes % 16 == 0


def test_fast_rows_are_not_binned() -> None:
    document = MINIMAL.replace(
        b"<sizes>\n",
        b'<sizes>\n<size from="17" to="32" total="96" count="3"/>\n'
        b'<size from="1041" to="1057" total="2098" count="2"/>\n',
    ).replace(b'count="1" size="1000"', b'count="3" size="3098"')
    document = document.replace(b'"fast" count="0" size="0"', b'"fast" count="3" size="96"')
    free = corrected(parse(document))[0]
    assert (free.bin_count, free.bin_bytes, free.top_bytes) == (2, 2096, 1000)


def test_versions_that_print_less() -> None:
    bare = re.sub(rb'<total type="(fast|mmap)".*\n', b"", MINIMAL)
    info = parse(bare)
    assert info.fast_count is info.fast_bytes is info.mmap_count is info.mmap_bytes is None
    assert info.heaps[0].fast_count is None
    assert corrected(info)[0].top_bytes == 1000


def test_unsorted_garbage_is_recognised() -> None:
    sane = parse(NEW).heaps[0]
    assert not has_garbage(sane)
    for garbage in (
        SizeRow(from_bytes=0, to_bytes=139637976727561, total_bytes=49, count=3),
        SizeRow(from_bytes=81, to_bytes=81, total_bytes=81, count=140737488348912),
        SizeRow(from_bytes=81, to_bytes=1 << 50, total_bytes=1 << 50, count=1),
    ):
        fields = {name: getattr(sane, name) for name in InfoHeap.__dataclass_fields__}
        assert has_garbage(InfoHeap(**{**fields, "unsorted": garbage}))


@pytest.mark.own_malloc
def test_what_this_glibc_prints() -> None:
    libc = ctypes.CDLL(None)
    libc.fdopen.restype = ctypes.c_void_p
    libc.fdopen.argtypes = [ctypes.c_int, ctypes.c_char_p]
    libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.fclose.argtypes = [ctypes.c_void_p]
    with tempfile.TemporaryFile() as file:
        stream = libc.fdopen(os.dup(file.fileno()), b"w")
        assert libc.malloc_info(0, stream) == 0
        libc.fclose(stream)
        file.seek(0)
        info = parse(file.read())
    assert info.heaps[0].system_bytes >= info.heaps[0].rest_bytes - info.heaps[0].rest_count > 0
    assert all(free.bin_bytes % 16 == 0 for free in corrected(info))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "line 1"),
        (b"hello", "line 1"),
        (MINIMAL[:-12], "line 18"),
        (b"<html/>", "root element is <html>"),
        (b'<malloc version="2"/>', "version '2'"),
        (b'<malloc version="1"/>', "no <heap>"),
        (MINIMAL.replace(b'heap nr="0"', b'heap nr="1"'), "line 2.*nr 1 stands where nr 0"),
        (MINIMAL.replace(b"<sizes>\n</sizes>", b""), "no <sizes>"),
        (MINIMAL.replace(b'"rest" count="1"', b'"rest"'), "rest.*count is missing"),
        (MINIMAL.replace(b'"fast" count="0"', b'"fast"'), "fast.*incomplete"),
        (MINIMAL.replace(b'size="135168"', b'size="-1"'), "'-1' is no number"),
        (MINIMAL.replace(b'size="1000"', b'size="1e3"', 1), "line 6.*'1e3'"),
        (MINIMAL.replace(b'size="1000"', b'size="18446744073709551616"'), "no number"),
        (MINIMAL.replace(b'size="1000"', 'size="١"'.encode()), "no number"),
        (MINIMAL.replace(b'type="max"', b'type="current"'), "line 8.*appears twice"),
        (MINIMAL.replace(b' type="max"', b""), "has no type"),
        (b'<!DOCTYPE malloc SYSTEM "file:///etc/passwd">' + MINIMAL, "document type"),
        (
            b'<!DOCTYPE malloc [<!ENTITY a "1"><!ENTITY b "&a;&a;&a;">]>'
            + MINIMAL.replace(b'nr="0"', b'nr="&b;"'),
            "document type",
        ),
    ],
)
def test_broken_documents(document: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=f"(?s){message}"):
        parse(document)


def test_every_truncation_is_told() -> None:
    for length in range(len(MINIMAL) - 1):
        with pytest.raises(BadInput):
            parse(MINIMAL[:length])


def test_a_heap_that_contradicts_itself() -> None:
    with pytest.raises(BadInput, match="contradicts itself in heap 0"):
        corrected(parse(MINIMAL.replace(b'count="1" size="1000"', b'count="7" size="1000"')))


@given(st.binary(max_size=400))
@example(b'<?xml version="1.0" encoding="UTF-7"?><malloc/>')
@example(b"<malloc>\x00")
def test_only_bad_input_escapes_garbage(document: bytes) -> None:
    with pytest.raises(BadInput):
        parse(document)


@given(st.data())
def test_only_bad_input_escapes_damage(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(MINIMAL)))
    end = data.draw(st.integers(start, min(len(MINIMAL), start + 60)))
    damaged = MINIMAL[:start] + data.draw(st.binary(max_size=20)) + MINIMAL[end:]
    try:
        corrected(parse(damaged))
    except BadInput as error:
        assert "malloc_info" in error.message
