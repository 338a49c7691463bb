"""Fuzzing in its short form: the same few hundred examples every time. With FUZZ_EXAMPLES=100000 in
the environment it runs that many of each kind, other ones every time.

An example that does not come to an end is a failure: after five minutes of one test in the short
form, the traces of all threads are printed and the run ends."""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))

settings.register_profile(
    "fuzz",
    max_examples=EXAMPLES or 150,
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(autouse=True)
def comes_to_an_end() -> Iterator[None]:
    if EXAMPLES:
        yield
        return
    faulthandler.dump_traceback_later(300, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()
