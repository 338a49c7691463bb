"""``check`` as a JUnit report, which CI systems read: a test suite for the process, a test case for
each limit.

Rules: a limit that is exceeded is a failure; one that is kept as far as an incomplete reading can
tell is an error, for nobody has shown that it is. Names that a target chose are escaped before they
become XML: no control character, no lone surrogate can be in it.
"""

from __future__ import annotations

import time
from xml.etree import ElementTree as ET

from allocscope.model.gate import GateData, Verdict
from allocscope.model.report import Report
from allocscope.render.check import amount, headline
from allocscope.render.explain import remedy_words
from allocscope.render.text import clean, size

SUITE = "allocscope check"


def junit(report: Report[GateData], now: float) -> str:
    """The XML text. ``now``: seconds since 1970, for a report that does not tell when it was."""
    data = report.data
    kept = len(data.limits) - data.exceeded_count
    seconds = f"{report.method.elapsed_ns / 1e9:.3f}"
    counts = {
        "tests": str(len(data.limits)),
        "failures": str(data.exceeded_count),
        "errors": str(kept if report.partial else 0),
        "skipped": "0",
        "time": seconds,
    }
    root = ET.Element("testsuites", {"name": SUITE, **counts})
    taken = time.gmtime(now if report.captured_at is None else report.captured_at)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", taken)
    suite = ET.SubElement(root, "testsuite", {"name": SUITE, "timestamp": stamp, **counts})
    _properties(suite, report)
    for verdict in data.limits:
        _case(suite, verdict, report)
    said = [headline(report), *(f"{c.code}: {clean(c.message)}" for c in report.caveats)]
    ET.SubElement(suite, "system-out").text = "\n".join(said)
    ET.indent(root)
    text: str = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _properties(suite: ET.Element, report: Report[GateData]) -> None:
    process = report.process
    properties = ET.SubElement(suite, "properties")
    values = {"pid": process.pid, "comm": process.comm, "exe": process.exe}
    values["rss_bytes"] = "" if report.data.rss_bytes is None else report.data.rss_bytes
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
