"""``trim``: the forecast and the rehearsal against what the process then really gives back, by its
own malloc_trim: the calls that strace saw, the fall of its pages that the kernel tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live import targets
from live.cli import command, unharmed
from oracle import trimmed

from allocscope.app.arenas import ArenasOptions, arenas
from allocscope.app.arenas_file import arenas_of_file
from allocscope.app.arenas_frozen import arenas_frozen
from allocscope.app.check import CheckOptions, check
from allocscope.app.explain import ExplainOptions, explain
from allocscope.app.explain_file import portrait_of_file
from allocscope.app.record import RecordOptions, record
from allocscope.app.trim import TrimOptions, trim
from allocscope.app.trim_rehearse import rehearse
from allocscope.app.tune import tune
from allocscope.app.watch import WatchOptions, watch
from allocscope.errors import NoGlibcHeap, Unsafe
from allocscope.lab import fixture
from allocscope.lab.child import Child
from allocscope.lab.fixture import RunningFixture
from allocscope.model.gate import Limit
from allocscope.model.heap import ArenasData
from allocscope.model.trim import TrimData, TrimForecast
from allocscope.model.watch import Sample

RESTING = [name for name in fixture.names() if name != "busy"]
ANY_PAUSE_NS = 10_000_000_000


def foretold(pid: int, pad_bytes: int = 0) -> TrimData:
    return trim(pid, TrimOptions(pad_bytes)).data


def rehearsed(pid: int, pad_bytes: int = 0) -> TrimData:
    return rehearse(pid, TrimOptions(pad_bytes), max_pause_ns=ANY_PAUSE_NS).data


def by_arena(forecast: TrimForecast) -> tuple[int, ...]:
    return tuple(row.bytes for row in forecast.per_arena)


@pytest.mark.parametrize("name", RESTING)
def test_forecast_and_rehearsal_tell_what_a_fixture_gives_back(
    name: str, running: Callable[..., RunningFixture]
) -> None:
    target = running(name, seed=5, scale=0.5)
    forecast = foretold(target.pid).forecast
    tried = rehearsed(target.pid)
    really = trimmed.watch(target.pid, target.trim)
    assert by_arena(forecast) == really.fell_bytes
    assert forecast.madvise_count == len(really.advised)
    assert forecast.brk_count <= really.lowered_count
    assert tried.rehearsed is not None
    assert tuple(row.released_bytes for row in tried.rehearsed.per_arena) == really.fell_bytes
    assert (by_arena(tried.forecast), tried.error_bytes) == (by_arena(forecast), 0)


def test_what_goes_and_what_stays_is_all_that_is_free(
    running: Callable[..., RunningFixture],
) -> None:
    target = running("scattered", seed=5, scale=0.5)
    data = foretold(target.pid)
    stays = data.forecast.stays
    parts = stays.top_bytes + stays.tcache_bytes + stays.locked_bytes + stays.shared_page_bytes
    assert data.forecast.bytes + parts == data.free_resident_bytes
    target.trim()
    after = foretold(target.pid)
    assert after.forecast.bytes == 0
    assert after.resident_bytes == data.resident_bytes - data.forecast.bytes


# ---- what may not go ----


@pytest.fixture(scope="session")
def locked_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("targets") / "locked"
    return targets.compile_c("locked.c", path, "-pthread")


@pytest.fixture
def locked(locked_program: Path) -> Iterator[Child]:
    """targets/locked.c"""
    with targets.running([locked_program]) as child:
        yield child


def trim_itself(child: Child) -> None:
    child.send(b"t")
    assert child.line(targets.READY_SECONDS) == "1"


def test_mlocked_pages_stay_in_forecast_rehearsal_and_reality(locked: Child) -> None:
    forecast = foretold(locked.pid).forecast
    tried = rehearsed(locked.pid).rehearsed
    really = trimmed.watch(locked.pid, lambda: trim_itself(locked))
    assert len(really.refused) == 3  # of four free chunks one is not locked at all
    assert forecast.stays.locked_bytes > 0
    assert by_arena(forecast) == really.fell_bytes
    assert forecast.madvise_count == len(really.advised) == 4
    assert tried is not None
    assert tuple(row.released_bytes for row in tried.per_arena) == really.fell_bytes


def test_arenas_leaves_out_what_is_mlocked(locked: Child, tmp_path: Path) -> None:
    """Passively, in a frozen copy, from a recording."""
    forecast = foretold(locked.pid).forecast
    path = tmp_path / "recording"
    record(locked.pid, path, RecordOptions())
    readings = [
        arenas(locked.pid, ArenasOptions()),
        arenas_frozen(locked.pid, ArenasOptions(), ask_glibc=False, max_pause_ns=10**9),
        arenas_of_file(path, sample=None, deadline_s=30.0).report,
    ]
    for report in readings:
        figures = [arena.figures for arena in report.data.arenas]
        assert tuple(each.trimmable_bytes for each in figures) == by_arena(forecast)
        [caveat] = [caveat for caveat in report.caveats if caveat.code == "mlocked"]
        assert caveat.message.startswith(f"{forecast.stays.locked_bytes} bytes ")


def test_whoever_speaks_of_trimmable_leaves_out_what_is_mlocked(
    locked: Child, tmp_path: Path
) -> None:
    """explain (of the process and of a recording), check, watch and tune say what a real trim then
    releases; and explain, what a second one does when nothing is mlocked any more."""
    path = tmp_path / "recording"
    record(locked.pid, path, RecordOptions())
    told = explain(locked.pid, ExplainOptions())
    recorded = portrait_of_file(path, ExplainOptions(), sample=None)[0]
    limits = CheckOptions((Limit("max-trimmable", 0),))
    verdicts = [check(target, limits).data.limits[0] for target in (locked.pid, path)]
    samples: list[Sample] = []
    watch(locked.pid, WatchOptions(for_s=0), lambda it: samples.append(it.data), lambda *_: False)
    trimmable = tune(locked.pid, deadline_s=30).data.trimmable_bytes
    really = trimmed.watch(locked.pid, lambda: trim_itself(locked))
    locked.send(b"u")
    assert locked.line(targets.READY_SECONDS) == "0"
    unlocked = trimmed.watch(locked.pid, lambda: trim_itself(locked))

    assert trimmable == sum(really.fell_bytes)
    assert [verdict.found for verdict in verdicts] == [trimmable] * 2
    [sample] = samples
    assert tuple(arena.trimmable_bytes for arena in sample.walk.arenas) == really.fell_bytes
    for report in (told, recorded):
        by_key = {cause.key: cause for cause in report.data.causes}
        [trim_remedy] = by_key["untrimmed-free"].remedies
        assert trim_remedy.gain_bytes == by_key["untrimmed-free"].bytes == trimmable
        assert by_key["locked-free"].bytes == sum(unlocked.fell_bytes) > 0
        assert "mlocked" in [caveat.code for caveat in report.caveats]
        assert report.data.drift_bytes == 0


def test_where_nobody_looked_what_is_mlocked_a_note_says_so(
    locked: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above 1 GiB of RSS, where smaps is not read unasked; also in the recording of that."""
    monkeypatch.setattr("allocscope.app.arenas.SMAPS_MAX_RSS_BYTES", 0)
    path = tmp_path / "recording"
    record(locked.pid, path, RecordOptions())
    forecast = foretold(locked.pid).forecast
    for report in (
        arenas(locked.pid, ArenasOptions()),
        arenas_of_file(path, sample=None, deadline_s=30.0).report,
        portrait_of_file(path, ExplainOptions(), sample=None)[0],
    ):
        [caveat] = [caveat for caveat in report.caveats if caveat.code == "mlocked"]
        assert "`trimmable` includes it" in caveat.message
        if isinstance(report.data, ArenasData):
            expected = forecast.bytes + forecast.stays.locked_bytes
            assert report.data.totals.trimmable_bytes == expected


def test_a_real_program_rehearses_what_is_foretold(http_server_pid: int) -> None:
    forecast = foretold(http_server_pid).forecast
    tried = rehearsed(http_server_pid)
    assert tried.rehearsed is not None
    assert tried.rehearsed.bytes == forecast.bytes > 0


@pytest.mark.parametrize("pad_bytes", [0, 4096, 300_000, 1 << 40])
def test_the_pad_stays_at_the_main_top(pad_bytes: int, locked: Child) -> None:
    whole, padded = foretold(locked.pid).forecast, foretold(locked.pid, pad_bytes).forecast
    tried = rehearsed(locked.pid, pad_bytes)
    assert tried.error_bytes == 0
    assert tried.forecast.bytes == padded.bytes
    assert padded.brk_count == (pad_bytes < 1 << 20)
    kept = whole.bytes - padded.bytes
    if pad_bytes < 1 << 20:
        assert kept == -(-pad_bytes // 4096) * 4096 or kept == pad_bytes // 4096 * 4096


# ---- the rehearsal ----


def test_a_rehearsal_leaves_the_process_as_it_was(running: Callable[..., RunningFixture]) -> None:
    target = running("fastbin-hoard", seed=5, scale=0.5)
    before = foretold(target.pid)
    with unharmed(target.pid):
        data = rehearsed(target.pid)
    assert data.rehearsed is not None
    assert data.rehearsed.bytes > 1 << 20
    after = foretold(target.pid)
    assert by_arena(after.forecast) == by_arena(before.forecast)
    assert after.forecast.merge_count == before.forecast.merge_count > 0


def test_a_rehearsal_of_a_process_that_never_rests(
    running: Callable[..., RunningFixture],
) -> None:
    report = rehearse(running("busy", scale=0.1).pid, TrimOptions(), max_pause_ns=ANY_PAUSE_NS)
    assert report.data.rehearsed is not None
    assert report.data.rehearsed.returned == 1
    in_flight = {"arena-in-flight", "broken-lists"} & {caveat.code for caveat in report.caveats}
    assert report.data.error_bytes == 0 or in_flight


def test_a_rehearsal_of_a_damaged_heap_fails_in_the_copy(tmp_path: Path) -> None:
    program = targets.compile_c("overrun.c", tmp_path / "overrun")
    with (
        targets.running([program]) as child,
        unharmed(child.pid),
        pytest.raises(Unsafe, match="SIGABRT"),
    ):
        rehearsed(child.pid)


# ---- where malloc_trim is of no use ----


LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")


@pytest.mark.parametrize(
    ("library", "name", "control"),
    [
        ("libjemalloc.so.2", "jemalloc", "arena.4096.purge"),
        ("libtcmalloc_minimal.so.4", "tcmalloc", "ReleaseFreeMemory"),
        ("libmimalloc.so.2", "mimalloc", "mi_collect"),
    ],
)
def test_another_allocator_is_named_with_its_own_control(
    library: str, name: str, control: str, tmp_path: Path
) -> None:
    if not (LIBRARIES / library).exists():
        pytest.skip(f"{library} not installed")
    program = targets.compile_c("waiter.c", tmp_path / "waiter")
    preloaded = {"LD_PRELOAD": str(LIBRARIES / library)}
    with targets.running([program, "1000"], preloaded) as child:
        report = trim(child.pid, TrimOptions())
        assert report.allocator is not None and report.allocator.name == name
        assert any(control in caveat.message for caveat in report.caveats)
        with unharmed(child.pid), pytest.raises(NoGlibcHeap, match=f"does nothing for {name}"):
            rehearsed(child.pid)


def test_musl_has_nothing_to_trim(tmp_path: Path) -> None:
    program = targets.compile_c("waiter.c", tmp_path / "waiter", compiler="musl-gcc")
    with targets.running([program]) as child:
        done = command("trim", str(child.pid))
    assert done.returncode == 5
    assert "musl" in done.stderr and "nothing to trim" in done.stderr
    assert "has no malloc_trim" in done.stderr


# ---- the command ----


def test_the_command_says_the_same_in_words(running: Callable[..., RunningFixture]) -> None:
    target = running("pinned-top", scale=0.5)
    shown = command("trim", str(target.pid), "--bytes")
    going = foretold(target.pid).forecast.bytes
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"malloc_trim(0) would give back {going} bytes of RSS ")
    tried = command("trim", str(target.pid), "--bytes", "--rehearse")
    assert tried.stdout.startswith(
        f"In a copy of the process malloc_trim(0) gave back {going} bytes in "
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--rehearse", "--apply"],
        ["--repeat", "1"],
        ["--watch-refaults", "1"],
        ["--apply", "--if-free-above", "1M"],
        ["--apply", "--repeat", "1", "--output", "x"],
        ["--apply", "--repeat", "1", "--if-free-above", "1.5"],
        ["--pad", "much"],
    ],
)
def test_options_that_mean_nothing_together_are_refused(words: list[str]) -> None:
    done = command("trim", "1", *words)
    assert done.returncode == 2
    assert done.stdout == ""
