"""Random made-up rows of chunks, as hypothesis strategies: sound ones, and what may be done to
them."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import strategies as st
from oracle import rows as oracle
from unit.heaps import HUGE, PAGE, PRESENT, SWAPPED, ZERO, Image, Row, plainly

from allocscope.model.walk import Region

BASE = 0x7F5600000000
BIN = 0x7F1100000070

SMALL = st.integers(2, 40).map(lambda units: 16 * units)
LARGE = st.integers(0x100, 0x1000).map(lambda units: 16 * units)
SIZES = st.one_of(SMALL, SMALL, SMALL, LARGE)
KINDS = st.sampled_from(
    ["live", "live", "live", "bin", "bin", "fastbin", "tcache", "tcache_struct"]
)
ENDS = st.sampled_from(["top", "top", "heap_end", "old_top", "fenceposts", "nothing"])
STATES = st.sampled_from([0, SWAPPED, PRESENT | ZERO, PRESENT | HUGE, PRESENT, PRESENT])


@dataclasses.dataclass(frozen=True)
class Made:
    """A row in memory, with what the walk is told about it."""

    row: Row
    image: Image
    region: Region

    def walked_plainly(self) -> dict[str, Any]:
        region = self.region
        found = oracle.walk(
            self.image.word,
            first=region.first,
            limit=region.limit,
            top=region.top,
            tcache=region.tcache,
            fastbin=region.fastbin,
            tcache_struct=region.tcache_struct,
            known=region.known,
        )
        return plainly(found, self.image, region)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """A sound row of up to a few hundred KiB: no two binned chunks touch, none touches top."""
    row = Row(BASE + draw(st.sampled_from([0, 0x10, 0x30, 0x8D0])), non_main=draw(st.booleans()))
    for kind, size in draw(st.lists(st.tuples(KINDS, SIZES), max_size=40)):
        touching = kind == "bin" and row.chunks and row.chunks[-1].kind == "bin"
        row.add("live" if touching else kind, size)
    end = draw(ENDS)
    if row.chunks and row.chunks[-1].kind == "bin":
        row.live(0x40)
    border = -(-(row.end + 0x100) // PAGE) * PAGE
    if end == "top":
        row.top(border + draw(st.integers(0, 5)) * PAGE - row.end)
    elif end == "heap_end":
        row.live_up_to(border - 32)
        row.heap_end()
    elif end == "old_top":
        row.live_up_to(border - 48)
        row.heap_end(old_top=48)
    elif end == "fenceposts":
        row.live_up_to(border - 32)
        row.fenceposts()
    else:
        row.live_up_to(border)
    row.link([chunk for chunk in row.chunks if chunk.kind == "bin"], BIN)
    return row


@st.composite
def sound(draw: st.DrawFn) -> Made:
    """A row whose headers are all there: only pages without any have other states."""
    row = draw(rows())
    image = row.image()
    with_words = set()
    for chunk in row.chunks:
        with_words |= {chunk.address // PAGE, (chunk.address + 31) // PAGE}
    for number in sorted(set(image.pages) - with_words):
        image.state(number * PAGE, (number + 1) * PAGE, draw(STATES))
    region = row.region(
        trim_unit=draw(st.sampled_from([0, PAGE, 4 * PAGE])),
        trim_pad=draw(st.sampled_from([0, 0, 100, 5000])),
        merge_fastbins=draw(st.booleans()),
        locked=draw(locked(row)),
    )
    return Made(row, image, region)


@st.composite
def locked(draw: st.DrawFn, row: Row) -> list[int]:
    """Start and end of up to three stretches of mlocked pages."""
    pages = st.integers(row.first // PAGE - 1, row.end // PAGE + 1)
    edges = sorted(draw(st.sets(pages, max_size=6)))
    return [page * PAGE for page in edges[: len(edges) // 2 * 2]]


@st.composite
def damaged(draw: st.DrawFn) -> Made:
    """Any page states, any words over headers and marks anywhere."""
    made = draw(sound())
    row, image = made.row, made.image
    for number in sorted(image.pages):
        if draw(st.integers(0, 3)) == 0:
            image.state(number * PAGE, (number + 1) * PAGE, draw(STATES))
    sizes = st.integers(0, 600).map(lambda units: 8 * units)
    words = st.one_of(st.integers(0, (1 << 64) - 1), sizes, sizes.map(lambda size: size | 1))
    places = st.sampled_from(row.chunks)
    for chunk, offset, word in draw(st.lists(st.tuples(places, st.sampled_from([0, 8, 8]), words))):
        number = chunk.address // PAGE
        state = image.states[number]
        image.words(chunk.address + offset, word)
        image.states[number] = state
    steps = (row.end - row.first) // 16
    anywhere = st.integers(0, steps + 2).map(lambda step: row.first + 16 * step)
    marks = st.lists(anywhere, max_size=5)
    changes = {
        name: sorted(getattr(made.region, name) + draw(marks))
        for name in ("tcache", "fastbin", "tcache_struct", "known")
    }
    changes["top"] = draw(st.one_of(st.just(made.region.top), st.just(0), anywhere))
    if changes["top"] >= row.end:
        changes["top"] = 0
    return Made(row, image, dataclasses.replace(made.region, **changes))
