"""doctor: what is tried on this machine, what a finding means, and how the command ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import reports
from test_render_json import validate

from allocscope.app import doctor as doctor_module
from allocscope.app.doctor import doctor
from allocscope.cli.group import run
from allocscope.model.checks import NEEDED, Check, Checkup, DoctorData
from allocscope.proc import features, refusal
from allocscope.render.checks import checks
from allocscope.render.page import Look

pytestmark = pytest.mark.own_malloc  # doctor tries the heap of this very process


def by_key(checkup: Checkup) -> dict[str, Check]:
    return {check.key: check for check in checkup.data.checks}


def test_every_finding_that_is_not_ok_has_a_cure() -> None:
    found = doctor().data.checks
    assert len({check.key for check in found}) == len(found)
    for check in found:
        assert check.status in ("ok", "degraded", "missing")
        assert bool(check.cure) == (check.status != "ok"), check


def test_this_process_can_be_examined_from_a_child() -> None:
    code = (
        "import sys, json; from allocscope.app.doctor import doctor\n"
        "found = doctor(int(sys.argv[1]))\n"
        "print(json.dumps({c.key: c.status for c in found.data.checks}))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(os.getpid())], capture_output=True, text=True, check=True
    )
    found = json.loads(shown.stdout)
    assert found.keys() >= {*NEEDED, "smaps", "seccomp"}
    assert found["native-helper"] == "ok"


@pytest.mark.parametrize(
    ("probe", "answer", "key", "status"),
    [
        ("native_helper", "no such file", "native-helper", "missing"),
        ("has_pagemap_scan", False, "pagemap-scan", "degraded"),
        ("shows_page_frames", False, "page-frames", "degraded"),
        ("has_kpageflags", False, "page-frames", "degraded"),
        ("has_kpageflags", False, "reclaim", "degraded"),
        ("yama_scope", 3, "ptrace", "missing"),
        ("cgroup_version", None, "cgroup", "degraded"),
    ],
)
def test_what_is_not_there_is_said(
    probe: str, answer: object, key: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, probe, lambda: answer)
    assert by_key(doctor())[key].status == status


@pytest.mark.parametrize(
    ("scope", "capable", "status"),
    [(None, True, "ok"), (2, True, "ok"), (0, False, "degraded"), (1, False, "degraded")],
)
def test_ptrace_depends_on_yama_and_the_capability(
    scope: int | None, capable: bool, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "yama_scope", lambda: scope)
    monkeypatch.setattr(refusal, "holds", lambda _capability: capable)
    assert by_key(doctor())["ptrace"].status == status


def test_gdb_that_is_missing_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module.shutil, "which", lambda _name: None)
    assert by_key(doctor())["gdb"].status == "missing"
    monkeypatch.setattr(doctor_module.shutil, "which", lambda _name: "/bin/false")
    assert "does not run" in by_key(doctor())["gdb"].message


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [("gdb", "missing", 0), ("native-helper", "degraded", 0), ("native-helper", "missing", 8)],
)
def test_only_what_arenas_needs_decides_the_exit_status(
    key: str,
    status: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    data = DoctorData((Check(key, status, "It is so.", "Do this."),))
    monkeypatch.setattr(doctor_module, "doctor", lambda _pid: Checkup(reports.process(), data, 1))
    assert run(["doctor", "4711"]) == code
    assert capfdbinary.readouterr().out.decode() == (
        f"{status:8}  {key}  It is so.\n{' ' * (12 + len(key))}Do this.\n\n1 check of 1 not ok.\n"
    )
    assert run(["doctor", "4711", "--json"]) == code
    answer = json.loads(capfdbinary.readouterr().out)
    validate(answer, "doctor")
    assert answer["data"]["checks"][0] == {
        "key": key, "status": status, "message": "It is so.", "cure": "Do this.",
    }  # fmt: skip


def test_without_a_target_there_is_no_process(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["doctor", "--json"]) in (0, 8)
    answer = json.loads(capfdbinary.readouterr().out)
    validate(answer, "doctor")
    assert answer["process"] is None


def test_a_target_that_is_not_there() -> None:
    assert run(["doctor", str(2**22 + 1)]) == 3


def test_messages_of_a_target_cannot_steer_the_terminal() -> None:
    page = checks([Check("glibc-heap", "missing", "no \x1b[2J heap", "")], Look())
    assert "no \\x1b[2J heap" in page


def test_features_agree_with_what_the_kernel_shows() -> None:
    swaps = Path("/proc/swaps").read_text().splitlines()[1:]
    assert bool(features.swap_bytes()) == bool(swaps)
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    assert features.yama_scope() == (int(yama.read_text()) if yama.exists() else None)
    release = tuple(int(part) for part in features.kernel().split("-")[0].split(".")[:2])
    if release >= (6, 7):
        assert features.has_pagemap_scan()
