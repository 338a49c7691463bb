"""Recordings of the stress program under glibcs of Debian's archive, as they were when those were
new: every figure against what the program and its mallinfo said then (samples/README.md), whatever
the recording says that the library is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from glibcs import judge

from allocscope.app import arenas_file
from allocscope.app.arenas_file import arenas_of_file
from allocscope.files.recording import Sample, open_sample
from allocscope.immutable import replace
from allocscope.model.heap import ArenasData
from allocscope.model.report import Report

SAMPLES = sorted((Path(__file__).resolve().parents[1] / "samples").glob("*.rec"))
LAYOUTS = {
    "2.31-x86-64": "C/heap32/T3/P3",
    "2.36-x86-64": "C/heap48/T4/P4",
    "2.41-x86-64": "C/heap48/T4/P4",
    "2.43-x86-64": "D/heap48/T6/P5",
    "2.44-x86-64": "D/heap48/T6/P6",
    "2.31-i386": "C/heap24/T3/P3",
    "2.36-i386": "C/heap24/T4/P4",
    "2.41-i386": "C/heap24/T4/P4",
    "2.43-i386": "D/heap24/T6/P5",
    "2.44-i386": "D/heap24/T6/P6",
}
TWINS = re.compile("P[56]$")
"""2.44's mp_ is 2.43's without its last word, which is 0 unless a tunable sets it: memory fits
both, all figures are the same, and the version that the library names decides which name it has."""


def name_of(path: Path) -> str:
    return path.stem.removeprefix("glibc-")


def read(path: Path) -> Report[ArenasData]:
    return arenas_of_file(path, sample=None, deadline_s=60).report


def truth_of(path: Path) -> Any:
    return json.loads(path.with_suffix(".json").read_text())["truth"]


def test_none_is_missing() -> None:
    assert {name_of(path) for path in SAMPLES} >= LAYOUTS.keys()


@pytest.mark.parametrize("path", SAMPLES, ids=name_of)
def test_every_figure_is_what_was_true(path: Path) -> None:
    report = read(path)
    assert judge.stress_differences(report, truth_of(path)) == []
    assert report.libc is not None
    assert report.libc.version == name_of(path).partition("-")[0]
    assert report.libc.layout == LAYOUTS.get(name_of(path), report.libc.layout)
    assert len(report.data.arenas) > 1
    assert any(thread.tcache_count for thread in report.data.threads)


@pytest.mark.parametrize("version", ["2.17", "2.26", "2.34", "2.44", "9.99", None])
@pytest.mark.parametrize("path", SAMPLES, ids=name_of)
def test_what_the_library_says_of_itself_decides_nothing(
    path: Path, version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version, banner, build-id and name are false."""
    honest = read(path)

    def falsified(path: Path, number: int | None) -> Sample:
        sample = open_sample(path, number)
        image = replace(
            sample.facts.image,
            version=version,
            banner=version and f"Debian GLIBC {version}-1",
            build_id=40 * "f",
            path="/lib/libfalse.so",
        )
        return replace(sample, facts=replace(sample.facts, image=image))

    monkeypatch.setattr(arenas_file, "open_sample", falsified)
    lied_to = read(path)
    assert lied_to.libc is not None
    assert (lied_to.libc.version, lied_to.libc.build_id) == (version, 40 * "f")
    assert lied_to.data.arenas == honest.data.arenas
    assert lied_to.data.mmapped == honest.data.mmapped
    assert lied_to.data.threads == honest.data.threads
    layouts = {report.libc.layout for report in (honest, lied_to) if report.libc is not None}
    assert len({TWINS.sub("P5", layout or "") for layout in layouts}) == 1
