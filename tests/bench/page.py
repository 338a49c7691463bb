"""``explain --html`` of a heap of 1 GiB: how large the page is, and how quick in a browser."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import ALLOCSCOPE, HERE, at_most, run

from allocscope.lab import fixture

sys.path.append(str(HERE.parent))

DRAWS = """new Promise((done) => {
    const canvas = document.querySelector('canvas'), times = [];
    const step = () => {
        const began = performance.now();
        canvas.dispatchEvent(new KeyboardEvent('keydown', { key: '0' }));
        requestAnimationFrame(() => {
            times.push(performance.now() - began);
            times.length < 20 ? requestAnimationFrame(step) : done(times);
        });
    };
    step();
})"""
"""From a key pressed to the whole map drawn anew, in ms, twenty times."""


def measure() -> dict[str, object]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        page = Path(directory) / "page.html"
        with fixture.run("dense", scale=16) as process:
            run(*ALLOCSCOPE, "explain", str(process.pid), "--html", str(page))
        return {
            "html_page_mb": at_most(page.stat().st_size / 1e6, 3, **_in_browser(page, directory))
        }


def _in_browser(page: Path, directory: str) -> dict[str, object]:
    """``load_s``: until the map is drawn; empty where there is no browser."""
    if shutil.which("chromium") is None:
        return {}
    from live.browser import browser

    loads = []
    with browser(Path(directory) / "profile") as tab:
        for _ in range(3):
            before = time.perf_counter()
            tab.open(page)
            loads.append(time.perf_counter() - before)
        draws = tab.evaluate(DRAWS)
    return {
        "load_s": round(statistics.median(loads), 3),
        "draw_ms": round(statistics.median(draws), 1),
        "longest_draw_ms": round(max(draws), 1),
    }
