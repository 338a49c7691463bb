"""The calls that are made in the live process while all its threads stand still, and their undoing.

Strategy: the main thread, alone, by gdb:

1. a page of scratch memory and a memfd, by system calls, and all signals held back but those that
   faults raise: a handler would run on top of malloc_info, and might use malloc;
2. in that page a stdio stream made by hand: unbuffered, with a lock of its own, writing to the
   memfd. malloc_info writes to it; malloc_stats writes to the variable ``stderr``, which points to
   it for as long as that call lasts. Nothing is allocated, opened or flushed, and the target's own
   streams and descriptors are not touched;
3. descriptor and page are given back, mask and errno are restored.

Rules: each thing is borrowed in a context manager that gives it back on every path. A call that
does not return is broken off and undone before that, and an arena lock that it held is released:
all were free, and nobody else ran. Layout of ``FILE``: glibc libio/bits/types/struct_FILE.h, the
same on 64-bit from 2.17 to 2.44; what later versions added is right when zero.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from allocscope.act import task
from allocscope.act.gdb import Gdb
from allocscope.closing import Closing
from allocscope.errors import Unsafe
from allocscope.model.glibc_says import What
from allocscope.proc import refusal

SYMBOLS = (
    "malloc_info",
    "malloc_stats",
    "syscall",
    "stderr",
    "_IO_2_1_stderr_",
    "__errno_location",
)
"""What ``symbols`` must hold."""

_CLOSE, _MMAP, _MUNMAP, _SIGPROCMASK, _MEMFD_CREATE = 3, 9, 11, 14, 319
_READ_WRITE, _PRIVATE_ANONYMOUS, _CLOEXEC = 3, 0x22, 1
_PAGE_BYTES = 4096
_HELD_AT, _MASK_AT, _LOCK_AT, _STREAM_AT = 16, 24, 64, 128
"""Places in the scratch page; at 0 is the memfd's name, which is empty."""

_SET_MASK, _MASK_BYTES = 2, 8
_FAULTS = (
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGTRAP,
    signal.SIGSYS,
)
_OF_GLIBC = (32, 33)
"""Sent by one thread of the process to another, for pthread_cancel and setuid: all others stand
still."""
_HELD_SIGNALS = ((1 << 64) - 1) & ~sum(1 << (number - 1) for number in (*_FAULTS, *_OF_GLIBC))

_LOCK_BYTES = 4
_FILE_BYTES = 0xE0
_FLAGS = 0xFBAD2006 - (1 << 32)
"""As a signed int: _IO_MAGIC, _IO_IS_FILEBUF, _IO_NO_READS, _IO_UNBUFFERED."""
_FILENO, _LOCK, _OFFSET, _MODE, _VTABLE = 0x70, 0x88, 0x90, 0xC0, 0xD8
_INT, _WORD = struct.Struct("<i"), struct.Struct("<q")


def make(
    gdb: Gdb,
    pid: int,
    symbols: Mapping[str, int],
    arenas: tuple[int, ...],
    what: What,
) -> tuple[bytes | None, bytes | None]:
    """malloc_info's XML and malloc_stats' text, from process ``pid``, which gdb has stopped.

    Raises Unsafe when a call fails; everything is given back then, too.
    """
    with _Calls(gdb, pid, symbols) as calls, calls.errno_kept(), calls.page() as page:
        stream = page + _STREAM_AT
        with (
            calls.signals_held(page),
            calls.memfd(page) as (number, output),
            calls.locks_free(arenas),
        ):
            calls.write(stream, calls.stream(number, page + _LOCK_AT))
            xml = text = None
            if what != "malloc_stats":
                error = calls.call("malloc_info", "int(int, void *)", 0, stream)
                if error:
                    raise Unsafe(f"malloc_info refused to answer (error {error})")
                xml = output.read()
            if what != "malloc_info":
                with calls.stderr_is(stream):
                    # It returns nothing, but gdb wants a value.
                    calls.call("malloc_stats", "int(void)")
                text = output.read()
    return xml, text


class _Calls(Closing):
    """Calls in the stopped process, and reads and writes of its memory."""

    def __init__(self, gdb: Gdb, pid: int, symbols: Mapping[str, int]) -> None:
        self._gdb = gdb
        self._pid = pid
        self._symbols = symbols
        try:
            self._memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise refusal.translate(pid, "the memory", error) from error

    def close(self) -> None:
        os.close(self._memory)

    def call(self, name: str, prototype: str, *arguments: int) -> int:
        """Calls an exported function. When it does not return, it is undone before this raises, and
        there is time left for giving things back."""
        try:
            return self._gdb.call(self._symbols[name], prototype, arguments)
        except BaseException:
            self._gdb.grant()
            self._gdb.break_off()
            raise

    @contextlib.contextmanager
    def errno_kept(self) -> Iterator[None]:
        """The calling thread's errno afterwards is what it was before."""
        address = self.call("__errno_location", "unsigned long(void)")
        before = self.read(address, 4)
        try:
            yield
        finally:
            self.write(address, before)

    @contextlib.contextmanager
    def page(self) -> Iterator[int]:
        """A page of zeros, for as long as it is needed: its address."""
        address = self._system_call(_MMAP, 0, _PAGE_BYTES, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
        try:
            yield address
        finally:
            self._system_call(_MUNMAP, address, _PAGE_BYTES)

    @contextlib.contextmanager
    def signals_held(self, page: int) -> Iterator[None]:
        """No signal handler runs in the main thread meanwhile, but for faults of its own."""
        if not self._handled_signals() & _HELD_SIGNALS:
            yield
            return
        held, before = page + _HELD_AT, page + _MASK_AT
        self.write(held, _HELD_SIGNALS.to_bytes(_MASK_BYTES, "little"))
        self._system_call(_SIGPROCMASK, _SET_MASK, held, before, _MASK_BYTES)
        try:
            yield
        finally:
            self._system_call(_SIGPROCMASK, _SET_MASK, before, 0, _MASK_BYTES)

    def _handled_signals(self) -> int:
        return int(task.status_line(self._pid, "SigCgt") or "0", 16)

    @contextlib.contextmanager
    def memfd(self, name: int) -> Iterator[tuple[int, BinaryIO]]:
        """A memfd of the process: its number there, and the same file open for reading here."""
        number = self._system_call(_MEMFD_CREATE, name, _CLOEXEC)
        try:
            with open(f"/proc/{self._pid}/fd/{number}", "rb", buffering=0) as output:
                yield number, output
        finally:
            self._system_call(_CLOSE, number)

    @contextlib.contextmanager
    def stderr_is(self, stream: int) -> Iterator[None]:
        """The variable ``stderr`` points to ``stream`` meanwhile."""
        variable = self._symbols["stderr"]
        before = self.read(variable, 8)
        self.write(variable, stream.to_bytes(8, "little"))
        try:
            yield
        finally:
            self.write(variable, before)

    @contextlib.contextmanager
    def locks_free(self, arenas: tuple[int, ...]) -> Iterator[None]:
        """Releases the arena lock that a broken-off call leaves behind; all are free before."""
        try:
            yield
        except BaseException:
            for address in arenas:
                if any(self.read(address, _LOCK_BYTES)):
                    self.write(address, bytes(_LOCK_BYTES))
            raise

    def stream(self, descriptor: int, lock: int) -> bytes:
        """The ``FILE`` of an unbuffered, byte-oriented output stream. Its functions are those of
        the process's own stderr: glibc accepts no table of functions that is not in libc."""
        own = self._symbols["_IO_2_1_stderr_"]
        if _INT.unpack(self.read(own + _MODE, 4))[0] > 0:
            raise Unsafe(f"the stderr of process {self._pid} is wide-oriented")
        file = bytearray(_FILE_BYTES)
        _INT.pack_into(file, 0, _FLAGS)
        _INT.pack_into(file, _FILENO, descriptor)
        _WORD.pack_into(file, _LOCK, lock)
        _INT.pack_into(file, _MODE, -1)
        _WORD.pack_into(file, _OFFSET, -1)
        file[_VTABLE : _VTABLE + 8] = self.read(own + _VTABLE, 8)
        return bytes(file)

    def read(self, address: int, size: int) -> bytes:
        try:
            data = os.pread(self._memory, size, address)
        except OSError as error:
            raise refusal.translate(self._pid, "the memory", error) from error
        if len(data) != size:
            raise Unsafe(f"the memory of process {self._pid} at {address:#x} cannot be read")
        return data

    def write(self, address: int, data: bytes) -> None:
        try:
            os.pwrite(self._memory, data, address)
        except OSError as error:
            raise refusal.translate(self._pid, "the memory", error) from error

    def _system_call(self, number: int, *arguments: int) -> int:
        values = (number, *arguments, *([0] * (6 - len(arguments))))
        result = self.call("syscall", "long(long, long, long, long, long, long, long)", *values)
        if result == -1:
            raise Unsafe(f"process {self._pid} cannot make system call {number}")
        return result
