"""Random programs under each glibc of the archive, against three who do not know each other: the
program's own arithmetic, a slow walk that shares nothing with allocscope, and glibc itself, asked
in a frozen copy of the same moment.

A seed decides all that a program does (stress.c): thousands of allocations of all sizes, realloc,
memalign and calloc, frees by other threads, threads that end, sbrk beside malloc (odd seeds), and
mallopt: M_MXFAST (seeds 1, 4), M_TOP_PAD (2, 6), M_MMAP_THRESHOLD (3).
"""

from __future__ import annotations

import pytest
from oracle import locate, walk
from oracle.layout import layout_for
from oracle.memory import Memory

from allocscope.app.arenas import ArenasOptions
from allocscope.app.arenas_frozen import arenas_frozen
from glibcs import fetch, judge, programs

THREADS, STEPS = 5, 8_000
MAX_PAUSE_NS = 1_000_000_000
SUMS = (
    "address", "live_bytes", "live_count", "tcache_bytes", "tcache_count", "fastbin_bytes",
    "fastbin_count", "bin_bytes", "bin_count", "top_bytes", "overhead_bytes", "system_bytes",
    "residue_bytes",
)  # fmt: skip


@pytest.fixture(scope="module")
def stress(tmp_path_factory):
    program = tmp_path_factory.mktemp("bin") / "stress"
    return programs.build([programs.HERE / "stress.c"], program)


@pytest.fixture(params=fetch.SUITES)
def tree(request):
    found = fetch.tree(request.param)
    if isinstance(found, fetch.NotFetched):
        pytest.skip(f"the archive does not answer for {found.suite}: {found.reason}")
    return found


@pytest.mark.parametrize("seed", range(1, 7))
def test_all_agree_to_the_byte(tree, stress, seed):
    with programs.running(tree, stress, str(seed), str(THREADS), str(STEPS)) as ready:
        pid, truth = ready["pid"], ready["truth"]
        report = arenas_frozen(pid, ArenasOptions(), ask_glibc=True, max_pause_ns=MAX_PAUSE_NS)
        with Memory(pid) as memory:
            layout = layout_for(locate.glibc_minor(pid))
            where = locate.from_bytes(memory, layout)
            slow = walk.walk(memory, layout, *where, foreign_bytes=truth["foreign_brk_bytes"])
    arenas = [
        {**{name: getattr(arena.figures, name) for name in SUMS[1:]}, "address": arena.address}
        for arena in report.data.arenas
    ]
    assert arenas == [{name: getattr(sums, name) for name in SUMS} for sums in slow]
    assert len(arenas) > 1
    assert judge.stress_differences(report, truth) == []
    says = report.data.glibc_says
    assert (says.agrees, says.differences) == (True, ())
    assert says.malloc_info is not None
    assert says.malloc_stats is not None
