"""Memory that a process causes and that is in no RSS: facts, each from its own file.

Rules: only what is there is told, so a fact of 0 bytes is left out; what a process may not be asked
(descriptors of another user) is left out too. A file in memory counts here less its pages that the
process has mapped, because those are in its RSS.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from allocscope.errors import PermissionRefused
from allocscope.immutable import immutable
from allocscope.model.ledger import OutsideRss
from allocscope.model.process import CachedFile, DescriptorUse, ProcessStatus, SmapsEntry
from allocscope.proc import sockdiag
from allocscope.proc.descriptors import (
    Descriptors,
    descriptors,
    limit_count,
    protocol_pages,
    queued_bytes,
)
from allocscope.proc.mounts import tmpfs_devices
from allocscope.proc.sockdiag import Buffers
from allocscope.units import plural, size

KERNEL_STACK_BYTES = 16 << 10
"""THREAD_SIZE of x86-64 and arm64 with 4 KiB pages (asm/page_64_types.h, asm/memory.h)."""
PAGE_BYTES = 4096
MOST_NAMED = 3
LEAST_CACHED_BYTES = 1 << 20


@immutable
class Outside:
    """``facts``: what is in no RSS; ``descriptors``: None where they may not be looked at."""

    facts: tuple[OutsideRss, ...]
    descriptors: DescriptorUse | None


def outside_rss(
    pid: int,
    status: ProcessStatus,
    thread_count: int,
    smaps: Sequence[SmapsEntry],
    cached: Sequence[CachedFile] = (),
) -> Outside:
    """All facts about ``pid``. ``cached``: what is known of its mapped files. Raises
    NoSuchProcess."""
    facts = [
        OutsideRss("hugetlb", status.hugetlb_bytes or 0, "HugetlbPages in /proc/PID/status"),
        OutsideRss("page-tables", status.page_table_bytes or 0, "VmPTE in /proc/PID/status"),
        OutsideRss(
            "kernel-stacks",
            thread_count * KERNEL_STACK_BYTES,
            f"{plural(thread_count, 'thread')}, {size(KERNEL_STACK_BYTES)} each",
        ),
    ]
    use = None
    with contextlib.suppress(PermissionRefused):
        held = descriptors(pid, tmpfs_devices(pid))
        buffers = sockdiag.buffers(pid, held.socket_inodes) if held.socket_inodes else None
        facts += _of_descriptors(pid, held, buffers, smaps)
        use = _use(pid, held, buffers)
    facts.append(_page_cache(cached))
    return Outside(tuple(fact for fact in facts if fact.bytes), use)


def _use(pid: int, held: Descriptors, buffers: Buffers | None) -> DescriptorUse:
    alike = max(held.files, key=lambda path: held.files[path], default="")
    half_closed = 0 if not held.socket_inodes else None
    if buffers is not None:
        half_closed = buffers.half_closed_count
    return DescriptorUse(
        count=held.count,
        limit_count=limit_count(pid),
        alike=alike,
        alike_count=held.files.get(alike, 0),
        half_closed_count=half_closed,
    )


def _of_descriptors(
    pid: int, held: Descriptors, buffers: Buffers | None, smaps: Sequence[SmapsEntry]
) -> Iterator[OutsideRss]:
    if held.socket_inodes:
        yield _sockets(pid, held.socket_inodes, buffers)
    yield _tmpfs(held, smaps)
    yield _devices(held)


def _page_cache(cached: Sequence[CachedFile]) -> OutsideRss:
    """Of large files; of every small library some pages are cached and not mapped."""
    more = {file.path: file.cached_bytes - file.mapped_bytes for file in cached}
    more = {path: size for path, size in more.items() if size >= LEAST_CACHED_BYTES}
    named = _heaviest(more)
    evidence = f"of files that it has mapped, beyond what is in its RSS: {named}"
    return OutsideRss("page-cache", sum(more.values()), evidence)


def _sockets(pid: int, inodes: frozenset[int], found: Buffers | None) -> OutsideRss:
    """What the kernel charges for their buffers; where it does not say, the bytes in the queues."""
    count = plural(len(inodes), "socket")
    if found is not None:
        evidence = f"buffers of {count} (TCP, UDP, unix), as the kernel charges them"
        return OutsideRss("sockets", found.bytes, evidence)
    pages = sum(protocol_pages(pid).values())
    evidence = (
        f"unsent and unread in {count}, of TCP and UDP alone; its network namespace has "
        f"{size(pages * PAGE_BYTES)} of TCP and UDP memory in all"
    )
    return OutsideRss("sockets", queued_bytes(pid, inodes), evidence)


def _devices(held: Descriptors) -> OutsideRss:
    """A buffer that a driver of the process's own clients has made is in their memory already."""
    drivers = {client.driver for client in held.device_clients}
    buffers = [buffer for buffer in held.shared_buffers if buffer.exporter not in drivers]
    total = sum(client.total_bytes for client in held.device_clients)
    told = [f"clients of {', '.join(sorted(drivers))}"] if drivers else []
    if buffers:
        makers = ", ".join(sorted({buffer.exporter for buffer in buffers}))
        told.append(f"{plural(len(buffers), 'dma-buf')} of {makers}")
        total += sum(buffer.bytes for buffer in buffers)
    return OutsideRss("device-memory", total, f"{' and '.join(told)}, by their fdinfo")


def _tmpfs(held: Descriptors, smaps: Sequence[SmapsEntry]) -> OutsideRss:
    mapped: dict[tuple[str, int], int] = {}
    for entry in smaps:
        where = (entry.mapping.device, entry.mapping.inode)
        mapped[where] = mapped.get(where, 0) + entry.rss_bytes
    left = {
        file.path: max(0, file.allocated_bytes - mapped.get((file.device, file.inode), 0))
        for file in held.memory_files
    }
    return OutsideRss(
        "tmpfs-held", sum(left.values()), f"held open and not mapped: {_heaviest(left)}"
    )


def _heaviest(left: Mapping[str, int]) -> str:
    heaviest = sorted(left, key=lambda path: -left[path])[:MOST_NAMED]
    named = ", ".join(f"{path} {size(left[path])}" for path in heaviest if left[path])
    more = len([path for path in left if left[path]]) - len(heaviest)
    return named + (f" and {more} more" if more > 0 else "")
