"""May a process be made to call malloc_info? Only if no thread of it stands inside malloc.

Strategy, each a reason to refuse when it fails:

1. *Locks.* The lock word of every arena is 0, and so is that of the stderr stream.
2. *Places.* A thread is inside malloc when its program counter, or a return address on its stack,
   lies in the allocator's code. A process that never had a second thread takes no locks at all
   (glibc 2.27 and later): there, only the thread's own place tells.
3. *vfork.* A thread in it cannot be stopped before the child goes on.
4. *SIGSEGV.* A function that gdb calls returns to the stack, which may not be executed, and that
   fault is how gdb notices. Where the thread blocks or ignores the signal, the kernel unblocks it
   and takes away its handler, for good (``force_sig_info_to_task`` in Linux kernel/signal.c).

Stale words: dead stack slots keep return addresses for long, so a stack is read only where it can
matter. A thread that waits in a system call which malloc never makes, with no signal handler under
way, is not inside malloc, whatever its stack holds. All others are read from their stack pointer to
the end of the mapping (at most ``MAX_STACK_BYTES``); signal handlers are followed to the code that
they interrupted, on whichever stack. What is left of stale words refuses too often, never too
rarely.

Rules: this only reads, through /proc. The same look works while the process runs (a thread on a
CPU then shows nothing) and finds a promising moment; it counts only while all threads are stopped.
x86-64. A handler with a restorer of its own (Go) is not seen as one. Facts: glibc malloc/arena.c;
proc_pid_syscall(5); Linux arch/x86/include/asm/sigframe.h.
"""

from __future__ import annotations

import os
import signal
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from allocscope.act import task
from allocscope.act.symbols import ALLOCATOR, RESTORER, allocator_code
from allocscope.closing import Closing
from allocscope.errors import MemoryGap
from allocscope.glibc.states import InvalidHeap
from allocscope.model.process import Mapping as MemoryMapping
from allocscope.proc import procfs, refusal

SYMBOLS = (*ALLOCATOR, RESTORER, "stderr", "_IO_2_1_stderr_")
"""What ``symbols`` must hold."""

MAX_STACK_BYTES = 8 << 20

_FILE_LOCK = 0x88
_FRAME_RSP, _FRAME_BYTES = 168, 184
"""Where a signal handler's frame holds the interrupted rsp and, behind it, rip; from the word that
returns to the restorer."""

_OF_MALLOC = frozenset({9, 10, 11, 12, 25, 28, 157})
"""mmap, mprotect, munmap, brk, mremap, madvise, prctl: malloc makes them with half-done work behind
it. Its futex waits are for arena locks, which are looked at, or for the list of arenas, which
readers do not need."""
_CLONE, _VFORK, _CLONE_VFORK = 56, 58, 0x4000
_TWO_WORDS = struct.Struct("<QQ")


class _Place(NamedTuple):
    """One line of /proc/PID/task/TID/syscall. ``call`` is -1 outside of system calls."""

    call: int
    argument: int
    sp: int
    pc: int


class Guard(Closing):
    """Looks at process ``pid``, in ``with``. ``arenas_of`` tells the addresses of all
    malloc_states, main_arena first; it is asked anew at each look, because arenas are added.

    Raises PermissionRefused, NoSuchProcess where the process may not or no longer be read.
    """

    def __init__(
        self, pid: int, symbols: Mapping[str, int], arenas_of: Callable[[], tuple[int, ...]]
    ) -> None:
        self._pid = pid
        self._arenas_of = arenas_of
        self.arenas: tuple[int, ...] = ()
        self._stderr = symbols["stderr"], symbols["_IO_2_1_stderr_"]
        self._restorer = symbols[RESTORER].to_bytes(8, "little")
        self._code = allocator_code(symbols)
        self._maps = procfs.mappings(pid)
        try:
            self._memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise refusal.translate(pid, "the memory", error) from error

    def close(self) -> None:
        os.close(self._memory)

    def reasons(self, stopped: bool) -> tuple[str, ...]:
        """Why no call may be made now, one phrase each; empty when it may. ``stopped``: all threads
        should stand still, and one that does not is a reason too."""
        return (*self._locks(), *self._signals(), *self._threads(stopped))

    def _locks(self) -> Iterator[str]:
        try:
            self.arenas = self._arenas_of()
        except (InvalidHeap, MemoryGap) as error:
            yield f"the list of arenas cannot be read: {error.message}"
            return
        for index, address in enumerate(self.arenas):
            if self._int(address):
                yield f"the lock of arena {index} is held"
        variable, initial = self._stderr
        for stream in {self._word(variable), initial} - {0}:
            lock = self._word(stream + _FILE_LOCK)
            if lock and self._int(lock):
                yield "the lock of the stderr stream is held"

    def _signals(self) -> Iterator[str]:
        unheard = 0
        for line in ("SigBlk", "SigIgn"):
            unheard |= int(task.status_line(self._pid, line) or "0", 16)
        for number in (signal.SIGSEGV, signal.SIGTRAP):
            if unheard >> (number - 1) & 1:
                yield f"the main thread blocks or ignores {number.name}, which a call would change"

    def _threads(self, stopped: bool) -> Iterator[str]:
        for tid in task.threads(self._pid):
            place = self._place(tid)
            if place is None:
                if stopped:
                    yield f"thread {tid} does not stand still"
                continue
            reason = self._why_not(place)
            if reason:
                yield f"thread {tid} {reason}"

    def _place(self, tid: int) -> _Place | None:
        """Where a thread is; None when it runs, or has just ended."""
        words = (task.read(self._pid, f"task/{tid}/syscall") or "").split()
        if len(words) < 3:
            return None
        argument = int(words[1], 16) if len(words) > 3 else 0
        return _Place(int(words[0]), argument, int(words[-2], 16), int(words[-1], 16))

    def _why_not(self, place: _Place) -> str | None:
        if place.call == _VFORK or (place.call == _CLONE and place.argument & _CLONE_VFORK):
            return "waits in vfork"
        if place.pc in self._code:
            return f"stands in malloc's code, at {place.pc:#x}"
        stacks, interrupted = self._stacks(place.sp)
        for pc in interrupted:
            if pc in self._code:
                return f"runs a signal handler on top of malloc's code, at {pc:#x}"
        if place.call == -1 or place.call in _OF_MALLOC or interrupted:
            for stack in stacks:
                address = self._return_address(stack)
                if address is not None:
                    return f"may be about to return to malloc's code: {address:#x} is on its stack"
        return None

    def _stacks(self, sp: int) -> tuple[list[bytes], list[int]]:
        """The stack from ``sp`` on, and those of the code that signal handlers on it interrupted;
        beside them where that code was interrupted."""
        stacks: dict[int, bytes] = {}
        interrupted = []
        pending = [sp]
        while pending:
            start = pending.pop() & ~7
            mapping = self._mapping(start)
            if mapping is None or mapping.start in stacks:
                continue
            size = min(mapping.end - start, MAX_STACK_BYTES)
            stack = stacks[mapping.start] = self._read(start, size)
            for frame in _words(stack, self._restorer):
                if frame + _FRAME_BYTES <= len(stack):
                    its_sp, pc = _TWO_WORDS.unpack_from(stack, frame + _FRAME_RSP)
                    interrupted.append(pc)
                    pending.append(its_sp)
        return list(stacks.values()), interrupted

    def _return_address(self, stack: bytes) -> int | None:
        """The first word of a stack that points into the allocator's code."""
        # The range crosses few 64 KiB boundaries: look for the upper six bytes of such a word.
        for upper in range(self._code.start >> 16, (self._code.stop >> 16) + 1):
            for place in _words(stack, upper.to_bytes(6, "little"), skipped=2):
                address = int.from_bytes(stack[place : place + 8], "little")
                if address in self._code:
                    return address
        return None

    def _mapping(self, address: int) -> MemoryMapping | None:
        """The mapping at an address; looked up again when the one known list has none."""
        for known in (True, False):
            if not known:
                self._maps = procfs.mappings(self._pid)
            place = bisect_right(self._maps, address, key=lambda mapping: mapping.start) - 1
            if place >= 0 and address < self._maps[place].end:
                return self._maps[place]
        return None

    def _int(self, address: int) -> int:
        return int.from_bytes(self._read(address, 4), "little")

    def _word(self, address: int) -> int:
        return int.from_bytes(self._read(address, 8), "little")

    def _read(self, address: int, size: int) -> bytes:
        try:
            return os.pread(self._memory, size, address)
        except OSError as error:
            raise refusal.translate(self._pid, "the memory", error) from error


def _words(data: bytes, pattern: bytes, skipped: int = 0) -> Iterator[int]:
    """Where ``pattern`` stands in an aligned word of ``data``, ``skipped`` bytes from its start."""
    place = data.find(pattern)
    while place >= 0:
        if place % 8 == skipped:
            yield place - skipped
        place = data.find(pattern, place + 1)
