"""Heaps of language runtimes: every recogniser that looks into unclaimed memory alone, in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from allocscope.glibc.layouts import WORD
from allocscope.glibc.protocols import Memory
from allocscope.model.owners import Claim
from allocscope.owners import cpython, dotnet, ruby, v8

RECOGNISERS = (v8.claims, cpython.claims, dotnet.claims, ruby.claims)


def runtime_claims(memory: Memory, spans: Sequence[tuple[int, int]]) -> Iterator[Claim]:
    """Claims within ``spans``: anonymous memory that nobody else owns, ascending. Known are the
    structures of 64-bit programs only."""
    if memory.abi.word_bytes != WORD:
        return
    for claims in RECOGNISERS:
        yield from claims(memory, spans)
