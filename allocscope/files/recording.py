"""Recordings: samples of one process, each its facts, its page states and words of its memory.

A sample is these sections of the container: RUNS (page states), PAGE and WORD in turn, and FACT,
which ends it. PAGE holds of n pages first n distances from one start to the next, then the n masks;
WORD and RUNS hold words byte by byte of equal rank, because then the high bytes, which are mostly
equal, stand together and pack well.

Rule: whatever a file says is checked before it is used; only BadInput leaves this module.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate
from operator import sub
from pathlib import Path
from types import TracebackType
from typing import Self

from allocscope.closing import Closing
from allocscope.errors import WrongUsage
from allocscope.files.container import SECTION_BYTES, Reader, Section, Writer
from allocscope.files.words import PAGE_STRUCT, WORD, WordMemory
from allocscope.immutable import immutable
from allocscope.model.recording import Facts
from allocscope.model.walk import Words
from allocscope.parse import facts as facts_text

RUNS, PAGE, WORDS, FACT = b"RUNS", b"PAGE", b"WORD", b"FACT"
MOST_SAMPLE_BYTES = 64 << 30
_FIELDS = PAGE_STRUCT.size // WORD
_MASK64 = (1 << 64) - 1


class RecordingWriter:
    """Writes a recording, sample by sample. Use it in ``with``: the file is there at its end."""

    def __init__(self, path: Path, tool_version: str) -> None:
        self._writer = Writer(path)
        self._tool_version = tool_version
        self.sample_count = 0
        self.page_count = 0
        self.word_count = 0

    @contextlib.contextmanager
    def sample(self) -> Iterator[None]:
        """One sample: in the block call :meth:`memory` and then, once, :meth:`facts`. What was
        written in a block that ends with an error is taken back."""
        position = self._writer.position()
        try:
            yield
        except BaseException:
            self._writer.cut_back(position)
            raise
        self.sample_count += 1

    def memory(self, runs: bytes, layers: Iterable[Words]) -> None:
        """Page states, and words; of overlapping layers the later one counts."""
        for part in _split(runs, 3 * WORD):
            self._writer.add(RUNS, _by_rank(part))
        for layer in layers:
            for part in _split(layer.pages, PAGE_STRUCT.size):
                self._writer.add(PAGE, _pack_pages(part))
            for part in _split(layer.words, WORD):
                self._writer.add(WORDS, _by_rank(part))
            self.page_count += len(layer.pages) // PAGE_STRUCT.size
            self.word_count += len(layer.words) // WORD

    def facts(self, facts: Facts) -> None:
        """What is known beside memory: the end of the sample."""
        self._writer.add(FACT, facts_text.dump(facts, self._tool_version))

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.__exit__(kind, error, trace)


@immutable
class Sample:
    """One sample, read: its number, counted from 1, its facts, and its memory (to be closed)."""

    number: int
    facts: Facts
    memory: WordMemory


class Recording(Closing):
    """A recording file, open for reading. BadInput when it is not one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = Reader(path)
        try:
            self._samples = list(self._group(self._reader.sections))
            if not self._samples:
                raise self._reader.damaged("it holds no sample")
        except BaseException:
            self._reader.close()
            raise

    @property
    def sample_count(self) -> int:
        return len(self._samples)

    def _group(self, sections: list[Section]) -> Iterator[list[Section]]:
        sample: list[Section] = []
        for section in sections:
            sample.append(section)
            if section.name == FACT:
                if sum(part.unpacked_bytes for part in sample) > MOST_SAMPLE_BYTES:
                    raise self._reader.damaged("a sample claims to be too long")
                yield sample
                sample = []
        if sample:
            raise self._reader.damaged("its last sample is not complete")

    def sample(self, number: int) -> Sample:
        """Sample ``number``, counted from 1, with its memory. WrongUsage: there is none."""
        if not 1 <= number <= self.sample_count:
            raise WrongUsage(
                f"{self.path} has no sample {number}",
                f"It has {self.sample_count}, counted from 1.",
            )
        *parts, last = self._samples[number - 1]
        facts = facts_text.load(self._reader.read(last))
        found: dict[bytes, list[bytes]] = {RUNS: [], PAGE: [], WORDS: []}
        for section in parts:
            if section.name not in found:
                continue  # of a later version, which found it dispensable
            content = self._reader.read(section)
            unit = PAGE_STRUCT.size if section.name == PAGE else WORD
            if len(content) % unit:
                raise self._reader.damaged("a section ends within a word")
            unpack = _unpack_pages if section.name == PAGE else _unpack_by_rank
            found[section.name].append(unpack(content))
        words = Words(b"".join(found[PAGE]), b"".join(found[WORDS]))
        memory = WordMemory([words], b"".join(found[RUNS]), f"the recording {self.path}")
        return Sample(number, facts, memory)

    def close(self) -> None:
        self._reader.close()


def open_sample(path: Path, number: int | None = None) -> Sample:
    """Sample ``number`` of a file, counted from 1; the last one by default. WrongUsage when there
    is no such one."""
    with Recording(path) as recording:
        return recording.sample(recording.sample_count if number is None else number)


def _split(data: bytes, unit: int) -> Iterator[bytes]:
    most = SECTION_BYTES // unit * unit
    return (data[at : at + most] for at in range(0, len(data), most))


def _by_rank(data: bytes) -> bytes:
    return b"".join(data[rank::WORD] for rank in range(WORD))


def _unpack_by_rank(data: bytes) -> bytes:
    count = len(data) // WORD
    answer = bytearray(len(data))
    for rank in range(WORD):
        answer[rank::WORD] = data[rank * count : (rank + 1) * count]
    return bytes(answer)


def _pack_pages(pages: bytes) -> bytes:
    fields = array("Q", pages)
    starts = fields[::_FIELDS]
    steps = array("Q", [step & _MASK64 for step in map(sub, starts, [0, *starts[:-1]])])
    del fields[::_FIELDS]
    return steps.tobytes() + fields.tobytes()


def _unpack_pages(data: bytes) -> bytes:
    fields = array("Q", data)
    count = len(fields) // _FIELDS
    starts = accumulate(fields[:count], lambda start, step: start + step & _MASK64)
    answer = array("Q", bytes(len(data)))
    answer[::_FIELDS] = array("Q", starts)
    masks = fields[count:]
    for group in range(_FIELDS - 1):
        answer[group + 1 :: _FIELDS] = masks[group :: _FIELDS - 1]
    return answer.tobytes()
