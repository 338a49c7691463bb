"""One row of chunks, walked and summed plainly: slow, word by word, with page numbers in sets.

Two parts, so that each can be used alone: :func:`walk` finds the chunks in memory, going on after
damage as the header of the real walk (probes/include/walk.h) promises; :func:`sums` does the
arithmetic over any list of chunks, malloc_trim's rule (glibc malloc.c, mtrim and systrim) included.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

PAGE = 4096
PRESENT, SWAPPED, ZERO, HUGE = 1, 2, 4, 8
PREV_INUSE, FLAG_BITS, FENCEPOST, MINSIZE, CHUNK_STRUCT = 1, 7, 16, 32, 48
LIMIT, TOP, FOREIGN, DAMAGE, DEADLINE, BROKEN_TOP = range(6)
MASK = (1 << 64) - 1

SMALL_CLASSES = [16 * step for step in range(66)]
"""Size classes: 16-byte steps up to 1040, then eight per power of two from 1056 (the first of 1024
is cut off by the steps)."""
LARGE_CLASSES = [1056] + [
    (8 + eighth) << power
    for power in range(7, 44)
    for eighth in range(8)
    if (power, eighth) > (7, 0)
]
CLASSES = SMALL_CLASSES + LARGE_CLASSES


@dataclasses.dataclass(frozen=True)
class Chunk:
    """``kind``: live, tcache, tcache_struct, fastbin, bin, fencepost or top."""

    address: int
    size: int
    kind: str
    fd: int = 0
    bk: int = 0

    @property
    def end(self) -> int:
        return self.address + self.size


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the sums depend on beside chunks: the pages counted, and how malloc_trim goes about."""

    start: int
    map_end: int
    trim_unit: int = 0
    trim_pad: int = 0
    merge_fastbins: bool = False
    locked: Sequence[tuple[int, int]] = ()


@dataclasses.dataclass
class Walked:
    """What :func:`walk` came by."""

    chunks: list[Chunk] = dataclasses.field(default_factory=list)
    unread_bytes: int = 0
    unread: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    footer_mismatch_count: int = 0
    missed_mark_count: int = 0
    cut_at_top_count: int = 0
    damage_count: int = 0
    first_damage: int = 0
    before_damage: int = 0
    first_footer_mismatch: int = 0
    stopped_at: int = 0
    stop_reason: int = LIMIT


class Pages:
    """Page states: ``(start, end, flags)`` runs, asked page by page."""

    def __init__(self, runs: Iterable[tuple[int, int, int]]) -> None:
        self.flags = {
            number: flags
            for start, end, flags in runs
            for number in range(start // PAGE, -(-end // PAGE))
        }

    def is_resident(self, number: int) -> bool:
        flags = self.flags.get(number, 0)
        return bool(flags & PRESENT) and not flags & ZERO

    def resident(self, start: int, end: int) -> int:
        """Bytes of ``[start, end)`` on resident pages."""
        total = 0
        for number in range(start // PAGE, -(-end // PAGE)):
            if self.is_resident(number):
                total += min(end, (number + 1) * PAGE) - max(start, number * PAGE)
        return total

    def states(self, start: int, end: int) -> dict[str, int]:
        """The four figures of page states, over the whole pages that ``[start, end)`` touches."""
        found = {"resident_bytes": 0, "swapped_bytes": 0, "huge_bytes": 0, "zero_bytes": 0}
        for number in range(start // PAGE, -(-end // PAGE)):
            flags = self.flags.get(number, 0)
            found["resident_bytes"] += PAGE * self.is_resident(number)
            found["swapped_bytes"] += PAGE * bool(flags & SWAPPED)
            found["huge_bytes"] += PAGE * (self.is_resident(number) and bool(flags & HUGE))
            found["zero_bytes"] += PAGE * bool(flags & ZERO)
        return found


def mixed(address: int) -> int:
    """The finaliser of splitmix64, by which lists are compared with chunks."""
    x = (address + 0x9E3779B97F4A7C15) & MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


Ranges = list[tuple[int, int]]


def sums(chunks: Sequence[Chunk], pages: Pages, rules: Rules) -> dict[str, object]:
    """The figures of as_tally that follow from chunks and pages."""
    of = {
        kind: [chunk for chunk in chunks if chunk.kind == kind]
        for kind in ("live", "tcache", "tcache_struct", "fastbin", "bin", "fencepost", "top")
    }

    def size(kind: str) -> int:
        return sum(chunk.size for chunk in of[kind])

    def resident(kind: str) -> int:
        return sum(pages.resident(chunk.address, chunk.end) for chunk in of[kind])

    advised, lowered = trim_calls(chunks, rules)
    gone, locked = _split_at_locked(advised, rules)

    def within(ranges: Ranges, owners: Sequence[Chunk]) -> Ranges:
        parts = [
            (max(start, chunk.address), min(end, chunk.end))
            for start, end in ranges
            for chunk in owners
        ]
        return [(low, high) for low, high in parts if low < high]

    def present(ranges: Ranges) -> int:
        return sum(pages.resident(low, high) for low, high in ranges)

    free = of["bin"] + of["fastbin"]
    return {
        **{f"{kind}_count": len(of[kind]) for kind in ("live", "tcache", "fastbin", "bin")},
        **{
            f"{kind}_bytes": size(kind)
            for kind in ("live", "tcache", "tcache_struct", "fastbin", "bin", "fencepost", "top")
        },
        **{
            f"{kind}_resident_bytes": resident(kind)
            for kind in ("live", "tcache", "tcache_struct", "fastbin", "bin", "fencepost", "top")
        },
        "last_live": of["live"][-1].address if of["live"] else 0,
        "last_live_bytes": of["live"][-1].size if of["live"] else 0,
        "bin_trimmable_bytes": present(within(gone, of["bin"])),
        "bin_whole_bytes": sum(high - low for low, high in within(advised, of["bin"])),
        "top_trimmable_bytes": present(within(lowered, of["top"])),
        "trimmable_bytes": present(gone + lowered),
        "trim_range_count": len(advised) + len(lowered),
        "trim_break_bytes": sum(end - start for start, end in lowered),
        "locked_trim_bytes": present(locked),
        "bin_locked_bytes": present(within(locked, of["bin"])),
        "pinned_bytes": resident("bin")
        + resident("fastbin")
        - present(within(gone + lowered + locked, free)),
        "pages": pages.states(rules.start, rules.map_end),
        "bin_node_hash": sum(mixed(chunk.address) for chunk in of["bin"]) & MASK,
        "bin_fd_hash": sum(mixed(chunk.fd) for chunk in of["bin"]) & MASK,
        "bin_bk_hash": sum(mixed(chunk.bk) for chunk in of["bin"]) & MASK,
        "classes": _classes(chunks, pages),
        "largest": [
            {
                "address": chunk.address,
                "size_bytes": chunk.size,
                "resident_bytes": pages.resident(chunk.address, chunk.end),
            }
            for chunk in sorted(of["bin"] + of["top"], key=lambda c: (-c.size, c.address))[:10]
        ],
    }


def cells(chunks: Sequence[Chunk], pages: Pages, rules: Rules) -> bytes:
    """What each page of ``[start, map_end)`` is used for (as_region's cells)."""
    advised, lowered = trim_calls(chunks, rules)
    going = _split_at_locked(advised, rules)[0] + lowered

    gone = {n for start, end in going for n in range(-(-start // PAGE), end // PAGE)}
    held: dict[int, int] = {}
    free: set[int] = set()
    for chunk in chunks:
        for number in range(chunk.address // PAGE, -(-chunk.end // PAGE)):
            low, high = max(number * PAGE, chunk.address), min((number + 1) * PAGE, chunk.end)
            if chunk.kind in ("live", "tcache_struct"):
                held[number] = held.get(number, 0) + high - low
            elif chunk.kind != "fencepost":
                free.add(number)

    def cell(number: int) -> int:
        flags = pages.flags.get(number, 0)
        if not flags & PRESENT or flags & ZERO:
            return 1 if flags & SWAPPED and not flags & PRESENT else 0
        if number in gone:
            return 4
        if number in held:
            return 15 + min(-(-held[number] * 16 // PAGE), 16)
        return 3 if number in free else 2

    return bytes(cell(n) for n in range(rules.start // PAGE, -(-rules.map_end // PAGE)))


def _split_at_locked(advised: Ranges, rules: Rules) -> tuple[Ranges, Ranges]:
    """What madvise releases of these ranges, and what it does not: it ends at the first mlocked
    page."""
    gone, locked = [], []
    for start, end in advised:
        stays = min([max(low, start) for low, high in rules.locked if high > start] + [end])
        gone.append((start, min(stays, end)))
        locked.append((min(stays, end), end))
    return gone, locked


def sides(walked: Walked, pages: Pages, rules: Rules, first: int, limit: int) -> dict[str, int]:
    """The figures of as_tally for resident bytes that are in no chunk."""
    behind = limit if walked.stop_reason in (DAMAGE, DEADLINE) else walked.stopped_at
    return {
        "unread_resident_bytes": sum(pages.resident(start, end) for start, end in walked.unread),
        "before_resident_bytes": pages.resident(rules.start // PAGE * PAGE, first),
        "beyond_resident_bytes": pages.resident(behind, -(-rules.map_end // PAGE) * PAGE),
    }


def trim_calls(chunks: Sequence[Chunk], rules: Rules) -> tuple[Ranges, Ranges]:
    """The address ranges that malloc_trim would hand back, resident or not: those of its madvise
    calls, and that by which it would lower the break, if any."""
    free = ("bin", "fastbin") if rules.merge_fastbins else ("bin",)
    runs: list[tuple[int, int]] = []
    for chunk in chunks:
        if chunk.kind in free and runs and runs[-1][1] == chunk.address:
            runs[-1] = (runs[-1][0], chunk.end)
        elif chunk.kind in free:
            runs.append((chunk.address, chunk.end))
    top = next((chunk for chunk in chunks if chunk.kind == "top"), None)
    going: Ranges = []
    lowered: Ranges = []
    for start, end in runs:
        if top is not None and end == top.address:
            continue
        if end - start > PAGE - 1 + CHUNK_STRUCT:
            first = -(-(start + CHUNK_STRUCT) // PAGE) * PAGE
            length = (end - first) // PAGE * PAGE
            if length >= PAGE:
                going.append((first, first + length))
    if top is not None and rules.trim_unit:
        start = next((start for start, end in runs if end == top.address), top.address)
        spare = top.end - start - MINSIZE - 1 - rules.trim_pad
        extra = spare // rules.trim_unit * rules.trim_unit
        if extra > 0:
            lowered.append((top.end - extra, top.end))
    return going, lowered


def _classes(chunks: Sequence[Chunk], pages: Pages) -> list[dict[str, int]]:
    rows: dict[int, dict[str, int]] = {}
    held: dict[int, set[int]] = {}
    for chunk in chunks:
        if chunk.kind not in ("live", "tcache", "fastbin", "bin"):
            continue
        index = min(bisect_right(CLASSES, chunk.size) - 1, 399)
        row = rows.setdefault(
            index,
            {
                f"{kind}_{unit}": 0
                for kind in ("live", "tcache", "fastbin", "bin")
                for unit in ("count", "bytes")
            },
        )
        row[f"{chunk.kind}_count"] += 1
        row[f"{chunk.kind}_bytes"] += chunk.size
        if chunk.kind == "live":
            touched = range(chunk.address // PAGE, -(-chunk.end // PAGE))
            held.setdefault(index, set()).update(n for n in touched if pages.is_resident(n))
    return [
        {
            "min_bytes": CLASSES[index],
            "max_bytes": CLASSES[index + 1] - 16,
            **rows[index],
            "pages_held": len(held.get(index, ())),
        }
        for index in sorted(rows)
    ]


def walk(
    word: Callable[[int], int | None],
    *,
    first: int,
    limit: int,
    top: int,
    tcache: Sequence[int],
    fastbin: Sequence[int],
    tcache_struct: Sequence[int],
    known: Sequence[int],
) -> Walked:
    """Follows the size words from ``first``. ``word`` gives the 64-bit word at an address, None
    where no page is; the address lists are as in as_region."""
    found = Walked(stopped_at=first)
    resume = sorted({top, *tcache, *fastbin, *tcache_struct, *known})
    held: tuple[int, int, int, int] | None = None

    def settle(in_use: bool) -> None:
        nonlocal held
        if held is not None:
            address, size, fd, bk = held
            if size == FENCEPOST:
                kind = "fencepost"
            elif address in tcache:
                kind = "tcache"
            elif address in fastbin:
                kind = "fastbin"
            elif not in_use:
                kind = "bin"
            else:
                kind = "tcache_struct" if address in tcache_struct else "live"
            found.chunks.append(Chunk(address, size, kind, fd, bk))
        held = None

    def end(address: int, reason: int) -> Walked:
        found.stopped_at, found.stop_reason = address, reason
        met = {c.address for c in found.chunks if c.kind not in ("fencepost", "top")}
        for marks in (tcache, fastbin, tcache_struct):
            passed = [mark for mark in marks if mark < address]
            found.missed_mark_count += len(passed) - len(met & set(passed))
        return found

    at = first
    while at < limit:
        size_word = None if at % 16 else word(at + 8)
        size = (size_word or 0) & ~FLAG_BITS
        in_use = bool((size_word or 0) & PREV_INUSE)
        if size_word is not None:
            if held is not None and not in_use and word(at) != held[1]:
                found.footer_mismatch_count += 1
                found.first_footer_mismatch = found.first_footer_mismatch or held[0]
            if at == top:
                settle(in_use)
                found.chunks.append(Chunk(at, limit - at, "top"))
                return end(limit, TOP if at + size == limit else BROKEN_TOP)
            after_fencepost = held is not None and held[1] == FENCEPOST
            if size == 0 and (after_fencepost or at + FENCEPOST == limit):
                if held is not None and held[1] == MINSIZE and in_use:
                    found.chunks.append(Chunk(held[0], MINSIZE, "fencepost"))
                    held = None
                settle(in_use)
                found.chunks.append(Chunk(at, FENCEPOST, "fencepost"))
                return end(at + FENCEPOST, LIMIT if at + FENCEPOST == limit else FOREIGN)
            if size == FENCEPOST and after_fencepost and (at + FENCEPOST) % PAGE == 0:
                settle(in_use)
                found.chunks.append(Chunk(at, FENCEPOST, "fencepost"))
                return end(at + FENCEPOST, LIMIT if at + FENCEPOST >= limit else FOREIGN)
        fits = FENCEPOST <= size <= limit - at and size % 16 == 0
        if size_word is None or not fits:
            if not found.damage_count:
                found.first_damage, found.before_damage = at, held[0] if held else 0
            settle(True)
            found.damage_count += 1
            following = next((a for a in resume if at < a < limit), None)
            found.unread.append((at, limit if following is None else following))
            found.unread_bytes += found.unread[-1][1] - at
            if following is None:
                return end(at, DAMAGE)
            at = following
            continue
        if at < top < at + size:
            size = top - at
            found.cut_at_top_count += 1
        settle(in_use)
        held = (at, size, word(at + 16) or 0, word(at + 24) or 0)
        at += size
        if at == limit:
            settle(True)
            return end(limit, LIMIT)
    return end(at, LIMIT)
