"""One seed of the stress program under each glibc of Debian's archive; ./dev matrix runs many."""

from __future__ import annotations

import pytest
from live.core_files import kernels_core

from allocscope import observe
from allocscope.app.arenas_core import arenas_of_core
from allocscope.app.arenas_file import arenas_of_file
from allocscope.app.doctor_layout import doctor_layout
from allocscope.app.record import RecordOptions, record
from glibcs import fetch, judge, programs

SEED, THREADS, STEPS = 7, 6, 20_000  # seed 7: large fastbins, foreign sbrk


@pytest.fixture(scope="session", params=fetch.NATIVE)
def machine(request):
    return request.param


@pytest.fixture(scope="session")
def stress(tmp_path_factory, machine):
    program = tmp_path_factory.mktemp("bin") / "stress"
    return programs.build([programs.HERE / "stress.c"], program, machine=machine)


@pytest.fixture(params=fetch.SUITES)
def tree(request, machine):
    found = fetch.tree(request.param, machine=machine)
    if isinstance(found, fetch.NotFetched):
        pytest.skip(f"the archive does not answer for {found.suite}: {found.reason}")
    return found


def test_the_stress_program_runs_under_the_oldest_glibc(stress):
    assert max(programs.versions_needed(stress)) <= programs.OLDEST


def test_the_reading_is_exact(tree, stress):
    with programs.running(tree, stress, str(SEED), str(THREADS), str(STEPS)) as ready:
        report = observe(ready["pid"])
    assert report.libc.version == tree.version
    assert len(report.data.arenas) > 1
    assert judge.stress_differences(report, ready["truth"]) == []


def test_a_core_is_read_exactly(tree, stress, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with programs.running(tree, stress, str(SEED), str(THREADS), str(STEPS)) as ready:
        core = kernels_core(ready["pid"], tmp_path)
    report = arenas_of_core(core, exe=None, deadline_s=60)
    assert report.libc.version == tree.version
    assert judge.stress_differences(report, ready["truth"]) == []


def test_a_recording_says_the_same(tree, stress, tmp_path):
    with programs.running(tree, stress, str(SEED), str(THREADS), str(STEPS)) as ready:
        record(ready["pid"], tmp_path / "a.rec", RecordOptions())
        live = observe(ready["pid"])
    found = arenas_of_file(tmp_path / "a.rec", sample=None, deadline_s=30).report
    assert (found.data, found.libc) == (live.data, live.libc)
    assert judge.stress_differences(found, ready["truth"]) == []


def test_the_layout_report_names_the_row(tree, stress):
    with programs.running(tree, stress, str(SEED), str(THREADS), str(STEPS)) as ready:
        found = doctor_layout(ready["pid"]).data.layout
    fitting = [row for library in found.libraries for row in library.rows if row.fits]
    assert any(tree.version in row.versions for row in fitting)
    assert len({(row.main_arena, row.mp) for row in fitting}) == 1
    assert all(rule.held for row in fitting for rule in row.rules)


@pytest.fixture(scope="session")
def realigned(tmp_path_factory, machine):
    source, directory = programs.HERE / "realigned.c", tmp_path_factory.mktemp("bin")
    return programs.build([source], directory / "realigned", machine=machine)


def test_aligned_mappings_that_were_resized(tree, realigned, tmp_path):
    path = tmp_path / "a.rec"
    with programs.running(tree, realigned) as ready:
        mmapped, truth = observe(ready["pid"]).data.mmapped, ready["truth"]
        record(ready["pid"], path, RecordOptions())
    assert (mmapped.found_count, mmapped.found_bytes) == (
        truth["mmapped_count"],
        truth["mmapped_bytes"],
    )
    assert (mmapped.count, mmapped.bytes) == (truth["hblks"], truth["hblkhd"])
    recorded = arenas_of_file(path, sample=None, deadline_s=30).report.data
    assert recorded.mmapped == mmapped
