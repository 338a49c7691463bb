"""What a recording holds of one moment of a process."""

from __future__ import annotations

from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX
from allocscope.model.lazyfree import LazyMapping
from allocscope.model.ledger import OutsideRss
from allocscope.model.libc import Allocator, LibcImage
from allocscope.model.owners import Claim
from allocscope.model.process import (
    CachedFile,
    CgroupLimits,
    CgroupMemory,
    DescriptorUse,
    Mapping,
    Pressure,
    Process,
    ProcessStatus,
    SmapsEntry,
    SmapsRollup,
    Swapping,
)
from allocscope.model.situation import Contention


@immutable
class RecordedThread:
    """A thread. ``thread_pointer``: where its control block lies, 0 when that was not found."""

    tid: int
    name: str
    thread_pointer: int = field(metadata=HEX)


@immutable
class Ownership:
    """Whose the memory beside malloc's is: what the recognisers claimed of it, in the order in
    which they are believed. ``tmpfs_devices``: devices, as maps prints them, whose files are
    memory."""

    claims: tuple[Claim, ...]
    tmpfs_devices: tuple[str, ...]


@immutable
class LazyPages:
    """What is held by MADV_FREE: ``exact`` and ``mappings`` as in LazyfreeData; ``changed``: the
    frames showed fewer such pages than smaps had counted just before."""

    exact: bool
    changed: bool
    mappings: tuple[LazyMapping, ...]


@immutable
class KernelFacts:
    """What the kernel said of the process beside its mappings. ``rollup`` is None where it was not
    read (it costs what smaps costs) or there is none; ``outside`` is then without files in memory,
    of which smaps tells what is mapped."""

    status: ProcessStatus
    rollup: SmapsRollup | None
    limits: CgroupLimits
    pressure: Pressure
    outside: tuple[OutsideRss, ...]
    descriptors: DescriptorUse | None = None
    cached: tuple[CachedFile, ...] = ()
    swapping: Swapping | None = None
    cgroup: CgroupMemory | None = None


@immutable
class Facts:
    """All that a recording knows beside memory and page states.

    ``captured_at``: seconds since 1970. ``source`` (passive, snapshot), ``consistency`` and
    ``pause_ns``: as in Method, when it was recorded. ``smaps`` is None where it was not read,
    ``environ`` where it could not be. ``with_contents``: whole heap pages are recorded.
    ``ownership`` and ``kernel`` are None in recordings of the first versions, which asked for
    neither, ``contention`` and ``lazyfree`` in those of the next; ``lazyfree`` also where smaps was
    not read. ``others``: the libraries of further mallocs whose structure is recorded too."""

    captured_at: float
    source: str
    consistency: str
    pause_ns: int
    with_contents: bool
    process: Process
    image: LibcImage
    allocator: Allocator
    rss_bytes: int
    mappings: tuple[Mapping, ...]
    smaps: tuple[SmapsEntry, ...] | None
    environ: dict[str, str] | None
    cpus_online: int | None
    cpus_cgroup: float | None
    threads: tuple[RecordedThread, ...]
    ownership: Ownership | None = None
    kernel: KernelFacts | None = None
    others: tuple[LibcImage, ...] = ()
    contention: Contention | None = None
    lazyfree: LazyPages | None = None


@immutable
class RecordResult:
    """What ``record`` did. ``heap_bytes``: resident bytes of all arenas in the last sample."""

    path: str
    sample_count: int
    file_bytes: int
    heap_bytes: int
    recorded_page_count: int
    recorded_word_count: int
    with_contents: bool
