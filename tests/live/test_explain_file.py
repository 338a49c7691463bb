"""`explain` of recordings: of a process that stands still, what `explain` says of it alive; of less
than a recording can hold, no more than that."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live import targets
from live.cli import assert_refused, command
from live.pages import kernel_says
from live.programs import speaking, thread_states, wait_until
from live.recordings import rewritten
from live.test_contract import answer

from allocscope.app import arenas as app_arenas
from allocscope.app import history as app_history
from allocscope.app import record as app_record
from allocscope.app.explain import ExplainOptions, portrait
from allocscope.app.explain_file import portrait_of_file
from allocscope.app.history import history
from allocscope.app.record import Opened, RecordOptions, passive, record
from allocscope.app.target import Target
from allocscope.errors import AllocscopeError, BadInput
from allocscope.files.recording import open_sample
from allocscope.lab import fixture
from allocscope.lab.child import Child
from allocscope.lab.fixture import RunningFixture
from allocscope.model.ledger import Explanation, OutsideRss
from allocscope.model.report import Report

Running = Callable[..., RunningFixture]
PAGE = 4096
FILES = ("file-private", "file-shared", "shared-memory")


def of_file(path: Path, sample: int | None = None) -> Report[Explanation]:
    return portrait_of_file(path, ExplainOptions(pages=True), sample=sample)[0]


def recorded(pid: int, path: Path) -> Path:
    record(pid, path, RecordOptions())
    return path


def resident(data: Explanation) -> dict[str, int]:
    return {row.key: row.resident_bytes for row in data.ledger}


# ---- the same as alive ----


def its_own(data: Explanation) -> list[OutsideRss]:
    """Outside the RSS, without the page cache: any process may read a file's next page in between.
    A recording of a file that is one process's alone is in test_explain_causes."""
    assert data.outside_rss is not None
    return [fact for fact in data.outside_rss if fact.key != "page-cache"]


def assert_the_same(pid: int, path: Path) -> None:
    """Of a process that stands still: ledger, causes, verdict, map of pages, figures."""
    recorded(pid, path)
    live, there = portrait(pid, ExplainOptions(pages=True))
    found, here = portrait_of_file(path, ExplainOptions(pages=True), sample=None)
    assert found.data.rss_bytes == kernel_says(pid, "Rss")
    assert found.data.drift_bytes == 0
    assert found.data.ledger == live.data.ledger
    assert found.data.verdict == live.data.verdict
    keys = [[(c.key, c.exclusive_bytes) for c in report.data.causes] for report in (live, found)]
    assert keys[0] == keys[1]
    assert found.data.peak_rss_bytes == live.data.peak_rss_bytes
    assert found.data.footprint_bytes == live.data.footprint_bytes
    assert its_own(found.data) == its_own(live.data)
    assert here.holdings == there.holdings
    assert found.method.source == "recording"
    if there.pages is not None and not any(entry.lazyfree_bytes for entry in there.smaps):
        assert here.pages == there.pages


@pytest.mark.parametrize("name", [name for name in fixture.names() if name != "busy"])
def test_a_recording_explains_what_its_process_was(
    name: str, running: Running, tmp_path: Path
) -> None:
    assert_the_same(running(name, seed=7).pid, tmp_path / "a.asrec")


PYTHON = """
import sys
kept = [{"number": i} for i in range(50000)]
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_python_has_its_own_heap_in_the_recording(tmp_path: Path) -> None:
    with speaking([sys.executable, "-c", PYTHON]) as pid:
        assert_the_same(pid, tmp_path / "a.asrec")
        row = resident(of_file(tmp_path / "a.asrec").data)
        assert row["runtime-heap"] > 8 << 20  # a dict of one entry has 184 bytes or more
        assert row["unexplained"] == 0


@pytest.mark.parametrize("program", ["http_server_pid", "java_pid", "ruby_pid"])
def test_a_recording_of_a_runtime(
    program: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Stopped meanwhile, because some of them have threads that wake up by themselves."""
    pid = request.getfixturevalue(program)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until("every thread stops", lambda: set(thread_states(pid)) == {"T"})
        assert_the_same(pid, tmp_path / "a.asrec")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert resident(of_file(tmp_path / "a.asrec").data)["runtime-heap"] > 1 << 20


@pytest.fixture(scope="session")
def breathes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("breathes") / "breathes"
    return targets.compile_c("breathes.c", path, "-pthread")


def test_memory_that_is_unmapped_between_smaps_and_the_heap_is_in_neither(
    breathes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be resident and nobody's."""
    smaps_read, readings = threading.Event(), 0
    read, read_smaps = app_record.heap.read, app_record.read_smaps

    def tell_that_smaps_is_read(*words: Any) -> Any:
        found = read_smaps(*words)
        smaps_read.set()
        return found

    with targets.running([breathes]) as target:
        target.send(b"a 30\n")
        assert target.line(targets.READY_SECONDS) == "done"

        def free_before(*words: Any, **more: Any) -> Any:
            nonlocal readings
            readings += 1
            assert smaps_read.wait(targets.READY_SECONDS)
            if readings == 1:
                target.send(b"r\n")
                assert target.line(targets.READY_SECONDS) == "done"
            return read(*words, **more)

        monkeypatch.setattr(app_record, "read_smaps", tell_that_smaps_is_read)
        monkeypatch.setattr(app_record.heap, "read", free_before)
        recorded(target.process.pid, tmp_path / "a.asrec")
    monkeypatch.undo()
    data = of_file(tmp_path / "a.asrec").data
    assert readings == 2
    assert data.rss_bytes < 30 << 20
    assert resident(data)["unexplained"] == 0
    assert data.drift_bytes == 0


# ---- what a recording does not hold ----


def test_without_smaps_files_are_not_recorded(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, path = running("scattered"), tmp_path / "a.asrec"
    monkeypatch.setattr(app_arenas, "SMAPS_MAX_RSS_BYTES", 0)
    recorded(target.pid, path)
    live, report = portrait(target.pid, ExplainOptions())[0], of_file(path)
    data, before = report.data, resident(live.data)
    rows = resident(data)
    assert rows.keys().isdisjoint(FILES)
    of_memory = rows.keys() - {"not-recorded"}
    exact = of_memory - {"loader-and-special"}
    assert {key: rows[key] for key in exact} == {key: before[key] for key in exact}
    vdso = before["loader-and-special"] - rows["loader-and-special"]  # its pages are read-only
    assert 0 <= vdso <= 4 * PAGE
    assert rows["not-recorded"] == data.rss_bytes - sum(rows[key] for key in of_memory)
    in_files = sum(before[key] for key in FILES) + vdso
    # RSS is that of status here, which the kernel rounds (64 pages for each CPU and counter)
    assert rows["not-recorded"] == pytest.approx(in_files, abs=1 << 20)
    assert all(row.lazyfree_bytes is None for row in data.ledger if row.resident_bytes)
    assert data.footprint_bytes is None
    [caveat] = [caveat for caveat in report.caveats if caveat.code == "not-recorded"]
    assert "smaps was not read" in caveat.message
    assert data.causes[0].key == live.data.causes[0].key == "scattered-live"


def test_an_old_recording_is_explained_as_far_as_malloc_and_files_go(
    running: Running, tmp_path: Path
) -> None:
    target, path = running("scattered"), tmp_path / "a.asrec"
    recorded(target.pid, path)
    whole = of_file(path).data
    rewritten(path, lambda facts: (facts.pop("kernel"), facts.pop("ownership")))
    report = of_file(path)
    data = report.data
    rows, before = resident(data), resident(whole)
    assert sum(rows.values()) + data.drift_bytes == data.rss_bytes == whole.rss_bytes
    for key, amount in rows.items():
        if key.startswith(("glibc-", "file-")):
            assert amount == before[key]
    assert "unexplained" not in rows
    nobodys = rows["not-recorded"]
    assert nobodys == sum(before[k] - rows.get(k, 0) for k in before)
    assert (data.peak_rss_bytes, data.footprint_bytes, data.outside_rss) == (None, None, None)
    assert (data.pressure, data.memory_limit_bytes) == (None, None)
    [caveat] = [caveat for caveat in report.caveats if caveat.code == "not-recorded"]
    assert "whose the memory beside malloc's is" in caveat.message
    assert data.verdict.replace(" (pid", "").startswith("scattered")
    assert data.causes[0].key == "scattered-live"
    assert answer("explain", str(path))["data"]["outside_rss"] is None


def test_what_is_not_recorded_is_not_called_healthy(tmp_path: Path) -> None:
    with speaking([sys.executable, "-c", PYTHON.replace("50000", "200000")]) as pid:
        path = recorded(pid, tmp_path / "a.asrec")
    rewritten(path, lambda facts: (facts.pop("kernel"), facts.pop("ownership")))
    data = of_file(path).data
    assert resident(data)["not-recorded"] > 16 << 20
    assert "healthy" not in [cause.key for cause in data.causes]
    assert "have an owner that was not recorded" in data.verdict
    assert "Causes" not in command("explain", str(path)).stdout


# ---- the command ----


def test_the_command_takes_files(running: Running, tmp_path: Path) -> None:
    target, path = running("scattered"), tmp_path / "a.asrec"
    recorded(target.pid, path)
    shown = command("explain", str(path))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"scattered (pid {target.pid}) has ")
    assert command(str(path)).stdout.split("recording,")[0] == shown.stdout.split("recording,")[0]
    told = answer("explain", str(path))
    assert told["method"]["source"] == "recording"
    done = command("explain", str(target.pid), "--sample", "1")
    assert_refused(done, 2, "--sample and --exe are for files", "Leave them out")
    assert_refused(command("explain", str(path), "--sample", "2"), 2, "no sample 2", "It has 1")


# ---- over time ----


@pytest.fixture(scope="session")
def grows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return targets.compile_c("grows.c", tmp_path_factory.mktemp("grows") / "grows")


def tell(target: Child, order: str) -> int:
    """Gives an order and returns the bytes that changed hands."""
    target.send(order.encode() + b"\n")
    return int(target.line(targets.READY_SECONDS))


def test_the_series_is_what_the_program_did(grows: Path, tmp_path: Path) -> None:
    path, orders, changes = tmp_path / "a.asrec", iter(["l 4000", "f 3000", "l 100"]), [0]
    with targets.running([grows]) as started:

        @contextlib.contextmanager
        def after_an_order(looked_at: Target, deadline_ns: int) -> Iterator[Opened]:
            with passive(looked_at, deadline_ns) as opened:
                yield opened
            order = next(orders, "")
            if order:
                changed = tell(started, order)
                changes.append(changed if order.startswith("l") else -changed)

        record(started.pid, path, RecordOptions(every_s=0.01, for_s=0.03), after_an_order)
    series, caveats = history(path, shown=None, deadline_s=60)
    assert caveats == ()
    assert (series.sample_count, series.shown) == (4, 4)
    live = [next(r.virtual_bytes for r in m.rows if r.key == "glibc-live") for m in series.moments]
    assert [after - before for before, after in itertools.pairwise(live)] == changes[1:]
    for moment in series.moments:
        rows = sum(row.resident_bytes for row in moment.rows)
        assert rows + moment.drift_bytes == moment.rss_bytes


def test_of_many_samples_some_are_read_evenly_spread(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.asrec"
    record(running("healthy", scale=0.1).pid, path, RecordOptions(every_s=0.01, for_s=0.06))
    for most, numbers in ((3, [1, 4, 7]), (2, [1, 7]), (7, [*range(1, 8)])):
        monkeypatch.setattr(app_history, "MOST_MOMENTS", most)
        series, caveats = history(path, shown=2, deadline_s=60)
        assert [moment.sample for moment in series.moments] == numbers
        assert (series.sample_count, series.shown, caveats) == (7, 2, ())


def test_a_series_that_takes_too_long_says_so(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "a.asrec"
    record(running("healthy", scale=0.1).pid, path, RecordOptions(every_s=0.01, for_s=0.02))
    series, [caveat] = history(path, shown=1, deadline_s=0)
    assert (series.moments, series.sample_count, series.shown) == ((), 3, 1)
    assert (caveat.code, caveat.partial) == ("series-cut", True)
    assert "3 samples, from 1 on" in caveat.message


# ---- hostile files ----


def test_hostile_claims_end_in_an_answer_or_an_error_of_ours(
    running: Running, tmp_path: Path
) -> None:
    whole = recorded(running("healthy", scale=0.1).pid, tmp_path / "whole")
    path = tmp_path / "hostile"
    bytes_of = whole.read_bytes()
    address = st.one_of(st.integers(0, (1 << 64) - 1), st.sampled_from(_edges(whole)))
    key = st.sampled_from(["runtime-heap", "unexplained", "not-recorded", "glibc-mmapped"])
    claim = st.fixed_dictionaries(
        {"start": address, "end": address, "key": key, "owner": st.text(), "evidence": st.text()}
    )

    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(st.lists(claim, max_size=8), st.booleans())
    def look(claims: list[dict[str, Any]], without_smaps: bool) -> None:
        path.write_bytes(bytes_of)

        def change(facts: dict[str, Any]) -> None:
            facts["ownership"]["claims"] = claims
            if without_smaps:
                facts["smaps"] = None

        rewritten(path, change)
        try:
            data = of_file(path).data
        except BadInput:
            return
        except AllocscopeError as error:
            pytest.fail(f"{error}")
        assert sum(row.resident_bytes for row in data.ledger) + data.drift_bytes == data.rss_bytes
        json.dumps(data.verdict)

    look()


def _edges(path: Path) -> list[int]:
    mappings = open_sample(path).facts.mappings
    return [edge for mapping in mappings for edge in (mapping.start, mapping.end)]
