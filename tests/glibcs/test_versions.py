"""One seed of the stress program under each glibc of Debian's archive; ./dev matrix runs many."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from live.core_files import kernels_core
from live.huge_pages import reserved

from allocscope import observe
from allocscope.app.arenas_core import arenas_of_core
from allocscope.app.arenas_file import arenas_of_file
from allocscope.app.doctor_layout import doctor_layout
from allocscope.app.record import RecordOptions, record
from allocscope.proc import procfs
from glibcs import fetch, judge, programs

HUGE_PAGES = 200
ADDRESS_SPACE_BYTES = 60 << 20
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
    assert report.caveats == ()  # such as chunks with mappings that were not found


def lying(tree, directory, version):
    """The tree with a C library whose banner names another version, and with another build-id."""
    directory.mkdir()
    for path in tree.libraries.iterdir():
        (directory / path.name).symlink_to(path)
    content = bytearray((tree.libraries / "libc.so.6").read_bytes())
    honest, false = (f"release version {name}." for name in (tree.version, version))
    assert content.count(honest.encode()) == 1
    content = content.replace(honest.encode(), false.encode())
    with (tree.libraries / "libc.so.6").open("rb") as file:
        note = ELFFile(file).get_section_by_name(".note.gnu.build-id")
        end = note["sh_offset"] + note["sh_size"]
    content[end - 20 : end] = 20 * b"\xfa"
    (directory / "libc.so.6").unlink()
    (directory / "libc.so.6").write_bytes(content)
    return dataclasses.replace(tree, libraries=directory)


@pytest.mark.parametrize("version", ["2.17", "2.26", "2.42", "2.99"])
def test_what_the_library_says_of_itself_decides_nothing(tree, stress, version, tmp_path):
    words = [str(SEED), str(THREADS), str(STEPS)]
    with programs.running(tree, stress, *words) as ready:
        honest = observe(ready["pid"]).libc
    with programs.running(lying(tree, tmp_path / "lib", version), stress, *words) as ready:
        report = observe(ready["pid"])
    assert (report.libc.version, report.libc.build_id) == (version, 20 * "fa")
    assert judge.stress_differences(report, ready["truth"]) == []
    # the last word of 2.43's mp_ is 0 and none of 2.44's: memory fits both
    assert report.libc.layout.replace("P6", "P5") == honest.layout.replace("P6", "P5")
    assert report.libc.safe_linking == honest.safe_linking == (tree.version != "2.31")


@pytest.fixture(params=["hugetlb=1", "hugetlb=2", "hugetlb=2, pages reserved"])
def huge(request):
    """The environment of a program that is to use huge pages."""
    tunable, _, reserve = request.param.partition(",")
    with reserved(HUGE_PAGES) if reserve else contextlib.nullcontext():
        yield {"GLIBC_TUNABLES": f"glibc.malloc.{tunable}"}


def test_the_reading_is_exact_with_huge_pages(tree, stress, huge):
    with programs.running(tree, stress, str(SEED), str(THREADS), str(STEPS), **huge) as ready:
        report = observe(ready["pid"])
        mappings = kernels_mappings(ready["pid"])
    assert judge.stress_differences(report, truth_of(ready, report, mappings)) == []
    setting = report.data.settings.hugetlb
    advised = "hg" in {flag for name, _, _, flags in mappings if name == "[heap]" for flag in flags}
    if setting.without_effect:
        assert (setting.value, in_brk(report, mappings), advised) == (0, True, False)
    elif huge["GLIBC_TUNABLES"].endswith("=1"):
        assert advised
        assert "transparent huge pages" in setting.evidence
    else:
        said = setting.evidence.endswith(": heaps use hugetlb pages")
        assert said != in_brk(report, mappings)


def kernels_mappings(pid):
    """``(name, start, end, flags)`` of each mapping, as smaps tells them."""
    smaps = Path(f"/proc/{pid}/smaps").read_text()
    header = r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ *(.*)$"
    found = zip(
        re.findall(header, smaps, re.MULTILINE),
        re.findall(r"^VmFlags:(.*)$", smaps, re.MULTILINE),
        strict=True,
    )
    return [(name, int(low, 16), int(high, 16), f.split()) for (low, high, name), f in found]


def in_brk(report, mappings):
    """Whether the main heap is in the memory of brk."""
    start = report.data.arenas[0].heaps[0].start
    return any(name == "[heap]" and low <= start < high for name, low, high, _ in mappings)


def truth_of(ready, report, mappings):
    """What the program said; where malloc uses no brk, that is none of it."""
    foreign = {} if in_brk(report, mappings) else {"foreign_brk_bytes": 0}
    return {**ready["truth"], **foreign}


def test_a_core_is_read_exactly_with_huge_pages(tree, stress, huge, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with programs.running(tree, stress, str(SEED), str(THREADS), str(STEPS), **huge) as ready:
        live = observe(ready["pid"])
        mappings = kernels_mappings(ready["pid"])
        core = kernels_core(ready["pid"], tmp_path)
    report = arenas_of_core(core, exe=None, deadline_s=60)
    assert judge.stress_differences(report, truth_of(ready, report, mappings)) == []
    assert "mmapped-not-found" not in {caveat.code for caveat in report.caveats}
    assert report.data.settings.hugetlb.value == live.data.settings.hugetlb.value


@pytest.mark.parametrize("suite", ["forky", "experimental"])
def test_huge_pages_that_are_larger_than_any_heap(suite, machine, stress):
    """glibc before 2.42 makes heaps as large as such pages ask for, on i386 in vain: no more than
    the main arena comes about there, and threads keep their tcaches in mappings."""
    tree = fetch.tree(suite, machine=machine)
    if isinstance(tree, fetch.NotFetched):
        pytest.skip(f"the archive does not answer for {suite}: {tree.reason}")
    environment = {"GLIBC_TUNABLES": f"glibc.malloc.hugetlb={1 << 30}"}
    words = [str(SEED), str(THREADS), str(STEPS)]
    with programs.running(tree, stress, *words, **environment) as ready:
        report = observe(ready["pid"])
        assert in_brk(report, kernels_mappings(ready["pid"]))
    assert judge.stress_differences(report, ready["truth"]) == []
    setting = report.data.settings.hugetlb
    assert (setting.value, setting.origin) == (1 << 30, "tunable")
    assert setting.evidence.endswith("no heap does")


def test_the_malloc_of_libc_malloc_debug(tree, stress):
    debug = tree.libraries / "libc_malloc_debug.so.0"
    if not debug.exists():
        pytest.skip("glibc 2.34 or newer is needed for libc_malloc_debug")
    environment = {"LD_PRELOAD": str(debug), "GLIBC_TUNABLES": "glibc.malloc.check=3"}
    words = [str(SEED), str(THREADS), str(STEPS)]
    with programs.running(tree, stress, *words, **environment) as ready:
        report = observe(ready["pid"])
    assert report.libc.path == str(debug)
    assert "/none/" in report.libc.layout
    # its chunks end in a mark, so only what its own mallinfo counts is comparable
    found = judge.broken_sums(report) + judge.unlike_glibc(report, ready["truth"])
    assert found == []


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


@pytest.fixture(scope="session")
def early_brk(tmp_path_factory, machine):
    source, directory = programs.HERE / "early_brk.c", tmp_path_factory.mktemp("bin")
    return programs.build([source], directory / "early_brk", machine=machine)


@pytest.mark.parametrize("tunables", ["", "glibc.malloc.top_pad=65536:glibc.malloc.mmap_max=9"])
@pytest.mark.parametrize("taken", [0, 1003, 70_001])
def test_a_heap_that_does_not_begin_with_the_break(tree, machine, early_brk, taken, tunables):
    environment = {"GLIBC_TUNABLES": tunables} if tunables else {}
    with programs.running(tree, early_brk, str(taken), **environment) as ready:
        report = observe(ready["pid"])
        mappings = procfs.mappings(ready["pid"])
    truth, (arena,) = ready["truth"], report.data.arenas
    figures, heap = arena.figures, arena.heaps[0]
    assert judge.broken_sums(report) == []
    assert (figures.system_bytes, judge.free_bytes(figures)) == (truth["arena"], truth["fordblks"])
    assert figures.top_bytes == truth["keepcost"]
    assert (figures.live_bytes, figures.live_count) == (truth["live_bytes"], truth["live_count"])
    assert heap.start == truth["base"]
    header_bytes = 8 if machine == "i386" else 16
    assert figures.overhead.alignment_bytes == -(truth["base"] + header_bytes) % 16
    break_start = min(m.start for m in mappings if m.path == "[heap]")
    copied = len(tunables) > 0 and tree.version == "2.31"  # the string lies before the heap
    assert heap.start - break_start >= taken + copied * len(tunables)


@pytest.fixture(scope="session")
def blocked_brk(tmp_path_factory, machine):
    source, directory = programs.HERE / "blocked_brk.c", tmp_path_factory.mktemp("bin")
    return programs.build([source], directory / "blocked_brk", machine=machine)


def test_a_main_arena_that_fell_back_to_mmap(tree, blocked_brk, tmp_path, monkeypatch):
    (tmp_path / "core").mkdir()
    monkeypatch.chdir(tmp_path / "core")
    with programs.running(tree, blocked_brk) as ready:
        live = observe(ready["pid"])
        record(ready["pid"], tmp_path / "a.rec", RecordOptions())
        core = kernels_core(ready["pid"], tmp_path / "core")
    truth = ready["truth"]
    recorded = arenas_of_file(tmp_path / "a.rec", sample=None, deadline_s=30).report
    for report in (live, recorded, arenas_of_core(core, exe=None, deadline_s=60)):
        (arena,) = report.data.arenas
        figures = arena.figures
        assert len(arena.heaps) > 2
        assert judge.broken_sums(report) == []
        assert (figures.live_bytes, figures.live_count) == (
            truth["live_bytes"],
            truth["live_count"],
        )
        assert (figures.system_bytes, figures.top_bytes) == (truth["arena"], truth["keepcost"])
        assert judge.free_bytes(figures) == truth["fordblks"]


@pytest.mark.parametrize("machine", ["amd64"], indirect=True)  # heaps of i386 are small
def test_threads_that_found_no_room_for_an_arena(tree, stress, tmp_path):
    """They have their tcaches in mappings of their own. So many chunks have mappings here, side by
    side, that some may be missed: what is said of those is not compared."""
    words = [str(SEED), str(THREADS), str(STEPS)]
    limited = ["prlimit", f"--as={ADDRESS_SPACE_BYTES}"]
    with programs.running(tree, stress, *words, wrapper=limited) as ready:
        report = observe(ready["pid"])
        record(ready["pid"], tmp_path / "a.rec", RecordOptions())
    recorded = arenas_of_file(tmp_path / "a.rec", sample=None, deadline_s=30).report
    assert len(report.data.arenas) == 1
    assert sum(thread.tcache_address is not None for thread in report.data.threads) == 5
    for found in (report, recorded):
        differences = judge.stress_differences(found, ready["truth"])
        assert [line for line in differences if "mmapped" not in line] == []
    assert recorded.data.arenas == report.data.arenas
    assert recorded.data.threads == report.data.threads
