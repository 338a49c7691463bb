"""Control groups: membership, mounts, limits, lists of CPUs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocscope.errors import BadInput
from allocscope.parse import cgroup

MEMBERSHIPS = b"""\
9:name=systemd:/user.slice
4:memory:/docker/ab cd:ef
2:cpu,cpuacct:/docker/abcdef
0::/unified
"""

MOUNTINFO = rb"""22 27 0:20 / /proc rw,relatime shared:5 - proc proc rw
30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
33 25 0:29 /docker/ab\040cd:ef /sys/fs/cgroup/memory\011x ro master:4 shared:1 - cgroup cgroup rw,memory
34 25 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
"""  # noqa: E501


def test_memberships():
    found = cgroup.memberships(MEMBERSHIPS)
    assert [(m.hierarchy, m.controllers, m.path) for m in found] == [
        (9, ("name=systemd",), "/user.slice"),
        (4, ("memory",), "/docker/ab cd:ef"),
        (2, ("cpu", "cpuacct"), "/docker/abcdef"),
        (0, (), "/unified"),
    ]


def test_mounts():
    unified, memory, cpu = cgroup.mounts(MOUNTINFO)
    assert (unified.version, unified.root, unified.point) == (2, "/", "/sys/fs/cgroup/unified")
    assert (memory.root, memory.point) == ("/docker/ab cd:ef", "/sys/fs/cgroup/memory\tx")
    assert cpu.options == ("rw", "cpu", "cpuacct")


@pytest.mark.parametrize(
    ("text", "cpus"),
    [(b"max 100000\n", None), (b"200000 100000\n", 2.0), (b"50000 100000\n", 0.5)],
)
def test_cpu_max(text, cpus):
    assert cgroup.cpu_max(text) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [(b"-1\n", None), (b"150000\n", 1.5)])
def test_cpu_quota(quota, cpus):
    assert cgroup.cpu_quota(quota, b"100000\n") == cpus


@pytest.mark.parametrize(
    ("text", "limit"),
    [(b"max\n", None), (b"9223372036854771712\n", None), (b"1048576\n", 1048576), (b"0\n", 0)],
)
def test_memory_limit(text, limit):
    assert cgroup.limit_bytes(text) == limit


@pytest.mark.parametrize(("text", "count"), [("0-3,8\n", 5), ("0", 1), ("", 0), ("0-1,4-7", 6)])
def test_cpu_list(text, count):
    assert cgroup.cpu_list(text) == count


@given(st.binary(max_size=200))
def test_garbage_is_parsed_or_refused(data):
    parsers = (
        cgroup.memberships,
        cgroup.mounts,
        cgroup.cpu_max,
        cgroup.limit_bytes,
        cgroup.usage_bytes,
        cgroup.flat_keyed,
        lambda text: cgroup.cpu_quota(text, text),
        lambda text: cgroup.cpu_list(text.decode("latin-1")),
    )
    for parse in parsers:
        try:
            parse(data)
        except BadInput:
            continue
