"""Where the answer cannot be written: told, as any other wrong use is, and never a success."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from live.cli import ROOT, SECONDS

PLAINEST = ("arenas", "--json")
VERBS = [PLAINEST, ("arenas",), ("explain", "--json"), ("map",), ("watch", "--json", "--for", "1")]


def run(words: tuple[str, ...], stdout: int | None, shell_prefix: str = "") -> tuple[int, str]:
    verb, *options = words
    command = [sys.executable, "-m", "allocscope", verb, str(os.getpid()), *options]
    if shell_prefix:
        command = ["sh", "-c", f'exec "$@" {shell_prefix}', "sh", *command]
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_a_full_disk_is_an_error(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        status, said = run(words, full.fileno())
    assert status == 2
    assert said.startswith("allocscope: the standard output cannot be written: No space left")
    assert "--output" in said
    assert said.count("\n") == 2


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_nobody_has_to_read_the_answer(words: tuple[str, ...]) -> None:
    assert run(words, None, ">&-") == (0, "")
