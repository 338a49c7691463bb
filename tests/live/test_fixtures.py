"""The fixtures tell the truth: what each says of itself is what a slow walk over its memory
finds, what the kernel says, and what its own variables hold. Nothing here uses allocscope's
reading of heaps."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from live.programs import thread_states, wait_until
from oracle import locate, walk
from oracle.layout import layout_for
from oracle.memory import Memory, mappings

from allocscope.errors import MissingPart, WrongUsage
from allocscope.lab import fixture
from allocscope.lab.fixture import RunningFixture

Running = Callable[..., RunningFixture]
RESTING = [name for name in fixture.names() if name != "busy"]
SHAPES: dict[str, dict[str, object]] = {
    "no tcache": {"environment": {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}},
    "large tcache": {"environment": {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=30"}},
    "one arena": {"environment": {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}},
    "two heaps an arena": {"threads": 2, "scale": 18},
}


def found_by_oracle(pid: int) -> dict[str, int]:
    """The oracle's figures under the names of the truth's."""
    with Memory(pid) as memory:
        layout = layout_for(locate.glibc_minor(pid))
        arena, par = locate.from_bytes(memory, layout)
        sums = walk.walk(memory, layout, arena, par)
        mmapped_count, mmapped_bytes = walk.mmapped(memory, layout)
    assert [one.residue_bytes for one in sums] == [0] * len(sums)

    def total(name: str) -> int:
        return sum(getattr(one, name) for one in sums)

    return {
        "live_count": total("live_count"),
        "live_chunk_bytes": total("live_bytes"),
        "tcache_count": total("tcache_count"),
        "tcache_bytes": total("tcache_bytes"),
        "fastbin_count": total("fastbin_count"),
        "fastbin_bytes": total("fastbin_bytes"),
        "free_bytes": total("fastbin_bytes") + total("bin_bytes") + total("top_bytes"),
        "used_bytes": total("live_bytes") + total("tcache_bytes") + total("overhead_bytes"),
        "system_bytes": total("system_bytes"),
        "mmapped_count": mmapped_count,
        "mmapped_bytes": mmapped_bytes,
        "arena_count": len(sums),
    }


def told_by(running: RunningFixture) -> dict[str, int | None]:
    """The truth in the oracle's terms: a walk cannot tell glibc's own live chunks from the
    program's."""
    told = dict(running.truth)
    for own, all_of_it in (("count", "live_count"), ("bytes", "live_chunk_bytes")):
        live, glibc = told[all_of_it], told[f"glibc_own_{own}"]
        assert live is not None and glibc is not None
        told[all_of_it] = live + glibc
    return told


def assert_truth_is_found(running: RunningFixture) -> None:
    found, told = found_by_oracle(running.pid), told_by(running)
    arenas = found.pop("arena_count")
    assert {name: found[name] for name in found if told[name] is not None} == {
        name: told[name] for name in found if told[name] is not None
    }
    assert int(told["arena_count_min"] or 0) <= arenas <= int(told["arena_count_max"] or 0)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", RESTING)
def test_truth_is_what_a_slow_walk_finds(name: str, seed: int, running: Running) -> None:
    target = running(name, seed=seed)
    assert target.seed == seed
    assert target.truth["tcache_count"] is not None
    assert_truth_is_found(target)


@pytest.mark.parametrize("shape", SHAPES)
def test_truth_holds_in_other_shapes_of_heap(shape: str, running: Running) -> None:
    assert_truth_is_found(running("scattered", **SHAPES[shape]))


def test_tcache_is_unknown_once_an_arena_has_a_second_heap(running: Running) -> None:
    assert running("scattered", threads=2, scale=18).truth["tcache_count"] is None


def test_both_ways_to_find_the_arena_agree(running: Running) -> None:
    pid = running("healthy").pid
    by_symbols = locate.from_debug_symbols(pid)
    if by_symbols is None:
        pytest.skip("libc6-dbg not installed")
    with Memory(pid) as memory:
        assert locate.from_bytes(memory, layout_for(locate.glibc_minor(pid))) == by_symbols


@pytest.mark.parametrize("name", fixture.names())
def test_json_and_exported_symbols_are_the_same_figures(name: str, running: Running) -> None:
    target = running(name)
    program = Path(f"/proc/{target.pid}/exe").resolve()
    base = next(m.start for m in mappings(target.pid) if m.name == str(program))
    with program.open("rb") as file, Memory(target.pid) as memory:
        symbols = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(symbols, SymbolTableSection)
        exported = {
            symbol.name.removeprefix("truth_"): memory[base + symbol["st_value"]]
            for symbol in symbols.iter_symbols()
            if symbol.name.startswith("truth_")
        }
    unknown = 2**64 - 1
    assert {name: value if value != unknown else None for name, value in exported.items()} == (
        target.truth
    )


def test_a_seed_decides_everything_the_program_does(running: Running) -> None:
    own = ("live_count", "live_chunk_bytes", "freed_count", "freed_bytes", "tcache_bytes")

    def figures(seed: int) -> list[int | None]:
        return [running("scattered", seed=seed).truth[name] for name in own]

    assert figures(3) == figures(3) != figures(4)


@pytest.mark.parametrize("name", RESTING)
def test_every_thread_sleeps_when_the_fixture_is_ready(name: str, running: Running) -> None:
    target = running(name)
    assert thread_states(target.pid) == ["S"] * int(target.truth["thread_count"] or 0)


def test_busy_never_rests(running: Running) -> None:
    target = running("busy")
    assert target.truth["live_count"] is None
    assert len(thread_states(target.pid)) == target.truth["thread_count"] == 17

    def ran_ns() -> list[int]:
        tasks = sorted(Path(f"/proc/{target.pid}/task").iterdir())
        return [int((task / "schedstat").read_text().split()[0]) for task in tasks[1:]]

    before = ran_ns()
    wait_until(
        "every thread runs on", lambda: all(n > b for n, b in zip(ran_ns(), before, strict=True))
    )


def test_lazyfree_is_what_the_kernel_says(running: Running) -> None:
    target = running("lazyfree")
    smaps = Path(f"/proc/{target.pid}/smaps").read_text()
    marked = sum(int(kib) for kib in re.findall(r"^LazyFree: +(\d+) kB$", smaps, re.MULTILINE))
    assert marked * 1024 == target.truth["lazyfree_bytes"] == 24 << 20


def test_fastbin_hoard_hoards(running: Running) -> None:
    truth = running("fastbin-hoard").truth
    freed, cached, parked = (
        int(truth[name] or 0) for name in ("freed_bytes", "tcache_bytes", "fastbin_bytes")
    )
    assert parked in (freed - cached, 0)  # 0: glibc 2.43 and later have no fastbins


@pytest.mark.parametrize("name", fixture.names())
def test_a_fixture_ends_at_eof(name: str) -> None:
    with fixture.run(name) as target:
        assert target.process.poll() is None
    assert target.process.returncode == 0


def test_a_program_is_built_once(
    c_compiler: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = fixture.build("healthy")
    built_at = first.stat().st_mtime_ns
    assert fixture.build("healthy") == first
    assert first.stat().st_mtime_ns == built_at
    assert [path.name for path in first.parent.iterdir()] == ["healthy"]


def test_errors_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match="There are: arena-spread, big-mmaps"):
        fixture.build("no-such-fixture")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(MissingPart, match="apt install gcc"):
        fixture.default_compiler()
    with pytest.raises(MissingPart, match="does not run"):
        fixture.build("healthy", compiler=[str(tmp_path / "cc")])


def test_a_fixture_that_cannot_start_says_why() -> None:
    with pytest.raises(MissingPart, match="usage"), fixture.run("healthy", scale=0):
        pass
