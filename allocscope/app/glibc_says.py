"""glibc's own word about a frozen copy, beside our reading of the same copy.

The copy A that was read stays untouched; glibc runs in a copy of it (B), with the locks released
that were held at that instant.
"""

from __future__ import annotations

from collections.abc import Mapping

from allocscope.account.crosscheck import compare, wrapped
from allocscope.act import ask_copy, symbols
from allocscope.act.gdb import Gdb
from allocscope.act.snapshot import CopyPlan, Snapshot
from allocscope.app.heap import HeapAnswer
from allocscope.glibc.lists import in_use_bytes, process_lists
from allocscope.model.glibc_says import Answer, GlibcSays, What
from allocscope.model.report import Caveat
from allocscope.observe.memory import ProcessMemory
from allocscope.parse import malloc_info, malloc_stats

NAMES = ("malloc_info", "malloc_stats", "stderr", "_IO_2_1_stderr_")


def addresses(pid: int, answer: HeapAnswer) -> dict[str, int]:
    """Where the libc that holds these arenas has the functions, read from the target's own file.
    MissingPart."""
    return symbols.resolve(pid, answer.image, NAMES)


def ask(
    gdb: Gdb,
    snapshot: Snapshot,
    answer: HeapAnswer,
    where: Mapping[str, int],
    what: What,
    elapsed_ns: int,
) -> Answer:
    """Makes glibc answer in a copy of the snapshot. Unsafe when it cannot."""
    lock_words = {item.state.address: f"arena {item.index}" for item in answer.reading.arenas}
    plan = CopyPlan(
        lock_words=tuple(lock_words),
        stderr_variable=where["stderr"],
        stderr_file=where["_IO_2_1_stderr_"],
    )
    with snapshot.disposable(plan) as copy:
        try:
            xml, text = ask_copy.ask(gdb, copy, where, what)
        finally:
            gdb.close()
        held = tuple(lock_words[word] for word in copy.locks_held)
        return Answer(
            source="snapshot",
            pause_ns=snapshot.pause_ns,
            malloc_info_xml=xml,
            malloc_stats_text=text,
            locks_held=held + (("stderr",) if copy.stderr_locked else ()),
            elapsed_ns=elapsed_ns,
        )


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
            f"glibc and allocscope differ on {len(says.differences)} figures of the same frozen memory; "
            "see glibc_says.differences."
        )
        found.append(Caveat("glibc-differs", text, partial=True))
    return tuple(found)
