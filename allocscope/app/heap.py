"""From memory to the data of ``arenas``: used for a live process and for a frozen copy of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from allocscope.account import arenas as account
from allocscope.account import settings as account_settings
from allocscope.app.target import OtherMalloc, Target, find_malloc, libc_of, other_mallocs
from allocscope.glibc.locate import Located
from allocscope.glibc.mmapped import PAGE, joined
from allocscope.glibc.pieces import PLAIN_TRIM, Trim
from allocscope.glibc.reading import MAX_ROUNDS, HeapReading, Subject, cached_ends, read_heap
from allocscope.glibc.validate import ArenaReading
from allocscope.immutable import immutable, replace
from allocscope.model.damage import Damage
from allocscope.model.heap import ArenasData, Figures, Mmapped, ParkedEnd
from allocscope.model.libc import Libc, LibcImage
from allocscope.model.process import SmapsEntry, Stillness
from allocscope.model.report import Caveat
from allocscope.native.memory import NativeMemory
from allocscope.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from allocscope.model.glibc_says import GlibcSays

SAFE_LINKING_SINCE = (2, 32)
FROZEN = "frozen"
VALIDATED = "validated"


@immutable
class HeapAnswer:
    """A reading, with what had to be asked of the memory besides. ``sort``: FROZEN or VALIDATED,
    what a sound arena calls itself.
    ``parked``: ``{tid: (count, bytes)}`` of each thread's tcache. ``hugetlb_bytes``: of the heap,
    on hugetlb pages that are there. ``others``: mallocs in use beside this one. ``damage``: the
    words that are not what they must be; not looked for in a snapshot, where an operation may be
    under way."""

    reading: HeapReading
    image: LibcImage
    sort: str
    mmapped_resident_bytes: int
    parked: dict[int, tuple[int, int]]
    hugetlb_bytes: int = 0
    others: tuple[OtherMalloc, ...] = ()
    damage: tuple[Damage, ...] = ()
    parked_ends: tuple[ParkedEnd, ...] = ()

    @property
    def consistency(self) -> str:
        """What the weakest arena has."""
        broken = any(item.problems for item in self.reading.arenas)
        return "partial" if broken and self.sort != FROZEN else self.sort

    def consistency_between(self, before: Stillness, after: Stillness) -> str:
        """The same, made stronger where no thread of the process ran during the whole reading."""
        return quiescent_or(self.consistency, before, after)

    @property
    def libc(self) -> Libc:
        return libc_of(self.image, self.reading.layout.name, self.reading.safe_linking)


def quiescent_or(consistency: str, before: Stillness, after: Stillness) -> str:
    """``consistency``, or quiescent where all is sound and nothing ran in between."""
    still = before == after and before.all_sleeping
    return "quiescent" if consistency == VALIDATED and still else consistency


def _safe_linking_by_version(version: str | None) -> bool:
    """What to assume where all lists are empty (a1a486d70e, 2.32); it decides nothing then."""
    number = account_settings.version_number(version)
    return number is None or number >= SAFE_LINKING_SINCE


def read(
    memory: NativeMemory,
    target: Target,
    *,
    sort: str,
    deadline_ns: int,
    max_rounds: int = MAX_ROUNDS,
    recorded: bool = False,
    found: tuple[Located, LibcImage] | None = None,
    trim: Trim = PLAIN_TRIM,
    pins: bool = False,
    beside: Sequence[HeapAnswer] = (),
) -> HeapAnswer:
    """Reads the heap through ``memory``. ``deadline_ns``: CLOCK_MONOTONIC. ``recorded``: this
    memory cannot change, whatever ``sort`` says of the time when it was taken. ``found``: where
    malloc lies, if that is known. ``trim``: which malloc_trim is to be foretold. ``beside``: what
    was read of other mallocs of the process, whose tcaches are then not taken for this one's.

    Raises NoGlibcHeap, InvalidHeap (exit 5), NoSuchProcess, PermissionRefused."""
    memory.deadline_ns = deadline_ns
    located, image = found or find_malloc(memory, target)
    memory.abi = replace(memory.abi, alignment=located.layout.abi.alignment)
    others = other_mallocs(memory, target, image)
    subject = Subject(
        memory=memory,
        walker=memory,
        located=located,
        threads=target.threads,
        spans=target.anonymous_spans,
        brk_end=max((end for _, end in target.brk_spans), default=0),
        safe_linking_default=_safe_linking_by_version(image.version),
        hugetlb_spans=target.hugetlb_spans,
        trim=trim,
        pins=pins,
        others_mmapped=_mmapped_of(others),
        others_tcaches=frozenset(
            thread.tcache.address
            for answer in beside
            for thread in answer.reading.threads
            if thread.tcache is not None
        ),
    )
    reading = read_heap(
        subject,
        version=image.version,
        expired=lambda: time.monotonic_ns() > deadline_ns,
        max_rounds=max_rounds,
        frozen=recorded or sort == FROZEN,
    )
    huge = {start for start, _ in target.hugetlb_spans}
    mapped = joined([span for span in reading.mmapped if span[0] not in huge])
    resident = sum(memory.residency(start, end).resident_bytes for start, end in mapped)
    return HeapAnswer(
        reading,
        image,
        sort,
        resident,
        reading.parked.sizes(memory),
        _hugetlb_bytes(memory, target, reading),
        others,
        _damage(memory, reading) if sort != FROZEN or found is not None else (),
        _parked_ends(memory, subject.brk_end, reading),
    )


def _mmapped_of(others: Sequence[OtherMalloc]) -> tuple[int, int]:
    """Count and bytes of their chunks with mappings of their own."""
    return sum(it.mmapped_count for it in others), sum(it.mmapped_bytes for it in others)


def _hugetlb_bytes(memory: NativeMemory, target: Target, reading: HeapReading) -> int:
    ours = [(piece.start, piece.end) for item in reading.arenas for piece in item.pieces]
    ours += reading.mmapped
    return sum(
        memory.residency(low, high).resident_bytes
        for low, high in target.hugetlb_spans
        if any(start < high and low < end for start, end in ours)
    )


def _parked_ends(memory: NativeMemory, brk_end: int, reading: HeapReading) -> tuple[ParkedEnd, ...]:
    ends = cached_ends(reading)
    if not ends:
        return ()
    from allocscope.account.parked_ends import parked_ends

    return parked_ends(
        reading,
        ends,
        memory.abi,
        brk_end,
        lambda start, end: memory.residency(start, end).resident_bytes,
        lambda chunks: reading.parked.details(memory, chunks),
    )


def _damage(memory: NativeMemory, reading: HeapReading) -> tuple[Damage, ...]:
    if reading.sound:
        return ()
    from allocscope.glibc.damage import find_damage

    return find_damage(memory, memory, reading)


def present(
    answer: HeapAnswer,
    target: Target,
    *,
    rss_bytes: int | None,
    smaps: Sequence[SmapsEntry] | None,
    glibc_says: GlibcSays | None = None,
) -> ArenasData:
    """The data of the contract. ``rss_bytes`` and ``smaps`` are those of the process itself, taken
    before any copy of it; None where nothing tells."""
    reading = answer.reading
    arenas = tuple(account.arena(item, smaps, answer.sort) for item in reading.arenas)
    settings = account_settings.settings(
        reading.par,
        reading.layout,
        len(arenas),
        account_settings.Surroundings(
            environ=target.environ,
            cpus_online=target.cpus.online,
            cpus_cgroup=target.cpus.cgroup,
            version=answer.image.version,
        ),
    )
    classes = account.size_classes(reading)
    return ArenasData(
        rss_bytes=rss_bytes,
        arenas=arenas,
        mmapped=account.mmapped(reading, answer.mmapped_resident_bytes),
        totals=account.totals([arena.figures for arena in arenas]),
        settings=settings,
        size_classes=classes,
        threads=account.thread_caches(reading, answer.parked),
        glibc_says=glibc_says,
        page_holders=account.page_holders(classes),
        largest_free=account.largest_free(reading),
        damage=answer.damage,
        parked_ends=answer.parked_ends,
    )


# ---- caveats ----


def _named(indexes: Sequence[int]) -> str:
    shown = ", ".join(map(str, indexes[:20]))
    more = f" and {len(indexes) - 20} more" if len(indexes) > 20 else ""
    return f"arena{'s' if len(indexes) > 1 else ''} {shown}{more}"


def caveats(answer: HeapAnswer, data: ArenasData, *, of_core: bool = False) -> tuple[Caveat, ...]:
    """What the reader of this answer must know."""
    return (
        tuple(_library_caveats(answer, of_core))
        + tuple(_layout_caveats(answer))
        + tuple(_other_caveats(answer))
        + tuple(_validation_caveats(answer, data, of_core))
        + tuple(_damage_of_tcaches(answer))
        + tuple(_sum_caveats(answer, data))
    )


def _library_caveats(answer: HeapAnswer, of_core: bool) -> Iterable[Caveat]:
    if not of_core and not answer.image.file_readable and answer.image.version is None:
        text = (
            f"The file behind {answer.image.path} could not be opened (it was deleted or replaced, "
            "or lies where this user cannot go): the library's version and build-id are unknown. "
            "Nothing else depends on them; CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN opens it."
        )
        yield Caveat("libc-file", text)


def _layout_caveats(answer: HeapAnswer) -> Iterable[Caveat]:
    shaped = answer.reading.shaped_count
    if shaped:
        text = (
            f"Nothing tells where the threads keep their control blocks: {shaped} of their tcaches "
            "were found by what they look like; which thread each belongs to is not known."
        )
        yield Caveat("tcaches-by-shape", text)
    others = answer.reading.also_fit
    if others:
        text = (
            f"The memory fits the layouts {', '.join(row.name for row in others)} as well as "
            f"{answer.reading.layout.name}, which is used: they differ in nothing that this "
            "process shows, and the library's version is not known or is another."
        )
        yield Caveat("layout-ambiguous", text)


def _other_caveats(answer: HeapAnswer) -> Iterable[Caveat]:
    for other in answer.others:
        arenas = f"{other.arena_count} arena{'s' if other.arena_count > 1 else ''}"
        text = (
            f"There is another malloc in this process, that of {other.image.path} (loaded once "
            f"more, in a namespace of its own, or preloaded): {arenas} of {other.system_bytes} "
            f"bytes, {_chunks(other.mmapped_count)} of {other.mmapped_bytes} bytes. None of that "
            "is in these figures"
        )
        if other.mmapped_count:
            text += ", but for those mappings: nothing tells whose one is, so all count as found"
        yield Caveat("other-malloc", f"{text}.")


def _validation_caveats(answer: HeapAnswer, data: ArenasData, of_core: bool) -> Iterable[Caveat]:
    late = [item.index for item in answer.reading.arenas if item.cut_short]
    if late:
        text = f"{_named(late)}: the deadline came before all chunks were read; raise --deadline."
        yield Caveat("deadline", text, partial=True)
    unsound = [item for item in answer.reading.arenas if item.problems and not item.cut_short]
    if not unsound:
        return
    if of_core:
        for item in unsound:
            text = f"arena {item.index} contradicts itself: {_faults(answer, item)}. "
            text += "An allocation was under way when the core was written, or the heap is damaged."
            text += f" {_readable(data.arenas[item.index].figures)}"
            yield Caveat("arena-damaged", text, partial=True)
        return
    if answer.sort == FROZEN:
        where = _named([item.index for item in unsound])
        text = f"{where}: an allocation was under way at the instant of the snapshot."
        yield Caveat("arena-in-flight", text)
        return
    moving = [item.index for item in unsound if item.changed]
    broken = [item for item in unsound if not item.changed]
    if moving:
        text = (
            f"{_named(moving)} changed while being read (the process is allocating): these "
            "figures are approximate; `arenas --snapshot` and `record --snapshot` give consistent "
            "ones."
        )
        yield Caveat("arena-not-validated", text, partial=True)
    for item in broken:
        figures = data.arenas[item.index].figures
        if figures.swapped_bytes and not _places(answer, item):
            text = (
                f"arena {item.index}: {figures.swapped_bytes} bytes of it are swapped out; they "
                f"are not read, so that nothing is swapped in. {_readable(figures)}"
            )
            yield Caveat("arena-swapped", text, partial=True)
            continue
        text = f"arena {item.index} stood still but contradicts itself: {_faults(answer, item)}. "
        yield Caveat("arena-damaged", text + _readable(figures), partial=True)


def _faults(answer: HeapAnswer, item: ArenaReading) -> str:
    """What is wrong with an arena, and at which words that shows."""
    return "; ".join([*item.problems, *_places(answer, item)])


def _places(answer: HeapAnswer, item: ArenaReading) -> list[str]:
    return [_place(found) for found in answer.damage if found.arena_index == item.index]


def _place(found: Damage) -> str:
    after = f" (behind the chunk {found.after:#x})" if found.after is not None else ""
    return f"at {found.address:#x}{after} expected {found.expected}, found {found.found}"


def _readable(figures: Figures) -> str:
    told = figures.system_bytes - figures.unread_bytes - figures.residue_bytes
    return f"{told} of its {figures.system_bytes} bytes could be read."


def _damage_of_tcaches(answer: HeapAnswer) -> Iterable[Caveat]:
    for found in answer.damage:
        if found.arena_index is None:
            text = f"A thread's cache leads out of the heap: {_place(found)}."
            yield Caveat("tcache-damaged", text, partial=True)


def _sum_caveats(answer: HeapAnswer, data: ArenasData) -> Iterable[Caveat]:
    if answer.hugetlb_bytes:
        text = (
            f"{answer.hugetlb_bytes} bytes of the heap are on hugetlb pages: RSS does not count "
            "them, and nothing here counts them as resident."
        )
        yield Caveat("hugetlb", text)
    moving = {item.index for item in answer.reading.arenas if item.changed or item.cut_short}
    still = [arena for arena in data.arenas if arena.index not in moving]
    unread = [arena for arena in still if arena.figures.unread_bytes]
    if unread:
        total = sum(arena.figures.unread_bytes for arena in unread)
        where = _named([arena.index for arena in unread])
        text = f"{where}: {total} bytes could not be read (swapped out, in motion, or damaged)."
        yield Caveat("unread", text, partial=True)
    residue = [arena for arena in still if arena.figures.residue_bytes]
    if residue:
        total = sum(arena.figures.residue_bytes for arena in residue)
        where = _named([arena.index for arena in residue])
        text = f"{where}: {total} system bytes are not accounted for."
        yield Caveat("residue", text, partial=True)
    if not moving:
        yield from _mmapped_caveats(answer, data.mmapped)
    broken = answer.reading.parked.broken
    if broken and not moving and not any(found.arena_index is None for found in answer.damage):
        text = f"Free lists that did not end as they should: {', '.join(broken[:8])}."
        yield Caveat("broken-lists", text)


def _chunks(count: int) -> str:
    return f"{count} chunk{'' if count == 1 else 's'} with mappings of their own"


def _mmapped_caveats(answer: HeapAnswer, mmapped: Mmapped) -> Iterable[Caveat]:
    """Do glibc's counters agree with what was found? Mappings are whole pages, so less than one is
    no mapping: from 2.43 on each realloc of such a chunk adds a header's size to glibc's bytes, for
    ever."""
    others_count, others_bytes = _mmapped_of(answer.others)
    count, total = mmapped.count + others_count, mmapped.bytes + others_bytes
    usable = answer.reading.layout.mmap_size_is_usable
    drift = total - mmapped.found_bytes
    if count == mmapped.found_count and (drift == 0 or (usable and 0 < drift < PAGE)):
        return
    text = (
        f"glibc counts {_chunks(count)} ({total} bytes); "
        f"{mmapped.found_count} ({mmapped.found_bytes} bytes) were found by their headers."
    )
    if usable and count == mmapped.found_count and drift > 0:
        text += " This glibc's count of bytes grows with each realloc of such a chunk."
    yield Caveat("mmapped-not-found", text)
