"""render/text: numbers and foreign strings."""

from __future__ import annotations

import pytest

from allocscope.render.text import (
    BYTES,
    GIB,
    KIB,
    MIB,
    Unit,
    age,
    clean,
    clean_path,
    duration,
    plural,
    signed_size,
    size,
    unit_for,
)


@pytest.mark.parametrize(
    ("bytes_", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (412 * MIB, "412.0 MiB"),
        (MIB - 1, "1.0 MiB"),
        (GIB - 1, "1.0 GiB"),
        (5 * GIB // 2, "2.5 GiB"),
        (-3 * MIB, "-3.0 MiB"),
        (None, "an unknown amount"),
    ],
)
def test_size(bytes_: int | None, shown: str) -> None:
    assert size(bytes_) == shown


def test_exact_sizes_are_bytes() -> None:
    assert size(412 * MIB, exact=True) == "432013312 bytes"
    assert signed_size(2048) == "+2.0 KiB"
    assert signed_size(-2048) == "-2.0 KiB"


def test_a_cell_that_is_not_zero_never_prints_as_zero() -> None:
    mib = Unit("MiB", MIB)
    assert [mib.cell(n) for n in (0, 1, 16, -16, MIB, None)] == [
        "0", "<0.1", "<0.1", ">-0.1", "1.0", "?",
    ]  # fmt: skip
    assert BYTES.cell(1) == "1"


def test_the_unit_follows_the_largest_figure() -> None:
    names = [unit_for(n, exact=False).name for n in (0, MIB, 10 * MIB, 500 * GIB, 2048 * GIB)]
    assert names == ["KiB", "KiB", "MiB", "MiB", "GiB"]
    assert unit_for(GIB, exact=True) is BYTES


def test_durations_and_ages() -> None:
    shown = [
        duration(n) for n in (0, 247, 45_000, 1_900_000, 81_000_000, 999_700_000, 2_340_000_000)
    ]
    assert shown == ["0 µs", "247 ns", "45 µs", "1.9 ms", "81 ms", "1.0 s", "2.3 s"]
    assert [age(s) for s in (3.5, 125, 11_520.25, 200_000)] == [
        "3 s", "2 min 5 s", "3 h 12 min", "2 d 7 h",
    ]  # fmt: skip
    assert [plural(1, "thread"), plural(2, "process", "processes")] == ["1 thread", "2 processes"]


def test_foreign_text_is_escaped_and_cut() -> None:
    assert clean("worker-1 ü 漢") == "worker-1 ü 漢"
    assert clean("\x1b[2J\n\x7f\udcff\u202e\u2066\U000e0001") == (
        "\\x1b[2J\\x0a\\x7f\\xff\\u202e\\u2066\\U000e0001"
    )
    assert clean("a" * 30, limit=10) == "a" * 9 + "…"
    assert clean("a" * 10, limit=10) == "a" * 10
    assert clean_path("/opt/\x1b/bin/server", limit=30) == "/opt/\\x1b/bin/server"
    assert clean_path("/opt/very/deep/bin/server", limit=11) == "…bin/server"
    assert KIB == 1024
