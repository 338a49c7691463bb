"""`explain --html` in a real browser: the script runs, draws, zooms and sorts; nothing complains,
nothing is loaded; and a process with hostile names has no say."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live.browser import Tab, browser, skip_without_browser
from live.cli import command
from live.core_files import gdbs_core
from live.programs import READY_SECONDS
from oracle import locate, trim, walk
from oracle.layout import layout_for
from oracle.memory import Memory

from allocscope.app.explain import ExplainOptions, portrait
from allocscope.app.page_map import with_lazy
from allocscope.app.record import RecordOptions, record
from allocscope.lab.child import child
from allocscope.lab.fixture import RunningFixture
from allocscope.model.page_map import FREE, HELD, LAZY, PAGE, TRIMMABLE, HeapPages
from allocscope.proc.pages import FrameFlags

Running = Callable[..., RunningFixture]
CANVAS = "document.querySelector('canvas')"
HOSTILE_NAME = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    skip_without_browser()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        browser(Path(profile)) as found,
    ):
        yield found


@pytest.fixture
def quiet(tab: Tab) -> Iterator[Tab]:
    """Nothing that the test does may make the page complain, or load anything but itself."""
    tab.complaints.clear()
    tab.requests.clear()
    yield tab
    assert tab.complaints == []
    assert {url.partition(":")[0] for url in tab.requests} == {"file"}
    assert len(set(tab.requests)) == 1


def written(pid: int, to: Path) -> Path:
    done = command("explain", str(pid), "--html", str(to))
    assert (done.returncode, done.stderr) == (0, "")
    return to


# ---- the file ----


def test_the_file_is_private_and_the_answer_the_same(running: Running, tmp_path: Path) -> None:
    pid, file = running("healthy").pid, tmp_path / "page.html"
    done = command("explain", str(pid), "--json", "--html", str(file))
    assert json.loads(done.stdout)["schema"] == "allocscope/explain"
    assert "healthy." in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_written_is_wrong_usage(running: Running, tmp_path: Path) -> None:
    done = command("explain", str(running("healthy").pid), "--html", str(tmp_path / "no" / "page"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


# ---- the pages ----


@pytest.mark.parametrize("name", ["arena-spread", "pinned-top", "scattered"])
def test_pages_called_trimmable_are_those_that_a_trim_takes(name: str, running: Running) -> None:
    target = running(name, seed=11)
    with Memory(target.pid) as memory:
        layout = layout_for(locate.glibc_minor(target.pid))
        sums = walk.walk(memory, layout, *locate.from_bytes(memory, layout))
    end = trim.heap_end(target.pid)
    going = {
        page
        for one in sums
        for low, high in trim.ranges(one, one is sums[0], end)
        for page in range(low, high, PAGE)
        if trim.resident_bytes(target.pid, [(page, page + PAGE)])
    }
    pages = portrait(target.pid, ExplainOptions(pages=True))[1].pages
    assert pages is not None
    told = {
        heap.start + number * PAGE
        for heap in pages.heaps
        for number, cell in enumerate(heap.cells)
        if cell == TRIMMABLE
    }
    assert told == going
    assert told


@pytest.mark.parametrize("name", ["big-mmaps", "dense", "fastbin-hoard", "tcache-hoard"])
def test_held_pages_are_those_with_live_chunks(name: str, running: Running) -> None:
    target = running(name, seed=12)
    with Memory(target.pid) as memory:
        layout = layout_for(locate.glibc_minor(target.pid))
        sums = walk.walk(memory, layout, *locate.from_bytes(memory, layout))
    held: Counter[int] = Counter()
    for one in sums:
        for address, size, kind in one.chunks:
            if kind not in ("live", "tcache_struct"):
                continue
            for page in range(address // PAGE * PAGE, address + size, PAGE):
                held[page] += min(page + PAGE, address + size) - max(page, address)
    pages = portrait(target.pid, ExplainOptions(pages=True))[1].pages
    assert pages is not None
    told = {
        heap.start + number * PAGE: cell - HELD + 1
        for heap in pages.heaps
        for number, cell in enumerate(heap.cells)
        if cell >= HELD
    }
    there = {page for page in held if trim.resident_bytes(target.pid, [(page, page + PAGE)])}
    assert told == {page: -(-held[page] * 16 // PAGE) for page in there}


def test_lazily_freed_pages_are_marked_where_nothing_is_held() -> None:
    heap = HeapPages(0, 0x10000, bytes([HELD, FREE, TRIMMABLE, TRIMMABLE, HELD]))
    marked = with_lazy(heap, [(0, 0x12000), (0x13000, 0x99000)])
    assert list(marked.cells) == [HELD, LAZY, TRIMMABLE, LAZY, HELD]


GIVES_BACK_LAZILY = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
for name in ("malloc", "free", "madvise"):
    getattr(libc, name).argtypes = [ctypes.c_size_t] if name != "madvise" else [
        ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.malloc.restype = ctypes.c_size_t
libc.mallopt(-3, 1 << 30)
big = libc.malloc(8 << 20)
above = libc.malloc(1 << 16)
ctypes.memset(big, 1, 8 << 20)
libc.free(big)
middle = (big + (2 << 20)) & -4096  # what Python allocates next, it takes from the beginning
assert libc.madvise(middle, 4 << 20, 8) == 0
print("ready", flush=True)
sys.stdin.read()
"""


def test_lazily_freed_pages_are_as_many_as_the_kernel_counts() -> None:
    frames = FrameFlags.open_if_allowed()
    if frames is None:
        pytest.skip("seeing page frames needs CAP_SYS_ADMIN")
    frames.close()
    with child([sys.executable, "-c", GIVES_BACK_LAZILY]) as process:
        assert process.line(READY_SECONDS) == "ready"
        before = lazyfree_bytes(process.pid)
        pages = portrait(process.pid, ExplainOptions(pages=True))[1].pages
        after = lazyfree_bytes(process.pid)
    assert pages is not None
    assert pages.lazy_known
    marked = sum(heap.page_count(LAZY) for heap in pages.heaps) * PAGE
    assert before <= marked <= after
    assert 3 << 20 < marked <= 4 << 20


def lazyfree_bytes(pid: int) -> int:
    """What the kernel counts: it grows a little while the last pages wait for their turn (each CPU
    has a batch of them)."""
    smaps = Path(f"/proc/{pid}/smaps").read_text()
    return 1024 * sum(int(kib) for kib in re.findall(r"LazyFree: +(\d+) kB", smaps))


# ---- in the browser ----


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_map_is_drawn(
    width: int, dark: bool, running: Running, quiet: Tab, tmp_path: Path
) -> None:
    quiet.open(written(running("scattered").pid, tmp_path / "page.html"), width=width, dark=dark)
    assert int(quiet.evaluate(f"{CANVAS}.dataset.pages")) > 1000
    assert quiet.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
    colours = quiet.evaluate(
        f"""(() => {{
            const data = {CANVAS}.getContext('2d').getImageData(0, 0, {CANVAS}.width, 200).data;
            const seen = new Set();
            for (let i = 0; i < data.length; i += 4) seen.add(data.slice(i, i + 3).join(' '));
            return [...seen];
        }})()"""
    )
    assert len(colours) > 10
    trimmable = "39 184 138" if dark else "26 154 115"  # --trimmable in the style sheet
    assert trimmable in colours
    assert quiet.evaluate("document.querySelector('.told').textContent") == ""


def test_the_page_of_a_core(running: Running, quiet: Tab, tmp_path: Path) -> None:
    core, path = gdbs_core(running("scattered", seed=2).pid, tmp_path), tmp_path / "page.html"
    done = command("explain", str(core), "--html", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    quiet.open(path, width=1200)
    assert quiet.evaluate("document.documentElement.scrollWidth") == 1200
    assert int(quiet.evaluate(f"{CANVAS}.dataset.pages")) > 1000
    said = quiet.evaluate("document.body.innerText")
    assert "a core does not tell what was resident" in said
    assert "at most" in said
    assert "of RSS" not in said
    assert " UTC" not in said  # when it was read is not when it was


def test_zooming_telling_and_going_back(running: Running, quiet: Tab, tmp_path: Path) -> None:
    quiet.open(written(running("pinned-top").pid, tmp_path / "page.html"))
    quiet.evaluate(f"{CANVAS}.scrollIntoView({{block: 'center'}})")
    left, top = quiet.evaluate(
        f"(() => {{ const box = {CANVAS}.getBoundingClientRect(); return [box.x, box.y]; }})()"
    )

    def view() -> list[float]:
        quiet.frame()
        return [float(part) for part in quiet.evaluate(f"{CANVAS}.dataset.view").split()]

    whole = view()
    x, y = left + 400, top + 150
    quiet.mouse("mouseMoved", x, y)
    quiet.frame()
    said = quiet.evaluate("document.querySelector('.told').textContent")
    assert said.endswith("arena 0: free, malloc_trim would release it")
    for _ in range(5):
        quiet.mouse("mouseWheel", x, y, deltaX=0, deltaY=-100)
    near = view()
    assert near[2] < 0.5 * whole[2]
    quiet.mouse("mouseMoved", x, y)
    quiet.frame()
    assert quiet.evaluate("document.querySelector('.told').textContent") == said  # it stayed there
    quiet.mouse("mousePressed", x, y, button="left", clickCount=1)
    quiet.mouse("mouseMoved", x - 80, y, button="left", buttons=1)
    quiet.mouse("mouseReleased", x - 80, y, button="left", clickCount=1)
    assert view()[0] > near[0]
    quiet.evaluate(f"{CANVAS}.dispatchEvent(new KeyboardEvent('keydown', {{key: '0'}}))")
    assert view() == whole
    quiet.evaluate("document.querySelector('[data-zoom=in]').click()")
    assert view()[2] == pytest.approx(whole[2] / 2, abs=0.1)


def test_a_click_on_a_heading_sorts(running: Running, quiet: Tab, tmp_path: Path) -> None:
    quiet.open(written(running("arena-spread").pid, tmp_path / "page.html"))
    heading = """[...document.querySelectorAll('th')].find((th) => th.textContent === 'live')"""
    column = f"""[...{heading}.closest('table').tBodies[0].rows].map(
        (row) => Number(row.cells[{heading}.cellIndex].dataset.sort))"""
    quiet.evaluate(f"{heading}.querySelector('button').click()")
    falling = quiet.evaluate(column)
    assert falling == sorted(falling, reverse=True)
    assert quiet.evaluate(f"{heading}.getAttribute('aria-sort')") == "descending"
    quiet.evaluate(f"{heading}.querySelector('button').click()")
    assert quiet.evaluate(column) == falling[::-1]
    assert len(set(falling)) > 1


def test_hostile_names_run_nothing(quiet: Tab, running: Running, tmp_path: Path) -> None:
    program = tmp_path / HOSTILE_NAME
    shutil.copy(f"/proc/{running('healthy').pid}/exe", program)
    with subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.ExitStack() as stack:
            stack.callback(process.stdin.close)
            assert "ready" in process.stdout.readline()
            quiet.open(written(process.pid, tmp_path / "page.html"))
    assert quiet.evaluate("document.images.length") == 0
    assert HOSTILE_NAME[:15] in quiet.evaluate("document.title")
    assert os.fspath(program)[-30:] in quiet.evaluate("document.body.textContent")
    assert quiet.evaluate("document.scripts.length") == 2


# ---- a recording over time ----


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_series_is_drawn(
    width: int, dark: bool, running: Running, quiet: Tab, tmp_path: Path
) -> None:
    recording, page = tmp_path / "a.asrec", tmp_path / "page.html"
    record(running("scattered").pid, recording, RecordOptions(every_s=0.01, for_s=0.04))
    assert command("explain", str(recording), "--html", str(page)).returncode == 0
    quiet.open(page, width=width, dark=dark)
    assert quiet.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
    drawn = quiet.evaluate(
        """(() => {
            const box = (one) => one.getBoundingClientRect();
            const svg = document.querySelector('.series svg');
            const at = box(svg);
            const shapes = [...svg.querySelectorAll('polygon')].map((one) => ({
                high: box(one).height, wide: box(one).width, fill: getComputedStyle(one).fill,
            }));
            const lines = [...document.querySelectorAll('.amounts span')].map(box);
            const times = [...document.querySelectorAll('.times span')].map(box);
            return {
                wide: at.width, high: at.height, shapes,
                tips: svg.querySelectorAll('rect > title').length,
                firstLine: (lines[0].top + lines[0].bottom) / 2 - at.top,
                lastLine: (lines.at(-1).top + lines.at(-1).bottom) / 2 - at.bottom,
                times: times.filter((one) => one.width).length,
                apart: times.every((one, n) => !n || one.left >= times[n - 1].right || !one.width),
            };
        })()"""
    )
    assert drawn["wide"] > 0.75 * width
    assert drawn["high"] > 200
    assert drawn["tips"] == 5
    assert all(shape["wide"] == pytest.approx(drawn["wide"], abs=2) for shape in drawn["shapes"])
    # four rows of malloc are more than 2 % of its RSS, files are, and the rest is one area
    assert len(drawn["shapes"]) == 6
    assert len({shape["fill"] for shape in drawn["shapes"]}) >= 5
    assert abs(drawn["firstLine"]) < 2
    assert abs(drawn["lastLine"]) < 2
    assert drawn["times"] == (3 if width == 400 else 5)
    assert drawn["apart"]
