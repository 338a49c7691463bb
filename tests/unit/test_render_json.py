"""render/json: the contract's keys, in the contract's order, valid by the published schemas."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import reports
from hypothesis import assume, given
from hypothesis import strategies as st

from allocscope.model.checks import Check, DoctorData
from allocscope.model.failure import Failure
from allocscope.model.glibc_says import Answer
from allocscope.model.report import Report
from allocscope.render.json import dumps, envelope, envelope_of_failure, envelope_of_many, plain
from allocscope.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "docs" / "schema"
WHEN = 1_790_000_000.25


def strict(schema: Any) -> Any:
    """The schema, with every object closed: a name that is not documented fails."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if "properties" in closed:
        closed["additionalProperties"] = False
    return closed


def validate(value: Any, verb: str) -> None:
    schema = json.loads((SCHEMAS / f"{verb}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(
        strict(schema), format_checker=jsonschema.FormatChecker()
    ).validate(value)


def arenas_object() -> dict[str, Any]:
    return json.loads(dumps(envelope(reports.report(), "arenas", WHEN)))


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


def test_envelope_has_the_contracts_keys_in_order() -> None:
    answer = arenas_object()
    assert list(answer) == [
        "schema", "schema_version", "tool_version", "captured_at", "process", "libc",
        "allocator", "method", "data", "caveats",
    ]  # fmt: skip
    assert answer["schema"] == "allocscope/arenas"
    assert answer["captured_at"] == "2026-09-21T14:13:20.250Z"
    assert answer["process"] == {
        "pid": 4711, "start_ticks": 8812345, "comm": "ruby", "exe": "/usr/bin/ruby3.1",
        "thread_count": 21, "uptime_s": 11520.25,
    }  # fmt: skip
    assert answer["method"]["pause_ns"] == 0
    validate(answer, "arenas")


def test_an_arenas_figures_stand_in_the_arena_itself() -> None:
    arena = arenas_object()["data"]["arenas"][1]
    assert list(arena)[:8] == [
        "index", "address", "is_main", "attached_threads", "locked", "consistency",
        "system_bytes", "max_system_bytes",
    ]  # fmt: skip
    assert list(arena)[-3:] == ["pinned_bytes", "fragmentation_ratio", "heaps"]
    assert arena["address"] == f"{reports.report().data.arenas[1].address:#x}"
    assert arena["overhead"]["arena_headers_bytes"] == 2256
    assert arena["heaps"][0]["start"] == "0x7f0100000000"
    free, resident = arena["free_resident_bytes"], arena["resident_bytes"]
    assert arena["fragmentation_ratio"] == pytest.approx(free / resident, abs=1e-6)


def test_totals_have_an_arenas_figures() -> None:
    data = arenas_object()["data"]
    own = {"index", "address", "is_main", "attached_threads", "locked", "consistency", "heaps"}
    assert set(data["totals"]) == set(data["arenas"][0]) - own
    assert data["totals"]["live_bytes"] == sum(a["live_bytes"] for a in data["arenas"])


def test_unknown_is_null_and_never_zero() -> None:
    report = reports.report()
    unknown = dataclasses.replace(report.data.totals, private_dirty_bytes=None, lazyfree_bytes=None)
    report = dataclasses.replace(report, data=dataclasses.replace(report.data, totals=unknown))
    totals = plain(report.data)["totals"]
    assert totals["private_dirty_bytes"] is None
    assert totals["lazyfree_bytes"] is None
    threads = plain(report.data)["threads"]
    assert (threads[2]["tcache_address"], threads[2]["arena_index"]) == (None, None)
    assert threads[1]["tcache_address"] == "0x7f00040008d0"


def test_settings_say_value_origin_and_evidence() -> None:
    settings = arenas_object()["data"]["settings"]
    assert settings["tcache_count"] == {
        "value": 32,
        "origin": "tunable",
        "evidence": "GLIBC_TUNABLES=glibc.malloc.tcache_count=32",
        "without_effect": False,
    }
    assert settings["cpus_cgroup"] == 1.5
    assert settings["thresholds_dynamic"] is True


def test_glibcs_word_stands_beside_ours() -> None:
    report = reports.report()
    data = dataclasses.replace(report.data, glibc_says=reports.glibc_says(agrees=False))
    answer = envelope(dataclasses.replace(report, data=data), "arenas", WHEN)
    validate(json.loads(dumps(answer)), "arenas")
    says = answer["data"]["glibc_says"]
    assert says["differences"][1]["arena_index"] is None
    assert says["locks_held"] == ["arena 1", "stderr"]
    assert says["malloc_info"]["heaps"] == []


def test_several_targets_are_a_list_of_envelopes_and_a_vanished_one_says_why() -> None:
    failure = Failure(4712, "gone", "process 4712 went away", "Try again.", 3)
    parts = [
        envelope(reports.report(), "arenas", WHEN),
        envelope_of_failure(failure, "arenas", WHEN),
    ]
    answer = json.loads(dumps(envelope_of_many(parts, "arenas", WHEN)))
    validate(answer, "arenas")
    assert answer["process"] is None
    assert [part["process"]["pid"] for part in answer["data"]] == [4711, 4712]
    assert answer["data"][1]["data"] is None
    assert answer["data"][1]["error"]["exit_code"] == 3


def test_hostile_names_stay_one_line_of_valid_ascii() -> None:
    report = reports.report(comm='x"\n\x1b]0;pwned\x07\udcff\u202e')
    text = dumps(envelope(report, "arenas", WHEN))
    assert text.isascii()
    assert text.count("\n") == 1
    json.loads(text)["process"]["comm"].encode("utf-8")
    assert json.loads(text)["process"]["comm"] == 'x"\n\x1b]0;pwned\x07\ufffd\u202e'


def test_ask_and_doctor_are_valid_too() -> None:
    answer = Answer("snapshot", 1_900_000, b"<malloc/>\xff", None, ("arena 3",), 240_000_000)
    base = reports.report()
    asked: Report[Answer] = Report(base.process, base.libc, None, base.method, answer, ())
    object_ = envelope(asked, "ask", WHEN)
    validate(json.loads(dumps(object_)), "ask")
    assert object_["data"]["malloc_info_xml"] == "<malloc/>\ufffd"
    checks = DoctorData((Check("gdb", "missing", "gdb is not installed.", "apt install gdb"),))
    diagnosed: Report[DoctorData] = Report(base.process, None, None, base.method, checks, ())
    validate(json.loads(dumps(envelope(diagnosed, "doctor", WHEN))), "doctor")


def test_what_has_no_place_in_json_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        plain(object())
    with pytest.raises(ValueError, match="no number"):
        dumps({"x": float("nan")})


SCALARS = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30
)


@given(st.dictionaries(st.text(), TREES))
def test_the_text_is_what_the_standard_library_writes(tree: dict[str, Any]) -> None:
    assume("inf" not in repr(tree))
    assert dumps(tree) == json.dumps(tree) + "\n"


def test_the_quick_path_imports_nothing_heavy() -> None:
    import subprocess

    code = (
        "import sys, allocscope.cli.group, allocscope.cli.arenas, allocscope.render.json;"
        "print([m for m in ('rich', 'lxml', 'pygdbmi', 'elftools') if m in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"


EXAMPLE = re.compile(r"^```json\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", sorted(p.name for p in (ROOT / "docs").glob("*.md")))
def test_every_json_example_in_the_documentation_is_valid(page: str) -> None:
    for example in EXAMPLE.findall((ROOT / "docs" / page).read_text()):
        answer = json.loads(example)
        validate(answer, answer["schema"].removeprefix("allocscope/"))


def test_the_documentation_has_an_example_of_each_schema() -> None:
    pages = [page.read_text() for page in (ROOT / "docs").glob("*.md")]
    shown = {json.loads(example)["schema"] for page in pages for example in EXAMPLE.findall(page)}
    assert shown >= {f"allocscope/{p.name.split('.')[0]}" for p in SCHEMAS.glob("*.schema.json")}
