"""The command: options in, exit status out. The use cases are stand-ins here; what they do is
tested elsewhere."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reports

from allocscope.cli import exits, options, plain
from allocscope.cli.group import run
from allocscope.errors import InternalError, NoSuchProcess, PermissionRefused, Unsafe
from allocscope.model.glibc_says import Answer
from allocscope.model.heap import ArenasData
from allocscope.model.report import Caveat, Report
from allocscope.proc import select

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Options:
    exact: bool = False
    deadline_s: float = 30.0


@dataclasses.dataclass
class Calls:
    """What the stand-ins were asked."""

    passive: list[tuple[int, Options]] = dataclasses.field(default_factory=list)
    frozen: list[tuple[int, dict[str, Any]]] = dataclasses.field(default_factory=list)


ERRORS: dict[int, BaseException] = {
    3: NoSuchProcess("there is no process 3", "Look again."),
    4: PermissionRefused("not allowed to read the memory of process 4", "Be root."),
    7: Unsafe("a snapshot would take too long", "Raise --max-pause."),
    10: ValueError("a surprise \x1b[2J"),
    130: KeyboardInterrupt(),
}


def answer(pid: int) -> Report[ArenasData]:
    if pid in ERRORS:
        raise ERRORS[pid]
    report = reports.report(pid=pid)
    if pid == 6:
        torn = Caveat("arena-busy", "Arena 1 changed while it was read.", partial=True)
        report = dataclasses.replace(report, caveats=(torn,))
    return report


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    seen = Calls()

    def arenas(pid: int, options: Options) -> Report[ArenasData]:
        seen.passive.append((pid, options))
        return answer(pid)

    def arenas_frozen(pid: int, options: Options, **how: Any) -> Report[ArenasData]:
        seen.frozen.append((pid, how))
        return answer(pid)

    stand_in(monkeypatch, "allocscope.app.arenas", arenas=arenas, ArenasOptions=Options)
    stand_in(monkeypatch, "allocscope.app.arenas_frozen", arenas_frozen=arenas_frozen)
    stand_in(
        monkeypatch,
        "allocscope.app.arenas_asked",
        arenas_asked=functools.partial(arenas_frozen, ask_glibc=True),
    )
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("ALLOCSCOPE_DEBUG", raising=False)
    return seen


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


Shown = Callable[[], tuple[str, str]]


@pytest.fixture
def shown(capfdbinary: pytest.CaptureFixture[bytes]) -> Shown:
    def read() -> tuple[str, str]:
        out, err = capfdbinary.readouterr()
        return out.decode(), err.decode()

    return read


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("code", [3, 4, 7])
def test_an_error_is_told_on_stderr_with_its_cure_and_code(code: int, shown: Shown) -> None:
    assert run(["arenas", str(code)]) == code
    out, err = shown()
    error = ERRORS[code]
    assert out == ""
    assert err == f"allocscope: {error.message}\n  {error.hint}\n"  # type: ignore[attr-defined]


@pytest.mark.usefixtures("calls")
def test_a_surprise_is_our_defect_and_says_what_to_report(shown: Shown) -> None:
    assert run(["arenas", "10"]) == InternalError.exit_code
    out, err = shown()
    assert out == ""
    assert "internal error: ValueError: a surprise \\x1b[2J" in err
    assert "--debug" in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("way", ["option", "environment"])
def test_debugging_shows_the_traceback_without_steering_the_terminal(
    way: str, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "environment":
        monkeypatch.setenv("ALLOCSCOPE_DEBUG", "1")
    assert run(["arenas", "10", *(["--debug"] if way == "option" else [])]) == 10
    err = shown()[1]
    assert "Traceback" in err
    assert "\x1b" not in err


@pytest.mark.usefixtures("calls")
def test_ctrl_c_ends_with_130(shown: Shown) -> None:
    assert run(["arenas", "130"]) == 130
    assert shown()[0] == ""


def test_one_target_as_table_and_as_json(calls: Calls, shown: Shown) -> None:
    assert run(["arenas", "42", "--exact", "--deadline", "5"]) == 0
    out, err = shown()
    assert out.startswith("RSS 392.4 MiB")
    assert "\x1b" not in out
    assert err == ""
    assert run(["arenas", "42", "--json"]) == 0
    object_ = json.loads(shown()[0])
    assert object_["process"]["pid"] == 42
    assert object_["data"]["rss_bytes"] == reports.report().data.rss_bytes
    assert calls.passive == [(42, Options(exact=True, deadline_s=5.0)), (42, Options())]
    assert calls.frozen == []


def test_a_frozen_copy_only_when_asked_for(calls: Calls) -> None:
    assert run(["arenas", "42", "--snapshot"]) == 0
    assert run(["arenas", "42", "--ask-glibc", "--max-pause", "2.5"]) == 0
    assert calls.passive == []
    assert calls.frozen == [
        (42, {"ask_glibc": False, "max_pause_ns": 100_000_000}),
        (42, {"ask_glibc": True, "max_pause_ns": 2_500_000}),
    ]


@pytest.mark.usefixtures("calls")
def test_a_partial_answer_is_printed_and_ends_with_6(shown: Shown) -> None:
    assert run(["arenas", "6"]) == 6
    assert "PARTIAL: Arena 1 changed" in shown()[0]


@pytest.mark.usefixtures("calls")
def test_of_several_each_has_its_row_and_the_worst_decides(shown: Shown) -> None:
    assert run(["arenas", "42", "3", "6", "4"]) == 4
    out = shown()[0]
    assert out.startswith("4 processes")
    assert "3: there is no process 3. Look again." in out
    assert "── 42 ruby ──" in out
    assert run(["arenas", "42", "3", "--json"]) == 3
    parts = json.loads(shown()[0])["data"]
    assert [part["process"]["pid"] for part in parts] == [42, 3]
    assert parts[1]["error"] == {
        "exit_code": 3,
        "message": "there is no process 3",
        "hint": "Look again.",
    }


@pytest.mark.usefixtures("calls")
def test_the_deadline_is_for_all_targets_together(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 31.0])
    monkeypatch.setattr("allocscope.cli.arenas.time.monotonic", lambda: next(clock))
    assert run(["arenas", "42", "43"]) == 6
    assert "43: not read: the deadline of 30 s had passed. Raise --deadline." in shown()[0]


@pytest.mark.usefixtures("calls")
def test_a_selection_is_a_list_even_of_one(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "pids", lambda **_: [42])
    assert run(["arenas", "--name", "ruby", "--json"]) == 0
    assert [part["process"]["pid"] for part in json.loads(shown()[0])["data"]] == [42]


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["arenas"], "--name RE"),
        (["ask", "core.1234"], "is not a pid"),
        (["arenas", "a.rec", "--snapshot"], "need a running process"),
        (["arenas", "1", "--sample", "2"], "Give a FILE"),
        (["record", "1"], "Missing option '-o'"),
        (["record", "a.rec", "-o", "b.rec"], "is not a pid"),
        (["record", "1", "-o", "b.rec", "--every", "1"], "belong together"),
        (["diff", "1", "2"], "two running processes"),
        (["diff", "a.rec", "2", "--samples", "1", "2"], "has no samples"),
        (["arenas", "-5"], "No such option"),
        (["arenas", "1", "--rows", "0"], "give a number above 0"),
        (["arenas", "1", "--deadline", "0"], "deadline"),
        (["arenas", "--name", "("], "not a regular expression"),
        (["frobnicate"], "No such command"),
        (["arenas", "42", "--output", "/nonexistent/x"], "cannot be written"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_right(words: list[str], says: str, shown: Shown) -> None:
    assert run(words) == 2
    out, err = shown()
    assert out == ""
    assert says in err


@pytest.mark.usefixtures("calls")
def test_output_goes_to_the_file(tmp_path: Path, shown: Shown) -> None:
    file = tmp_path / "answer.json"
    assert run(["arenas", "42", "--json", "--output", str(file)]) == 0
    assert shown() == ("", "")
    assert json.loads(file.read_text())["process"]["pid"] == 42


def test_no_match_is_3(shown: Shown) -> None:
    assert run(["arenas", "--name", "^no such process$"]) == 3
    assert "no process matches the name" in shown()[1]
    assert run(["arenas", "--cgroup", "/no/such/cgroup"]) == 3
    assert "no cgroup" in shown()[1]


def test_worst_first() -> None:
    assert exits.worst([]) == 0
    assert exits.worst([0, 6, 3]) == 3
    assert exits.worst([3, 5, 4, 6]) == 4
    assert exits.worst([8, 7, 10, 0]) == 10


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, Any]]]:
    """A stand-in for ``ask``; what it was asked."""
    seen: list[tuple[int, dict[str, Any]]] = []

    def ask(pid: int, **how: Any) -> Report[Answer]:
        if pid in ERRORS:
            raise ERRORS[pid]
        seen.append((pid, how))
        base = reports.report(pid=pid)
        said = Answer(
            "snapshot", 1_900_000, b"<malloc/>\n\xff", b"Arena 0:\n", ("arena 3",), 240_000_000
        )
        return Report(base.process, base.libc, None, base.method, said, ())

    stand_in(monkeypatch, "allocscope.app.ask", ask=ask)
    return seen


def test_ask_prints_the_very_bytes_and_how_they_were_obtained(
    asked: list[tuple[int, dict[str, Any]]], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run(["ask", "42", "--what", "both", "--deadline", "9"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == b"<malloc/>\n\xffArena 0:\n"
    assert err.decode() == (
        "snapshot of pid 42 (ruby), paused 1.9 ms, 240 ms in all; "
        "held, and released in the copy: arena 3\n"
    )
    assert asked == [
        (42, {"what": "both", "live": False, "max_pause_ns": 100_000_000, "deadline_s": 9.0})
    ]


@pytest.mark.usefixtures("asked")
def test_ask_as_json_and_into_a_file(tmp_path: Path, shown: Shown) -> None:
    assert run(["ask", "42", "--json"]) == 0
    answer_ = json.loads(shown()[0])
    assert answer_["schema"] == "allocscope/ask"
    assert answer_["data"]["malloc_info_xml"] == "<malloc/>\n\ufffd"
    assert run(["ask", "42", "--output", str(tmp_path / "heap.xml")]) == 0
    assert (tmp_path / "heap.xml").read_bytes() == b"<malloc/>\n\xffArena 0:\n"


@pytest.mark.usefixtures("asked")
def test_ask_refused_is_7() -> None:
    assert run(["ask", "7"]) == 7
    assert run(["ask", "core"]) == 2
    assert run(["ask", "42", "--what", "everything"]) == 2


def test_help_and_version_of_the_real_command() -> None:
    command = [sys.executable, "-m", "allocscope"]
    shown = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0
    assert all(
        f"\n  {verb} " in shown.stdout
        for verb in ("arenas", "ask", "diff", "doctor", "record", "repro")
    )
    shown = subprocess.run([*command, "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (shown.returncode, shown.stdout) == (0, "allocscope, version 0.1.0\n")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = "from allocscope.cli.output import deliver; deliver('x' * 1_000_000, None)"
    reading, writing = os.pipe()
    os.close(reading)
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (shown.returncode, shown.stderr) == (0, "")


def test_stdout_of_another_encoding_is_no_error() -> None:
    code = "from allocscope.cli.output import deliver; deliver('── 漢\\n', None)"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=environment
    )
    assert (shown.returncode, shown.stdout) == (0, b"?? ?\n")


# ---- the plainest call, which does without click ----


@pytest.mark.parametrize("words", [["arenas", "5", "--json"], ["arenas", "--json", "6"]])
def test_the_plainest_call_is_answered_as_the_command_answers_it(
    words: list[str], calls: Calls, shown: Shown
) -> None:
    answers = []
    for way in (plain.answer, run):
        status = way(words)
        out, err = shown()
        envelope = json.loads(out)
        assert envelope.pop("captured_at")
        answers.append((status, envelope, err))
    assert answers[0] == answers[1]
    assert answers[0][0] == (6 if "6" in words else 0)
    assert calls.passive[0] == calls.passive[1]


def test_both_ways_have_the_same_deadline() -> None:
    from allocscope.app.arenas import ArenasOptions

    assert ArenasOptions() == ArenasOptions(exact=False, deadline_s=options.DEFAULT_DEADLINE_S)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "arenas",
        "arenas 5",
        "arenas --json",
        "arenas --json --json",
        "arenas 5 5 --json",
        "arenas 5 --json --exact",
        "arenas 5 --bytes",
        "arenas five --json",
        "arenas \u00b2 --json",
        "ask 5 --json",
        "5 arenas --json",
    ],
)
def test_any_other_call_is_left_to_the_command(line: str, calls: Calls, shown: Shown) -> None:
    assert plain.answer(line.split()) is None
    assert not calls.passive
    assert shown() == ("", "")


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize(("code", "status"), [(3, None), (4, None), (10, None), (130, 130)])
def test_what_goes_wrong_is_left_to_the_command(
    code: int, status: int | None, shown: Shown
) -> None:
    assert plain.answer(["arenas", str(code), "--json"]) == status
    assert shown() == ("", "")
