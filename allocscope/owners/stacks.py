"""Thread stacks, found by the thread's control block.

Strategy: glibc puts a thread's ``struct pthread`` at the upper end of its stack, and in it notes
where the stack begins, how long it is and how much of it is guard (``stackblock``,
``stackblock_size``, ``guardsize``, one behind the other: nptl/descr.h). The block's first and third
word point to itself. So a stack is known to the page, also where the kernel joined its mapping with
others. Stacks of threads that ended stay mapped, for the next thread (nptl/allocatestack.c); their
control blocks still say what they are.

Rules: the three words must fit the block's own address; one that does not fit is no stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from allocscope.glibc.abi import WIDE, Abi
from allocscope.glibc.protocols import Memory
from allocscope.immutable import immutable
from allocscope.model.owners import Claim

PAGE = 4096
BLOCK_WORDS = 0x120
"""Of struct pthread (2.17 to 2.44) at least so many lie behind the thread pointer."""
ALIGN = 64
SEARCH_BYTES = 4 * PAGE
EVIDENCE = "a thread control block at {tcb:#x} says so (stackblock, stackblock_size, guardsize)"


@immutable
class Stack:
    """``[start, end)``, guard included; ``tid`` is None where the thread has ended."""

    start: int
    end: int
    tcb: int
    tid: int | None


def stack_of(tcb: int, block: bytes, tid: int | None, abi: Abi = WIDE) -> Stack | None:
    """The stack that a control block describes, None where it is none (the main thread's)."""
    words = abi.view(block)
    for start, size, guard in zip(words, words[1:], words[2:], strict=False):
        if not start or start % PAGE or size % PAGE or guard % PAGE:
            continue
        if start + guard < tcb < start + size and start + size - tcb < SEARCH_BYTES:
            return Stack(start, start + size, tcb, tid)
    return None


def _stacks_at(memory: Memory, places: Sequence[tuple[int, int | None]]) -> Iterator[Stack]:
    size = BLOCK_WORDS * memory.abi.word_bytes
    blocks = memory.read_each([tcb for tcb, _ in places], size)
    for (tcb, tid), block in zip(places, blocks, strict=True):
        stack = stack_of(tcb, block, tid, memory.abi) if block is not None else None
        if stack is not None:
            yield stack


def thread_stacks(memory: Memory, tcbs: Mapping[int, int]) -> list[Stack]:
    """The stacks of running threads. ``tcbs``: ``{tid: thread pointer}``."""
    return list(_stacks_at(memory, [(tcb, tid) for tid, tcb in tcbs.items()]))


def ended_stacks(
    memory: Memory, spans: Iterable[tuple[int, int]], guards: Iterable[int]
) -> list[Stack]:
    """Stacks of threads that have ended, in ``spans`` (writable anonymous mappings that nobody
    else owns). ``guards``: where memory ends that may not be touched: what lies behind it may be a
    stack."""
    below = set(guards)
    found: list[Stack] = []
    for start, end in spans:
        if start in below:
            found += _in_span(memory, start, end)
    return found


def _in_span(memory: Memory, start: int, end: int) -> Iterator[Stack]:
    """A control block within the last pages of a span that describes a stack which ends there."""
    low = max(start, end - SEARCH_BYTES)
    size = 3 * memory.abi.word_bytes
    places = range(low // ALIGN * ALIGN, end - size, ALIGN)
    heads = memory.read_each(list(places), size)
    for tcb, head in zip(places, heads, strict=True):
        if head is None:
            continue
        first, _, third = memory.abi.words(head, 0, 3)
        if first == tcb == third:
            for stack in _stacks_at(memory, [(tcb, None)]):
                if stack.end == end:
                    yield stack


def stack_claims(stacks: Iterable[Stack]) -> Iterator[Claim]:
    for stack in stacks:
        whose = "a thread that ended" if stack.tid is None else f"thread {stack.tid}"
        yield Claim(
            stack.start,
            stack.end,
            "thread-stacks",
            f"stack of {whose}",
            EVIDENCE.format(tcb=stack.tcb),
        )
