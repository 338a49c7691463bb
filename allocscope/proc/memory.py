"""A live process's memory and page states, read with process_vm_readv(2), /proc/PID/pagemap and
PAGEMAP_SCAN.

Rules: nothing here stops or changes the target; a page that is not there is not read. Both need
ptrace *permission* (ptrace(2), PTRACE_MODE_READ), no attach.
"""

from __future__ import annotations

from allocscope.native import ffi, lib
from allocscope.native.memory import NativeMemory, failure


def robust_list(tid: int) -> int:
    """Where thread ``tid`` keeps its robust futex list, 0 when it has none or may not be asked
    (get_robust_list(2))."""
    head = ffi.new("uint64_t *")
    return int(head[0]) if lib.as_robust_list(tid, head) == 0 else 0


class ProcessMemory(NativeMemory):
    """Memory and Walker of a live process."""

    def __init__(self, pid: int, *, use_pagemap_scan: bool = True) -> None:
        """Opens /proc/PID/pagemap. NoSuchProcess, PermissionRefused.

        ``use_pagemap_scan`` False: as on a kernel before 6.7, where huge pages and the zero page
        cannot be told apart."""
        out = ffi.new("as_source **")
        code = lib.as_source_process(pid, out)
        if code:
            raise failure(code, f"process {pid}", "opening its page map")
        super().__init__(out[0], f"process {pid}")
        if not use_pagemap_scan:
            lib.as_source_without_scan(self._source)
