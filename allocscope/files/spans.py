"""Memory given as spans of bytes: what recordings are read from, and what the tests' made-up heaps
are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from allocscope.native import ffi, lib
from allocscope.native.memory import NativeMemory, failure

PRESENT = 1
PAGE = 4096


def _pages_of(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Runs of all pages that ``(start, size)`` touch."""
    runs: list[tuple[int, int, int]] = []
    for start, size in spans:
        low, high = start // PAGE * PAGE, -(-(start + size) // PAGE) * PAGE
        if runs and low <= runs[-1][1]:
            low = runs.pop()[0]
        runs.append((low, high, PRESENT))
    return runs


class SpanMemory(NativeMemory):
    """Memory and Walker over ``{start address: bytes}``.

    ``runs``: page states as ``(start, end, flags)``, flags as in probes/include/source.h; by
    default every page that a span touches is present."""

    def __init__(
        self,
        spans: Mapping[int, bytes | memoryview],
        runs: Sequence[tuple[int, int, int]] | None = None,
        label: str = "recorded memory",
    ) -> None:
        self._held = {start: ffi.from_buffer(data) for start, data in sorted(spans.items()) if data}
        rows = [(start, len(data), data) for start, data in self._held.items()]
        if runs is None:
            runs = _pages_of((start, size) for start, size, _ in rows)
        native_spans = ffi.new("as_span[]", rows)
        native_runs = ffi.new("as_run[]", list(runs))
        out = ffi.new("as_source **")
        code = lib.as_source_spans(native_spans, len(rows), native_runs, len(runs), out)
        if code:
            raise failure(code, label, "opening it")
        super().__init__(out[0], label)
