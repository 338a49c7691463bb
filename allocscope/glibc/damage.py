"""Where a heap that stood still contradicts itself, and how.

Strategy: the walk and the validation have told that an arena is not sound; here the words are
found that make it so. Headers and footers the walk has noted; links are followed again, comparing
each with the one that leads back.

Rules: asked only of arenas that did not change while they were read. One finding of each kind for
an arena and for a thread: what comes behind the first is often its consequence. A list is followed
for MOST_LINKS elements at most.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from allocscope.glibc.abi import Abi
from allocscope.glibc.layouts import StateLayout, TcacheLayout
from allocscope.glibc.marks import longest_list
from allocscope.glibc.pieces import Piece
from allocscope.glibc.protocols import Memory, Walker
from allocscope.glibc.reading import HeapReading
from allocscope.glibc.states import CHUNK_FLAGS, ArenaState
from allocscope.glibc.threads import Tcache
from allocscope.glibc.validate import ArenaReading, lists_match
from allocscope.model.damage import Damage
from allocscope.model.walk import STOP_BROKEN_TOP

PREV_INUSE = 1
MOST_LINKS = 1 << 18
SAFE_LINK_SHIFT = 12


def find_damage(memory: Memory, walker: Walker, reading: HeapReading) -> tuple[Damage, ...]:
    """What is wrong in the arenas that stood still and in the tcaches; empty for a sound heap."""
    found: list[Damage] = []
    for item in reading.arenas:
        if item.problems and not item.changed and not item.cut_short:
            found += _in_arena(memory, walker, reading, item)
    moving = reading.tcaches_moved or any(item.changed for item in reading.arenas)
    if not moving and not any(item.cut_short for item in reading.arenas):
        found += _in_tcaches(memory, reading)
    return tuple(found)


def _word(memory: Memory, address: int) -> int | None:
    [word] = _words(memory, [address])
    return word


def _words(memory: Memory, addresses: Sequence[int]) -> list[int | None]:
    found = memory.read_each(addresses, memory.abi.word_bytes)
    return [None if data is None else memory.abi.word(data) for data in found]


def _told(word: int | None) -> str:
    return "a page that is not there" if word is None else f"{word:#x}"


def _in_arena(
    memory: Memory, walker: Walker, reading: HeapReading, item: ArenaReading
) -> Iterator[Damage]:
    interrupted = False
    for piece in item.pieces:
        for damage in _in_piece(memory, item, piece):
            interrupted |= damage.kind == "chunk-size"
            yield damage
    layout = reading.layout.state
    if not interrupted and not lists_match(walker, item, layout):
        yield from _first(_in_bins(memory, item, layout))
    yield from _first(_in_fastbins(memory, item, reading.safe_linking))


def _first(found: Iterator[Damage]) -> Iterator[Damage]:
    for damage in found:
        yield damage
        return


# ---- on the chain of chunks ----


def _in_piece(memory: Memory, item: ArenaReading, piece: Piece) -> Iterator[Damage]:
    t, abi = piece.tally, memory.abi
    if t.first_damage:
        where = t.first_damage + abi.word_bytes
        word = _word(memory, where)
        if word is not None:  # else its page is swapped out: unread, but no damage
            most = piece.end - t.first_damage
            least, unit = abi.min_chunk_bytes, abi.alignment
            expected = f"a chunk's size: {least:#x} to {most:#x}, a multiple of {unit:#x}"
            yield Damage(
                "chunk-size", item.index, where, expected, _told(word), t.before_damage or None
            )
    if t.first_footer_mismatch:
        chunk = t.first_footer_mismatch
        size = (_word(memory, chunk + abi.word_bytes) or 0) & ~CHUNK_FLAGS
        where = chunk + size
        expected = f"{size:#x}, the size of the free chunk before it"
        yield Damage(
            "chunk-footer", item.index, where, expected, _told(_word(memory, where)), chunk
        )
    if t.stop_reason == STOP_BROKEN_TOP:
        where = item.state.top + abi.word_bytes
        expected = f"{piece.end - item.state.top:#x}: the top chunk ends where its arena does"
        yield Damage("top-size", item.index, where, expected, _told(_word(memory, where)))


# ---- in lists ----


def _in_bins(memory: Memory, item: ArenaReading, layout: StateLayout) -> Iterator[Damage]:
    """Every member of a ring is led back to by the next one."""
    forward_at = memory.abi.header_bytes
    back_at = forward_at + memory.abi.word_bytes
    for here, fd, _ in item.state.bin_heads(layout):
        [(found, whole)] = memory.chase(
            [fd],
            link_offset=forward_at,
            mangled=False,
            limit=_limit(item.state, memory.abi),
            ends=[here],
        )
        members = [here, *found]
        backward = _words(memory, [chunk + back_at for chunk in found])
        seen = {here}
        for before, chunk, back in zip(members, found, backward, strict=False):
            if back != before and chunk not in seen:
                expected = f"{before:#x}, the bin or chunk whose forward link leads here"
                yield Damage("bin-link", item.index, chunk + back_at, expected, _told(back))
            if chunk in seen:
                expected = "the bin, or a chunk that the list has not passed yet"
                yield Damage("bin-link", item.index, before + forward_at, expected, _told(chunk))
            seen.add(chunk)
        if not whole:
            expected = "a free chunk of this arena, or the bin"
            last = members[-1] + forward_at
            yield Damage("bin-link", item.index, last, expected, _told(_word(memory, last)))
        yield from _in_use_flags(memory, item, found)


def _in_use_flags(memory: Memory, item: ArenaReading, members: Sequence[int]) -> Iterator[Damage]:
    """The chunk behind a free one says that it is free."""
    size_at = memory.abi.word_bytes
    sizes = _words(memory, [chunk + size_at for chunk in members])
    behind = [
        (chunk, chunk + (size & ~CHUNK_FLAGS))
        for chunk, size in zip(members, sizes, strict=True)
        if size is not None
    ]
    flags = _words(memory, [following + size_at for _, following in behind])
    for (chunk, following), word in zip(behind, flags, strict=True):
        if word is not None and word & PREV_INUSE:
            expected = f"bit 0 clear: the chunk before it, {chunk:#x}, is in a bin"
            where = following + size_at
            yield Damage("in-use-flag", item.index, where, expected, _told(word), chunk)


def _in_fastbins(memory: Memory, item: ArenaReading, mangled: bool) -> Iterator[Damage]:
    link_at, limit = memory.abi.header_bytes, _limit(item.state, memory.abi)
    heads = [head for head in item.state.fastbins if head]
    lists = memory.chase(heads, link_offset=link_at, mangled=mangled, limit=limit)
    for head, (found, whole) in zip(heads, lists, strict=True):
        if not whole and len(found) < limit:
            last = (found[-1] if found else head) + link_at
            expected = "a link to a chunk that the list has not passed yet, or its end"
            yield Damage(
                "fastbin-link", item.index, last, expected, _told(_link(memory, last, mangled))
            )


def _limit(state: ArenaState, abi: Abi) -> int:
    return min(longest_list([state], abi), MOST_LINKS)


def _link(memory: Memory, address: int, mangled: bool) -> int | None:
    """What a link leads to."""
    word = _word(memory, address)
    return word ^ address >> SAFE_LINK_SHIFT if mangled and word is not None else word


# ---- in tcaches ----


def _in_tcaches(memory: Memory, reading: HeapReading) -> Iterator[Damage]:
    layout = reading.layout.tcache
    unknown = any(item.state.system_bytes and not item.pieces for item in reading.arenas)
    if layout is None or unknown:
        return
    owned = reading.owned
    for thread in reading.threads:
        if thread.tcache is not None:
            yield from _first(
                _in_tcache(memory, thread.tcache, layout, owned, reading.safe_linking)
            )


def _in_tcache(
    memory: Memory,
    tcache: Tcache,
    layout: TcacheLayout,
    owned: Sequence[tuple[int, int]],
    mangled: bool,
) -> Iterator[Damage]:
    """The first entry of each bin that is no chunk of an arena, or that makes the list longer or
    shorter than it is counted."""
    abi = memory.abi
    for number, (head, count) in enumerate(zip(tcache.heads, tcache.counts, strict=True)):
        if not head:
            continue
        [(found, whole)] = memory.chase([head], link_offset=0, mangled=mangled, limit=count + 1)
        places = [tcache.address + layout.entries + number * abi.word_bytes, *found]
        of = f"of thread {tcache.tid}'s tcache bin {number}"
        for place, entry in zip(places, found, strict=False):
            if not _owned(owned, entry - abi.header_bytes):
                expected = f"the next chunk {of}, in one of the arenas"
                yield Damage("tcache-entry", None, place, expected, _told(entry))
        if not whole or len(found) != count:
            expected = f"element {len(found) + 1} of {count} {of}"
            if len(found) >= count:
                expected = f"the end {of} after {count} elements"
            last = _link(memory, places[-1], mangled and bool(found))
            yield Damage("tcache-entry", None, places[-1], expected, _told(last))


def _owned(owned: Sequence[tuple[int, int]], address: int) -> bool:
    index = bisect_right(owned, (address, 1 << 64)) - 1
    return index >= 0 and address < owned[index][1]
