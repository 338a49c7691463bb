"""Does what was read of an arena belong together?

It does when, after the walk, its header and the tcaches whose chunks lie in it are byte for byte
what they were before, the chain of chunks is whole, and the chunks found free by the walk are
exactly those that the bins' lists hold. Nothing changes in a frozen copy, so there only the last
two are asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from allocscope.errors import MemoryGap
from allocscope.glibc.layouts import StateLayout
from allocscope.glibc.marks import Parked
from allocscope.glibc.pieces import Piece
from allocscope.glibc.protocols import Memory, Walker
from allocscope.glibc.states import ArenaState, HeapInfo, read_state
from allocscope.glibc.threads import Tcache
from allocscope.immutable import immutable, replace
from allocscope.model.walk import STOP_BROKEN_TOP, STOP_DAMAGE, STOP_DEADLINE

_MASK64 = (1 << 64) - 1


@immutable
class ArenaReading:
    """One arena as read. ``problems`` is empty when it validated; ``changed``: it, or a tcache with
    chunks of it, was seen to change meanwhile."""

    index: int
    state: ArenaState
    heaps: tuple[HeapInfo, ...]
    pieces: tuple[Piece, ...]
    changed: bool
    problems: tuple[str, ...]

    @property
    def cut_short(self) -> bool:
        """Did the deadline end the walk? Then it says nothing about whether the arena is sound."""
        return any(piece.tally.stop_reason == STOP_DEADLINE for piece in self.pieces)


def lists_match(walker: Walker, reading: ArenaReading, layout: StateLayout) -> bool:
    """Do the bins' lists hold exactly the free chunks that the walk found?

    Every list is circular through its bin. So over all its members, bins included, the set of fd
    pointers is the set of members itself, and so is that of bk pointers: compared by sums of a
    hash."""
    heads = reading.state.bin_heads(layout)
    here = walker.hash_sum([address for address, _, _ in heads])
    forward = walker.hash_sum([fd for _, fd, _ in heads])
    backward = walker.hash_sum([bk for _, _, bk in heads])
    for piece in reading.pieces:
        here += piece.tally.bin_node_hash
        forward += piece.tally.bin_fd_hash
        backward += piece.tally.bin_bk_hash
    return here & _MASK64 == forward & _MASK64 == backward & _MASK64


def chunks_in_motion(
    before: Sequence[Tcache], after: Iterable[Tcache], parked: Parked, header_bytes: int
) -> frozenset[int]:
    """Chunks of the tcaches that changed during the walk, as they were before and as they are now,
    their own chunks included."""
    now = {tcache.tid: tcache for tcache in after}
    moved: set[int] = set()
    for old in before:
        new = now.pop(old.tid, None)
        if new is not None and new.raw == old.raw and new.address == old.address:
            continue
        moved.add(old.chunk)
        moved.update(parked.of(old.tid))
        if new is not None:
            now[old.tid] = new
    for new in now.values():
        moved.add(new.chunk)
        moved.update(head - header_bytes for head in new.heads if head)
    return frozenset(moved)


def check(
    memory: Memory,
    walker: Walker,
    reading: ArenaReading,
    layout: StateLayout,
    moved: frozenset[int] | None,
) -> ArenaReading:
    """The reading with its problems. ``moved``: chunks of tcaches that changed; None for memory
    that cannot change."""
    if reading.cut_short:
        return replace(reading, problems=("the deadline came before its end",))
    tallies = [piece.tally for piece in reading.pieces]
    changed = moved is not None and (
        _header_changed(memory, reading.state, layout)
        or any(piece.start <= chunk < piece.end for chunk in moved for piece in reading.pieces)
    )
    found = {
        "it changed while it was read": changed,
        "its free lists and its chunks tell different things": not lists_match(
            walker, reading, layout
        ),
        "the chain of chunks is interrupted": any(
            t.damage_count or t.stop_reason in (STOP_DAMAGE, STOP_BROKEN_TOP) for t in tallies
        ),
        "a free chunk and the word behind it disagree on its size": any(
            t.footer_mismatch_count for t in tallies
        ),
        "its top is in none of its memory": bool(reading.pieces)
        and not any(piece.holds_top for piece in reading.pieces),
        "an allocation from top was under way": any(t.cut_at_top_count for t in tallies),
        "a cached chunk is not on the chain of chunks": any(t.missed_mark_count for t in tallies),
    }
    problems = reading.problems + tuple(text for text, holds in found.items() if holds)
    return replace(reading, changed=changed, problems=problems)


def _header_changed(memory: Memory, before: ArenaState, layout: StateLayout) -> bool:
    try:
        return read_state(memory, before.address, layout).raw != before.raw
    except MemoryGap:
        return True


def better(new: ArenaReading, old: ArenaReading) -> bool:
    """Is the newer of two readings of an arena at least as good?"""

    def badness(reading: ArenaReading) -> tuple[bool, int]:
        unread = sum(piece.tally.unread_bytes for piece in reading.pieces)
        covered = sum(piece.end - piece.start + piece.foreign_bytes for piece in reading.pieces)
        return bool(reading.problems), unread + abs(reading.state.system_bytes - covered)

    return badness(new) <= badness(old)
