"""Where a Java virtual machine (HotSpot) has its heap, its compiled code, its classes, and its
collector's tables.

Strategy: by the machine's own table of its variables (vm_structs.py), which tells

- the reserved range of the Java heap (CollectedHeap::_reserved) and of the code cache, and the map
  that each part of the code cache has beside it (CodeHeap::_segmap);
- the card table (BarrierSet, CardTable), which names the heap that it is for;
- each class, by the list of class loaders: what holds a class, its constants or its methods is
  metaspace, the whole mapping;
- the regions of the G1 collector. The table that tells where objects begin (G1BlockOffsetTable) is
  none of those variables, but each region leads to it, and it begins with the range of the heap.

Rules: what the machine's table does not have (other machines, other releases) is not guessed.

Source: src/hotspot/share of OpenJDK 17, gc/g1/g1BlockOffsetTable.hpp among it.
"""

from __future__ import annotations

import contextlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

from allocscope.errors import BadInput, MemoryGap
from allocscope.glibc.layouts import WORD
from allocscope.glibc.protocols import Memory
from allocscope.model.owners import Claim
from allocscope.model.process import Mapping
from allocscope.proc.mapped import OpenFile
from allocscope.proc.vm_structs import MissingField, VmStructs

LIBRARY = re.compile(r"/libjvm\.so( \(deleted\))?$")
SOUGHT = frozenset(
    {
        "Universe::_collectedHeap", "CollectedHeap::_reserved",
        "MemRegion::_start", "MemRegion::_word_size",
        "CodeCache::_low_bound", "CodeCache::_high_bound", "CodeCache::_heaps",
        "CodeHeap::_segmap", "VirtualSpace::_low", "VirtualSpace::_high",
        "GrowableArrayBase::_len", "GrowableArray<int>::_data",
        "BarrierSet::_barrier_set", "CardTableBarrierSet::_card_table",
        "CardTable::_whole_heap", "CardTable::_byte_map", "CardTable::_byte_map_size",
        "ClassLoaderDataGraph::_head", "ClassLoaderData::_next", "ClassLoaderData::_klasses",
        "Klass::_next_link", "Klass::_layout_helper",
        "InstanceKlass::_constants", "InstanceKlass::_methods",
        "G1CollectedHeap::_hrm", "HeapRegionManager::_regions",
        "G1HeapRegionTable::_base", "G1HeapRegionTable::_length",
    }
)  # fmt: skip
MOST_CODE_HEAPS = 8
MOST_LOADERS = 4096
MOST_CLASSES = 1 << 14
MOST_REGIONS = 1 << 16
REGION_WORDS = 64
"""A region's object has the pointer to G1BlockOffsetTable among its first words."""
CARD_BYTES = 512
Range = tuple[int, int]
Found = tuple[Range, str]
"""A range, and by what it is known."""


class _Machine:
    """One HotSpot in a process. All raise MemoryGap and MissingField."""

    def __init__(self, structs: VmStructs, mappings: Sequence[Mapping]) -> None:
        self.structs = structs
        self.mappings = mappings
        self.starts = [mapping.start for mapping in mappings]

    def region(self, at: int) -> Range:
        """A MemRegion."""
        start = self.structs.field(at, "MemRegion::_start")
        return start, start + WORD * self.structs.field(at, "MemRegion::_word_size")

    def reserved(self) -> Range:
        heap = self.structs.static("Universe::_collectedHeap")
        return self.region(heap + self.structs.place("CollectedHeap::_reserved"))

    def heap(self) -> Iterator[Found]:
        yield self.reserved(), _by("CollectedHeap::_reserved")

    def code(self) -> Iterator[Found]:
        low, high = (self.structs.static(f"CodeCache::_{end}_bound") for end in ("low", "high"))
        yield (low, high), _by("CodeCache::_low_bound")

    def code_maps(self) -> Iterator[Found]:
        structs = self.structs
        heaps = structs.static("CodeCache::_heaps")
        count = structs.field(heaps, "GrowableArrayBase::_len") & 0xFFFFFFFF
        data = structs.field(heaps, "GrowableArray<int>::_data")
        for number in range(min(count, MOST_CODE_HEAPS)):
            space = structs.word(data + WORD * number) + structs.place("CodeHeap::_segmap")
            low = structs.field(space, "VirtualSpace::_low")
            yield (low, structs.field(space, "VirtualSpace::_high")), _by("CodeHeap::_segmap")

    def card_table(self) -> Iterator[Found]:
        barriers = self.structs.static("BarrierSet::_barrier_set")
        table = self.structs.field(barriers, "CardTableBarrierSet::_card_table")
        if self.region(table + self.structs.place("CardTable::_whole_heap")) == self.reserved():
            start = self.structs.field(table, "CardTable::_byte_map")
            size = self.structs.field(table, "CardTable::_byte_map_size")
            yield (start, start + size), _by("CardTable::_byte_map")

    def block_offsets(self) -> Iterator[Found]:
        """One byte for each card of the heap, as in the card table."""
        structs, reserved = self.structs, self.reserved()
        regions = (
            structs.static("Universe::_collectedHeap")
            + structs.place("G1CollectedHeap::_hrm")
            + structs.place("HeapRegionManager::_regions")
        )
        base = structs.field(regions, "G1HeapRegionTable::_base")
        count = min(structs.field(regions, "G1HeapRegionTable::_length"), MOST_REGIONS)
        table = structs.memory.read_each([base + WORD * n for n in range(count)], WORD)
        first = next((int.from_bytes(word, "little") for word in table if word and any(word)), 0)
        tables = structs.memory.read_each([first], WORD * REGION_WORDS) if first else []
        for address in structs.memory.abi.view(tables[0] or b"") if tables else ():
            [told] = structs.memory.read_each([address], 3 * WORD)
            if told is not None:
                start, word_count, offsets = structs.memory.abi.words(told, 0, 3)
                if (start, start + WORD * word_count) == reserved:
                    size = (reserved[1] - reserved[0]) // CARD_BYTES
                    by = (
                        f"G1BlockOffsetTable at {address:#x}, to which a region leads, and which "
                        "begins with the range of the Java heap"
                    )
                    yield (offsets, offsets + size), by
                    return

    def metaspace(self) -> Iterator[Found]:
        """Anonymous mappings that class metadata lie in."""
        known: set[int] = set()
        for address in self.metadata():
            at = bisect_right(self.starts, address) - 1
            mapping = self.mappings[at] if at >= 0 else None
            if mapping is None or address >= mapping.end or mapping.start in known:
                continue
            known.add(mapping.start)
            if mapping.anonymous and mapping.writable:
                by = f"metadata of a class at {address:#x}; {_by('ClassLoaderDataGraph::_head')}"
                yield (mapping.start, mapping.end), by

    def metadata(self) -> Iterator[int]:
        """Classes, and their arrays of constants and methods."""
        structs, seen = self.structs, 0
        loader = structs.static("ClassLoaderDataGraph::_head")
        for _ in range(MOST_LOADERS):
            if not loader:
                return
            klass = structs.field(loader, "ClassLoaderData::_klasses")
            while klass and seen < MOST_CLASSES:
                seen += 1
                yield klass
                if 0 < structs.field(klass, "Klass::_layout_helper") & 0xFFFFFFFF < 1 << 31:
                    yield structs.field(klass, "InstanceKlass::_constants")
                    yield structs.field(klass, "InstanceKlass::_methods")
                klass = structs.field(klass, "Klass::_next_link")
            loader = structs.field(loader, "ClassLoaderData::_next")


def claims(memory: Memory, mappings: Sequence[Mapping], open_file: OpenFile) -> Iterator[Claim]:
    """What a HotSpot in the process owns; nothing where there is none, or one for 32 bits. Raises
    NoSuchProcess, PermissionRefused."""
    if memory.abi.word_bytes != WORD:
        return
    first = next((m for m in mappings if not m.offset and LIBRARY.search(m.path)), None)
    file = None if first is None else open_file(first)
    if first is None or file is None:
        return
    with file, contextlib.suppress(BadInput, MemoryGap):
        machine = _Machine(VmStructs(memory, file, first, SOUGHT), mappings)
        ranges: tuple[tuple[Callable[[], Iterator[Found]], str], ...] = (
            (machine.heap, "Java heap"),
            (machine.code, "Java code cache"),
            (machine.code_maps, "Java code cache"),
            (machine.card_table, "Java collector's tables"),
            (machine.block_offsets, "Java collector's tables"),
            (machine.metaspace, "Java metaspace"),
        )
        for find, owner in ranges:
            yield from _claims(find, owner)


def _claims(find: Callable[[], Iterator[Found]], owner: str) -> Iterator[Claim]:
    """What is found until something is missing: a field, or a page."""
    with contextlib.suppress(MemoryGap, MissingField):
        for (start, end), evidence in find():
            if 0 < start < end:
                yield Claim(start, end, "runtime-heap", owner, evidence)


def _by(field: str) -> str:
    return f"{field} in libjvm.so's own variables, by its table for debuggers"
