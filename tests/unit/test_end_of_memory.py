"""Addresses at the very end of what a process can have: nothing is there, and that is no error.

A stack may begin within the last 64 MiB, which is the piece that page states are asked for at once.
"""

from __future__ import annotations

import os

import pytest

from allocscope.proc.memory import ProcessMemory

LOWER_HALF_END = 1 << 47
MANY = 20  # enough to be read as a batch


@pytest.mark.parametrize("use_pagemap_scan", [True, False])
@pytest.mark.parametrize("count", [1, MANY])
@pytest.mark.parametrize(
    "address", [LOWER_HALF_END - (32 << 20), LOWER_HALF_END - 4096, LOWER_HALF_END - 8]
)
def test_nothing_is_read_there(address, count, use_pagemap_scan):
    with ProcessMemory(os.getpid(), use_pagemap_scan=use_pagemap_scan) as memory:
        assert memory.read_each([address] * count, 16) == [None] * count


@pytest.mark.parametrize("use_pagemap_scan", [True, False])
def test_no_page_states_there(use_pagemap_scan):
    with ProcessMemory(os.getpid(), use_pagemap_scan=use_pagemap_scan) as memory:
        assert memory.runs(LOWER_HALF_END - 8192, LOWER_HALF_END + 8192) == []
