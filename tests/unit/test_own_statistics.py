"""What runtimes print about themselves, as they printed it, and what is recognised in it."""

from __future__ import annotations

import pytest

from allocscope.parse.own_statistics import parse

CPYTHON = b"""\
class   size   num pools   blocks in use  avail blocks
-----   ----   ---------   -------------  ------------
    0     16           1             263           757

# arenas allocated total           =                   13
# arenas highwater mark            =                   11
11 arenas * 1048576 bytes/arena    =           11,534,336

# bytes in allocated blocks        =            6,832,128
# bytes in available blocks        =            3,623,424
49 unused pools * 16384 bytes      =              802,816
# bytes lost to pool headers       =               31,008
Total                              =           11,534,336
     3 free PyDictObjects * 48 bytes each =                  144
"""
JEMALLOC = b"""\
___ Begin jemalloc statistics ___
Version: "5.3.0-0-g54eaed1d8b56b1aa528be3bdd1877e59c56fa90c"
Allocated: 28219056, active: 50417664, metadata: 3447184 (n_thp 0, edata 1), resident: 54222848
Background threads: 0, num_runs: 0, run_interval: 0 ns
"""
MIMALLOC = b"""\
heap stats:     peak      total      freed    current       unit      count
  reserved:   64.0 MiB   64.0 MiB      0       64.0 MiB                          not all freed!
 committed:   64.0 MiB   64.0 MiB    1.5 KiB   62.5 MiB                          not all freed!
     reset:      0          0          0          0                              ok
"""
TCMALLOC = b"""\
------------------------------------------------
MALLOC:       28342768 (   27.0 MiB) Bytes in use by application
MALLOC: +      1114112 (    1.1 MiB) Bytes in page heap freelist
MALLOC:   ------------
MALLOC: =     35782656 (   34.1 MiB) Actual memory used (physical + swap)
"""


def figures(speaker: str, text: bytes) -> dict[str, int]:
    return {figure.name: figure.bytes for figure in parse(speaker, text)}


def test_cpython() -> None:
    assert figures("CPython", CPYTHON) == {
        "arenas * 1048576 bytes/arena": 11534336,
        "bytes in allocated blocks": 6832128,
        "bytes in available blocks": 3623424,
        "unused pools * 16384 bytes": 802816,
        "bytes lost to pool headers": 31008,
    }


def test_jemalloc() -> None:
    found = figures("jemalloc", JEMALLOC)
    assert found["allocated"] == 28219056
    assert (found["active"], found["metadata"], found["resident"]) == (50417664, 3447184, 54222848)


def test_mimalloc() -> None:
    assert figures("mimalloc", MIMALLOC)["reserved peak"] == 64 << 20


def test_tcmalloc() -> None:
    assert figures("tcmalloc", TCMALLOC) == {
        "bytes in use by application": 28342768,
        "bytes in page heap freelist": 1114112,
        "actual memory used (physical + swap)": 35782656,
    }


@pytest.mark.parametrize("speaker", ["CPython", "jemalloc", "mimalloc", "tcmalloc"])
@pytest.mark.parametrize("text", [b"", b"\xff\xfe: 1\n", b"Allocated: \n# bytes = x\nMALLOC: (\n"])
def test_what_is_not_known_gives_no_figures(speaker: str, text: bytes) -> None:
    assert figures(speaker, text) == {}


def test_mimalloc_prints_sizes_with_and_without_units() -> None:
    line = b" committed:   64.0 MiB   66.0 MiB    2.0 MiB   512.5 KiB          \n"
    assert figures("mimalloc", line) == {
        "committed peak": 64 << 20,
        "committed current": 524800,
    }
