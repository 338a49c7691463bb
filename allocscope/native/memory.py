"""The native helper as Memory and Walker (allocscope.glibc.protocols), whatever the memory is: a
process, or spans.

Rules: one call of the helper does the work of many reads, and releases the GIL; an errno becomes an
error here, once. Addresses may be the sum of what a damaged target holds: they are taken modulo
2**64, and nothing is there beyond user space. What the helper guarantees (only pages that are there
are read) is in probes/include/source.h.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

from allocscope.closing import Closing
from allocscope.errors import (
    AllocscopeError,
    InternalError,
    MemoryGap,
    NoSuchProcess,
    PermissionRefused,
)
from allocscope.glibc.abi import WIDE, Abi
from allocscope.glibc.protocols import Item, Memory, Result, Walker
from allocscope.immutable import names_of
from allocscope.model.heap import SizeClass
from allocscope.model.pins import Reference
from allocscope.model.walk import FreeChunk, Pinning, Pins, Region, Residency, Tally, Words
from allocscope.native import ffi, lib
from allocscope.typed import Any

RUN_BATCH = 4096
PRESENT = 1
_MASK64 = (1 << 64) - 1


def failure(code: int, label: str, doing: str) -> AllocscopeError:
    """The error for an errno of the native helper."""
    text = os.strerror(code)
    if code in (errno.ESRCH, errno.ENOENT):
        return NoSuchProcess(f"{label} went away while {doing}")
    if code in (errno.EPERM, errno.EACCES):
        return PermissionRefused(
            f"not allowed to read {label} ({doing}: {text})",
            "Run as the same user or as root; other users' processes need CAP_SYS_PTRACE (and "
            "CAP_DAC_READ_SEARCH for their page states); kernel.yama.ptrace_scope must allow it.",
        )
    return InternalError(f"{doing} of {label} failed: {text}")


class NativeMemory(Closing):
    """Memory and Walker over one native source. A context manager; also closed by :meth:`close`.

    ``deadline_ns`` (CLOCK_MONOTONIC, 0: none) bounds a walk. ``keeps_words``: a walk keeps what it
    looks at, in its tally. ``maps_pages``: it tells there what each page is used for."""

    def __init__(self, source: Any, label: str) -> None:
        """``source``: an open as_source, closed with this object; ``label`` names it in errors
        ("process 7")."""
        self._source: Any = source
        self.label = label
        self.deadline_ns = 0
        self.keeps_words = False
        self.maps_pages = False
        self._abi = WIDE

    @property
    def abi(self) -> Abi:
        """How words and chunks lie in this memory: to be set as soon as that is known."""
        return self._abi

    @abi.setter
    def abi(self, abi: Abi) -> None:
        code = lib.as_source_shape(self._source, abi.word_bytes, abi.alignment, abi.page_bytes)
        self._check(code, "setting its word size")
        self._abi = abi

    @property
    def source(self) -> Any:
        """The open as_source, for rooms that call more of the helper than a walk needs."""
        return self._source

    def close(self) -> None:
        if self._source:
            lib.as_source_close(self._source)
            self._source = None

    def _check(self, code: int, doing: str) -> None:
        if code in (errno.ENODATA, errno.EFAULT):
            raise MemoryGap(f"a page of {self.label} is not in memory ({doing})")
        if code:
            raise failure(code, self.label, doing)

    def references(
        self, span: tuple[int, int], targets: Sequence[tuple[int, int]], most: int
    ) -> tuple[list[Reference], list[int], int]:
        """Words of ``span`` that point into one of ``targets`` (ascending, apart): of each target
        the first ``most``, how many there are of each, and the bytes that were read."""
        pieces = ffi.new("as_target[]", list(targets))
        out = ffi.new("as_reference[]", len(targets) * most)
        totals = ffi.new("uint64_t[]", len(targets))
        count, scanned, done = (ffi.new("size_t *"), ffi.new("uint64_t *"), ffi.new("uint64_t *"))
        code = lib.as_references(
            self._source, span[0], span[1], pieces, len(targets), most, self.deadline_ns,
            out, count, totals, scanned, done,
        )  # fmt: skip
        self._check(code, "looking for pointers")
        found = [Reference(r.where, r.value, r.target) for r in out[0 : count[0]]]
        return found, [int(total) for total in totals], int(scanned[0])

    def chunks_at(self, first: int, limit: int, addresses: Sequence[int]) -> list[int]:
        """Which chunk of the row ``[first, limit)`` each address (ascending) lies in: its start, 0
        where headers do not lead there."""
        where = _array_of(addresses)
        chunks = ffi.new("uint64_t[]", max(len(where), 1))
        view = ffi.from_buffer("uint64_t[]", where) if where else ffi.NULL
        code = lib.as_chunks_at(
            self._source, first, limit, view, len(where), self.deadline_ns, chunks
        )
        self._check(code, "following chunks")
        return [int(chunk) for chunk in chunks[0 : len(where)]]

    # ---- Memory ----

    def read(self, address: int, size: int) -> bytes:
        buffer = ffi.new("char[]", size)
        self._check(
            lib.as_read(self._source, address & _MASK64, buffer, size),
            f"reading {size} bytes at {address:#x}",
        )
        return bytes(ffi.buffer(buffer, size))

    def read_each(self, addresses: Sequence[int], size: int) -> list[bytes | None]:
        count = len(addresses)
        if not count:
            return []
        where = _array_of(addresses)
        data = ffi.new("char[]", count * size)
        ok = ffi.new("uint8_t[]", count)
        code = lib.as_read_each(
            self._source, ffi.from_buffer("uint64_t[]", where), count, size, data, ok
        )
        self._check(code, "reading")
        view = ffi.buffer(data, count * size)
        return [view[i * size : (i + 1) * size] if ok[i] else None for i in range(count)]

    @contextlib.contextmanager
    def keeping(self, rows: Iterable[tuple[int, int]], top: int) -> Iterator[None]:
        try:
            for first, limit in rows:
                code = lib.as_keep_headers(
                    self._source, _within(first), _within(limit), top, self.deadline_ns
                )
                self._check(code, "reading the heap")
            yield
        finally:
            lib.as_forget_headers(self._source)

    def runs(self, start: int, end: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        out = ffi.new("as_run[]", RUN_BATCH)
        count = ffi.new("size_t *")
        resume = ffi.new("uint64_t *")
        start, end = _within(start), _within(end)
        while start < end:
            code = lib.as_runs(self._source, start, end, out, RUN_BATCH, count, resume)
            self._check(code, "reading page states")
            for i in range(count[0]):
                run = out[i]
                if not run.flags & PRESENT:
                    continue
                if found and found[-1][1] == run.start:
                    found[-1] = (found[-1][0], run.end)
                else:
                    found.append((run.start, run.end))
            start = resume[0]
        return found

    def page_states(self, start: int, end: int) -> bytes:
        """All page states of ``[start, end)``, as_run after as_run (probes/include/source.h)."""
        parts: list[bytes] = []
        out = ffi.new("as_run[]", RUN_BATCH)
        count, resume = ffi.new("size_t *"), ffi.new("uint64_t *")
        while start < end:
            code = lib.as_runs(self._source, start, end, out, RUN_BATCH, count, resume)
            self._check(code, "reading page states")
            parts.append(bytes(ffi.buffer(out, count[0] * ffi.sizeof("as_run"))))
            start = resume[0]
        return b"".join(parts)

    def residency(self, start: int, end: int) -> Residency:
        return self.residency_in([(start, end)])

    def residency_in(self, spans: Sequence[tuple[int, int]]) -> Residency:
        """The sum of the page states of all spans."""
        runs = ffi.new("as_run[]", [(_within(start), _within(end), 0) for start, end in spans])
        out = ffi.new("as_residency *")
        code = lib.as_residency_in(self._source, runs, len(spans), out)
        self._check(code, "reading page states")
        return Residency(out.resident_bytes, out.swapped_bytes, out.huge_bytes, out.zero_bytes)

    def chase(
        self,
        heads: Sequence[int],
        *,
        link_offset: int,
        mangled: bool,
        limit: int,
        ends: Sequence[int] | None = None,
    ) -> list[tuple[Sequence[int], bool]]:
        count = len(heads)
        if not count:
            return []
        rows = zip(heads, ends or [0] * count, strict=True)
        lists = ffi.new("as_list[]", [(h, end, link_offset, mangled, limit) for h, end in rows])
        counts = ffi.new("size_t[]", count)
        broken = ffi.new("uint8_t[]", count)
        out = ffi.new("uint64_t **")
        self._check(
            lib.as_chase(self._source, lists, count, out, counts, broken), "following free lists"
        )
        try:
            found: list[tuple[Sequence[int], bool]] = []
            at = 0
            for i in range(count):
                part = array("Q")
                if counts[i]:
                    part.frombytes(ffi.buffer(out[0] + at, counts[i] * 8))
                at += counts[i]
                found.append((part, not broken[i]))
            return found
        finally:
            lib.as_free(out[0])

    def sort(self, addresses: array[int]) -> None:
        if addresses:
            view = ffi.from_buffer("uint64_t[]", addresses)
            self._check(lib.as_sort(view, len(addresses)), "sorting")

    # ---- Walker ----

    def walk(self, region: Region) -> Tally:
        keep = [array("Q", part) for part in _marks_of(region)]
        native = ffi.new("as_region *")
        native.start, native.first, native.limit = region.start, region.first, region.limit
        native.map_end, native.top = region.map_end, region.top
        native.page_size = self._abi.page_bytes
        native.trim_unit, native.trim_pad = region.trim_unit, region.trim_pad
        native.merge_fastbins, native.deadline_ns = region.merge_fastbins, self.deadline_ns
        native.hugetlb = region.hugetlb
        views = [ffi.from_buffer("uint64_t[]", part) if part else ffi.NULL for part in keep]
        native.tcache, native.tcache_count = views[0], len(keep[0])
        native.fastbin, native.fastbin_count = views[1], len(keep[1])
        native.tcache_struct, native.tcache_struct_count = views[2], len(keep[2])
        native.known, native.known_count = views[3], len(keep[3])
        native.locked, native.locked_count = views[4], len(keep[4])
        page = self._abi.page_bytes
        pages = -(-region.map_end // page) - region.start // page
        cells = ffi.new("uint8_t[]", max(pages, 0)) if self.maps_pages else None
        native.cells = cells or ffi.NULL
        native.joins = region.joins
        doubts = _doubts_of(region, native)
        tally = ffi.new("as_tally *")
        classes = ffi.new("as_class[]", lib.AS_CLASSES)
        if region.pins:
            pins = ffi.new("as_pins *")
            code = lib.as_walk_pins(self._source, native, pins, tally, classes)
            self._check(code, "walking the heap")
            return _tally(tally, classes, self._abi, pins=_pins(pins, self._abi))
        if not self.keeps_words:
            self._check(lib.as_walk(self._source, native, tally, classes), "walking the heap")
            told = None if cells is None else bytes(ffi.buffer(cells))
            return _tally(tally, classes, self._abi, cells=told, doubts=doubts)
        words = ffi.new("as_words *")
        try:
            code = lib.as_walk_words(self._source, native, words, tally, classes)
            self._check(code, "walking the heap")
            return _tally(tally, classes, self._abi, _words(words))
        finally:
            lib.as_words_free(words)

    @property
    def keeps_doubts(self) -> bool:
        return not (self.keeps_words or self.maps_pages)

    def settle(self, tallies: Sequence[Tally], heads: Sequence[int]) -> list[Tally] | None:
        kept = [kept for tally in tallies for kept in tally.doubts]
        whole = ffi.new("int *")
        code = lib.as_doubts_follow(kept, len(kept), list(heads), len(heads), whole)
        self._check(code, "following free lists")
        return [self._settled(tally) for tally in tallies] if whole[0] else None

    def _settled(self, tally: Tally) -> Tally:
        found = ffi.new("as_tally *")
        classes = ffi.new("as_class[]", lib.AS_CLASSES)
        code = lib.as_doubts_settle(list(tally.doubts), len(tally.doubts), found, classes)
        self._check(code, "counting free chunks")
        return _tally(found, classes, self._abi)

    def chain_reaches(self, address: int, limit: int, known: Sequence[int]) -> bool:
        reaches = ffi.new("int *")
        where = array("Q", known)
        view = ffi.from_buffer("uint64_t[]", where) if where else ffi.NULL
        code = lib.as_chain_reaches(self._source, address, limit, view, len(where), reaches)
        self._check(code, "following chunks")
        return bool(reaches[0])

    def row_start(self, low: int, high: int, limit: int, known: Sequence[int]) -> int | None:
        start = ffi.new("uint64_t *")
        where = array("Q", known)
        view = ffi.from_buffer("uint64_t[]", where) if where else ffi.NULL
        code = lib.as_row_start(self._source, low, high, limit, view, len(where), start)
        self._check(code, "looking for chunks")
        return int(start[0]) or None

    def each(
        self, items: Sequence[Item], work: Callable[[Memory, Walker, Item], Result]
    ) -> list[Result]:
        return [work(self, self, item) for item in items]

    def hash_sum(self, addresses: Sequence[int]) -> int:
        return sum(int(lib.as_hash(address)) for address in addresses) & _MASK64


def _within(address: int) -> int:
    """The nearest address that there is."""
    return min(max(address, 0), _MASK64)


def _array_of(addresses: Sequence[int]) -> array[int]:
    try:
        return array("Q", addresses)
    except OverflowError:
        return array("Q", [address & _MASK64 for address in addresses])


def _marks_of(region: Region) -> tuple[Sequence[int], ...]:
    return region.tcache, region.fastbin, region.tcache_struct, region.known, region.locked


def _doubts_of(region: Region, native: Any) -> tuple[object, ...]:
    """A log for the walk to keep chunks in doubt in; it lives as long as it is held."""
    lists = region.in_doubt
    if lists is None:
        return ()
    log = lib.as_doubts_open()
    if not log:
        raise failure(errno.ENOMEM, "the heap", "walking")
    native.fast_classes = sum({1 << lib.as_class_of(size) for size in lists.sizes})
    native.links_low, native.links_high = lists.low, lists.high
    kept = ffi.gc(log, lib.as_doubts_close)
    native.doubts = kept
    return (kept,)


def _pins(native: Any, abi: Abi) -> Pins:
    classes = [
        Pinning(
            _class_bounds(index)[0],
            _class_bounds(index)[1] - abi.alignment,
            int(native.pinning_count[index]),
            int(native.pinned_bytes[index]),
        )
        for index in range(lib.AS_CLASSES)
        if native.pinned_bytes[index]
    ]
    single = {name: int(getattr(native, name)) for name in names_of(Pins) if name != "classes"}
    return Pins(**single, classes=tuple(classes))


def _words(native: Any) -> Words:
    def copy(start: Any, size: int) -> bytes:
        return bytes(ffi.buffer(start, size)) if size else b""

    pages = copy(native.pages, native.page_count * ffi.sizeof("as_page"))
    return Words(pages, copy(native.words, native.word_count * ffi.sizeof("uint64_t")))


_CLASS_FIELDS = names_of(SizeClass)[2:]  # behind its bounds; as_class has the same names
_OWN_FIELDS = frozenset({"pages", "classes", "largest", "words", "cells", "pins", "doubts"})
_FREE_CHUNK = struct.Struct("<3Q")
_TALLY_FIELDS = tuple(name for name in names_of(Tally) if name not in _OWN_FIELDS)


@functools.cache
def _class_bounds(index: int) -> tuple[int, int]:
    """The smallest size of a class, and of the next one."""
    return int(lib.as_class_min(index)), int(lib.as_class_min(index + 1))


def _largest(tally: Any) -> Iterator[FreeChunk]:
    for address, size, resident in _FREE_CHUNK.iter_unpack(ffi.buffer(tally.largest)):
        if not size:
            return
        yield FreeChunk(address, size, resident)


def _tally(
    tally: Any,
    classes: Any,
    abi: Abi,
    words: Words | None = None,
    *,
    cells: bytes | None = None,
    pins: Pins | None = None,
    doubts: tuple[object, ...] = (),
) -> Tally:
    rows = []
    size = ffi.sizeof("as_class")
    data, nothing = bytes(ffi.buffer(classes)), bytes(size)
    for index in range(lib.AS_CLASSES):
        if data[index * size : (index + 1) * size] != nothing:
            row = classes[index]
            figures = [getattr(row, name) for name in _CLASS_FIELDS]
            low, beyond = _class_bounds(index)
            rows.append(SizeClass(low, beyond - abi.alignment, *figures))
    pages = tally.pages
    return Tally(
        **{name: int(getattr(tally, name)) for name in _TALLY_FIELDS},
        pages=Residency(
            int(pages.resident_bytes),
            int(pages.swapped_bytes),
            int(pages.huge_bytes),
            int(pages.zero_bytes),
        ),
        classes=tuple(rows),
        largest=tuple(_largest(tally)),
        words=words,
        cells=cells,
        pins=pins,
        doubts=doubts,
    )
