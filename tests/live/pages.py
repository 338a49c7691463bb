"""The kernel's word about a process's pages, read without allocscope: pagemap and PAGEMAP_SCAN.

Source: Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
PRESENT, SWAPPED = 1 << 63, 1 << 62
PAGEMAP_SCAN = 0xC0606610
PAGE_IS_PRESENT, PAGE_IS_PFNZERO = 8, 32
MOST_REGIONS = 1 << 16


class ScanArguments(ctypes.Structure):
    """struct pm_scan_arg of linux/fs.h."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("size", "flags", "start", "end", "walk_end", "vec", "vec_len", "max_pages"),
            *("category_inverted", "category_mask", "category_anyof_mask", "return_mask"),
        )
    )


def kernel_says(pid: int, figure: str) -> int:
    """The sum of one figure over smaps, in bytes."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    return 1024 * sum(int(kib) for kib in re.findall(rf"^{figure}: +(\d+) kB$", text, re.MULTILINE))


def private_mappings(pid: int) -> Iterator[tuple[int, int]]:
    """Start and end of every private mapping. That of vsyscall belongs to the kernel."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        found = re.match(r"([0-9a-f]+)-([0-9a-f]+) ...p ", line)
        if found and "[vsyscall]" not in line:
            yield int(found[1], 16), int(found[2], 16)


def there(pid: int) -> dict[int, int]:
    """The present and swapped bits of every page of every private mapping that has one."""
    states: dict[int, int] = {}
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as file:
        for start, end in private_mappings(pid):
            entries = array.array(
                "Q", os.pread(file.fileno(), (end - start) // PAGE * 8, start // PAGE * 8)
            )
            for number, entry in enumerate(entries):
                if entry & (PRESENT | SWAPPED):
                    states[start + number * PAGE] = entry & (PRESENT | SWAPPED)
    return states


def zero_pages(pid: int) -> set[int] | None:
    """The pages of private mappings that are mapped to the kernel's page of zeros; None where this
    kernel has no PAGEMAP_SCAN (before 6.7)."""
    regions = (ctypes.c_uint64 * (3 * MOST_REGIONS))()
    found: set[int] = set()
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as file:
        for start, end in private_mappings(pid):
            arguments = ScanArguments(
                size=ctypes.sizeof(ScanArguments),
                start=start,
                end=end,
                vec=ctypes.addressof(regions),
                vec_len=MOST_REGIONS,
                category_mask=PAGE_IS_PRESENT | PAGE_IS_PFNZERO,
                return_mask=PAGE_IS_PFNZERO,
            )
            try:
                count = fcntl.ioctl(file, PAGEMAP_SCAN, arguments)
            except OSError:
                return None
            assert count < MOST_REGIONS
            for i in range(count):
                found.update(range(regions[3 * i], regions[3 * i + 1], PAGE))
    return found


def page_table_kib(pid: int) -> int:
    """VmPTE: what the process's page tables take."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"^VmPTE:\s+(\d+) kB$", status, re.MULTILINE)[0])


def everything(pid: int) -> tuple[dict[int, int], set[int] | None, int]:
    """All of the above, to be compared with a later one."""
    return there(pid), zero_pages(pid), page_table_kib(pid)
