"""A live process's memory and page states, read from /proc/PID/mem and pagemap, and with
PAGEMAP_SCAN.

Rules: nothing here stops or changes the target; a page that is not there is not read, and none that
it shares is pinned (see as_peek in probes/). It needs ptrace *permission* (ptrace(2)), no attach.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from allocscope.glibc.protocols import Item, Memory, Result, Walker
from allocscope.model.libc import I386
from allocscope.native import ffi, lib
from allocscope.native.memory import NativeMemory, failure

PAGE_BYTES = os.sysconf("SC_PAGESIZE")


def robust_lists(tids: Sequence[int], machine: str) -> list[int]:
    """Where each thread keeps its robust futex list, 0 when it has none or may not be asked
    (get_robust_list(2)). ``machine``: what its program was compiled for."""
    heads = ffi.new("uint64_t[]", len(tids))
    if machine == I386:
        if lib.as_robust_lists_32(list(tids), len(tids), heads):
            return [0] * len(tids)
        return list(heads)
    for index, tid in enumerate(tids):
        if lib.as_robust_list(tid, heads + index):
            heads[index] = 0
    return list(heads)


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
        self._pid = pid
        self._use_pagemap_scan = use_pagemap_scan
        if not use_pagemap_scan:
            lib.as_source_without_scan(self._source)

    def _twin(self) -> ProcessMemory:
        twin = ProcessMemory(self._pid, use_pagemap_scan=self._use_pagemap_scan)
        twin.deadline_ns = self.deadline_ns
        twin.keeps_words = self.keeps_words
        twin.maps_pages = self.maps_pages
        twin.abi = self.abi
        return twin

    def each(
        self, items: Sequence[Item], work: Callable[[Memory, Walker, Item], Result]
    ) -> list[Result]:
        """Two at a time: the native calls do not hold the interpreter's lock."""
        if len(items) < 2:
            return super().each(items, work)
        results: dict[int, Result] = {}
        errors: list[BaseException] = []
        waiting = iter(enumerate(items))
        lock = threading.Lock()

        def go_on(memory: ProcessMemory) -> None:
            try:
                while not errors:
                    with lock:
                        number, item = next(waiting)
                    results[number] = work(memory, memory, item)
            except StopIteration:
                pass
            except BaseException as error:
                errors.append(error)

        with self._twin() as twin:
            helper = threading.Thread(target=go_on, args=(twin,), name="allocscope-walk")
            helper.start()
            go_on(self)
            helper.join()
        if errors:
            raise errors[0]
        return [results[number] for number in range(len(items))]
