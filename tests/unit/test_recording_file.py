"""Recording files: what is written is read again; what is damaged, foreign or hostile is BadInput
and nothing else, within bounds."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocscope.errors import BadInput, WrongUsage
from allocscope.files import CORE, RECORDING, kind_of
from allocscope.files.container import FORMAT_VERSION, MAGIC, Reader, Writer
from allocscope.files.recording import Recording, RecordingWriter, open_sample
from allocscope.files.words import pack
from allocscope.model.ledger import OutsideRss
from allocscope.model.libc import Allocator, LibcImage
from allocscope.model.owners import Claim
from allocscope.model.process import (
    CgroupLimits,
    Mapping,
    Pressure,
    Process,
    ProcessStatus,
    SmapsEntry,
    Stalls,
)
from allocscope.model.recording import Facts, KernelFacts, Ownership, RecordedThread
from allocscope.parse import facts as facts_text

BASE = 0x5555_0000_0000
RUNS = struct.pack("<3Q", BASE, BASE + 0x3000, 1)
HEAP = Mapping(BASE, BASE + 0x3000, "rw-p", 0, "00:00", 0, "[heap]")
LIBC = Mapping(BASE + 0x10000, BASE + 0x11000, "rw-p", 0x1000, "fe:00", 7, "/lib/a b/libc.so.6")
FACTS = Facts(
    captured_at=1_795_000_000.25,
    source="passive",
    consistency="quiescent",
    pause_ns=0,
    with_contents=False,
    process=Process(42, 4711, "na\udcffme", "/bin/x\\012y", 3, 12.5),
    image=LibcImage(
        "glibc", LIBC.path, (LIBC,), BASE, "2.36", "Debian", "ab12", True, False, 64, "its name"
    ),
    allocator=Allocator("glibc", ("jemalloc",)),
    rss_bytes=12288,
    mappings=(HEAP, LIBC),
    smaps=(SmapsEntry(HEAP, 12288, 12288, 0, 0, 0, 12288, 0, 0),),
    environ={"MALLOC_ARENA_MAX": "2"},
    cpus_online=2,
    cpus_cgroup=0.5,
    threads=(RecordedThread(42, "na\udcffme", 0x7F00_0000_0740), RecordedThread(43, "t", 0)),
    ownership=Ownership(
        (Claim(BASE, BASE + 4096, "runtime-heap", "na\udcffme", "so it says"),), ("00:1",)
    ),
    kernel=KernelFacts(
        status=ProcessStatus("S", 0, 0, 12288, 16384, 4096, 0, 0, 0, (42,), False),
        rollup=None,
        limits=CgroupLimits(0.5, "/cg", 1 << 30, 1 << 20, 1 << 29, None),
        pressure=Pressure(Stalls(0.25, 0.5, None, None), None, 0, None),
        outside=(OutsideRss("page-tables", 4096, "VmPTE"),),
    ),
)


def write(path: Path, samples: int = 2) -> Path:
    with RecordingWriter(path, "0.1.0") as writer:
        for number in range(samples):
            with writer.sample():
                spans = [(BASE + 8, b"size" * 2), (BASE + 0x1000, bytes([number]) * 4096)]
                writer.memory(RUNS, [pack(spans), pack([(BASE + 0x1000, b"overlaid")])])
                writer.facts(FACTS)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("recording") / "a.asrec").read_bytes()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.asrec")
    with Recording(path) as recording:
        assert recording.sample_count == 2
        first = recording.sample(1)
    assert first.facts == FACTS
    with first.memory as memory:
        assert memory.read(BASE, 24) == bytes(8) + b"size" * 2 + bytes(8)
        assert memory.read(BASE + 0x1000, 16) == b"overlaid" + bytes(8)
        assert memory.runs(BASE, BASE + 0x10000) == [(BASE, BASE + 0x3000)]
    last = open_sample(path)
    with last.memory as memory:
        assert (last.number, memory.read(BASE + 0x1008, 8)) == (2, b"\1" * 8)
    with pytest.raises(WrongUsage, match="no sample 3"):
        open_sample(path, 3)


def test_only_its_owner_may_read_it_and_it_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.asrec"
    path.write_text("what was there before")
    path.chmod(0o644)
    old_umask = os.umask(0)
    try:
        with pytest.raises(BadInput, match="stop"), RecordingWriter(path, "0.1.0") as writer:
            writer.memory(RUNS, [])
            raise BadInput("stop")
        assert path.read_text() == "what was there before"
        write(path)
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_sample_that_failed_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "a.asrec"
    with RecordingWriter(path, "0.1.0") as writer:
        with writer.sample():
            writer.memory(RUNS, [pack([(BASE, b"complete")])])
            writer.facts(FACTS)
        with pytest.raises(BadInput), writer.sample():
            writer.memory(RUNS, [pack([(BASE, b"half of.")])])
            raise BadInput("the target went away")
    with Recording(path) as recording:
        assert recording.sample_count == 1
    with open_sample(path).memory as memory:
        assert memory.read(BASE, 8) == b"complete"


@pytest.mark.parametrize("path", ["/dev/null", "/proc/self/no/such", "/"])
def test_what_cannot_be_written_is_wrong_usage(path: str) -> None:
    with pytest.raises(WrongUsage):
        Writer(Path(path))
    assert not Path("/dev/null").is_file()


def test_the_magic_number_decides(tmp_path: Path) -> None:
    assert kind_of(write(tmp_path / "a")) == RECORDING
    core = tmp_path / "core"
    core.write_bytes(b"\x7fELF\2\1\1" + bytes(9) + b"\4\0" + bytes(100))
    assert kind_of(core) == CORE
    for content in (b"", b"\x7fELF\2\1\1" + bytes(9) + b"\2\0", b"hello, world", MAGIC[:4]):
        core.write_bytes(content)
        with pytest.raises(BadInput, match="neither"):
            kind_of(core)
    with pytest.raises(BadInput, match="cannot be read"):
        kind_of(tmp_path)
    with pytest.raises(BadInput, match="cannot be read"):
        kind_of(tmp_path / "nothing")


def test_a_later_format_is_said_to_be_one(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "later"
    path.write_bytes(MAGIC + struct.pack("<I", FORMAT_VERSION + 1) + whole[12:])
    with pytest.raises(BadInput, match=f"format version {FORMAT_VERSION + 1}") as caught:
        Recording(path)
    assert "later" in caught.value.hint


def test_sections_that_are_not_known_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with Writer(path) as writer:
        writer.add(b"NEWS", b"of a later version")
        writer.add(b"FACT", facts_text.dump(FACTS, "9.9"))
    assert open_sample(path).facts == FACTS


def test_a_section_cannot_claim_more_than_zlib_can_pack(tmp_path: Path) -> None:
    """A bomb: little in the file, much in memory."""
    path = tmp_path / "bomb"
    header = struct.pack("<4sQQ", b"WORD", 4, 1 << 30)
    start = MAGIC + struct.pack("<I", FORMAT_VERSION)
    path.write_bytes(start + header + struct.pack("<I", zlib.crc32(header)) + b"bomb")
    with pytest.raises(BadInput, match="too long"):
        Reader(path)
    packed = zlib.compress(bytes(1 << 20))
    header = struct.pack("<4sQQ", b"WORD", len(packed), 1000)  # it says 1000, and holds 1 MiB
    path.write_bytes(start + header + struct.pack("<I", zlib.crc32(header)) + packed)
    with Reader(path) as reader, pytest.raises(BadInput, match="not as long"):
        reader.read(reader.sections[0])


def read_all(path: Path) -> list[tuple[Facts, bytes]]:
    """All that a recording says."""
    with Recording(path) as recording:
        samples = [recording.sample(n + 1) for n in range(recording.sample_count)]
    found = []
    for sample in samples:
        with sample.memory as memory:
            found.append((sample.facts, memory.read(BASE, 0x3000)))
    return found


def test_every_truncation_is_bad_input_or_a_shorter_recording(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "short"
    read = 0
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            read_all(path)
            read += 1
        except BadInput:
            pass
    assert read == 1  # cut right behind the first sample


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_only_bad_input_escapes_from_damage(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, whole: bytes
) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(whole)
    truth = read_all(path)
    path.write_bytes(damaged)
    try:
        found = read_all(path)
    except BadInput:
        return
    assert found == truth  # two changes that undo each other, a bit that zlib does not mind


# ---- facts with the right checksum, and wrong all the same ----

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a JSON value something else could stand."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in inner:
        found.append((*path, key))
        if isinstance(item, dict | list):
            found += places(item, (*path, key))
    return found


GOOD = json.loads(facts_text.dump(FACTS, "0.1.0"))


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(places(GOOD)), JSON)
def test_only_bad_input_escapes_from_wrong_facts(place: tuple[Any, ...], value: Any) -> None:
    wrong = json.loads(json.dumps(GOOD))
    target = wrong
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    try:
        facts = facts_text.load(json.dumps(wrong).encode())
    except BadInput:
        return
    assert dataclasses.is_dataclass(facts)
    assert facts_text.load(facts_text.dump(facts, "0.1.0")) == facts


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_what_is_no_json_is_bad_input(text: bytes) -> None:
    with pytest.raises(BadInput):
        facts_text.load(text)


def test_facts_of_a_later_schema_say_so() -> None:
    later = facts_text.dump(FACTS, "9").replace(b'"schema_version":1', b'"schema_version":2')
    with pytest.raises(BadInput, match="schema version 2"):
        facts_text.load(later)


def test_missing_facts_are_bad_input() -> None:
    for name in GOOD:
        if name in ("tool_version", *LATER):
            continue
        rest = {key: value for key, value in GOOD.items() if key != name}
        with pytest.raises(BadInput):
            facts_text.load(json.dumps(rest).encode())


LATER = ("ownership", "kernel", "others", "contention", "lazyfree")
"""What the first versions did not write."""


def test_a_recording_of_the_first_version_lacks_what_came_later_and_is_read() -> None:
    old = {name: value for name, value in GOOD.items() if name not in LATER}
    facts = facts_text.load(json.dumps(old).encode())
    assert facts == dataclasses.replace(FACTS, ownership=None, kernel=None)


def test_what_a_later_version_adds_is_passed_over() -> None:
    later = json.loads(json.dumps(GOOD))
    later["new"] = later["kernel"]["new"] = later["ownership"]["claims"][0]["new"] = [{}]
    assert facts_text.load(json.dumps(later).encode()) == FACTS


@pytest.mark.parametrize(
    "change", [{"end": BASE}, {"key": "glibc-main-heap"}, {"key": "nobody"}, {"start": -1}]
)
def test_impossible_claims_are_bad_input(change: dict[str, Any]) -> None:
    wrong = json.loads(json.dumps(GOOD))
    wrong["ownership"]["claims"][0].update(change)
    with pytest.raises(BadInput, match=r"claim|ownership\.claims\.(key|start)"):
        facts_text.load(json.dumps(wrong).encode())


def test_further_mallocs() -> None:
    two = dataclasses.replace(FACTS, others=(FACTS.image, FACTS.image))
    assert facts_text.load(facts_text.dump(two, "0.1.0")) == two
    for hostile in ({}, [{}], [7], "x"):
        with pytest.raises(BadInput):
            facts_text.load(json.dumps({**GOOD, "others": hostile}).encode())


def test_nothing_unknown_stays_unknown() -> None:
    bare = dataclasses.replace(FACTS, smaps=None, environ=None, cpus_cgroup=None)
    assert facts_text.load(facts_text.dump(bare, "0.1.0")) == bare
