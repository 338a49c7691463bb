"""``trim --apply``: the audit against the kernel's own figures, what comes back afterwards, and the
repetition. That the call itself does no harm is tested where it is made."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from live import targets
from live.cli import ROOT, command, unharmed
from oracle import trim as oracle
from oracle import trimmed

from allocscope.app import trim_apply, trim_repeat
from allocscope.app.trim import Foretold, TrimOptions
from allocscope.app.trim_apply import apply
from allocscope.app.trim_repeat import Threshold, repeat
from allocscope.errors import NoGlibcHeap, NoSuchProcess, Unsafe
from allocscope.lab.child import Child
from allocscope.lab.fixture import RunningFixture
from allocscope.model.failure import Failure
from allocscope.model.report import Report
from allocscope.model.trim import TrimData
from allocscope.proc import life, procfs

PART = 1 << 20


@pytest.fixture(scope="session")
def regrows_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return targets.compile_c("regrows.c", tmp_path_factory.mktemp("targets") / "regrows")


@pytest.fixture
def regrows(regrows_program: Path) -> Iterator[Child]:
    """targets/regrows.c"""
    with targets.running([regrows_program]) as child:
        yield child


def ask(child: Child, what: bytes) -> int:
    child.send(what)
    return int(child.line(targets.READY_SECONDS))


@pytest.mark.parametrize("name", ["scattered", "fastbin-hoard", "pinned-top", "tcache-hoard"])
def test_the_audit_tells_what_the_kernel_tells(
    name: str, running: Callable[..., RunningFixture]
) -> None:
    target = running(name, seed=7, scale=0.5)
    extents = [oracle.extent(one) for one in trimmed.sums(target.pid)]
    before = [oracle.resident_bytes(target.pid, extent) for extent in extents]
    with unharmed(target.pid):
        report = apply(target.pid, TrimOptions())
    after = [oracle.resident_bytes(target.pid, extent) for extent in extents]
    fell = [had - has for had, has in zip(before, after, strict=True)]
    data, applied = report.data, report.data.applied
    assert applied is not None
    assert [row.released_bytes for row in applied.per_arena] == fell
    assert applied.released_bytes == sum(fell) == data.forecast.bytes
    assert (data.error_bytes, applied.returned) == (0, 1)
    assert applied.rss_after_bytes == procfs.rss_bytes(target.pid)
    assert (report.method.source, report.method.consistency) == ("live", "quiescent")
    assert report.method.pause_ns == applied.pause_ns > 0
    assert applied.duration_ns > 0
    assert report.caveats == ()


def test_what_comes_back_is_counted(regrows: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def wait(_end: int | None, _seconds: float) -> bool:
        taken.append(ask(regrows, b"g"))
        return False

    monkeypatch.setattr(life, "ended_within", wait)
    applied = apply(regrows.pid, TrimOptions(), watch_s=3).data.applied
    assert applied is not None and applied.refaults is not None
    assert applied.released_bytes > 7 << 20
    assert applied.refaults.minor_fault_count >= taken[0] > 0
    assert PART <= applied.refaults.returned_bytes <= PART + 2 * 4096


def test_a_process_that_ends_while_it_is_watched(
    regrows: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_within = life.ended_within

    def wait(descriptor: int | None, seconds: float) -> bool:
        end(regrows)
        return ended_within(descriptor, seconds)

    monkeypatch.setattr(life, "ended_within", wait)
    report = apply(regrows.pid, TrimOptions(), watch_s=3)
    assert report.data.applied is not None
    assert report.data.applied.refaults is None
    assert "target-ended" in [caveat.code for caveat in report.caveats]


def end(child: Child) -> None:
    assert child.process.stdin is not None
    child.process.stdin.close()
    child.process.wait()


def test_a_process_that_runs_meanwhile_is_told(
    regrows: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    foretell = trim_apply.foretell

    def then_it_runs(*arguments: Any) -> Foretold:
        foretold = foretell(*arguments)
        ask(regrows, b"g")
        return foretold

    monkeypatch.setattr(trim_apply, "foretell", then_it_runs)
    report = apply(regrows.pid, TrimOptions())
    assert [caveat.code for caveat in report.caveats] == ["ran-meanwhile"]
    assert report.method.consistency == "validated"
    error = report.data.error_bytes
    assert error is not None and abs(error + PART) <= 2 * 4096


def test_a_reading_that_takes_all_the_time_is_no_trim(regrows: Child) -> None:
    with unharmed(regrows.pid), pytest.raises(Unsafe, match="took all the time"):
        apply(regrows.pid, TrimOptions(deadline_s=1e-6))


# ---- again and again ----


def test_it_is_trimmed_only_above_the_threshold_until_it_ends(
    regrows: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = itertools.count()

    ended_within = life.ended_within

    def between(descriptor: int | None, _seconds: float) -> bool:
        match next(looks):
            case 1 | 2:
                ask(regrows, b"g" if next(turns) else b"f")
            case 3:
                end(regrows)
        return ended_within(descriptor, 0)

    turns = iter([True, False])
    monkeypatch.setattr(life, "ended_within", between)
    found = [
        outcome
        for _, outcome in repeat(
            regrows.pid, TrimOptions(), every_s=60, threshold=Threshold(above_bytes=PART // 2)
        )
    ]
    released = [data_of(outcome).applied for outcome in found]
    assert len(released) == 3
    assert released[0] is not None and released[0].released_bytes > 7 << 20
    assert released[1] is None  # 1 MiB is in use again, and little is free
    assert released[2] is not None and released[2].released_bytes >= PART - 2 * 4096


def data_of(outcome: Report[TrimData] | Failure) -> TrimData:
    assert isinstance(outcome, Report)
    return outcome.data


def test_a_moment_without_a_fit_thread_is_passed_over(
    regrows: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "ended_within", lambda *_: False)
    tries = itertools.count()

    def once(*arguments: object, **options: object) -> Report[TrimData]:
        if not next(tries):
            raise Unsafe("no thread was fit")
        return apply(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(trim_repeat, "apply", once)
    looks = repeat(regrows.pid, TrimOptions(), every_s=1, threshold=Threshold())
    _, refused = next(looks)
    _, trimmed_ = next(looks)
    assert isinstance(refused, Failure) and refused.exit_code == 7
    assert data_of(trimmed_).applied is not None


def test_another_process_with_the_same_number_is_not_trimmed(regrows: Child) -> None:
    with unharmed(regrows.pid), pytest.raises(NoSuchProcess, match="another one has its number"):
        apply(regrows.pid, TrimOptions(), start_ticks=1)


@pytest.mark.parametrize(
    ("threshold", "exceeded"),
    [
        (Threshold(), True),
        (Threshold(above_bytes=1 << 20), True),
        (Threshold(above_bytes=1 << 30), False),
        (Threshold(above_ratio=0.5), True),
        (Threshold(above_ratio=1.0), False),
    ],
)
def test_thresholds(threshold: Threshold, exceeded: bool, regrows: Child) -> None:
    with unharmed(regrows.pid):
        report = apply(regrows.pid, TrimOptions(), only_if=lambda data: judge(threshold, data))
    assert report.method.source == "passive"
    assert threshold.exceeded(report.data) == exceeded


def judge(threshold: Threshold, data: TrimData) -> bool:
    """Asks, and then lets it be."""
    threshold.exceeded(data)
    return False


# ---- the command ----


def test_the_command_applies_and_says_so(regrows: Child) -> None:
    done = command("trim", str(regrows.pid), "--apply", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)["data"]
    assert data["applied"]["released_bytes"] == data["forecast"]["bytes"] > 7 << 20
    again = command("trim", str(regrows.pid), "--apply")
    assert again.stdout.startswith("malloc_trim(0) gave back 0 bytes in ")


def test_the_command_repeats_until_the_process_ends(regrows: Child) -> None:
    words = ["trim", str(regrows.pid), "--apply", "--repeat", "0.01", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "allocscope", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as repeating:
        assert repeating.stdout is not None
        looks = [json.loads(repeating.stdout.readline()) for _ in range(2)]
        end(regrows)
        rest, said = repeating.communicate()
    assert repeating.returncode == 0
    assert "stopgap" in said and f"process {regrows.pid} has ended" in said
    first, second = (validated(look)["data"] for look in looks)
    assert first["applied"]["released_bytes"] == first["forecast"]["bytes"] > 7 << 20
    assert (second["applied"], second["forecast"]["bytes"]) == (None, 0)
    for line in rest.splitlines():
        validated(json.loads(line))


@pytest.mark.parametrize("by", ["end", "interrupt"])
def test_the_wait_for_the_next_look_can_be_cut_short(regrows: Child, by: str) -> None:
    """A day lies between two looks."""
    words = ["trim", str(regrows.pid), "--apply", "--repeat", "86400"]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "allocscope", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as repeating:
        assert repeating.stdout is not None
        assert repeating.stdout.readline()
        if by == "end":
            end(regrows)
        else:
            repeating.send_signal(signal.SIGINT)
        rest, said = repeating.communicate(timeout=60)
    assert rest == ""
    assert "Traceback" not in said
    assert repeating.returncode == (0 if by == "end" else 130)
    assert (f"process {regrows.pid} has ended" in said) == (by == "end")


def validated(look: Any) -> Any:
    """A line of --repeat, as its schema says."""
    schema = json.loads((ROOT / "docs/schema/trim.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(look)
    return look


def test_another_allocator_is_not_trimmed_in_vain(tmp_path: Path) -> None:
    library = Path("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2")
    if not library.exists():
        pytest.fail("jemalloc is not installed: apt install libjemalloc2")
    program = targets.compile_c("waiter.c", tmp_path / "waiter")
    with (
        targets.running([program, "1000"], {"LD_PRELOAD": str(library)}) as child,
        unharmed(child.pid),
        pytest.raises(NoGlibcHeap, match="does nothing for jemalloc"),
    ):
        apply(child.pid, TrimOptions())
