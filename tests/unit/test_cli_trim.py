"""cli/trim: what its amounts may look like."""

from __future__ import annotations

import click
import pytest

from allocscope.cli import trim

CONTEXT = click.Context(trim.command)
PARAMETER = click.Option(["--x"])


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64M", 64 << 20),
        ("64MiB", 64 << 20),
        ("2k", 2048),
        ("1G", 1 << 30),
        ("0.5", 0.5),
        (".5", 0.5),
        ("50%", 0.5),
        ("1.0", 1.0),
    ],
)
def test_a_threshold_is_bytes_or_a_share(text: str, amount: float) -> None:
    found = trim._amount(CONTEXT, PARAMETER, text)
    assert (found, type(found)) == (amount, type(amount))


@pytest.mark.parametrize("text", ["", "1.5", "150%", "-1", "64X", "much", "6 M", "\u0663"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        trim._amount(CONTEXT, PARAMETER, text)


def test_the_pad_is_what_fits_into_a_word() -> None:
    assert trim._pad(CONTEXT, PARAMETER, "16M") == 16 << 20
    for text in ("0.5", "-1", str(1 << 64)):
        with pytest.raises(click.BadParameter):
            trim._pad(CONTEXT, PARAMETER, text)
