"""What the helper must know of a process to make it call malloc_trim, gathered without a stop.

Strategy: addresses come from the files that the target has mapped and from its own memory, never
from this process's libc. errno's place is taken from ``__errno_location`` itself: its code adds a
constant to the thread's control block, or reads that constant from libc's global offset table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from allocscope.act import code, symbols
from allocscope.errors import MemoryGap, MissingPart, NoSuchProcess
from allocscope.glibc.locate import Located
from allocscope.immutable import immutable
from allocscope.model.libc import LibcImage
from allocscope.model.process import Mapping
from allocscope.native import ffi
from allocscope.proc.memory import ProcessMemory

LOCK_PATIENCE_NS = 20_000_000
"""Locks were seen held for up to 8 ms by a thread that had lost its CPU."""

_SYMBOLS = (*symbols.ALLOCATOR, "__errno_location")
_ENDBR = b"\xf3\x0f\x1e\xfa"
_LOAD_SLOT = b"\x48\x8b\x05"  # mov disp32(%rip), %rax
_LOAD_CONSTANT = b"\x48\xc7\xc0"  # mov $imm32, %rax
_ADD_BASE = bytes.fromhex("644803042500000000c3")  # add %fs:0, %rax; ret
_LOAD_BYTES = 7


@immutable
class Plan:
    """``code``: for the frames; ``native``: an ``as_trim_plan`` that only lacks the thread's own
    part (``signal``, ``inner_tid``)."""

    code: code.Code
    native: Any
    keep: Any  # what ``native`` points to


def make(
    pid: int,
    image: LibcImage,
    located: Located,
    mappings: Sequence[Mapping],
    calls: Sequence[int],
    pad_bytes: int,
) -> Plan:
    """``calls``: numbers of the system calls in which a thread may be used.

    Raises MissingPart when the target's files do not show what is needed, PermissionRefused,
    NoSuchProcess.
    """
    where = symbols.resolve(pid, image, _SYMBOLS)
    links = code.find_links(pid, mappings)
    allocator = symbols.allocator_code(where)
    plan = ffi.new("as_trim_plan *")
    plan.function, plan.pad_bytes = where["malloc_trim"], pad_bytes
    plan.pop_rdi, plan.pop_rsi, plan.pop_rax = links.pop_rdi, links.pop_rsi, links.pop_rax
    plan.store_eax, plan.store_displacement = links.store_eax, links.store_displacement
    plan.errno_offset = _errno_offset(pid, mappings, where["__errno_location"])
    plan.allocator_start, plan.allocator_end = allocator.start, allocator.stop
    plan.main_arena, plan.arena_next_offset = located.main_arena, located.layout.state.next
    keep = ffi.new("int32_t[]", list(calls))
    plan.calls, plan.call_count = keep, len(keep)
    plan.lock_patience_ns = LOCK_PATIENCE_NS
    return Plan(code.find(pid, mappings), plan, keep)


def _errno_offset(pid: int, mappings: Sequence[Mapping], function: int) -> int:
    """What ``function`` adds to the thread's control block, as an unsigned 64-bit word."""
    text = code.text_at(pid, mappings, function, len(_ENDBR) + _LOAD_BYTES + len(_ADD_BASE))
    start = len(_ENDBR) if text.startswith(_ENDBR) else 0
    load, rest = text[start : start + _LOAD_BYTES], text[start + _LOAD_BYTES :]
    if rest.startswith(_ADD_BASE):
        operand = int.from_bytes(load[-4:], "little", signed=True)
        if load.startswith(_LOAD_CONSTANT):
            return operand % (1 << 64)
        if load.startswith(_LOAD_SLOT):
            return _word(pid, function + start + _LOAD_BYTES + operand)
    raise MissingPart(
        f"the C library of process {pid} keeps errno in a place that its code does not tell",
        "malloc_trim could change errno behind the program's back, so it is not called. Please "
        "report which library this is.",
    )


def _word(pid: int, slot: int) -> int:
    """A word of the global offset table, which is there as long as the library is."""
    try:
        with ProcessMemory(pid) as memory:
            return int.from_bytes(memory.read(slot, 8), "little")
    except MemoryGap as error:
        raise NoSuchProcess(
            f"process {pid} started another program meanwhile", "Ask again."
        ) from error
