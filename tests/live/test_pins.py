"""`pins` on a program that knows what holds its heap, and on fixtures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live import targets
from live.cli import command
from live.pages import kernel_says
from live.programs import READY_SECONDS
from live.test_contract import answer

from allocscope.app.pins import pins
from allocscope.app.pins_search import PinsOptions
from allocscope.lab.child import Child, child
from allocscope.lab.fixture import RunningFixture

PAGE = 4096


@pytest.fixture
def pinned(tmp_path: Path) -> Iterator[tuple[Child, dict[str, Any]]]:
    program = targets.compile_c("pinned.c", tmp_path / "pinned", "-pthread")
    with child([str(program)]) as started:
        said = json.loads(started.line(READY_SECONDS))
        assert started.line(READY_SECONDS) == "ready"
        yield started, said


def test_the_object_is_named_with_all_who_point_at_it(
    pinned: tuple[Child, dict[str, Any]],
) -> None:
    target, said = pinned
    data = pins(target.pid, PinsOptions()).data
    pin = data.pins[0]
    assert pin.chunk == said["order"] - 16
    assert (pin.arena_index, pin.held_by, pin.run_count) == (0, "live", 1)
    assert pin.size_bytes == (said["size"] + 8 + 15) // 16 * 16
    assert pin.free_bytes_below == said["free_bytes"]
    assert (pin.kind.type, pin.kind.name) == ("vtable", "shop::Order")
    assert pin.first_bytes is None
    by_name = {referrer.where: referrer for referrer in pin.referrers}
    assert by_name["pinned!last_order"].to_start
    node = by_name[f"heap chunk {said['node'] - 16:#x}"]
    assert not node.to_start
    assert node.address == said["node"] + 8
    assert "pinned!cache_head" in node.through
    assert any(re.fullmatch(r"stack of thread \d+", name) for name in by_name)
    assert pin.referrer_count >= len(pin.referrers) >= 3


def test_freeing_it_releases_what_was_said(pinned: tuple[Child, dict[str, Any]]) -> None:
    target, _ = pinned
    promised = pins(target.pid, PinsOptions()).data.pins[0].released_if_freed_bytes
    before = kernel_says(target.pid, "Rss")
    target.send(b"f\n")
    assert target.line(READY_SECONDS) == "done"
    released = before - kernel_says(target.pid, "Rss")
    assert promised > 24 << 20
    assert abs(released - promised) <= 64 * PAGE  # stdio and the thread's end touch some pages


def test_the_fixture_that_pins_its_top_is_recognised(
    running: Callable[..., RunningFixture],
) -> None:
    target = running("pinned-top", seed=3)
    pin = pins(target.pid, PinsOptions()).data.pins[0]
    assert pin.arena_index == 0
    assert pin.size_bytes == 112  # malloc(100)
    assert 0 <= (target.truth["free_bytes"] or 0) - pin.free_bytes_below <= 1 << 18


def test_what_shares_pages_with_live_chunks_outlives_a_trim(
    running: Callable[..., RunningFixture],
) -> None:
    target = running("scattered", seed=4)

    def shared() -> int:
        data = pins(target.pid, PinsOptions(most=1)).data
        alone = sum(row.pinned_bytes for row in data.size_classes)
        return alone + data.mixed_bytes + data.parked_bytes

    held, before = shared(), kernel_says(target.pid, "Rss")
    target.trim()
    assert before - kernel_says(target.pid, "Rss") > held // 100
    assert 0 <= held - shared() <= PAGE * 16  # of each arena one free row may have become top


def test_bytes_are_shown_only_when_asked_for(pinned: tuple[Child, dict[str, Any]]) -> None:
    target, _ = pinned
    plain = answer("pins", str(target.pid))
    assert all(pin["first_bytes"] is None for pin in plain["data"]["pins"])
    shown = answer("pins", str(target.pid), "--show-bytes", "--most", "1")
    assert len(shown["data"]["pins"]) == 1
    assert len(shown["data"]["pins"][0]["first_bytes"]) == 128


def test_the_page_names_the_object(pinned: tuple[Child, dict[str, Any]]) -> None:
    target, said = pinned
    shown = command("pins", str(target.pid))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert max(map(len, shown.stdout.splitlines())) <= 100
    flat = " ".join(shown.stdout.split())
    assert f"chunk {said['order'] - 16:#x}, 2.9 KiB, live, an object of shop::Order" in flat
    assert "which pinned!cache_head" in flat
