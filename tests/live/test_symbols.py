"""Addresses in the target's libc against those that the target sees itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from live import ask_targets
from live.ask_targets import Target

from allocscope.act import ask_copy, ask_live, symbols
from allocscope.app.ask import ask
from allocscope.errors import MissingPart
from allocscope.model.libc import LibcImage
from allocscope.parse import malloc_info
from allocscope.proc import libc, procfs


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ask_targets.build(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def static_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ask_targets.build(tmp_path_factory.mktemp("static"), "-static", "-Wno-error")


def image_of(target: Target) -> LibcImage:
    return libc.identify(target.pid, procfs.mappings(target.pid))[0]


def the_answer_is_whole(target: Target, live: bool) -> None:
    report = ask(target.pid, what="both", live=live, max_pause_ns=10**9, deadline_s=30)
    assert report.data.malloc_info_xml and report.data.malloc_stats_text
    assert len(malloc_info.parse(report.data.malloc_info_xml).heaps) == 3


def test_they_are_those_of_the_program(program: Path) -> None:
    with ask_targets.started(program, "idle", "2") as target:
        assert symbols.resolve(target.pid, image_of(target), target.symbols) == target.symbols
        target.finish()


def test_stderr_is_the_programs_own_copy(program: Path) -> None:
    """A COPY relocation: the variable that libc uses lies in the program, not in libc."""
    relocations = subprocess.run(["readelf", "-rW", program], capture_output=True, text=True)
    assert re.search(r"R_X86_64_COPY .* stderr@", relocations.stdout)
    with ask_targets.started(program, "idle", "1") as target:
        image = image_of(target)
        address = symbols.resolve(target.pid, image, ["stderr"])["stderr"]
        assert not any(m.start <= address < m.end for m in image.mappings)
        target.finish()


def test_everything_that_is_needed_is_there(program: Path) -> None:
    with ask_targets.started(program, "idle", "1") as target:
        image = image_of(target)
        found = symbols.resolve(target.pid, image, ask_live.SYMBOLS)
        assert set(found) == set(ask_live.SYMBOLS)
        code = [m for m in image.mappings if "x" in m.perms]
        for name in (*symbols.ALLOCATOR, symbols.RESTORER):
            assert any(m.start <= found[name] < m.end for m in code), name
        with pytest.raises(MissingPart, match="no symbol no_such_function"):
            symbols.resolve(target.pid, image, ["no_such_function"])
        target.finish()


def test_a_libc_that_was_deleted(program: Path, tmp_path: Path) -> None:
    with ask_targets.started(program, "idle", "1") as target:
        installed = Path(image_of(target).path)
        target.finish()
    copy = tmp_path / "libc.so.6"
    shutil.copy(installed, copy)
    with ask_targets.started(program, "idle", "2", LD_LIBRARY_PATH=str(tmp_path)) as target:
        copy.unlink()
        assert image_of(target).path.endswith("(deleted)")
        assert symbols.resolve(target.pid, image_of(target), target.symbols) == target.symbols
        the_answer_is_whole(target, live=True)
        the_answer_is_whole(target, live=False)
        target.finish()


def test_a_static_program(static_program: Path) -> None:
    table = subprocess.run(["nm", static_program], capture_output=True, text=True, check=True)
    truth = {line.split()[-1]: int(line.split()[0], 16) for line in table.stdout.splitlines()}
    with ask_targets.started(static_program, "idle", "2") as target:
        names = ("stderr", *ask_copy.SYMBOLS, *symbols.ALLOCATOR)
        found = symbols.resolve(target.pid, image_of(target), names)
        assert found["stderr"] == target.symbols["stderr"]
        assert found == {name: truth[name] for name in names}
        the_answer_is_whole(target, live=False)
        # The program does without syscall(), so it was not linked.
        with pytest.raises(MissingPart, match="no symbol syscall"):
            ask(target.pid, what="both", live=True, max_pause_ns=10**9, deadline_s=30)
        target.finish()


def test_a_stripped_static_program(static_program: Path, tmp_path: Path) -> None:
    stripped = tmp_path / "stripped"
    subprocess.run(["strip", static_program, "-o", stripped], check=True)
    with ask_targets.started(stripped, "idle", "1") as target:
        with pytest.raises(MissingPart, match="no symbol malloc_info") as missing:
            symbols.resolve(target.pid, image_of(target), ["malloc_info"])
        assert "stripped" in missing.value.hint
        target.finish()
