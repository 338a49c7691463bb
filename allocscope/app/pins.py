"""``pins``: the chunks that keep free memory in the process, what they are, and who points at them.
It only reads. pins_search.py finds out about them; pins_file.py asks the same of files."""

from __future__ import annotations

import time

from allocscope.app import heap
from allocscope.app.arenas import allocator_of
from allocscope.app.ownership import caveats as owner_caveats
from allocscope.app.ownership import holdings
from allocscope.app.pins_search import PinsOptions, Searched, search, writable
from allocscope.app.target import look
from allocscope.model.pins import PinsData
from allocscope.model.report import Caveat, Method, Report
from allocscope.proc import procfs
from allocscope.proc.mapped import opener
from allocscope.proc.memory import ProcessMemory
from allocscope.proc.names import Names


def pins(pid: int, options: PinsOptions) -> Report[PinsData]:
    """What holds the free memory of ``pid``.

    Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5)."""
    started = time.monotonic_ns()
    deadline_ns = started + int(options.deadline_s * 1e9)
    target = look(pid)
    before = procfs.stillness(pid)
    with ProcessMemory(pid) as memory:
        answer = heap.read(memory, target, sort=heap.VALIDATED, deadline_ns=deadline_ns, pins=True)
        entries = procfs.smaps(pid)
        parts = holdings(pid, memory, target, answer.reading, entries)
        searched = Searched(
            memory=memory,
            reading=answer.reading,
            parts=parts,
            names=Names(target.mappings, opener(pid)),
            brk_end=max((end for _, end in target.brk_spans), default=0),
            spans=writable(target.mappings),
        )
        data = search(searched, options)
        of_owners = owner_caveats(memory)
    allocator, caveats = allocator_of(pid, target.mappings, answer.image)
    after = procfs.stillness(pid)
    procfs.same(target.process)
    rss = sum(entry.rss_bytes for entry in entries)
    shown = heap.present(answer, target, rss_bytes=rss, smaps=entries)
    consistency = answer.consistency_between(before, after)
    if time.monotonic_ns() > deadline_ns:
        text = "the deadline came before all memory was searched; raise --deadline."
        caveats += (Caveat("deadline", text, partial=True),)
    return Report(
        process=target.process,
        libc=answer.libc,
        allocator=allocator,
        method=Method("passive", 0, time.monotonic_ns() - started, consistency),
        data=data,
        caveats=caveats + of_owners + heap.caveats(answer, shown),
    )
