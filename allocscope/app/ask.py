"""``ask``: what glibc itself prints about its heap, in a frozen copy of a process or, live, in it.

gdb is started first, because that takes longest and costs the target nothing. Where no known layout
fits the target's memory, its arenas and their locks are unknown: a copy may be asked all the same,
the process itself may not.
"""

from __future__ import annotations

import time

from allocscope.act import ask_live, symbols, vet
from allocscope.act.gdb import Gdb
from allocscope.act.snapshot import Snapshot, frozen
from allocscope.app import frozen_heap, glibc_says
from allocscope.app.target import Target, find_malloc, libc_of, look
from allocscope.errors import NoGlibcHeap, Unsafe, WrongUsage
from allocscope.glibc.locate import Located
from allocscope.glibc.states import read_ring
from allocscope.immutable import replace
from allocscope.model.glibc_says import Answer, What
from allocscope.model.libc import Libc, LibcImage
from allocscope.model.report import Caveat, Method, Report
from allocscope.proc import procfs, speakers
from allocscope.proc.memory import ProcessMemory
from allocscope.proc.speakers import Speaker


def ask(
    pid: int, *, what: What, live: bool, max_pause_ns: int, deadline_s: float
) -> Report[Answer]:
    """glibc's own output about process ``pid``, byte for byte.

    Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5), Unsafe (7: no snapshot within
    ``max_pause_ns``, no safe moment or no answer within ``deadline_s``), MissingPart (8).
    """
    started_ns = time.monotonic_ns()
    deadline_ns = started_ns + int(deadline_s * 1e9)
    target = look(pid)
    vet.refuse_machine(pid)
    others = _speakers(target) if what == "runtime" else ()
    with Gdb(deadline_ns) as gdb:
        if live:
            answer, libc, caveats = _ask_live(gdb, target, what, max_pause_ns, deadline_ns)
        else:
            answer, libc, caveats = _ask_copy(gdb, target, what, others, max_pause_ns, deadline_ns)
    procfs.same(target.process)
    elapsed_ns = time.monotonic_ns() - started_ns
    return Report(
        process=target.process,
        libc=libc,
        allocator=None,
        method=Method(answer.source, answer.pause_ns, elapsed_ns, "frozen"),
        data=replace(answer, elapsed_ns=elapsed_ns),
        caveats=caveats,
    )


_Asked = tuple[Answer, Libc, tuple[Caveat, ...]]


def _ask_copy(
    gdb: Gdb,
    target: Target,
    what: What,
    others: tuple[Speaker, ...],
    max_pause_ns: int,
    deadline_ns: int,
) -> _Asked:
    """``others``: who is asked instead of glibc, if anybody."""
    pid = target.process.pid
    pause_ns = 0
    for _ in range(frozen_heap.MOST_SNAPSHOTS):
        with frozen(pid, max_pause_ns=max_pause_ns, deadline_ns=deadline_ns) as snapshot:
            pause_ns += snapshot.pause_ns
            located, image, arenas, torn = _arenas_of_copy(snapshot, target)
            if torn:
                continue
            where = symbols.resolve(pid, image, glibc_says.COPY_SYMBOLS)
            if others:
                said = glibc_says.ask_others(gdb, snapshot, where, arenas, others)
            else:
                said = glibc_says.ask(gdb, snapshot, where, arenas, what)
        answer = replace(said, pause_ns=pause_ns)
        return answer, _libc(image, located), () if located else (glibc_says.LOCKS_UNKNOWN,)
    raise frozen_heap.always_torn(pid)


def _speakers(target: Target) -> tuple[Speaker, ...]:
    found = speakers.find(target.process.pid, target.mappings)
    if not found:
        raise WrongUsage(
            f"process {target.process.pid} ({target.process.comm}) has no runtime or allocator "
            "that prints statistics in a way that is known",
            "Known are CPython, jemalloc, mimalloc and tcmalloc; without --what runtime glibc "
            "itself is asked.",
        )
    return found


def _arenas_of_copy(
    snapshot: Snapshot, target: Target
) -> tuple[Located | None, LibcImage, tuple[int, ...], bool]:
    """The malloc of the copy, its arenas' addresses, and whether one has a list that glibc could
    not follow. An operation is under way where a lock is held; a single thread takes none."""
    copied = replace(target, mappings=procfs.mappings(snapshot.pid))
    with ProcessMemory(snapshot.pid) as memory:
        try:
            located, image = find_malloc(memory, copied)
        except NoGlibcHeap:
            return None, target.images[0], (), False
        layout = located.layout.state
        ring = read_ring(memory, located.main_arena, layout)
        alone = len(target.threads) == 1
        in_flight = [arena for arena in ring if arena.lock_word or alone]
        torn = frozen_heap.torn(memory, in_flight, layout)
        return located, image, tuple(arena.address for arena in ring), torn


def _ask_live(gdb: Gdb, target: Target, what: What, max_pause_ns: int, deadline_ns: int) -> _Asked:
    pid = target.process.pid
    with ProcessMemory(pid) as memory:
        try:
            located, image = find_malloc(memory, target)
        except NoGlibcHeap as error:
            raise Unsafe(
                f"no telling whether process {pid} holds a lock of malloc: {error.message}",
                ask_live.SNAPSHOT_INSTEAD,
            ) from error
        where = symbols.resolve(pid, image, ask_live.SYMBOLS)
        said = ask_live.ask(
            gdb,
            pid,
            where,
            lambda: _ring(memory, located),
            what,
            max_pause_ns=max_pause_ns,
            deadline_ns=deadline_ns,
        )
    answer = Answer("live", said.pause_ns, said.xml, said.text, (), 0)
    return answer, _libc(image, located), (_NOT_CRASH_ONLY,)


def _ring(memory: ProcessMemory, located: Located) -> tuple[int, ...]:
    ring = read_ring(memory, located.main_arena, located.layout.state)
    return tuple(arena.address for arena in ring)


def _libc(image: LibcImage, located: Located | None) -> Libc:
    return libc_of(image, located.layout.name if located else None, None)


_NOT_CRASH_ONLY = Caveat(
    "live-not-crash-only",
    "the process itself made the calls: killing gdb while it made them would have killed it.",
)
