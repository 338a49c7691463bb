"""Words kept by a walk: the same walk over them says the same, and no payload is among them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit import rows
from unit.heaps import USER_BYTES, Image

from allocscope.errors import BadInput, MemoryGap
from allocscope.files.words import PAGE, WordMemory, pack
from allocscope.model.walk import Tally, Words

SLOW_TO_MAKE = [HealthCheck.too_slow, HealthCheck.data_too_large]
PRESENT = 1


def runs_of(image: Image) -> bytes:
    return b"".join(struct.pack("<3Q", *run) for run in image.runs())


def kept(made: rows.Made) -> tuple[Tally, Words]:
    """A walk and the words that it kept."""
    with made.image.memory() as memory:
        memory.keeps_words = True
        tally = memory.walk(made.region)
        assert tally.words is not None
        return tally, tally.words


def replayed(made: rows.Made, words: Words) -> Tally:
    with WordMemory([words], runs_of(made.image), "kept words") as memory:
        tally = memory.walk(made.region)
        with memory.keeping([(made.region.first, made.region.limit)], made.region.top):
            assert memory.walk(made.region) == tally
        return tally


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=SLOW_TO_MAKE)
@given(rows.sound())
def test_a_walk_can_be_made_again_from_its_words(made: rows.Made) -> None:
    tally, words = kept(made)
    assert replayed(made, words) == tally
    with made.image.memory() as memory:
        assert memory.walk(made.region) == tally


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=SLOW_TO_MAKE)
@given(rows.damaged())
def test_damage_is_found_again_where_it_was(made: rows.Made) -> None:
    tally, words = kept(made)
    assert replayed(made, words) == tally


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=SLOW_TO_MAKE)
@given(rows.sound())
def test_what_the_user_wrote_is_not_kept(made: rows.Made) -> None:
    _, words = kept(made)
    assert USER_BYTES not in struct.unpack(f"<{len(words.words) // 8}Q", words.words)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3 * PAGE // 8 - 1), st.binary(max_size=2 * PAGE)), max_size=12
    )
)
def test_packed_spans_read_back(placed: list[tuple[int, bytes]]) -> None:
    base = 0x7000_0000
    truth = bytearray(6 * PAGE)
    spans = []
    for word, data in placed:
        whole = data[: len(data) // 8 * 8]
        truth[word * 8 : word * 8 + len(whole)] = whole
        spans.append((base + word * 8, whole))
    runs = struct.pack("<3Q", base, base + 6 * PAGE, PRESENT)
    with WordMemory([pack(spans)], runs, "test") as memory:
        assert memory.read(base, 6 * PAGE) == truth
        assert memory.read(base + 4091, 13) == truth[4091:4104]
        with pytest.raises(MemoryGap):
            memory.read(base + 6 * PAGE - 8, 16)


def test_spans_are_made_of_words() -> None:
    with pytest.raises(ValueError, match="not made of words"):
        pack([(4, b"12345678")])


@pytest.mark.parametrize(
    ("pages", "words", "runs"),
    [
        (struct.pack("<9Q", 0x1000, 3, *[0] * 7), b"x" * 8, b""),  # one word too few
        (struct.pack("<9Q", 0x1001, 1, *[0] * 7), b"x" * 8, b""),  # not a page
        (struct.pack("<9Q", 1 << 63, 1, *[0] * 7), b"x" * 8, b""),  # no address of user space
        (b"", b"", struct.pack("<6Q", 0x2000, 0x3000, 1, 0x1000, 0x2000, 1)),  # descending
        (b"", b"", struct.pack("<3Q", 0x2000, 0x2000, 1)),  # empty
        (b"", b"", struct.pack("<3Q", 0x2000, 0x2008, 1)),  # not pages
        (b"", b"", struct.pack("<3Q", 0x2000, 1 << 62, 1)),  # beyond user space
        (b"x", b"", b""),
        (b"", b"x", b""),
        (b"", b"", b"x"),
    ],
)
def test_what_does_not_fit_together_is_bad_input(pages: bytes, words: bytes, runs: bytes) -> None:
    with pytest.raises(BadInput):
        WordMemory([Words(pages, words)], runs, "test")
