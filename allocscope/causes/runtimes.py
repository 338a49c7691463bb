"""Heaps of language runtimes: how large, what their collectors are known to do, and whom to ask.

Rules: a heap that was recognised is measured; that a collector may yet give some of it back is told
as what such collectors do, not as something seen here. Where a runtime is mapped whose structures
are not known, memory that nobody else owns is probably its heap: a hint, and unexplained in the
ledger.
"""

from __future__ import annotations

from allocscope.causes.elsewhere import elsewhere, holdings_of, is_large
from allocscope.causes.finding import Finding, of_row
from allocscope.causes.remedies import advice
from allocscope.immutable import immutable, replace
from allocscope.model.ledger import Remedy
from allocscope.model.situation import Situation
from allocscope.units import size


@immutable
class Runtime:
    """``tools``: its own, and the settings that bound its heap; ``habit``: when it gives memory
    back."""

    tools: str
    habit: str


RUNTIMES = {
    "CPython": Runtime(
        "`allocscope ask PID --what runtime` (sys._debugmallocstats() in a copy); tracemalloc or "
        "memray; gc.collect() for cycles",
        "CPython gives an arena back only when nothing in it is in use",
    ),
    "V8": Runtime(
        "node --inspect and a heap snapshot; v8.getHeapStatistics(); --max-old-space-size",
        "V8 lets garbage wait for the next full collection, and grows its heap rather than collect "
        "while there is room",
    ),
    "Java": Runtime(
        "jcmd PID GC.heap_info, jcmd PID VM.native_memory; -Xmx",
        "a Java heap may grow to -Xmx before it is collected; jcmd PID GC.run shows what is live",
    ),
    "Ruby": Runtime(
        "GC.stat and ObjectSpace.memsize_of_all; GC.compact",
        "Ruby gives a heap page back only when none of its slots is in use",
    ),
    "Go": Runtime(
        "net/http/pprof; GODEBUG=gctrace=1; GOMEMLIMIT, GOGC, debug.FreeOSMemory()",
        "Go lets the heap grow to twice what is live (GOGC=100) and gives pages back in the "
        "background, over minutes",
    ),
    ".NET": Runtime(
        "dotnet-counters monitor -p PID, dotnet-gcdump collect -p PID; DOTNET_GCHeapHardLimit, "
        "DOTNET_GCConserveMemory",
        ".NET keeps what a collection freed for the next allocations, the longer the more memory "
        "the machine has",
    ),
}
LIBRARIES = {
    "libcoreclr.so": ".NET",
    "libjvm.so": "Java",
    "libnode.so": "V8",
}
"""By which their runtimes are known to be there, in programs that link them."""


def runtime_heap(situation: Situation) -> Finding | None:
    found = holdings_of(situation, "runtime-heap")
    names = [name for name in RUNTIMES if any(h.owner.startswith(name) for h in found)]
    finding = elsewhere(
        situation,
        "runtime-heap",
        "runtime-heap",
        "The heap of a language runtime, outside of malloc",
        f"in the heap of {' and '.join(names) or 'a language runtime'}, outside of malloc",
        tuple(_tools(name) for name in names),
        found,
    )
    if finding is None:
        return _probable(situation)
    habits = tuple(f"a habit, not seen here: {RUNTIMES[name].habit}" for name in names)
    return replace(finding, evidence=finding.evidence + habits)


def _tools(name: str) -> Remedy:
    action = f"ask the runtime itself: {RUNTIMES[name].tools}"
    return advice("runtime-tool", action, "see its documentation")


def _probable(situation: Situation) -> Finding | None:
    """A runtime is mapped, and its heap is not recognised."""
    paths = {entry.mapping.path.rpartition("/")[2] for entry in situation.smaps}
    name = next(
        (LIBRARIES[library] for library in LIBRARIES if any(p.startswith(library) for p in paths)),
        None,
    )
    total = situation.ledger.resident("unexplained")
    if name is None or not is_large(situation, total):
        return None
    return Finding(
        key="runtime-heap",
        title=f"Probably the heap of {name}, outside of malloc",
        bytes=total,
        takes=of_row("unexplained", total),
        confidence="hint",
        headline=f"{size(total)} are probably the heap of {name}, whose runtime is loaded",
        evidence=(
            f"the library of {name} is mapped; {size(total)} of anonymous memory have no structure "
            "that is known, so they stay unexplained in the ledger",
            f"a habit, not seen here: {RUNTIMES[name].habit}",
        ),
        remedies=(_tools(name),),
    )
