"""Words of a library's data told without their secrets, and rows of alike ones."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocscope.glibc.abi import WIDE
from allocscope.glibc.words import Place, classify, described
from allocscope.model.layout_report import Words

BASE = 0x7F12_3450_0000
PLACES = (
    Place(BASE, BASE + 0x1000, "the library's code", None),
    Place(BASE + 0x1000, BASE + 0x5000, "library", BASE),
    Place(0x5555_0000_0000, 0x5555_0010_0000, "heap", 0x5555_0000_0000),
)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (0, Words(0, 1, "zero")),
        (0x20000, Words(0, 1, "number", (0x20000,))),
        (0x10000 << 32, Words(0, 1, "numbers", (0, 0x10000))),
        (8 << 32 | 7, Words(0, 1, "numbers", (7, 8))),
        (132 << 12 << 8, Words(0, 1, "size", (132 << 20,))),
        (BASE + 0x20, Words(0, 1, "pointer", (), "the library's code", None)),
        (BASE + 0x1230, Words(0, 1, "pointer", (), "library", 0x1230)),
        (0x5555_0000_0010, Words(0, 1, "pointer", (), "heap", 0x10)),
        (0x7F99_0000_1001, Words(0, 1, "other")),
        ((1 << 64) - 1, Words(0, 1, "other")),
    ],
)
def test_what_a_word_is(word: int, told: Words) -> None:
    assert classify(word, PLACES) == told


LETTERS = st.binary(min_size=4, max_size=8).map(lambda b: bytes(0x21 + x % 94 for x in b))


@given(LETTERS, st.integers(0, 4))
def test_four_letters_of_a_text_are_never_told(text: bytes, before: int) -> None:
    packed = (bytes(min(before, 8 - len(text))) + text).ljust(8, b"\0")
    word = int.from_bytes(packed, "little")
    assert classify(word, ()).kind == "other"


def test_words_that_are_alike_share_a_row() -> None:
    at = BASE + 0x1000
    bins = [at + 8, at + 8, at + 24, at + 24]
    words = [7, 0, 0, *bins, 0x5555_0000_0010, 0x4142434445464748]
    data = struct.pack("<9Q", *words)
    far = at + 0x100
    assert described([(at, data), (far, bytes(16))], PLACES, BASE, WIDE) == (
        Words(0x1000, 1, "number", (7,)),
        Words(0x1008, 2, "zero"),
        Words(0x1018, 4, "empty bin"),
        Words(0x1038, 1, "pointer", (), "heap", 0x10),
        Words(0x1040, 1, "other"),
        Words(0x1048, (0x100 - 0x48) // 8, "absent"),
        Words(0x1100, 2, "zero"),
    )
