"""glibc's own word about a frozen copy, beside our reading of the same copy.

The copy A that was read stays untouched; glibc runs in a copy of it (B), with the locks released
that were held at that instant. Where a list of free chunks stood half changed, glibc could not
follow it: then another snapshot is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from allocscope.account.crosscheck import compare, wrapped
from allocscope.act import ask_copy
from allocscope.act.gdb import Gdb
from allocscope.act.snapshot import Copy, CopyPlan, Snapshot
from allocscope.app.heap import HeapAnswer
from allocscope.glibc.lists import in_use_bytes, process_lists
from allocscope.model.glibc_says import Answer, GlibcSays, OwnStatistics, What
from allocscope.model.report import Caveat
from allocscope.parse import malloc_info, malloc_stats, own_statistics
from allocscope.proc.memory import ProcessMemory
from allocscope.proc.speakers import STREAM, Speaker

COPY_SYMBOLS = (*ask_copy.SYMBOLS, "stderr")
"""What :func:`ask` needs the addresses of."""

LOCKS_UNKNOWN = Caveat(
    "locks-unknown",
    "the layout of this malloc is unknown, so locks held at that instant could not be released.",
)


def ask(
    gdb: Gdb, snapshot: Snapshot, where: Mapping[str, int], arenas: tuple[int, ...], what: What
) -> Answer:
    """Makes glibc answer in a copy of the snapshot, and ends ``gdb``. ``where``: addresses of
    COPY_SYMBOLS; ``arenas``: addresses in ring order, for their locks. Unsafe when it cannot."""
    plan = CopyPlan(arenas, where["stderr"], where["_IO_2_1_stderr_"])
    with snapshot.disposable(plan) as copy:
        try:
            xml, text = ask_copy.ask(gdb, copy, where, what)
        finally:
            gdb.close()
    return Answer("snapshot", snapshot.pause_ns, xml, text, _held(copy, arenas), 0)


def _held(copy: Copy, arenas: tuple[int, ...]) -> tuple[str, ...]:
    """The locks that were held at the instant of the snapshot."""
    held = [f"arena {arenas.index(word)}" for word in copy.locks_held]
    return (*held, "stderr") if copy.stderr_locked else tuple(held)


def ask_others(
    gdb: Gdb,
    snapshot: Snapshot,
    where: Mapping[str, int],
    arenas: tuple[int, ...],
    speakers: Sequence[Speaker],
) -> Answer:
    """As :func:`ask`, but what the runtimes and other allocators of the process print."""
    plan = CopyPlan(arenas, where["stderr"], where["_IO_2_1_stderr_"])
    stream = where["_IO_2_1_stderr_"]
    calls = []
    for one in speakers:
        arguments = tuple(stream if word == STREAM else int(word) for word in one.arguments)
        calls.append((one.address, one.prototype, arguments))
    with snapshot.disposable(plan) as copy:
        try:
            texts = ask_copy.print_all(gdb, copy, calls)
        finally:
            gdb.close()
    own = tuple(
        OwnStatistics(one.name, one.function, text, own_statistics.parse(one.name, text))
        for one, text in zip(speakers, texts, strict=True)
    )
    return Answer("snapshot", snapshot.pause_ns, None, None, _held(copy, arenas), 0, own)


def join(
    said: Answer, memory: ProcessMemory, answer: HeapAnswer, passive_in_use: int | None
) -> tuple[GlibcSays, tuple[Caveat, ...]]:
    """glibc's figures against ours, arena by arena. BadInput when glibc's output is not what it
    should be."""
    lists = process_lists(memory, answer.reading)
    info = None if said.malloc_info_xml is None else malloc_info.parse(said.malloc_info_xml)
    stats = None if said.malloc_stats_text is None else malloc_stats.parse(said.malloc_stats_text)
    differences = compare(info, stats, lists)
    says = GlibcSays(
        source=said.source,
        pause_ns=said.pause_ns,
        malloc_info=info,
        malloc_stats=stats,
        agrees=not differences,
        differences=differences,
        locks_held=said.locks_held,
        drift_bytes=None
        if passive_in_use is None
        else in_use_bytes(answer.reading) - passive_in_use,
    )
    wraps = () if stats is None else wrapped(stats, lists)
    return says, _caveats(wraps, says)


def _caveats(wraps: tuple[str, ...], says: GlibcSays) -> tuple[Caveat, ...]:
    found = [Caveat("malloc-stats-wrapped", text + ".") for text in wraps]
    if says.differences:
        text = (
            f"glibc and allocscope differ on {len(says.differences)} figures of the same frozen "
            "memory; see glibc_says.differences."
        )
        found.append(Caveat("glibc-differs", text, partial=True))
    return tuple(found)
