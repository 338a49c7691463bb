"""Making glibc speak in a disposable copy of the target: gdb calls it there, the target runs on.

Strategy: the copy (:mod:`allocscope.act.snapshot`) has a memory of its own, a memfd as descriptor
2, its arena locks released and its ``stderr`` reset. So malloc_info and malloc_stats are simply
called, one after the other, both on that stream, and what they wrote is read from there. glibc's
stderr is unbuffered: nothing has to be flushed, nothing is allocated.

Rules: whatever happens in the copy stays in it, so nothing is restored: whoever made it kills it. A
bin list that was half updated at the instant of the snapshot could make glibc run in a circle: the
deadline of the :class:`Gdb` ends that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from allocscope.act.gdb import Gdb
from allocscope.errors import NoSuchProcess, Unsafe
from allocscope.model.glibc_says import What

SYMBOLS = ("malloc_info", "malloc_stats", "_IO_2_1_stderr_")
"""What ``symbols`` must hold."""


ENDED = "the copy of the process ended before it had answered"
ENDED_CURE = "Its lifetime is limited: ask again, with a longer --deadline if the machine is busy."


class Copy(Protocol):
    """As much of a disposable copy as is needed here."""

    @property
    def pid(self) -> int: ...

    @property
    def output_path(self) -> str:
        """Where what the copy writes to descriptor 2 can be read."""


def print_all(
    gdb: Gdb, copy: Copy, calls: Sequence[tuple[int, str, tuple[int, ...]]]
) -> list[bytes]:
    """What each of ``calls`` (address, prototype, arguments), one after the other, writes to
    descriptor 2 of ``copy``.

    Raises Unsafe as :func:`ask` does."""
    try:
        gdb.attach(copy.pid, disposable=True)
        with open(copy.output_path, "rb", buffering=0) as output:
            said = []
            for address, prototype, arguments in calls:
                gdb.call(address, prototype, arguments)
                said.append(output.read())
            return said
    except (NoSuchProcess, OSError) as error:
        raise Unsafe(ENDED, ENDED_CURE) from error


def ask(
    gdb: Gdb, copy: Copy, symbols: Mapping[str, int], what: What
) -> tuple[bytes | None, bytes | None]:
    """malloc_info's XML and malloc_stats' text, as glibc writes them in ``copy``; None for what was
    not asked for.

    Raises Unsafe when a call fails or takes too long; the copy is of no further use then.
    """
    xml = text = None
    try:
        gdb.attach(copy.pid, disposable=True)
        with open(copy.output_path, "rb", buffering=0) as output:
            if what != "malloc_stats":
                arguments = (0, symbols["_IO_2_1_stderr_"])
                error = gdb.call(symbols["malloc_info"], "int(int, void *)", arguments)
                if error:
                    raise Unsafe(f"malloc_info refused to answer in the copy (error {error})")
                xml = output.read()
            if what != "malloc_info":
                # It returns nothing; gdb wants a value.
                gdb.call(symbols["malloc_stats"], "int(void)")
                text = output.read()
    except (NoSuchProcess, OSError) as error:
        raise Unsafe(ENDED, ENDED_CURE) from error
    return xml, text
