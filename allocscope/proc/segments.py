"""Where the data of programs and libraries go on in anonymous memory: .bss.

Strategy: a loaded segment that is longer in memory than in its file ends in a mapping without a
name, right behind that of the file; the program header in the file says where (elf(5), PT_LOAD).
Rule: without the file's own word nothing is claimed, however well the mapping would fit.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

from allocscope.errors import BadInput
from allocscope.model.owners import Claim
from allocscope.model.process import Mapping
from allocscope.parse import elf
from allocscope.proc.mapped import MappedFile, OpenFile

PAGE = 4096


def bss_claims(mappings: Sequence[Mapping], open_file: OpenFile) -> Iterator[Claim]:
    """Claims for the anonymous rest of every mapped segment. Raises NoSuchProcess,
    PermissionRefused."""
    for mapping, following in itertools.pairwise(mappings):
        joined = mapping.inode and mapping.private and following.start == mapping.end
        if not joined or following.inode or not following.private:
            continue
        for segment in _segments(open_file(mapping)):
            end = _end_in_memory(mapping, segment)
            if end > mapping.end:
                yield Claim(
                    mapping.end,
                    end,
                    "program-data",
                    mapping.path,
                    f"the last segment of {mapping.path} is {segment.memory_bytes} bytes long in "
                    f"memory, {segment.file_bytes} in its file",
                )


def _segments(file: MappedFile | None) -> Iterable[elf.Segment]:
    if file is None:
        return ()
    with file, contextlib.suppress(BadInput):
        return elf.header(file.read).of_kind(elf.PT_LOAD)
    return ()


def _end_in_memory(mapping: Mapping, segment: elf.Segment) -> int:
    """Where ``segment`` ends in memory, 0 if it is not the one that ``mapping`` shows the end
    of."""
    file_end = segment.offset + segment.file_bytes
    shown_end = mapping.offset + mapping.size_bytes
    if segment.memory_bytes <= segment.file_bytes or -(-file_end // PAGE) * PAGE != shown_end:
        return 0
    end = mapping.start - mapping.offset + segment.offset + segment.memory_bytes
    return -(-end // PAGE) * PAGE
