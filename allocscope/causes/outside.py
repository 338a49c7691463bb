"""Memory that the process causes and that is in no RSS: of the kernel, and in tmpfs."""

from __future__ import annotations

from allocscope.causes.finding import Finding
from allocscope.causes.remedies import advice
from allocscope.model.ledger import OutsideKey
from allocscope.model.situation import Situation
from allocscope.units import size

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
