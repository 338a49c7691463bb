"""``lazyfree --reclaim``: look, make the kernel take the pages back, look again."""

from __future__ import annotations

import time

from allocscope.act import reclaim as act
from allocscope.app import lazyfree
from allocscope.immutable import replace
from allocscope.model.lazyfree import LazyfreeData, Reclaimed
from allocscope.model.report import Caveat, Report
from allocscope.proc import procfs
from allocscope.proc.memory import ProcessMemory


def reclaim(pid: int) -> Report[LazyfreeData]:
    """What ``lazyfree`` says of ``pid`` beforehand, and what the reclaim came to.

    Raises NoSuchProcess, PermissionRefused, MissingPart, NoGlibcHeap (a kernel thread)."""
    started = time.monotonic_ns()
    process = procfs.identify(pid)
    act.refuse_without_rights(pid)
    with ProcessMemory(pid) as memory:
        reading = lazyfree.read(memory, process)
        before = reading.data
        spans = [(m.start, m.end) for m in before.mappings if not m.locked]
        taken = act.reclaim(memory, process, spans)
    after = procfs.smaps(pid)
    procfs.same(process)
    reclaimed = Reclaimed(
        advised_bytes=taken.advised_bytes,
        released_bytes=taken.released_bytes,
        swapped_bytes=taken.swapped_bytes,
        duration_ns=taken.duration_ns,
        rss_before_bytes=before.rss_bytes,
        rss_after_bytes=sum(entry.rss_bytes for entry in after),
        lazyfree_before_bytes=before.lazyfree_bytes,
        lazyfree_after_bytes=sum(entry.lazyfree_bytes for entry in after),
    )
    done = replace(reading, data=replace(before, reclaimed=reclaimed))
    answer = lazyfree.report(process, done, started, source="live")
    return replace(answer, caveats=answer.caveats + _caveats(before, reclaimed))


def _caveats(before: LazyfreeData, reclaimed: Reclaimed) -> tuple[Caveat, ...]:
    found = []
    locked = sum(m.lazyfree_bytes for m in before.mappings if m.locked)
    if locked:
        text = f"{locked} bytes are in mappings under mlock, which the kernel keeps in memory."
        found.append(Caveat("locked", text))
    left = reclaimed.lazyfree_after_bytes - locked
    if left > 0:
        text = (
            f"{left} bytes are lazily freed still: shared with a forked process, held by somebody "
            "who reads them just now, or given back by the program meanwhile."
        )
        found.append(Caveat("left", text))
    if reclaimed.swapped_bytes:
        text = (
            f"{reclaimed.swapped_bytes} bytes went to swap: the program wrote to these pages "
            "between our look and the kernel's."
        )
        found.append(Caveat("swapped", text))
    return tuple(found)
