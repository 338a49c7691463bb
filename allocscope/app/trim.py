"""``trim PID``: what malloc_trim would give back, foretold by reading only.

The walk applies glibc's rule; here it is told the pad and what is mlocked, and its answer is joined
with what calls and faults cost on this machine. Nothing is stopped, nothing called.
"""

from __future__ import annotations

import time

from allocscope.account import controls
from allocscope.account import trim as account
from allocscope.app import heap, mlocked
from allocscope.app.arenas import allocator_of
from allocscope.app.target import Target, look
from allocscope.errors import NoGlibcHeap
from allocscope.glibc.locate import Located
from allocscope.glibc.pieces import Trim
from allocscope.immutable import immutable
from allocscope.lab import pace
from allocscope.model.heap import ArenasData
from allocscope.model.libc import Allocator, LibcImage
from allocscope.model.report import Caveat, Method, Report
from allocscope.model.trim import TrimData, TrimForecast
from allocscope.proc import allocators, libc, procfs
from allocscope.proc.memory import ProcessMemory


@immutable
class TrimOptions:
    """``pad_bytes``: malloc_trim's argument, what to leave at the main arena's top. ``deadline_s``:
    seconds after which nothing more is started."""

    pad_bytes: int = 0
    deadline_s: float = 30.0


@immutable
class Foretold:
    """A reading, what it shows, and the trim that was foretold from it."""

    answer: heap.HeapAnswer
    arenas: ArenasData
    forecast: TrimForecast

    def data(self) -> TrimData:
        """The answer, as long as nothing was run."""
        totals = self.arenas.totals
        return TrimData(
            rss_bytes=self.arenas.rss_bytes,
            resident_bytes=totals.resident_bytes,
            free_resident_bytes=totals.free_resident_bytes,
            forecast=self.forecast,
            rehearsed=None,
            applied=None,
            error_bytes=None,
        )


def trim(pid: int, options: TrimOptions) -> Report[TrimData]:
    """The forecast for a live process.

    Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5: with what would do there what
    malloc_trim does)."""
    started = time.monotonic_ns()
    deadline_ns = started + int(options.deadline_s * 1e9)
    target = find(pid)
    before = procfs.stillness(pid)
    with ProcessMemory(pid) as memory:
        foretold = foretell(memory, target, options.pad_bytes, deadline_ns)
    allocator, caveats = served_by(target, foretold.answer.image)
    after = procfs.stillness(pid)
    procfs.same(target.process)
    consistency = foretold.answer.consistency_between(before, after)
    return Report(
        process=target.process,
        libc=foretold.answer.libc,
        allocator=allocator,
        method=Method("passive", 0, time.monotonic_ns() - started, consistency),
        data=foretold.data(),
        caveats=caveats + heap.caveats(foretold.answer, foretold.arenas),
    )


def find(pid: int) -> Target:
    """The process, with a glibc in it. Errors as ``look``; where there is none, with what does
    there what malloc_trim does."""
    try:
        return look(pid)
    except NoGlibcHeap as error:
        kinds = [image.kind for image in libc.identify(pid, procfs.mappings(pid))]
        ways = [way for way in map(controls.instead_of_trim, kinds) if way]
        raise NoGlibcHeap(f"{error.message}: there is nothing to trim", *ways[:1]) from error


def foretell(
    memory: ProcessMemory,
    target: Target,
    pad_bytes: int,
    deadline_ns: int,
    found: tuple[Located, LibcImage] | None = None,
) -> Foretold:
    """Reads the heap of the live process and foretells malloc_trim(``pad_bytes``). ``found``: where
    malloc lies, if that is known."""
    pid = target.process.pid
    wanted = Trim(pad_bytes, mlocked.now(pid))
    rss = procfs.rss_bytes(pid)
    answer = heap.read(
        memory,
        target,
        sort=heap.VALIDATED,
        deadline_ns=deadline_ns,
        found=found,
        trim=wanted,
    )
    return judge(answer, target, rss, pad_bytes)


def judge(answer: heap.HeapAnswer, target: Target, rss_bytes: int, pad_bytes: int) -> Foretold:
    """The forecast from a reading that was made for ``pad_bytes``."""
    arenas = heap.present(answer, target, rss_bytes=rss_bytes, smaps=None)
    return judged(answer, arenas, pad_bytes)


def judged(answer: heap.HeapAnswer, arenas: ArenasData, pad_bytes: int) -> Foretold:
    """The same where ``arenas``, what the reading shows, is at hand."""
    forecast = account.forecast(
        answer.reading, pad_bytes, pace.measure(account.VISIT_NS, account.MERGE_NS)
    )
    return Foretold(answer, arenas, forecast)


def served_by(target: Target, image: LibcImage) -> tuple[Allocator, tuple[Caveat, ...]]:
    """Who serves malloc; where it is not glibc, that a trim does nothing, and what would."""
    allocator, caveats = allocator_of(target.process.pid, target.mappings, image)
    return allocator, in_vain(allocator) if caveats else ()


def in_vain(allocator: Allocator) -> tuple[Caveat, ...]:
    """That a trim does nothing for this allocator, and what would."""
    text = f"malloc_trim does nothing for {_named(allocator)}."
    way = controls.instead_of_trim(allocator.name)
    return (Caveat("other-allocator", f"{text} {way}" if way else text),)


def require_glibc(pid: int, allocator: Allocator) -> None:
    """Raises NoGlibcHeap where another allocator serves malloc, so that nothing is run in vain."""
    if allocator.name != "glibc":
        raise NoGlibcHeap(
            f"process {pid}: malloc_trim does nothing for {_named(allocator)}",
            controls.instead_of_trim(allocator.name) or "Its own documentation may tell what does.",
        )


def _named(allocator: Allocator) -> str:
    if allocator.name == allocators.UNKNOWN:
        return "the allocator that serves malloc here, which is not glibc's"
    return f"{allocator.name}, which serves malloc here"
