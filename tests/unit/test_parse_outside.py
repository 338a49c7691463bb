"""Parsers of what lies outside RSS: mountinfo, sockets, graphics devices. Texts as kernels print
them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocscope.account import sockets as account
from allocscope.errors import BadInput
from allocscope.parse import fdinfo, mountinfo, sockdiag, sockets, status

MOUNTINFO = b"""\
22 27 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
25 27 0:26 / /dev/shm rw,nosuid,nodev shared:3 - tmpfs tmpfs rw,inode64
27 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
31 27 0:28 / /mnt/a\\040b rw - tmpfs none rw,size=65536k
"""

TCP = (
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
    b"inode\n"
    b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000005 00:00000000 00000000     0        0 "
    b"20511 1 0000000000000000 100 0 0 10 0\n"
    b"   1: 0100007F:1F90 0100007F:C350 01 0000A1B2:00000400 01:00000014 00000000  1000        0 "
    b"20777 3 0000000000000000 20 4 30 10 -1\n"
)

SOCKSTAT = b"""\
sockets: used 291
TCP: inuse 9 orphan 0 tw 4 alloc 12 mem 3
UDP: inuse 3 mem 2
UDPLITE: inuse 0
RAW: inuse 0
FRAG: inuse 0 memory 0
"""

AMDGPU = b"""\
pos:\t0
flags:\t02100002
mnt_id:\t26
ino:\t1170
drm-driver:\tamdgpu
drm-client-id:\t38
drm-pdev:\t0000:0b:00.0
pasid:\t32781
drm-total-cpu:\t0
drm-resident-cpu:\t0
drm-total-gtt:\t2912 KiB
drm-resident-gtt:\t2912 KiB
drm-total-vram:\t1076 MiB
drm-shared-vram:\t0
drm-resident-vram:\t1068 MiB
drm-memory-vram:\t1093632 KiB
drm-engine-gfx:\t39381041 ns
"""


def test_mounts_and_their_devices_as_maps_prints_them() -> None:
    mounts = mountinfo.parse(MOUNTINFO)
    assert [(m.point, m.kind, m.maps_device) for m in mounts] == [
        ("/sys", "sysfs", "00:14"),
        ("/dev/shm", "tmpfs", "00:1a"),
        ("/", "ext4", "fe:01"),
        ("/mnt/a\\040b", "tmpfs", "00:1c"),
    ]


@pytest.mark.parametrize("text", [b"nonsense\n", b"22 27 x:y / /sys rw - sysfs sysfs rw\n"])
def test_mountinfo_that_is_none(text: bytes) -> None:
    with pytest.raises(BadInput):
        mountinfo.parse(text)


def test_queues_are_hexadecimal_and_a_listener_has_no_unread_bytes() -> None:
    listener, established = sockets.queues(TCP)
    assert (listener.inode, listener.listening) == (20511, True)
    assert (listener.send_bytes, listener.receive_bytes) == (0, 0)
    assert (established.inode, established.listening) == (20777, False)
    assert (established.send_bytes, established.receive_bytes) == (0xA1B2, 0x400)


def test_no_socket_at_all() -> None:
    assert sockets.queues(b"") == ()
    assert sockets.queues(TCP.splitlines(keepends=True)[0]) == ()


def test_queues_that_are_cut_off() -> None:
    with pytest.raises(BadInput):
        sockets.queues(TCP[:-60])


def test_memory_of_protocols_is_told_in_pages() -> None:
    assert sockets.protocol_memory(SOCKSTAT) == {"TCP": 3, "UDP": 2}
    with pytest.raises(BadInput):
        sockets.protocol_memory(b"TCP: inuse\n")


def test_device_memory_is_what_is_resident_there() -> None:
    client = fdinfo.device_client(AMDGPU)
    assert client is not None
    assert (client.driver, client.device, client.client) == ("amdgpu", "0000:0b:00.0", "38")
    assert client.region_bytes == (("vram", 1068 << 20),)
    assert client.total_bytes == 1068 << 20


def test_an_older_driver_tells_memory_only() -> None:
    client = fdinfo.device_client(b"drm-driver:\tamdgpu\ndrm-memory-vram:\t512 KiB\n")
    assert client is not None
    assert client.total_bytes == 512 << 10


@pytest.mark.parametrize("text", [b"", b"pos:\t0\nflags:\t02\n", b"drm-memory-vram:\t5 KiB\n"])
def test_a_descriptor_of_something_else_is_no_client(text: bytes) -> None:
    assert fdinfo.device_client(text) is None


def test_huge_pages_in_status() -> None:
    lines = b"State:\tS (sleeping)\nTgid:\t1\nTracerPid:\t0\nUid:\t0\t0\t0\t0\n"
    assert status.parse(lines).hugetlb_bytes is None
    assert status.parse(lines + b"HugetlbPages:\t    4096 kB\n").hugetlb_bytes == 4 << 20


def message(kind: int, body: bytes) -> bytes:
    """A message of netlink as the kernel writes it, on a little-endian machine."""
    size = 16 + len(body)
    head = size.to_bytes(4, "little") + kind.to_bytes(2, "little") + bytes(10)
    return head + body + bytes(-size % 4)


def attribute(kind: int, *numbers: int) -> bytes:
    body = b"".join(number.to_bytes(4, "little") for number in numbers)
    return (4 + len(body)).to_bytes(2, "little") + kind.to_bytes(2, "little") + body


def unix(inode: int, *, peer: int = 0, state: int = 1, unread: int = 0, sent: int = 0) -> bytes:
    """As Linux 6.18 sends it: family, type, state, padding, inode, cookie."""
    fixed = bytes([1, 1, state, 0]) + inode.to_bytes(4, "little") + bytes(8)
    memory = (0, 212992, sent, 212992, 0, 0, 0, 0, 0)
    return fixed + attribute(2, peer) + attribute(4, unread, sent) + attribute(5, *memory)


def tcp(inode: int, state: int, *memory: int) -> bytes:
    rest = b"".join(number.to_bytes(4, "little") for number in (0, 7, 8, 1000, inode))
    fixed = bytes([2, state, 0, 0]) + bytes(48) + rest
    return fixed + attribute(15, 0) + (attribute(7, *memory) if memory else b"")


def test_answers_about_sockets() -> None:
    first, second = unix(5, peer=6, sent=30976), unix(6, peer=5, unread=30000)
    data = message(20, first) + message(20, second)
    assert sockdiag.bodies(data) == ([first, second], False)
    assert sockdiag.bodies(message(3, bytes(4))) == ([], True)
    assert sockdiag.unix_socket(second) == sockdiag.UnixSocket(6, 5, 30000, 0)
    assert sockdiag.unix_socket(unix(7, state=10, unread=3)).unread_bytes == 0  # connections
    received = sockdiag.inet_socket(tcp(9, 1, 51664, 131072, 0, 3939840, 1584, 0, 8, 4, 0))
    assert received == sockdiag.InetSocket(9, 1, 51664 + 1584 + 8 + 4)
    sending = sockdiag.inet_socket(tcp(9, 8, 0, 131072, 500, 3939840, 2389, 18091, 0, 0, 0))
    assert sending == sockdiag.InetSocket(9, sockdiag.CLOSE_WAIT, 2389 + 18091)
    assert sockdiag.inet_socket(tcp(0, 6)) == sockdiag.InetSocket(0, 6, 0)  # in TIME-WAIT


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 8,
        message(20, bytes(4))[:-1],
        message(2, (2).to_bytes(4, "little")),
        message(2, (-2).to_bytes(4, "little", signed=True)),
    ],
)
def test_no_answer_about_sockets(data: bytes) -> None:
    with pytest.raises(BadInput):
        sockdiag.bodies(data)


@pytest.mark.parametrize("body", [b"", bytes(20), unix(5)[:-3], tcp(9, 1, 1, 2)])
def test_no_socket(body: bytes) -> None:
    with pytest.raises(BadInput):
        (sockdiag.unix_socket if body[:1] != b"\x02" else sockdiag.inet_socket)(body)


def test_memory_between_two_unix_sockets_counts_once_for_whoever_holds_an_end() -> None:
    pair = [
        sockdiag.UnixSocket(5, 6, 0, 30976),
        sockdiag.UnixSocket(6, 5, 30000, 0),
        sockdiag.UnixSocket(7, 0, 200, 0),
    ]
    assert account.of_unix(pair, {5, 6}) == 30976
    assert account.of_unix(pair, {5}) == account.of_unix(pair, {6}) == 30976
    assert account.of_unix(pair, {7}) == 200  # who sent it has closed
    assert account.of_unix(pair, {8}) == 0


DMA_BUF = b"""\
pos:\t0
flags:\t02000002
mnt_id:\t13
ino:\t517
size:\t8388608
count:\t3
exp_name:\tsystem
name:\tframe
"""


def test_a_buffer_that_devices_share() -> None:
    assert fdinfo.shared_buffer(DMA_BUF) == fdinfo.SharedBuffer("system", 517, 8 << 20)
    assert fdinfo.shared_buffer(AMDGPU) is None
    assert fdinfo.shared_buffer(DMA_BUF.replace(b"8388608", b"large")) is None
    assert fdinfo.device_client(DMA_BUF) is None


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_an_answer_about_sockets_or_bad_input(data: bytes) -> None:
    for parse in (sockdiag.bodies, sockdiag.unix_socket, sockdiag.inet_socket):
        with contextlib.suppress(BadInput):
            parse(data)


@given(st.integers(0, 70), st.integers(0, 255))
def test_an_answer_with_a_wrong_byte_is_an_answer_or_bad_input(at: int, byte: int) -> None:
    whole = bytearray(message(20, unix(5, peer=6, sent=1)))
    whole[at] = byte
    with contextlib.suppress(BadInput):
        for body in sockdiag.bodies(bytes(whole))[0]:
            sockdiag.unix_socket(body)
