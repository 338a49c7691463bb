"""``check`` as a JUnit report, which CI systems read: a test suite for the process, a test case for
each limit.

Rules: a limit that is exceeded is a failure; one that is kept as far as an incomplete reading can
tell is an error, for nobody has shown that it is, and so is every limit where the target could not
be read at all. Names that a target chose are escaped before they
become XML: no control character, no lone surrogate can be in it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from allocscope.errors import AllocscopeError
from allocscope.model.gate import GateData, Limit, Verdict
from allocscope.model.report import Report
from allocscope.render.check import amount, headline
from allocscope.render.explain import remedy_words
from allocscope.render.text import clean, size

SUITE = "allocscope check"


def junit(report: Report[GateData], now: float) -> str:
    """The XML text. ``now``: seconds since 1970, for a report that does not tell when it was."""
    data, process = report.data, report.process
    kept = len(data.limits) - data.exceeded_count
    root, suite = _suite(
        len(data.limits),
        failures=data.exceeded_count,
        errors=kept if report.partial else 0,
        seconds=report.method.elapsed_ns / 1e9,
        taken=now if report.captured_at is None else report.captured_at,
    )
    rss = "" if data.rss_bytes is None else data.rss_bytes
    named: dict[str, str | int] = {
        "pid": process.pid,
        "comm": process.comm,
        "exe": process.exe,
        "rss_bytes": rss,
    }
    _properties(suite, named)
    for verdict in data.limits:
        _case(suite, verdict, report)
    said = [headline(report), *(f"{c.code}: {clean(c.message)}" for c in report.caveats)]
    ET.SubElement(suite, "system-out").text = "\n".join(said)
    return _text(root)


def unreadable(
    target: str, limits: Sequence[Limit], error: AllocscopeError, seconds: float, now: float
) -> str:
    """The XML text where there is no report: every limit is an error. ``target``: as it was given;
    ``seconds``: that it took to find out; ``now``: since 1970."""
    count = len(limits)
    root, suite = _suite(count, failures=0, errors=count, seconds=seconds, taken=now)
    _properties(suite, {"target": target, "exit_status": error.exit_code})
    for limit in limits:
        case = ET.SubElement(
            suite, "testcase", classname="allocscope.check", name=limit.key, time="0"
        )
        told = ET.SubElement(case, "error", type=type(error).__name__, message=clean(error.message))
        told.text = clean(error.hint)
    return _text(root)


def _suite(
    tests: int, *, failures: int, errors: int, seconds: float, taken: float
) -> tuple[ET.Element, ET.Element]:
    """The root, and the one suite in it."""
    counts = {
        "tests": str(tests),
        "failures": str(failures),
        "errors": str(errors),
        "skipped": "0",
        "time": f"{seconds:.3f}",
    }
    root = ET.Element("testsuites", {"name": SUITE, **counts})
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(taken))
    return root, ET.SubElement(root, "testsuite", {"name": SUITE, "timestamp": stamp, **counts})


def _text(root: ET.Element) -> str:
    ET.indent(root)
    text: str = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _properties(suite: ET.Element, values: Mapping[str, str | int]) -> None:
    properties = ET.SubElement(suite, "properties")
    for name, value in values.items():
        ET.SubElement(properties, "property", name=name, value=clean(str(value)))


def _case(suite: ET.Element, verdict: Verdict, report: Report[GateData]) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=f"allocscope.check.{clean(report.process.comm)}",
        name=verdict.key,
        time="0",
    )
    found, most = amount(verdict.key, verdict.found), amount(verdict.key, verdict.most)
    if verdict.exceeded:
        said = f"{verdict.figure} is {found}, {most} allowed"
        ET.SubElement(case, "failure", type=verdict.key, message=said).text = _why(verdict)
    elif report.partial:
        said = f"{verdict.figure} is {found} as far as it could be read, {most} allowed"
        partial = [clean(caveat.message) for caveat in report.caveats if caveat.partial]
        ET.SubElement(case, "error", type="partial", message=said).text = "\n".join(partial)
    else:
        ET.SubElement(case, "system-out").text = f"{verdict.figure} is {found}, {most} allowed"


def _why(verdict: Verdict) -> str:
    lines = [clean(text) for text in verdict.says]
    lines += [f"> {remedy_words(remedy, False)}" for remedy in verdict.remedies]
    for cause in verdict.causes:
        lines.append(f"{cause.title}: {size(cause.bytes)}")
        lines += [f"- {clean(text)}" for text in cause.evidence]
        lines += [f"> {remedy_words(remedy, False)}" for remedy in cause.remedies]
    return "\n".join(lines)
