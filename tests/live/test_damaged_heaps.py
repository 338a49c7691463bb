"""Programs that damage their own heap and say where: `arenas` finds that very word, says what
should stand there, and reads the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live.bad_targets import PATIENCE_S
from live.cli import command, unharmed
from live.core_files import gdbs_core
from live.steady import wait_state
from live.targets import compile_c

from allocscope import observe
from allocscope.app.arenas_core import arenas_of_core
from allocscope.app.arenas_file import arenas_of_file
from allocscope.lab.child import child

WHERE = ((), ("thread",))
FLAGS = 7
KINDS = {
    "size": "chunk-size",
    "cycle": "bin-link",
    "tcache": "tcache-entry",
    "footer": "chunk-footer",
    "top": "top-size",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """What the program says of the word that it overwrote."""

    pid: int
    address: int
    expected: int
    found: int


Damaging = Callable[..., Said]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("damaged") / "damaged"
    flags = ("-pthread", "-fno-builtin")
    return compile_c("damaged.c", output, *flags)


@pytest.fixture
def damaging(program: Path) -> Iterator[Damaging]:
    """Starts the program; it must live on, and end when it is told to."""
    with contextlib.ExitStack() as stack:

        def start(*words: str) -> Said:
            started = stack.enter_context(child([str(program), *words]))
            said = Said(**json.loads(started.line(PATIENCE_S)))
            wait_state(said.pid, "S")
            stack.enter_context(unharmed(said.pid))
            return said

        yield start


def link(said: Said) -> int:
    """Where the overwritten link of a list leads: glibc mangles it with its own address."""
    return said.found ^ said.address >> 12


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("kind", KINDS)
def test_the_word_that_was_overwritten_is_named(
    kind: str, where: tuple[str, ...], damaging: Damaging
) -> None:
    said = damaging(kind, *where)
    report = observe(said.pid)
    [found] = report.data.damage
    assert (found.kind, found.address) == (KINDS[kind], said.address)
    assert int(found.found, 16) == (link(said) if kind == "tcache" else said.found)
    assert found.arena_index == (None if kind == "tcache" else len(where))
    if kind in ("footer", "top"):
        assert int(found.expected.split(",")[0].split(":")[0], 16) == said.expected & ~FLAGS
    if kind == "cycle":
        assert int(found.expected.split(",")[0], 16) == said.expected
    [caveat] = [caveat for caveat in report.caveats if caveat.code.endswith("-damaged")]
    assert f"{said.address:#x}" in caveat.message
    assert report.partial


@pytest.mark.parametrize("where", WHERE)
def test_what_lies_before_and_behind_an_overflow_is_read(
    where: tuple[str, ...], damaging: Damaging
) -> None:
    """The eighth of 64 chunks of 2,016 bytes ran over into the ninth; the 61st is free, known from
    its bin, and there the reading goes on."""
    said = damaging("size", *where)
    report = observe(said.pid)
    own = report.data.arenas[len(where)].figures
    chunk = said.address - 8
    lost = 52 * 2016
    assert own.unread_bytes == lost
    assert own.residue_bytes == 0
    assert own.live_count >= 8 + 3
    [found] = report.data.damage
    assert found.after == chunk - 2016
    assert f"{own.system_bytes - lost} of its {own.system_bytes} bytes could be read" in str(
        report.caveats
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_prints_it_and_exits_with_6(kind: str, damaging: Damaging) -> None:
    said = damaging(kind)
    done = command("arenas", str(said.pid))
    assert done.returncode == 6
    assert f"{said.address:#x}" in " ".join(done.stdout.split())
    answer = json.loads(command("arenas", str(said.pid), "--json").stdout)
    [row] = answer["data"]["damage"]
    assert int(row["address"], 16) == said.address


@pytest.mark.parametrize("kind", KINDS)
def test_a_core_and_a_recording_tell_the_same(
    kind: str, damaging: Damaging, tmp_path: Path
) -> None:
    said = damaging(kind, "thread")
    live = observe(said.pid)
    core = arenas_of_core(gdbs_core(said.pid, tmp_path), exe=None, deadline_s=60)
    assert core.data.damage == live.data.damage
    assert core.partial
    path = tmp_path / "recording"
    assert command("record", str(said.pid), "-o", str(path)).returncode == 6
    recorded = arenas_of_file(path, sample=None, deadline_s=60).report
    for ours, theirs in zip(recorded.data.damage, live.data.damage, strict=True):
        assert (ours.kind, ours.arena_index) == (theirs.kind, theirs.arena_index)
        assert (ours.address, ours.found) == (theirs.address, theirs.found)
    assert recorded.partial
