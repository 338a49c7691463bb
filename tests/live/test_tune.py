"""`tune` on real processes: what it suggests is tried, with the very command that it prints."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from live.cli import unharmed
from live.pages import kernel_says
from live.test_contract import answer, command
from live.test_explain_causes import rss_with
from live.test_explain_causes import running as program

from allocscope.app.tune import tune
from allocscope.lab.fixture import RunningFixture
from allocscope.model.tune import Suggestion, TuneData

Running = Callable[..., RunningFixture]
MIB = 1 << 20
ENDS = (
    "libc.free(touched(24 * MIB))\n"
    "held = [touched(64 << 10) for _ in range(40 * 16)]\n"
    "for at in reversed(held): libc.free(at)\n"
)
"""Raises the thresholds, then leaves 40 MiB free at the end of the heap."""
LARGE = (
    "libc.free(touched(24 * MIB))\n"
    "held = [touched(1 << 20) for _ in range(60)]\n"
    "for at in held[:-1]: libc.free(at)\n"
)
"""Raises the thresholds, then frees 59 chunks of 1 MiB below a live one."""
THREADS = """
import threading
made, end = threading.Barrier(7), threading.Event()
def work():
    libc.malloc(100); made.wait(); end.wait()
for _ in range(6): threading.Thread(target=work, daemon=True).start()
made.wait()
"""


def tuned(pid: int) -> TuneData:
    return tune(pid, 60).data


def suggestion(data: TuneData) -> Suggestion:
    """The only one."""
    [found] = data.suggestions
    return found


def environment(found: Suggestion) -> dict[str, str]:
    """What the printed command sets."""
    setting, program = found.command.split(" ")
    assert program == "CMD"
    name, _, value = setting.partition("=")
    return {name: value}


@pytest.mark.parametrize(
    ("code", "key", "mib"), [(ENDS, "trim_threshold", 40), (LARGE, "mmap_threshold", 59)]
)
def test_a_threshold_gives_back_what_it_concerned(code: str, key: str, mib: int) -> None:
    with program(code) as pid:
        found = suggestion(tuned(pid))
        before = kernel_says(pid, "Rss")
    assert found.key == key
    assert found.concerned_bytes == pytest.approx(mib * MIB, rel=0.05)
    fallen = before - rss_with(code, environment(found))
    assert fallen == pytest.approx(found.concerned_bytes, rel=0.2)


def test_without_thread_caches_what_they_held_is_gone(running: Running) -> None:
    target = running("tcache-hoard")
    found = suggestion(tuned(target.pid))
    assert found.key == "tcache_count"
    assert found.concerned_bytes == pytest.approx(target.truth["tcache_bytes"], rel=0.05)
    without = running("tcache-hoard", environment=environment(found))
    fallen = kernel_says(target.pid, "Rss") - kernel_says(without.pid, "Rss")
    assert fallen == pytest.approx(found.concerned_bytes, rel=0.2)
    assert suggestionless(tuned(without.pid), "tcache_count") == "there are no thread caches"


def suggestionless(data: TuneData, key: str) -> str:
    """Why nothing is suggested for ``key``."""
    [reason] = [left.reason for left in data.left_alone if left.key == key]
    return reason


def test_fewer_arenas_are_an_offer_without_a_promise(running: Running) -> None:
    target = running("arena-spread")
    with unharmed(target.pid):
        found = suggestion(tuned(target.pid))
    assert found.key == "arena_max"
    assert "nothing if all are busy at once" in found.estimate
    few = running("arena-spread", environment=environment(found))
    data = tuned(few.pid)
    assert data.settings.arena_max.origin == "tunable"
    assert len(data.arenas) == data.settings.arena_limit == found.value
    assert "no more than can be of use" in suggestionless(data, "arena_max")


def test_arenas_without_a_thread_are_idle(running: Running) -> None:
    data = tuned(running("scattered", threads=3).pid)
    attached = sum(use.attached_threads or 0 for use in data.arenas)
    assert attached == 4  # the main thread too
    assert data.idle_arena_count == 0


def test_a_limit_that_came_too_late_has_no_effect() -> None:
    with program(THREADS + "assert libc.mallopt(-8, 2) == 1") as pid:  # M_ARENA_MAX
        [text] = tuned(pid).without_effect
    assert "arena_max is 2, but there are 7 arenas" in text


def test_a_busy_process_is_seen_to_contend(running: Running) -> None:
    seen = tuned(running("busy").pid).contention
    assert seen is not None
    assert seen.locked_count > 0


def test_the_command_keeps_its_schema_and_reads_well(running: Running) -> None:
    pid = running("healthy").pid
    told = answer("tune", str(pid))
    assert told["data"]["suggestions"] == []
    assert len(told["data"]["left_alone"]) == 4
    shown = command("tune", str(pid))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"healthy (pid {pid}): no setting is worth a try.\n")
    assert max(map(len, shown.stdout.splitlines())) <= 100
