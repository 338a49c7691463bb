"""What the page cache holds of the files that a process has mapped (cachestat(2), Linux 6.5).

Rules: only regular files are opened, and only where they are the mapped ones; at most
MOST_FILES, those with most in RSS, each of at least LEAST_BYTES; what a kernel does not tell, or a
file that is not ours to ask about, is left out. Files in memory have no other place than the cache
and are left out, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from allocscope.model.process import CachedFile, Mapping, SmapsEntry
from allocscope.native import ffi, lib
from allocscope.proc.mapped import open_mapped_file

MOST_FILES = 8
LEAST_BYTES = 1 << 20
PAGE = 4096


def cached_files(
    pid: int, smaps: Sequence[SmapsEntry], tmpfs_devices: frozenset[str]
) -> tuple[CachedFile, ...]:
    """The files with most of their pages in the RSS of ``pid``."""
    mapped: dict[tuple[str, int], int] = {}
    first: dict[tuple[str, int], Mapping] = {}
    for entry in smaps:
        mapping = entry.mapping
        if mapping.inode and mapping.device not in tmpfs_devices:
            file = (mapping.device, mapping.inode)
            mapped[file] = mapped.get(file, 0) + max(0, entry.rss_bytes - entry.anonymous_bytes)
            first.setdefault(file, mapping)
    large = [file for file in mapped if mapped[file] >= LEAST_BYTES]
    large.sort(key=lambda file: -mapped[file])
    asked = (_asked(pid, first[file], mapped[file]) for file in large[:MOST_FILES])
    return tuple(found for found in asked if found is not None)


def _asked(pid: int, mapping: Mapping, mapped_bytes: int) -> CachedFile | None:
    file = open_mapped_file(pid, mapping)
    if file is None:
        return None
    pages, dirty = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    with file:
        if lib.as_cached_pages(file.descriptor, pages, dirty):
            return None
    return CachedFile(mapping.path, mapped_bytes, pages[0] * PAGE, dirty[0] * PAGE)
