"""Which tests were skipped and why, held against the short list of reasons that are allowed.

Strategy: pytest writes a JUnit report; skipped tests carry their reason there. An expected failure
counts as a skip: it too is a test that did not say yes.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ALLOWED = Path(__file__).resolve().parent.parent / "tests" / "allowed-skips.txt"


def reasons(junit: Path) -> Counter[str]:
    """How many tests of a JUnit report were skipped, by reason."""
    skipped = ElementTree.parse(junit).iter("skipped")
    return Counter(element.get("message") or "no reason given" for element in skipped)


def allowed_patterns(text: str) -> list[re.Pattern[str]]:
    """The patterns of an allow-list: one per line, blank lines and comments left out."""
    lines = (line.strip() for line in text.splitlines())
    return [re.compile(line) for line in lines if line and not line.startswith("#")]


def forbidden(found: Counter[str], patterns: list[re.Pattern[str]]) -> list[str]:
    """The reasons that no pattern allows."""
    return [reason for reason in found if not any(p.fullmatch(reason) for p in patterns)]


def judge(junit: Path) -> bool:
    """Prints the skips by reason; True when each reason is on the list."""
    found = reasons(junit)
    refused = forbidden(found, allowed_patterns(ALLOWED.read_text()))
    print(f"skipped tests: {found.total()}")
    for reason, count in found.most_common():
        mark = "NOT ALLOWED " if reason in refused else ""
        print(f"  {count:4d}  {mark}{reason}")
    return not refused
