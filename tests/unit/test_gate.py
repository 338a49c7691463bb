"""check: which limits are exceeded, by what, and how a CI system reads the answer."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import click
import pytest
from rich.cells import cell_len
from unit import reports
from unit.situations import MIB, arena, holding, situation
from unit.test_causes import ROLLUP, STATUS
from unit.test_render_json import validate

from allocscope.account import ledger
from allocscope.app import check as app
from allocscope.app.check import CheckOptions
from allocscope.causes.explanation import explain
from allocscope.causes.gate import Found, figure, judge, untold
from allocscope.cli import amounts
from allocscope.cli.group import run
from allocscope.errors import MissingPart, WrongUsage
from allocscope.model.gate import FIGURES, GateData, Limit, LimitKey, Verdict
from allocscope.model.libc import Allocator
from allocscope.model.report import Caveat, Report
from allocscope.model.situation import Situation
from allocscope.render import json as json_page
from allocscope.render.check import check as page
from allocscope.render.junit import junit
from allocscope.render.page import Look

SCATTERED = situation(
    arena(0, live=10),
    arena(1, live=6, shared_pages=40, whole_pages=8, tcache=2),
    arena(2, live=1, top=1),
    holdings=(holding("unexplained", 20, start=0x7F00_0000_0000),),
    rollup=ROLLUP,
    status=STATUS,
)
"""88 MiB of RSS, of which 20 are unexplained; malloc holds 51 free, 8 of them trimmable."""
LEAST: dict[LimitKey, float] = {
    "max-retained": SCATTERED.heap.totals.free_resident_bytes,
    "max-retained-ratio": SCATTERED.heap.totals.free_resident_bytes / SCATTERED.rss_bytes,
    "max-trimmable": 8 * MIB,
    "max-arenas": 3,
    "max-footprint": 57 * MIB,
    "max-unexplained-ratio": 20 / 88,
}
FIRST: dict[LimitKey, str] = {
    "max-retained": "scattered-live",
    "max-retained-ratio": "scattered-live",
    "max-trimmable": "untrimmed-free",
    "max-footprint": "scattered-live",
}
WHEN = 1_790_000_000.25
TORN = Caveat("unread", "arena 1: 4096 bytes could not be read \x1b[2J.", partial=True)


def found(made: Situation = SCATTERED) -> Found:
    return Found(made.heap, made, explain(made))


def verdict(key: LimitKey, most: float, made: Situation = SCATTERED) -> Verdict:
    [one] = judge([Limit(key, most)], found(made))
    return one


def test_every_limit_has_its_figure_here() -> None:
    assert FIGURES.keys() == LEAST.keys()


@pytest.mark.parametrize("key", LEAST)
def test_a_limit_allows_what_it_names_and_nothing_more(key: LimitKey) -> None:
    kept = verdict(key, LEAST[key])
    assert (kept.exceeded, kept.found, kept.figure) == (False, LEAST[key], FIGURES[key])
    assert (kept.says, kept.causes, kept.remedies) == ((), (), ())
    step = 1e-9 if key.endswith("ratio") else 1
    broken = verdict(key, LEAST[key] - step)
    assert broken.exceeded
    assert broken.says
    if key in FIRST:
        assert broken.causes[0].key == FIRST[key]


def test_causes_are_those_that_bear_on_the_figure() -> None:
    assert [c.key for c in verdict("max-retained", 0).causes] == [
        "scattered-live", "untrimmed-free", "tcache-hoard", "thread-top"
    ]  # fmt: skip
    assert [c.key for c in verdict("max-trimmable", 0).causes] == ["untrimmed-free"]
    assert verdict("max-unexplained-ratio", 0).causes == ()
    assert "at 0x7f0000000000" in verdict("max-unexplained-ratio", 0).says[0]


def test_too_many_arenas_are_cured_by_the_very_limit() -> None:
    [remedy] = verdict("max-arenas", 2).remedies
    assert "glibc.malloc.arena_max=2" in remedy.action
    assert remedy.gain_bytes is None


def test_a_healthy_process_is_never_its_own_cause() -> None:
    alone = dataclasses.replace(ROLLUP, pss_anon_bytes=97 * MIB, pss_bytes=100 * MIB)
    made = situation(arena(0, live=30, top=1), rollup=alone, status=STATUS)
    assert explain(made).causes[0].key == "healthy"
    assert all(cause.key != "healthy" for cause in verdict("max-footprint", 1, made).causes)


def test_a_file_has_figures_and_the_remedy_of_its_heap_but_no_causes() -> None:
    [one] = judge([Limit("max-retained", 1)], Found(SCATTERED.heap))
    assert (one.exceeded, one.causes) == (True, ())
    [remedy] = one.remedies
    assert (remedy.key, remedy.gain_bytes, remedy.gain_is) == ("trim", 8 * MIB, "forecast")


def test_what_is_not_known_is_not_nought() -> None:
    assert figure("max-footprint", found(dataclasses.replace(SCATTERED, rollup=None))) is None
    part = ledger.of_a_part(SCATTERED.ledger, SCATTERED.rss_bytes + MIB)
    recorded = found(dataclasses.replace(SCATTERED, ledger=part))
    assert figure("max-unexplained-ratio", recorded) is None
    core = Found(dataclasses.replace(SCATTERED.heap, rss_bytes=None))
    assert figure("max-retained-ratio", core) is None
    for key in ("max-footprint", "max-unexplained-ratio"):
        assert figure(key, core) is None  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=key):
            judge([Limit(key, 0)], core)  # type: ignore[arg-type]


def test_a_core_cannot_judge_shares_of_rss() -> None:
    every = [Limit(key, 0) for key in LEAST]
    assert [key for key, _ in untold(every)] == [
        "max-retained-ratio", "max-footprint", "max-unexplained-ratio"
    ]  # fmt: skip


# ---- the use case and the command, on a process that is made up ----


def surveyed(
    made: Situation = SCATTERED, caveats: tuple[Caveat, ...] = (), name: str = "glibc"
) -> Report[Situation]:
    base = reports.report()
    process = reports.process(comm="server")
    return Report(process, base.libc, Allocator(name, ()), base.method, made, caveats)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``seen(report)``: what any process looks like from now on."""

    def look(report: Report[Situation]) -> None:
        monkeypatch.setattr(app, "survey", lambda _pid, _options: report)

    look(surveyed())
    return look


def checked(**limits: float) -> Report[GateData]:
    keys: dict[str, LimitKey] = {key.replace("-", "_"): key for key in LEAST}
    return app.check(7, CheckOptions(tuple(Limit(keys[k], most) for k, most in limits.items())))


def test_limits_on_a_heap_that_does_not_serve_malloc_are_not_kept(seen: Any) -> None:
    seen(surveyed(name="jemalloc"))
    report = checked(max_retained=1 << 40, max_unexplained_ratio=0.9)
    assert report.data.exceeded_count == 0
    assert report.partial
    assert "--max-retained judged" in report.caveats[0].message
    assert not checked(max_unexplained_ratio=0.9).partial


def test_a_kernel_that_does_not_tell_is_a_missing_part(seen: Any) -> None:
    seen(surveyed(dataclasses.replace(SCATTERED, rollup=None)))
    with pytest.raises(MissingPart, match="--max-footprint"):
        checked(max_footprint=1)


def test_a_core_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(b"\x7fELF" + bytes(12) + b"\x04\0")
    with pytest.raises(WrongUsage, match="--max-footprint cannot be judged from a core"):
        app.check(path, CheckOptions((Limit("max-footprint", 1),)))


KEPT = ["--max-arenas", "3"]
EXCEEDED = ["--max-retained", "50MiB"]


@pytest.mark.parametrize(
    ("words", "caveats", "status"),
    [
        (KEPT, (), 0),
        (EXCEEDED, (), 1),
        (KEPT + EXCEEDED, (), 1),
        (KEPT, (TORN,), 6),
        (KEPT + EXCEEDED, (TORN,), 1),
        ([], (), 2),
        (["--max-retained", "8MB"], (), 2),
        ([*KEPT, "--sample", "1"], (), 2),
    ],
)
def test_the_exit_status_is_the_worst_that_is_known(
    words: list[str], caveats: tuple[Caveat, ...], status: int, seen: Any, capfd: Any
) -> None:
    seen(surveyed(caveats=caveats))
    assert run(["check", "7", *words]) == status
    out, err = capfd.readouterr()
    assert bool(out) == (status != 2)
    assert bool(err) == (status == 2)


def test_the_json_keeps_its_schema(seen: Any, capfd: Any) -> None:
    limits = [word for key in LEAST for word in (f"--{key}", "1" if key == "max-arenas" else "0")]
    assert run(["check", "7", *limits, "--json"]) == 1
    answer = json.loads(capfd.readouterr().out)
    validate(answer, "check")
    data = answer["data"]
    assert data["exceeded_count"] == len(data["limits"]) == 6
    assert {part["figure"]: part["found"] for part in data["limits"]} == pytest.approx(
        {FIGURES[key]: value for key, value in LEAST.items()}, abs=1e-6
    )


def test_the_json_of_a_core_keeps_its_schema() -> None:
    report = checked_heap(rss_bytes=None)
    process = dataclasses.replace(report.process, start_ticks=None, uptime_s=None)
    report = dataclasses.replace(report, process=process, allocator=None)
    validate(json.loads(json_page.dumps(json_page.envelope(report, "check", WHEN))), "check")


def checked_heap(rss_bytes: int | None) -> Report[GateData]:
    verdicts = judge([Limit("max-retained", 0)], Found(SCATTERED.heap))
    base = surveyed()
    data = GateData(rss_bytes, 1, verdicts)
    return Report(base.process, base.libc, base.allocator, base.method, data, ())


def test_what_it_shares_with_explain_has_one_schema() -> None:
    folder = Path(__file__).resolve().parents[2] / "docs" / "schema"
    parts = {
        verb: json.loads((folder / f"{verb}.schema.json").read_text())["$defs"]
        for verb in ("check", "explain", "tune", "arenas")
    }
    assert parts["check"]["cause"] == parts["explain"]["cause"]
    assert parts["check"]["remedy"] == parts["explain"]["remedy"]
    assert parts["tune"]["settings"] == (parts["arenas"]["arenas_data"]["properties"]["settings"])


# ---- the page ----


@pytest.mark.parametrize("width", [80, 100])
def test_the_page_fits_and_begins_with_the_answer(width: int, seen: Any) -> None:
    report = checked(max_retained=8 * MIB, max_retained_ratio=0.2, max_arenas=3)
    text = page(report, Look(width))
    assert max(map(cell_len, text.splitlines())) <= width
    start = "server (pid 4711) exceeds 2 of 3 limits: max-retained, max-retained-ratio."
    assert text.replace("\n", " ").startswith(start)
    assert text.count("1. Live chunks scattered") == 1
    assert "   - as above\n" in text


def test_what_is_kept_says_so(seen: Any) -> None:
    assert page(checked(max_arenas=3), Look()).startswith("server (pid 4711) keeps the limit.")
    seen(surveyed(caveats=(TORN,)))
    text = page(checked(max_arenas=3, max_trimmable=8 * MIB), Look())
    assert text.startswith("server (pid 4711) keeps all 2 limits, as far as it could be read.")
    assert "PARTIAL: arena 1" in text
    assert "\x1b" not in text


# ---- JUnit ----

HOSTILE = "a\x1b]<&\"'>\x00\ud83d\udcff\uffff\n]]>--"


def parsed(report: Report[GateData]) -> ET.Element:
    text = junit(report, WHEN)
    return ET.fromstring(text.encode("utf-8"))


def test_a_ci_system_reads_one_case_for_each_limit(seen: Any) -> None:
    root = parsed(checked(max_retained=8 * MIB, max_arenas=3, max_trimmable=0))
    [suite] = root
    for element in (root, suite):
        told = {name: element.get(name) for name in ("tests", "failures", "errors", "skipped")}
        assert told == {"tests": "3", "failures": "2", "errors": "0", "skipped": "0"}
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == ["max-retained", "max-arenas", "max-trimmable"]
    assert {case.get("classname") for case in cases} == {"allocscope.check.server"}
    failures = [case.find("failure") for case in cases]
    assert [failure is not None for failure in failures] == [True, False, True]
    assert failures[0] is not None
    assert failures[0].get("message") == "retained_bytes is 51.0 MiB, 8.0 MiB allowed"
    assert "Live chunks scattered" in (failures[0].text or "")


def test_what_an_incomplete_reading_keeps_is_an_error(seen: Any) -> None:
    seen(surveyed(caveats=(TORN,)))
    [suite] = parsed(checked(max_retained=8 * MIB, max_arenas=3))
    assert (suite.get("failures"), suite.get("errors")) == ("1", "1")
    kept = suite.findall("testcase")[1].find("error")
    assert kept is not None
    assert "could not be read \\x1b[2J" in (kept.text or "")


def test_a_hostile_name_stays_text(seen: Any) -> None:
    report = checked(max_retained=0)
    process = dataclasses.replace(report.process, comm=HOSTILE, exe=HOSTILE)
    root = parsed(dataclasses.replace(report, process=process))
    assert [element.tag for element in root.iter()].count("testcase") == 1
    case = root.find(".//testcase")
    assert case is not None
    shown = "a\\x1b]<&\"'>\\x00\\ud83d\\xff\\uffff\\x0a]]>--"
    assert case.get("classname") == f"allocscope.check.{shown}"


# ---- amounts ----

CONTEXT = click.Context(click.Command("x"))
PARAMETER = click.Option(["--x"])


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("0", 0),
        ("4096", 4096),
        ("17B", 17),
        ("200K", 200 << 10),
        ("64MiB", 64 << 20),
        ("64mib", 64 << 20),
        ("1.5GiB", 3 << 29),
        (".5M", 1 << 19),
        ("2T", 2 << 40),
    ],
)
def test_a_size(text: str, bytes_: int) -> None:
    found = amounts.size(CONTEXT, PARAMETER, text)
    assert (found, type(found)) == (bytes_, int)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        "64MB",
        "1.5",
        "1.5B",
        "64X",
        "much",
        "1e6",
        "٣",
        "inf",
        "9" * 20,
        "20%",
        "6 M",
    ],
)
def test_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter):
        amounts.size(CONTEXT, PARAMETER, text)


@pytest.mark.parametrize(("text", "share"), [("0", 0), ("0.2", 0.2), ("20%", 0.2), (".5", 0.5)])
def test_a_ratio(text: str, share: float) -> None:
    assert amounts.ratio(CONTEXT, PARAMETER, text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "1", "20", "100%", "-0.1", "nan", "inf", "1e-3", "x", "2M"])
def test_no_ratio(text: str) -> None:
    with pytest.raises(click.BadParameter):
        amounts.ratio(CONTEXT, PARAMETER, text)


def test_an_option_that_is_not_given_is_nothing() -> None:
    assert amounts.size(CONTEXT, PARAMETER, None) is None
    assert amounts.ratio(CONTEXT, PARAMETER, None) is None
