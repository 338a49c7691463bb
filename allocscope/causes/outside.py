"""Memory that the process causes and that is in no RSS: of the kernel, and in tmpfs; descriptors
that look as if they were never closed.

Rules: how much memory a descriptor takes in the kernel cannot be seen, so many of them are told
without bytes, and as a hint: one look does not show that they grow.
"""

from __future__ import annotations

from allocscope.causes.finding import Finding
from allocscope.causes.remedies import advice
from allocscope.model.ledger import OutsideKey
from allocscope.model.situation import Situation
from allocscope.units import plural, size

KERNEL: tuple[OutsideKey, ...] = ("page-tables", "kernel-stacks", "sockets")


def kernel_memory(situation: Situation) -> Finding | None:
    found = [fact for fact in situation.outside or () if fact.key in KERNEL]
    total = sum(fact.bytes for fact in found)
    if not total:
        return None
    return Finding(
        key="kernel-memory",
        title="Memory of the kernel on behalf of the process",
        bytes=total,
        takes=(),
        confidence="measured",
        headline=f"{size(total)} more are the kernel's, on its behalf",
        evidence=tuple(f"{fact.key}: {size(fact.bytes)}, {fact.evidence}" for fact in found),
        remedies=(
            advice(
                "fewer",
                "fewer threads, sockets with unread data, or address space that is touched here "
                "and there",
                "a change of the program",
            ),
        ),
        outside_bytes=total,
    )


def tmpfs_held(situation: Situation) -> Finding | None:
    found = [fact for fact in situation.outside or () if fact.key == "tmpfs-held"]
    total = sum(fact.bytes for fact in found)
    if not total:
        return None
    return Finding(
        key="tmpfs-held",
        title="Files in memory that the process holds open",
        bytes=total,
        takes=(),
        confidence="measured",
        headline=f"{size(total)} more are files in memory (tmpfs, memfd) that it holds open",
        evidence=tuple(fact.evidence for fact in found),
        remedies=(
            advice("close", "close or truncate the files; a deleted one goes when closed", "none"),
        ),
        outside_bytes=total,
    )


MANY = 1000
MANY_HALF_CLOSED = 100
LARGE_PART_RATIO = 0.5


def descriptor_growth(situation: Situation) -> Finding | None:
    """Descriptors that nobody closes: near their limit, many of one file, or connections that the
    other side has given up."""
    use = situation.descriptors
    if use is None:
        return None
    evidence = []
    limit = use.limit_count
    if limit is not None and use.count >= max(MANY, LARGE_PART_RATIO * limit):
        evidence.append(f"{use.count} descriptors are open, of {limit} that it may have")
    if use.alike_count >= MANY:
        evidence.append(f"{use.alike_count} of {use.count} descriptors are of {use.alike}")
    half_closed = use.half_closed_count or 0
    if half_closed >= MANY_HALF_CLOSED:
        evidence.append(
            f"{half_closed} TCP connections were closed by the other side, and not by this program "
            "(CLOSE_WAIT)"
        )
    if not evidence:
        return None
    return Finding(
        key="descriptor-growth",
        title="Descriptors that look as if they were never closed",
        bytes=0,
        takes=(),
        confidence="hint",
        headline=f"{plural(use.count, 'descriptor')} are open",
        evidence=tuple(evidence),
        remedies=(
            advice(
                "close-descriptors",
                "compare two readings of `ls /proc/PID/fd | wc -l`; `ls -l /proc/PID/fd` and `ss "
                "-tanp` tell what they are; close them in the program",
                "a look at the program",
            ),
        ),
    )
