"""Words of memory told without their secrets: what sort of thing each is, never where it is or what
a program put there.

Rules: an address becomes an offset within the mapping that it points into, and of code not even
that. A number is told only where no more than three letters of a text have room in it: below 1 MiB,
two such halves, or a multiple of 4096 below 64 GiB. Everything else is "other".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from allocscope.glibc.abi import Abi
from allocscope.immutable import immutable, replace
from allocscope.model.layout_report import Words

SMALL = 1 << 20
LARGE = 1 << 36
PAGE = 4096


@immutable
class Place:
    """A mapping that words may point into: ``[start, end)`` is called ``name``, and offsets in it
    count from ``base``; None where they do not matter."""

    start: int
    end: int
    name: str
    base: int | None


def classify(word: int, places: Sequence[Place]) -> Words:
    """One word; ``at`` is 0. ``places`` are few: mappings of one process."""
    if not word:
        return Words(0, 1, "zero")
    if word < SMALL:
        return Words(0, 1, "number", (word,))
    for place in places:
        if place.start <= word < place.end:
            offset = None if place.base is None else word - place.base
            return Words(0, 1, "pointer", (), place.name, offset)
    low, high = word & 0xFFFFFFFF, word >> 32
    stale = low and 1 << 40 <= word < 1 << 47  # it may be an address of what is no longer mapped
    if low < SMALL and high < SMALL and not stale:
        return Words(0, 1, "numbers", (low, high))
    if word % PAGE == 0 and word < LARGE:
        return Words(0, 1, "size", (word,))
    return Words(0, 1, "other")


def described(
    areas: Iterable[tuple[int, bytes]], places: Sequence[Place], base: int, abi: Abi
) -> tuple[Words, ...]:
    """The words of ``areas`` (start address and bytes, ascending), those alike in one row;
    ``at`` counts from ``base``."""
    return tuple(_folded(_each(areas, places, base, abi)))


def _each(
    areas: Iterable[tuple[int, bytes]], places: Sequence[Place], base: int, abi: Abi
) -> Iterator[Words]:
    beyond: int | None = None
    size = abi.word_bytes
    for start, data in areas:
        if beyond is not None and start > beyond:
            yield Words(beyond - base, (start - beyond) // size, "absent")
        words = abi.words(data, 0, len(data) // size)
        beyond = start + len(words) * size
        skip = False
        for index, word in enumerate(words):
            here = start + index * size
            if skip:
                skip = False
            elif words[index + 1 : index + 2] == (word,) and word == here - abi.header_bytes:
                skip = True
                yield Words(here - base, 2, "empty bin")
            else:
                yield replace(classify(word, places), at=here - base)


def _folded(rows: Iterable[Words]) -> Iterator[Words]:
    last: Words | None = None
    for row in rows:
        if last is None:
            last = row
        elif replace(row, at=last.at, count=last.count) == last:
            last = replace(last, count=last.count + row.count)
        else:
            yield last
            last = row
    if last is not None:
        yield last
