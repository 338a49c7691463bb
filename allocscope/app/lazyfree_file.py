"""``lazyfree`` of a recording: what was found when it was made.

Rules: which pages these are the frames tell, which a recording has not; so the answer itself is
recorded. A recording that was made before that, with smaps, has the kernel's figures for each
mapping, and owners by the claims in it. Without smaps, and in a core, nothing tells.
"""

from __future__ import annotations

import time
from pathlib import Path

from allocscope.app.lazyfree import caveats_of, owner_of, reading_of
from allocscope.errors import BadInput
from allocscope.files import CORE, kind_of
from allocscope.files.recording import open_sample
from allocscope.model.lazyfree import LazyfreeData, LazyMapping
from allocscope.model.process import SmapsEntry
from allocscope.model.recording import Facts, LazyPages
from allocscope.model.report import Method, Report
from allocscope.owners.divide import disjoint

RECORD = "Record a process while it runs: `allocscope record PID --exact -o FILE`."


def lazyfree_of_file(path: Path, *, sample: int | None) -> Report[LazyfreeData]:
    """What a recorded process held by MADV_FREE. ``sample``: counted from 1, the last by default.

    Raises BadInput (9) for a core, and for a recording that was made without smaps; WrongUsage (2:
    no such sample)."""
    started = time.monotonic_ns()
    if kind_of(path) == CORE:
        raise BadInput(
            f"{path} is a core file, which does not tell what was lazily freed: pages given back "
            "with MADV_FREE look like any others in it",
            RECORD,
        )
    found = open_sample(path, sample)
    found.memory.close()
    facts = found.facts
    if facts.smaps is None:
        raise BadInput(
            f"{path} does not tell what was lazily freed: smaps was not read when it was recorded",
            RECORD,
        )
    pages = _as_smaps_tells(facts, facts.smaps) if facts.lazyfree is None else facts.lazyfree
    reading = reading_of(pages, facts.smaps)
    consistency = "partial" if reading.changed else facts.consistency
    return Report(
        process=facts.process,
        libc=None,
        allocator=None,
        method=Method("recording", facts.pause_ns, time.monotonic_ns() - started, consistency),
        data=reading.data,
        caveats=caveats_of(reading),
        captured_at=facts.captured_at,
    )


def _as_smaps_tells(facts: Facts, entries: tuple[SmapsEntry, ...]) -> LazyPages:
    claims = () if facts.ownership is None else disjoint(facts.ownership.claims)
    mappings = tuple(
        LazyMapping(
            start=entry.mapping.start,
            end=entry.mapping.end,
            path=entry.mapping.path,
            owner=owner_of(entry.mapping, claims, lambda start, end: end - start),
            resident_bytes=entry.rss_bytes,
            lazyfree_bytes=entry.lazyfree_bytes,
            rewritten_bytes=None,
            locked=bool(entry.locked_bytes),
        )
        for entry in entries
        if entry.lazyfree_bytes
    )
    return LazyPages(exact=False, changed=False, mappings=mappings)
