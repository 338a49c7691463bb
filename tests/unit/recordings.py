"""Recordings of made-up mallocs, as `record` would have written them."""

from __future__ import annotations

import struct
from pathlib import Path

from unit.mallocs import LIBC_DATA, PAGE, Malloc

from allocscope.files.recording import RecordingWriter
from allocscope.files.words import pack
from allocscope.model.libc import Allocator, LibcImage
from allocscope.model.process import Mapping, Process
from allocscope.model.recording import Facts, RecordedThread

LIBC = Mapping(LIBC_DATA, LIBC_DATA + 3 * PAGE, "rw-p", 0, "fe:00", 7, "/lib/libc.so.6")


def facts_of(malloc: Malloc) -> Facts:
    brk = set(malloc.brk_spans)
    mappings = [
        Mapping(start, end, "rw-p", 0, "00:00", 0, "[heap]" if (start, end) in brk else "")
        for start, end in malloc.spans
    ]
    return Facts(
        captured_at=1_795_000_000.0,
        source="passive",
        consistency="quiescent",
        pause_ns=0,
        with_contents=False,
        process=Process(100, 4711, "made-up", "/bin/made-up", len(malloc.threads), 1.0),
        image=LibcImage(
            "glibc", LIBC.path, (LIBC,), LIBC_DATA, None, None, None, False, False, 64, "made up"
        ),
        allocator=Allocator("glibc", ()),
        rss_bytes=1 << 20,
        mappings=tuple(sorted((*mappings, LIBC), key=lambda m: m.start)),
        smaps=None,
        environ=None,
        cpus_online=2,
        cpus_cgroup=None,
        threads=tuple(RecordedThread(t.tid, "thread", t.tcb) for t in malloc.threads),
    )


def write(malloc: Malloc, path: Path) -> Path:
    """One sample of a written malloc, all words of its pages."""
    runs = b"".join(struct.pack("<3Q", *run) for run in malloc.image.runs())
    with RecordingWriter(path, "0.1.0") as writer, writer.sample():
        writer.memory(runs, [pack(sorted(malloc.image.spans().items()))])
        writer.facts(facts_of(malloc))
    return path
