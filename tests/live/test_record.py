"""Recordings of real processes: the same figures as the live reading, small, private, without what
the program stored; and what diff says of a process that tells what it did."""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live import targets
from live.test_contract import answer, command

from allocscope.app.arenas import ArenasOptions, arenas
from allocscope.app.arenas_file import arenas_of_file
from allocscope.app.diff import DiffOptions, diff
from allocscope.app.record import Opened, RecordOptions, passive, record
from allocscope.app.target import Target
from allocscope.errors import AllocscopeError
from allocscope.files.container import Reader, Writer
from allocscope.files.recording import Recording, open_sample
from allocscope.lab import fixture
from allocscope.lab.child import Child
from allocscope.lab.fixture import RunningFixture
from allocscope.model.heap import ArenasData
from allocscope.model.report import Report
from allocscope.proc import life

CANARY = "yellow-bird-in-a-mine-4711"
LONGEST_SHARE = {"dense": 0.02, "scattered": 0.03, "fastbin-hoard": 0.06, "tcache-hoard": 0.03}
"""Of the resident heap, for one sample. In a hoard of fastbins every second word is structure."""


def replay(path: Path, sample: int | None = None) -> Report[ArenasData]:
    return arenas_of_file(path, sample=sample, deadline_s=60).report


@pytest.mark.parametrize("name", [name for name in fixture.names() if name != "busy"])
def test_a_recording_gives_the_same_figures(
    name: str, running: Callable[..., RunningFixture], tmp_path: Path
) -> None:
    pid, path = running(name).pid, tmp_path / "a.asrec"
    written = record(pid, path, RecordOptions())
    live, found = arenas(pid, ArenasOptions()), replay(path)
    assert written.method.consistency == found.method.consistency == "quiescent"
    assert found.method.source == "recording"
    assert found.data == live.data
    assert (found.libc, found.allocator, found.caveats) == (live.libc, live.allocator, live.caveats)
    assert (found.process.pid, found.process.start_ticks) == (pid, live.process.start_ticks)
    share = written.data.file_bytes / written.data.heap_bytes
    assert share < LONGEST_SHARE.get(name, 0.01) or written.data.file_bytes < 100_000


def test_a_busy_process_is_recorded_frozen(
    running: Callable[..., RunningFixture], tmp_path: Path
) -> None:
    from allocscope.app.record_frozen import snapshot

    pid, path = running("busy").pid, tmp_path / "a.asrec"
    written = record(pid, path, RecordOptions(), snapshot(2_000_000_000))
    found = replay(path)
    assert (written.method.source, found.method.consistency) == ("snapshot", "frozen")
    assert found.method.pause_ns == written.method.pause_ns > 0
    open_sums = [arena.index for arena in found.data.arenas if arena.figures.residue_bytes]
    told = [caveat.message for caveat in found.caveats if caveat.code == "arena-in-flight"]
    assert not open_sums or told, "sums that are open, and nobody said that malloc was at work"
    assert found.data.totals.live_bytes > 0


def test_a_busy_process_recorded_passively_says_what_did_not_validate(
    running: Callable[..., RunningFixture], tmp_path: Path
) -> None:
    pid, path = running("busy").pid, tmp_path / "a.asrec"
    record(pid, path, RecordOptions())
    found = replay(path)
    assert found.method.consistency in ("validated", "partial")
    unsettled = [arena.index for arena in found.data.arenas if arena.consistency == "partial"]
    codes = {caveat.code for caveat in found.caveats}
    assert "arena-damaged" not in codes
    assert ("arena-not-validated" in codes) == bool(unsettled)


def test_samples_at_an_interval(running: Callable[..., RunningFixture], tmp_path: Path) -> None:
    pid, path = running("scattered", scale=0.1).pid, tmp_path / "a.asrec"
    written = record(pid, path, RecordOptions(every_s=0.05, for_s=0.1))
    assert written.data.sample_count == 3
    assert replay(path, 1).data == replay(path, 3).data == replay(path).data
    with Recording(path) as recording:
        times = [recording.sample(number).facts.captured_at for number in (1, 2, 3)]
    assert times == sorted(times)
    assert diff(path, path, DiffOptions(1, 3)).data.growth == "none"


def test_what_was_taken_before_the_end_is_kept(
    running: Callable[..., RunningFixture], tmp_path: Path
) -> None:
    path, wanted = tmp_path / "a.asrec", RecordOptions(every_s=0.01, for_s=60)
    target = running("scattered", scale=0.1)
    taken = 0

    @contextlib.contextmanager
    def until_it_ends(looked_at: Target, deadline_ns: int) -> Iterator[Opened]:
        nonlocal taken
        taken += 1
        if taken == 4:
            raise KeyboardInterrupt
        if taken == 7:
            target.process.kill()
            target.process.wait()
        with passive(looked_at, deadline_ns) as opened:
            yield opened

    with pytest.raises(KeyboardInterrupt):
        record(target.pid, path, wanted, until_it_ends)
    with Recording(path) as recording:
        assert recording.sample_count == 3
    written = record(target.pid, path, wanted, until_it_ends)
    assert written.data.sample_count == 2
    assert [caveat.code for caveat in written.caveats] == ["target-ended"]
    assert replay(path, 1).data == replay(path, 2).data


def test_a_process_that_ends_between_two_samples(
    running: Callable[..., RunningFixture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are a day apart."""
    path, target = tmp_path / "a.asrec", running("scattered", scale=0.1)
    ended_within = life.ended_within

    def wait(descriptor: int | None, seconds: float) -> bool:
        target.process.kill()
        return ended_within(descriptor, seconds)

    monkeypatch.setattr(life, "ended_within", wait)
    written = record(target.pid, path, RecordOptions(every_s=86400, for_s=100_000))
    assert written.data.sample_count == 1
    assert [caveat.code for caveat in written.caveats] == ["target-ended"]


# ---- a program that tells what it did ----


@pytest.fixture(scope="session", params=["dynamic", "static"])
def grows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = ["-static"] if request.param == "static" else []
    return targets.compile_c("grows.c", tmp_path_factory.mktemp("grows") / "grows", *flags)


@pytest.fixture
def growing(grows: Path) -> Iterator[Child]:
    with targets.running([grows]) as started:
        yield started


def tell(target: Child, order: str) -> int:
    """Gives an order and returns the bytes that changed hands."""
    target.send(order.encode() + b"\n")
    return int(target.line(targets.READY_SECONDS))


def test_growth_of_live_bytes_is_told_from_retention(growing: Child, tmp_path: Path) -> None:
    pid = growing.process.pid
    first, second, third = (tmp_path / f"{n}.asrec" for n in range(3))
    tell(growing, "l 1000")
    record(pid, first, RecordOptions())
    added = tell(growing, "l 9000")
    record(pid, second, RecordOptions())
    leak = diff(first, second, DiffOptions()).data
    assert (leak.growth, leak.same_process) == ("live", True)
    assert leak.live_bytes.change == leak.totals.live_bytes.change == added
    assert leak.totals.live_count.change == 9000
    assert (leak.size_classes[0].min_bytes, leak.size_classes[0].live_count.change) == (1008, 9000)

    freed = tell(growing, "f 10000")
    record(pid, third, RecordOptions())
    for after in (third, pid):  # a recording, and the process itself
        kept = diff(second, after, DiffOptions()).data
        assert kept.growth == "retention"
        assert kept.live_bytes.change == -freed
        assert kept.free_resident_bytes.change == freed
        assert kept.size_classes[0].free_bytes.change == freed
        assert abs(kept.rss_bytes.change) < kept.noise_bytes


def holds(path: Path, text: str) -> bool:
    """Is the text in any page of the recorded memory?"""
    sample = open_sample(path)
    facts = sample.facts
    with sample.memory as memory:
        spans = [(m.start, m.end) for m in facts.mappings if m.writable and m.private]
        return any(
            text.encode() in memory.read(low, high - low)
            for start, end in spans
            for low, high in memory.runs(start, end)
        )


def test_what_the_program_stored_is_not_recorded(growing: Child, tmp_path: Path) -> None:
    pid = growing.process.pid
    tell(growing, "l 10")
    tell(growing, f"c {CANARY}")
    bare, full = tmp_path / "bare", tmp_path / "full"
    record(pid, bare, RecordOptions())
    record(pid, full, RecordOptions(with_contents=True))
    assert not holds(bare, CANARY)
    assert not holds(bare, CANARY[8:16])
    assert not holds(bare, "xxxxxxxx")
    assert holds(full, CANARY)
    assert replay(full).data == replay(bare).data


def altered(path: Path, changes: Sequence[tuple[float, int]]) -> None:
    """Writes a recording anew, with sound checksums, after changing words of its memory: each the
    one at that share of the way through, to that value."""
    with Reader(path) as reader:
        sections = [(section.name, reader.read(section)) for section in reader.sections]
    with Writer(path) as writer:
        for name, content in sections:
            new = bytearray(content)
            count = len(content) // 8
            for share, value in changes if name == b"WORD" and count else ():
                for rank, byte in enumerate(value.to_bytes(8, "little")):
                    new[rank * count + int(share * count)] = byte
            writer.add(name, bytes(new))


def test_hostile_words_end_in_an_answer_or_an_error_of_ours(growing: Child, tmp_path: Path) -> None:
    tell(growing, "l 300")
    tell(growing, "f 300")
    whole, path = tmp_path / "whole", tmp_path / "hostile"
    record(growing.process.pid, whole, RecordOptions())
    heap = next(m for m in open_sample(whole).facts.mappings if m.path == "[heap]")
    inside = st.integers(heap.start // 16, heap.end // 16).map(lambda n: n * 16)
    values = st.one_of(st.integers(0, (1 << 64) - 1), inside, st.integers(0, 4096))
    change = st.tuples(st.floats(0, 1, exclude_max=True), values)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(change, min_size=1, max_size=30))
    def look(changes: list[tuple[float, int]]) -> None:
        path.write_bytes(whole.read_bytes())
        altered(path, changes)
        try:
            replay(path)
        except AllocscopeError as error:
            assert error.exit_code in (5, 9)

    look()


def test_the_commands_keep_their_schemas(growing: Child, tmp_path: Path) -> None:
    pid, path = str(growing.process.pid), str(tmp_path / "a.asrec")
    tell(growing, "l 100")
    written = answer("record", pid, "-o", path)
    assert written["data"]["sample_count"] == 1
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    found = answer("arenas", path)
    assert found["method"]["source"] == "recording"
    assert found["captured_at"] == written["captured_at"]
    tell(growing, "l 5000")
    assert answer("diff", path, pid)["data"]["growth"] == "live"
    several: Any = json.loads(command("arenas", path, "/nonexistent", "--json").stdout)
    assert [part.get("error", {}).get("exit_code") for part in several["data"]] == [None, 9]
    shown = command("diff", path, pid)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "a leak, if it goes on" in shown.stdout.replace("\n", " ")


@pytest.mark.parametrize(("verb", "files"), [("arenas", 1), ("diff", 2)])
def test_a_file_that_is_no_recording_is_9(verb: str, files: int, tmp_path: Path) -> None:
    path = tmp_path / "what"
    path.write_text("not a recording")
    shown = command(verb, *[str(path)] * files)
    assert (shown.returncode, shown.stdout) == (9, "")
    assert "neither a recording of allocscope nor a core file" in shown.stderr
