"""``record``: a reading of a process, and what another reading needs to be made again, in a file.

The words that a recording keeps are those that the reading's own walk looked at, so both say the
same. Where several mallocs are in use, each is read and recorded. Nothing is stopped or changed;
app.record_frozen reads a frozen copy instead.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from allocscope.app import heap
from allocscope.app.arenas import allocator_of, read_smaps
from allocscope.app.contents import contents_beside, first_pages
from allocscope.app.lazyfree import lazy_pages
from allocscope.app.locks import looks_at_locks
from allocscope.app.meanwhile import meanwhile
from allocscope.app.record_facts import kernel_facts, ownership, page_states
from allocscope.app.target import Target, look
from allocscope.errors import NoSuchProcess
from allocscope.files.recording import RecordingWriter
from allocscope.files.words import pack
from allocscope.glibc import structure
from allocscope.glibc.states import InvalidHeap
from allocscope.glibc.threads import find_tcbs
from allocscope.immutable import immutable, replace
from allocscope.model.process import Process, SmapsEntry
from allocscope.model.recording import Facts, RecordedThread, RecordResult
from allocscope.model.report import Caveat, Method, Report
from allocscope.model.walk import Words
from allocscope.native.memory import NativeMemory
from allocscope.proc import life, procfs
from allocscope.proc.memory import ProcessMemory
from allocscope.version import VERSION


@immutable
class RecordOptions:
    """``deadline_s``: for each sample. ``every_s`` and ``for_s``: further samples at that interval
    for that long. ``exact``: read smaps whatever it costs the target."""

    with_contents: bool = False
    exact: bool = False
    deadline_s: float = 30.0
    every_s: float | None = None
    for_s: float = 0.0


@immutable
class Opened:
    """What is read: memory, and the target with the mappings of that memory. ``source`` and
    ``sort`` as in Method and app.heap."""

    memory: NativeMemory
    target: Target
    source: str
    sort: str
    pause_ns: int


ReadSmaps = Callable[[], tuple[tuple[SmapsEntry, ...] | None, tuple[Caveat, ...]]]
Opener = Callable[[Target, int], AbstractContextManager[Opened]]
"""Opens the memory of a target, until a deadline (CLOCK_MONOTONIC, ns)."""


@contextlib.contextmanager
def passive(target: Target, _deadline_ns: int) -> Iterator[Opened]:
    """The process itself, which goes on meanwhile."""
    with ProcessMemory(target.process.pid) as memory:
        yield Opened(memory, target, "passive", heap.VALIDATED, 0)


@immutable
class _Taken:
    facts: Facts
    answer: heap.HeapAnswer
    caveats: tuple[Caveat, ...]


def record(
    pid: int,
    path: Path,
    options: RecordOptions,
    opener: Opener = passive,
) -> Report[RecordResult]:
    """Records process ``pid`` into ``path``. A target that ends between two samples ends the
    recording, with a caveat; Ctrl-C ends it too, and what was taken until then is kept.

    Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5), WrongUsage (the file cannot be
    written)."""
    started = time.monotonic_ns()
    pause_ns = 0
    interrupted = False
    caveats: list[Caveat] = []
    with RecordingWriter(path, VERSION) as writer, life.end_of(pid) as end:
        with writer.sample():
            first = taken = _sample(pid, writer, options, opener)
        for moment_ns in _moments(started, options):
            pause_ns += taken.facts.pause_ns
            try:
                if life.ended_within(end, (moment_ns - time.monotonic_ns()) / 1e9):
                    raise NoSuchProcess(f"process {pid} has ended")
                with writer.sample():
                    taken = _sample(pid, writer, options, opener, first.facts.process)
            except NoSuchProcess as error:
                text = f"{error.message}: the recording ends with sample {writer.sample_count}."
                caveats.append(Caveat("target-ended", text))
                break
            except KeyboardInterrupt:
                interrupted = True
                break
    if interrupted:
        raise KeyboardInterrupt
    facts = taken.facts
    pages = [piece.tally.pages for item in taken.answer.reading.arenas for piece in item.pieces]
    result = RecordResult(
        path=str(path),
        sample_count=writer.sample_count,
        file_bytes=path.stat().st_size,
        heap_bytes=sum(page.resident_bytes for page in pages),
        recorded_page_count=writer.page_count,
        recorded_word_count=writer.word_count,
        with_contents=options.with_contents,
    )
    return Report(
        process=facts.process,
        libc=taken.answer.libc,
        allocator=facts.allocator,
        method=Method(
            facts.source,
            pause_ns + facts.pause_ns,
            time.monotonic_ns() - started,
            "partial" if taken.answer.consistency == "partial" else facts.consistency,
        ),
        data=result,
        caveats=(*taken.caveats, *caveats),
        captured_at=facts.captured_at,
    )


def _moments(started_ns: int, options: RecordOptions) -> Iterator[int]:
    """When to take the samples after the first (CLOCK_MONOTONIC)."""
    if options.every_s is None:
        return
    number = 1
    while number * options.every_s <= options.for_s:
        yield started_ns + int(number * options.every_s * 1e9)
        number += 1


def _sample(
    pid: int,
    writer: RecordingWriter,
    options: RecordOptions,
    opener: Opener,
    same_as: Process | None = None,
) -> _Taken:
    """Takes one sample and writes it. ``same_as``: the process of the samples before."""
    deadline_ns = time.monotonic_ns() + int(options.deadline_s * 1e9)
    captured_at = time.time()
    target = look(pid)
    if same_as is not None and target.process.start_ticks != same_as.start_ticks:
        raise NoSuchProcess(f"process {pid} went away meanwhile")
    before = procfs.stillness(pid)
    rss = procfs.rss_bytes(pid)
    with opener(target, deadline_ns) as opened:
        memory = opened.memory
        memory.keeps_words = True
        read = _read(opened, lambda: read_smaps(pid, rss, options.exact), deadline_ns)
        target, answer, smaps = read.target, read.answer, read.smaps
        others, left_out = _others(opened, read, deadline_ns)
        pointers = find_tcbs(memory, target.threads)
        lazy = None
        if smaps is not None:
            with ProcessMemory(pid) as alive:
                lazy = lazy_pages(alive, pid, smaps)
        owned = ownership(pid, memory, target, answer)
        files = first_pages(target.mappings, owned) if options.with_contents else ()
        runs = page_states(memory, target, owned, files)
        layers = (
            _layers(memory, each, pointers, options.with_contents) for each in (*others, answer)
        )
        beside = contents_beside(memory, target.mappings, owned) if options.with_contents else ()
        writer.memory(runs, itertools.chain((pack([span]) for span in beside), *layers))
    with ProcessMemory(pid) as alive:
        contended = looks_at_locks(alive, answer.reading)
    allocator, allocator_caveats = allocator_of(pid, target.mappings, answer.image)
    after = procfs.stillness(pid)
    procfs.same(target.process)
    consistency = answer.consistency
    if opened.sort == heap.VALIDATED and before == after and before.all_sleeping:
        consistency = "quiescent"  # what does not fit together then is damaged, not in motion
    facts = Facts(
        captured_at=captured_at,
        source=opened.source,
        consistency=consistency,
        pause_ns=opened.pause_ns,
        with_contents=options.with_contents,
        process=target.process,
        image=answer.image,
        allocator=allocator,
        rss_bytes=rss,
        mappings=target.mappings,
        smaps=smaps,
        environ=target.environ,
        cpus_online=target.cpus.online,
        cpus_cgroup=target.cpus.cgroup,
        threads=tuple(
            RecordedThread(thread.tid, thread.name, pointers.get(thread.tid, 0))
            for thread in target.threads
        ),
        ownership=owned,
        kernel=kernel_facts(target.process, smaps),
        others=tuple(other.image for other in others),
        contention=contended,
        lazyfree=lazy,
    )
    writer.facts(facts)
    data = heap.present(answer, target, rss_bytes=rss, smaps=smaps)
    told = heap.caveats(answer, data)
    return _Taken(facts, answer, allocator_caveats + read.caveats + told + left_out)


@immutable
class _Read:
    """The heap, and smaps of the same moment as nearly as can be; ``target`` has the mappings that
    the heap was read with."""

    target: Target
    answer: heap.HeapAnswer
    smaps: tuple[SmapsEntry, ...] | None
    caveats: tuple[Caveat, ...]


def _read(opened: Opened, read_entries: ReadSmaps, deadline_ns: int) -> _Read:
    """Reads both at the same time. A process that mapped or unmapped memory meanwhile is read once
    more: the two would tell of different memory."""
    target = opened.target
    while True:
        with meanwhile(read_entries) as reading_smaps:
            answer = heap.read(opened.memory, target, sort=opened.sort, deadline_ns=deadline_ns)
            smaps, caveats = reading_smaps()
        found = _Read(target, answer, smaps, caveats)
        again = target is not opened.target or opened.sort == heap.FROZEN
        if smaps is None or again or time.monotonic_ns() > deadline_ns:
            return found
        now = procfs.mappings(target.process.pid)
        if tuple(entry.mapping for entry in smaps) == now:
            return found
        target = replace(target, mappings=now)


def _others(
    opened: Opened, main: _Read, deadline_ns: int
) -> tuple[list[heap.HeapAnswer], tuple[Caveat, ...]]:
    """The further mallocs in use, each read; a caveat for each that did not hold together."""
    read: list[heap.HeapAnswer] = [main.answer]
    left_out = []
    for other in main.answer.others:
        found = (other.located, other.image)
        try:
            reading = heap.read(
                opened.memory,
                main.target,
                sort=opened.sort,
                deadline_ns=deadline_ns,
                found=found,
                beside=read,
            )
        except InvalidHeap as error:
            text = f"The malloc of {other.image.path} is not recorded: {error.message}."
            left_out.append(Caveat("other-malloc-left-out", text, partial=True))
        else:
            read.append(reading)
    return read[1:], tuple(left_out)


def _data_spans(answer: heap.HeapAnswer) -> list[tuple[int, int]]:
    return [(m.start, m.end) for m in answer.image.mappings if m.writable and m.private]


def _layers(
    memory: NativeMemory,
    answer: heap.HeapAnswer,
    pointers: dict[int, int],
    with_contents: bool,
) -> Iterator[Words]:
    """What is recorded; the validated structure comes last, so that it counts."""
    reading = answer.reading
    if with_contents:
        yield from (pack([span]) for span in structure.contents(memory, reading))
    for item in reading.arenas:
        for piece in item.pieces:
            if piece.tally.words is not None:
                yield piece.tally.words
    static = answer.image.static
    data_spans = [] if static else _data_spans(answer)
    yield pack(structure.structure(memory, reading, pointers.values(), data_spans))
