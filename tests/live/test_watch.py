"""`watch` on a program that grows and shrinks on command: the samples follow the kernel, the lines
keep their schema, the terminal works and is afterwards as it was, and every end is a clean one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from live import targets
from live.cli import assert_refused, command, unharmed
from live.pages import kernel_says
from live.terminal import Terminal, terminal

from allocscope.app.glance import Glances
from allocscope.app.watch import WatchOptions, watch
from allocscope.lab.child import Child, child
from allocscope.model.report import Report
from allocscope.model.watch import End, Sample

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "docs" / "schema" / "watch.schema.json").read_text())
MIB = 1 << 20
SECONDS = 60.0
BARS = "▁▂▃▄▅▆▇█"


@pytest.fixture(scope="module")
def breathes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("breathes") / "breathes"
    return targets.compile_c("breathes.c", path, "-pthread")


@pytest.fixture
def target(breathes: Path) -> Iterator[Child]:
    with targets.running([breathes]) as started:
        yield started


def test_descriptors_are_counted(waits: Path) -> None:
    """As many as the directory has."""
    with targets.running([waits]) as started:
        pid = started.process.pid
        glance, _ = Glances(pid).take()
        assert glance.descriptor_count == len(list(Path(f"/proc/{pid}/fd").iterdir()))


def tell(target: Child, order: str, answer: str = "done") -> None:
    target.send(order.encode() + b"\n")
    assert target.line(SECONDS) == answer


def lag_bytes() -> int:
    """How far the kernel's counters of RSS may lag behind its page tables: three of them, which
    each CPU changes in batches (percpu_counter_batch in lib/percpu_counter.c)."""
    cpus = os.cpu_count() or 1
    return 3 * cpus * max(32, 2 * cpus) * os.sysconf("SC_PAGE_SIZE")


class Watched:
    """A watching that is told what to do between its samples, without any wait by time."""

    def __init__(self, between: Callable[[int], bool]) -> None:
        self.samples: list[Report[Sample]] = []
        self._between = between

    def run(self, pid: int, **options: Any) -> Report[End]:
        return watch(pid, WatchOptions(**{"every_s": 0.001, **options}), self._show, self._pause)

    def _show(self, report: Report[Sample]) -> None:
        self.samples.append(report)

    def _pause(self, _ended: int | None, _seconds: float) -> bool:
        return self._between(len(self.samples))


# ---- the figures ----


ORDERS = ("a 40", "f", "t", "m 30", "r", "a 10")


def test_samples_follow_the_kernel(target: Child) -> None:
    truth = [kernel_says(target.pid, "Rss")]

    def next_order(done: int) -> bool:
        if done > len(ORDERS):
            return False
        tell(target, ORDERS[done - 1])
        truth.append(kernel_says(target.pid, "Rss"))
        return True

    watched = Watched(next_order)
    ended = watched.run(target.pid)
    seen = [report.data for report in watched.samples]
    assert (ended.data.reason, ended.data.sample_count) == ("quit", len(ORDERS) + 1)
    assert [one.number for one in seen] == list(range(1, len(ORDERS) + 2))
    for one, rss in zip(seen, truth, strict=True):
        assert one.glance.rss_bytes == pytest.approx(rss, abs=lag_bytes())
        if one.walked:
            assert one.walk.rss_bytes == rss
            rows = sum(row.resident_bytes for row in one.walk.ledger)
            assert (rows, one.walk.drift_bytes, one.moved_bytes) == (rss, 0, 0)
    grown, halved, threaded, mapped, trimmed, again = seen[1:]
    assert grown.glance.rss_bytes > 40 * MIB and trimmed.glance.rss_bytes < 40 * MIB
    system = [one.glance.malloc.system_bytes for one in (grown, halved)]
    headers = [one.glance.malloc.arenas[0].header_crc32 for one in (grown, halved)]
    assert system[0] == system[1]  # that half of it is free shows in no size
    assert headers[0] != headers[1]
    assert len(threaded.glance.malloc.arenas) == 2
    assert threaded.glance.malloc.arenas[1].system_bytes > MIB
    assert mapped.glance.malloc.mmapped_count == 1
    assert mapped.glance.malloc.mmapped_bytes >= 30 * MIB
    assert again.glance.malloc.system_bytes > trimmed.glance.malloc.system_bytes + 9 * MIB
    assert again.glance.peak_rss_bytes > 70 * MIB


READS_AGAIN = """
import sys
with open(sys.argv[1], "rb") as file:
    print("ready", flush=True)
    for _ in sys.stdin:
        file.seek(0)
        while file.read(1 << 20):
            pass
        print("done", flush=True)
"""


def refaults(group: Path) -> int:
    """What the group itself says, of its own pages."""
    lines = map(str.split, (group / "memory.stat").read_text().splitlines())
    return sum(int(count) for name, count in lines if name.startswith("workingset_refault"))


def test_refaults_are_those_between_two_samples(
    limited_group: tuple[Path, str], tmp_path: Path
) -> None:
    """A file of 48 MiB, read again and again in a group that may have 24 MiB."""
    group, limit = limited_group
    file = tmp_path / "file"
    with file.open("wb") as written:
        written.write(bytes(48 * MIB))
        written.flush()
        os.fsync(written.fileno())  # and out of the cache, in which it is charged to who wrote it
        os.posix_fadvise(written.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with targets.running([sys.executable, "-c", READS_AGAIN, file]) as started:
        (group / limit).write_text(str(24 * MIB))
        (group / "cgroup.procs").write_text(str(started.pid))
        tell(started, "fill")
        counts = [refaults(group)]

        def between(count: int) -> bool:
            if count < 3:
                tell(started, "read")
                counts.append(refaults(group))
            return count < 3

        watched = Watched(between)
        watched.run(started.pid)
    samples = [report.data for report in watched.samples]
    assert [sample.glance.refault_count for sample in samples] == counts
    assert counts[0] < counts[1] < counts[2]
    assert samples[0].refaults_per_s is None
    for n in (1, 2):
        seconds = samples[n].elapsed_s - samples[n - 1].elapsed_s
        rate = samples[n].refaults_per_s
        assert rate == pytest.approx((counts[n] - counts[n - 1]) / seconds)


def test_a_walk_is_repeated_when_enough_has_moved_and_its_pause_is_over(target: Child) -> None:
    """The pause follows from what the walk cost, so samples are taken until it is over."""

    def grow_once(done: int) -> bool:
        if done == 1:
            tell(target, "a 40")
        return sum(one.data.walked for one in watched.samples) < 2

    watched = Watched(grow_once)
    watched.run(target.pid)
    *cheap, last = [report.data for report in watched.samples[1:]]
    assert cheap and last.walked
    assert all(not one.walked and one.walk.sample == 1 for one in cheap)
    assert [one.age_s for one in cheap] == sorted(one.age_s for one in cheap)
    assert cheap[0].age_s > 0 and cheap[0].moved_bytes > 39 * MIB
    assert last.walk.sample == last.number
    live = next(row for row in last.walk.ledger if row.key == "glibc-live")
    assert live.resident_bytes > 39 * MIB
    assert (last.age_s, last.moved_bytes) == (0, 0)


def test_watching_touches_nothing(target: Child) -> None:
    tell(target, "a 10")
    before = kernel_says(target.pid, "Rss"), kernel_says(target.pid, "Private_Dirty")
    with unharmed(target.pid):
        Watched(lambda done: done < 30).run(target.pid)
    assert (kernel_says(target.pid, "Rss"), kernel_says(target.pid, "Private_Dirty")) == before


# ---- the ends ----


@pytest.mark.parametrize("how", ["ended", "exec", "same-program"])
def test_the_end_of_the_target_ends_it(how: str, target: Child, breathes: Path) -> None:
    def after_two(done: int) -> bool:
        if done == 2 and how == "ended":
            target.process.kill()
            os.waitid(os.P_PID, target.pid, os.WEXITED | os.WNOWAIT)
        elif done == 2:
            program = shutil.which("cat") if how == "exec" else str(breathes)
            target.send(f"x {program}\n".encode())
            if how == "same-program":
                assert target.line(SECONDS) == "ready"
            else:
                target.send(b"here\n")
                assert target.line(SECONDS) == "here"
        return True

    watched = Watched(after_two)
    data = watched.run(target.pid).data
    assert (data.reason, data.sample_count) == ("ended" if how == "ended" else "exec", 2)
    assert data.message.startswith(f"process {target.pid} (breathes) has ")


def test_it_ends_when_the_time_is_over(target: Child) -> None:
    watched = Watched(lambda _done: True)
    data = watched.run(target.pid, every_s=0.01, for_s=0.1).data
    assert data.reason == "time"
    assert data.sample_count == len(watched.samples)


def test_ctrl_c_is_an_end_once_there_is_a_sample(target: Child) -> None:
    def interrupt(_done: int) -> bool:
        raise KeyboardInterrupt

    assert Watched(interrupt).run(target.pid).data.reason == "quit"


def test_a_process_that_is_not_there_is_an_error() -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    assert_refused(command("watch", str(gone.pid)), 3, f"process {gone.pid}", "")


# ---- lines ----


@contextlib.contextmanager
def watcher(target: Child, *words: str) -> Iterator[Child]:
    """The command with its stdout in a pipe."""
    start = [sys.executable, "-m", "allocscope", "watch", str(target.pid), "--every", "0.05"]
    with child([*start, *words], {"PYTHONPATH": str(ROOT)}, ends_at_eof=False) as started:
        yield started


def test_the_lines_keep_their_schema(target: Child) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    with watcher(target, "--json") as shown:
        lines = [json.loads(shown.line(SECONDS))]
        for order in ORDERS:
            tell(target, order)
            lines.append(json.loads(shown.line(SECONDS)))
        target.process.kill()
        while lines[-1]["data"]["kind"] == "sample":
            lines.append(json.loads(shown.line(SECONDS)))
        assert shown.process.wait(SECONDS) == 0
    for value in lines:
        validator.validate(value)
        assert value["process"]["pid"] == target.pid
    *samples, last = [value["data"] for value in lines]
    assert [one["number"] for one in samples] == list(range(1, len(samples) + 1))
    assert (last["reason"], last["sample_count"]) == ("ended", len(samples))


def test_plain_lines_elsewhere_than_on_a_terminal(target: Child) -> None:
    with watcher(target) as shown:
        first = shown.line(SECONDS)
        tell(target, "a 40")
        while "(+4" not in (line := shown.line(SECONDS)):
            assert re.match(r"\d\d:\d\d:\d\d  RSS ", line)
        shown.process.send_signal(signal.SIGINT)
        while "no longer watched" not in (line := shown.line(SECONDS)):
            assert re.match(r"\d\d:\d\d:\d\d  RSS ", line)
        assert shown.process.wait(SECONDS) == 0
    assert first.endswith("(walked now)")
    assert line.startswith(f"process {target.pid} (breathes) is no longer watched: ")


def test_a_file_gets_the_lines(target: Child, tmp_path: Path) -> None:
    path = tmp_path / "samples"
    words = ["--json", "--every", "0.05", "--for", "0.2", "--output", str(path)]
    shown = command("watch", str(target.pid), *words)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert lines[-1]["data"]["reason"] == "time"
    assert lines[-1]["data"]["sample_count"] == len(lines) - 1
    nowhere = command("watch", str(target.pid), "--output", str(tmp_path / "no" / "file"))
    assert_refused(nowhere, 2, "cannot be written", "--output")


def test_it_ends_at_once_when_nobody_reads_the_lines_any_more(target: Child) -> None:
    with watcher(target, "--every", "86400") as shown:
        shown.line(SECONDS)
        assert shown.process.stdout is not None
        shown.process.stdout.close()
        assert shown.process.wait(SECONDS) == 0


# ---- the terminal ----


@pytest.fixture(params=[80, 100])
def on_terminal(request: pytest.FixtureRequest, target: Child) -> Iterator[Terminal]:
    tell(target, "a 20")
    words = ("watch", str(target.pid), "--every", "0.1")
    with terminal(*words, columns=request.param) as shown:
        yield shown


def sample_number(screen: list[str]) -> int:
    found = re.search(r"\bsample (\d+)\b", " ".join(screen[:2]))
    return int(found[1]) if found else 0


def test_the_screen_shows_series_and_keys_work(on_terminal: Terminal, target: Child) -> None:
    before = on_terminal.attributes()
    on_terminal.wait_for(lambda screen: sample_number(screen) >= 2)
    assert on_terminal.attributes() != before  # keys arrive one by one, unseen
    tell(target, "a 20")
    screen = on_terminal.wait_for(lambda screen: sample_number(screen) >= 4)
    assert f"pid {target.pid} breathes" in screen[0]
    assert any(line.startswith("malloc, live") and line.rstrip()[-1] in BARS for line in screen)
    assert any(line.startswith("0 main") for line in screen)
    assert screen[-1].rstrip() == "q quits, s sorts · rows in their usual order"
    for wanted in ("the largest first", "what changed most first", "in their usual order"):
        on_terminal.press(b"s")
        on_terminal.wait_for(lambda screen, wanted=wanted: wanted in screen[-1])
    on_terminal.press(b"q")
    assert on_terminal.wait_for_end() == 0
    assert on_terminal.attributes() == before
    assert on_terminal.text.count("\x1b[?1049h") == on_terminal.text.count("\x1b[?1049l") == 1
    tail = on_terminal.text.rpartition("\x1b[?1049l")
    assert "\x1b[?25h" in tail[0].rpartition("\x1b[?25l")[2]  # the cursor is back
    assert "is no longer watched" in tail[2]


@pytest.mark.parametrize(
    ("ending", "status"),
    [("ctrl-c", 0), ("sigterm", 143), ("sighup", 129), ("target", 0)],
)
def test_the_terminal_is_as_it_was_whatever_ends_the_watching(
    ending: str, status: int, target: Child
) -> None:
    with terminal("watch", str(target.pid), "--every", "86400", columns=80) as shown:
        before = shown.attributes()
        shown.wait_for(lambda screen: sample_number(screen) >= 1)
        if ending == "ctrl-c":
            shown.press(b"\x03")
        elif ending == "target":
            target.process.kill()
        else:
            os.kill(shown.pid, signal.SIGTERM if ending == "sigterm" else signal.SIGHUP)
        assert shown.wait_for_end() == status
        assert shown.attributes() == before
        assert shown.text.rstrip().rpartition("\x1b[?1049l")[1]
        if ending == "target":
            assert f"process {target.pid} (breathes) has ended: 1 sample " in shown.text


def test_another_size_is_drawn_at_once(target: Child) -> None:
    with terminal("watch", str(target.pid), "--every", "86400", columns=100) as shown:
        shown.wait_for(lambda screen: sample_number(screen) >= 1)
        shown.resize(80, 30)
        screen = shown.wait_for(lambda screen: len(screen) == 30)
        assert max(map(len, screen)) <= 80
        shown.press(b"q")
        assert shown.wait_for_end() == 0


def test_an_error_leaves_no_screen_behind() -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    with terminal("watch", str(gone.pid), columns=80) as shown:
        before = shown.attributes()
        assert shown.wait_for_end() == 3
        assert shown.attributes() == before
        assert f"process {gone.pid}" in shown.text.rpartition("\x1b[?1049l")[2]
