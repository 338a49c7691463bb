"""What the kernel says of sockets to those who ask through netlink (sock_diag(7)): memory of their
buffers.

Rules: a message is a header of 16 bytes and a body; a body is a fixed part and attributes of four
bytes and more, each at a multiple of four. Connections that have no socket (any more, or yet) have
no memory attribute and count as 0. An answer that is cut off is an error.

Source: include/uapi/linux/netlink.h, unix_diag.h, inet_diag.h, sock_diag.h;
sock_diag_put_meminfo in net/core/sock_diag.c; sk_get_meminfo in net/core/sock.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from allocscope.errors import BadInput
from allocscope.immutable import immutable

AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
TCP, UDP = 6, 17
INET = tuple((family, protocol) for family in (AF_INET, AF_INET6) for protocol in (TCP, UDP))
LISTENING = 10
CLOSE_WAIT = 8
"""TCP: the other side has closed, the program has not."""

_HEADER = struct.Struct("=IHHII")
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_ALL_STATES = 0xFFFFFFFF
_ATTRIBUTE = struct.Struct("=HH")

_UNIX_REQUEST = struct.Struct("=BBHIIIII")
_SHOW_PEER, _SHOW_LENGTHS, _SHOW_MEMORY = 0x04, 0x10, 0x20
_UNIX_FIXED = struct.Struct("=BBBBIII")
_UNIX_PEER, _UNIX_LENGTHS, _UNIX_MEMORY = 2, 4, 5

_INET_REQUEST = struct.Struct("=BBBBI48x")
_INET_MEMORY = 7
_INET_FIXED = struct.Struct("=BBBB48xIIIII")

_RECEIVED, _SENT, _FORWARD, _SEND_QUEUE, _OPTIONS, _BACKLOG = 0, 2, 4, 5, 6, 7
_MEMORY_COUNT = 8
"""The kernel has had these since 4.6; later ones follow behind."""


@immutable
class UnixSocket:
    """``peer``: the inode of the other end, 0 without one. ``unread_bytes``: what waits for its
    reader (of datagrams the first only); ``sent_bytes``: memory of what it has sent and nobody has
    read, which lies in the peer's queue."""

    inode: int
    peer: int
    unread_bytes: int
    sent_bytes: int


@immutable
class InetSocket:
    """``memory_bytes``: of its queues, with what is reserved for them. ``state``: the kernel's
    number (LISTENING, CLOSE_WAIT, …)."""

    inode: int
    state: int
    memory_bytes: int


def unix_request() -> bytes:
    """All unix sockets of a network namespace."""
    show = _SHOW_PEER | _SHOW_LENGTHS | _SHOW_MEMORY
    return _message(_UNIX_REQUEST.pack(AF_UNIX, 0, 0, _ALL_STATES, 0, show, 0, 0))


def inet_request(family: int, protocol: int) -> bytes:
    """All sockets of a family (AF_INET, AF_INET6) and protocol (TCP, UDP)."""
    return _message(_INET_REQUEST.pack(family, protocol, 1 << _INET_MEMORY - 1, 0, _ALL_STATES))


def _message(body: bytes) -> bytes:
    size = _HEADER.size + len(body)
    return _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + body


def bodies(data: bytes) -> tuple[list[bytes], bool]:
    """The bodies in one datagram of an answer, and whether it was the last. Raises BadInput, also
    for an answer that is an error."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        size, kind = _fields(_HEADER, data, at)[:2]
        if not _HEADER.size <= size <= len(data) - at:
            raise BadInput(f"sock_diag: a message of {size} bytes in {len(data) - at}")
        body = data[at + _HEADER.size : at + size]
        if kind == _DONE:
            return found, True
        if kind == _ERROR:
            number = -int.from_bytes(body[:4], "little", signed=True)
            raise BadInput(f"sock_diag: the kernel answers with error {number}")
        found.append(body)
        at += _aligned(size)
    return found, False


def unix_socket(body: bytes) -> UnixSocket:
    """One unix socket. Raises BadInput."""
    _, _, state, _, inode, _, _ = _fields(_UNIX_FIXED, body, 0)
    told = dict(_attributes(body, _UNIX_FIXED.size))
    unread = _numbers(told.get(_UNIX_LENGTHS, bytes(8)))[0]
    return UnixSocket(
        inode=inode,
        peer=_numbers(told.get(_UNIX_PEER, bytes(4)))[0],
        unread_bytes=0 if state == LISTENING else unread,
        sent_bytes=_memory(told, _UNIX_MEMORY)[_SENT],
    )


def inet_socket(body: bytes) -> InetSocket:
    """One TCP or UDP socket. Raises BadInput."""
    _, state, _, _, _, _, _, _, inode = _fields(_INET_FIXED, body, 0)
    told = _memory(dict(_attributes(body, _INET_FIXED.size)), _INET_MEMORY)
    sending = max(told[_SENT], told[_SEND_QUEUE])  # what is on its way is still in TCP's queue
    memory = told[_RECEIVED] + sending + told[_FORWARD] + told[_OPTIONS] + told[_BACKLOG]
    return InetSocket(inode, state, memory)


def _memory(told: dict[int, bytes], key: int) -> tuple[int, ...]:
    numbers = _numbers(told.get(key, bytes(4 * _MEMORY_COUNT)))
    if len(numbers) < _MEMORY_COUNT:
        raise BadInput(f"sock_diag: {len(numbers)} figures of memory, {_MEMORY_COUNT} expected")
    return numbers


def _attributes(body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at < len(body):
        size, kind = _fields(_ATTRIBUTE, body, at)
        if not _ATTRIBUTE.size <= size <= len(body) - at:
            raise BadInput(f"sock_diag: an attribute of {size} bytes in {len(body) - at}")
        yield kind, body[at + _ATTRIBUTE.size : at + size]
        at += _aligned(size)


def _numbers(data: bytes) -> tuple[int, ...]:
    count = len(data) // 4
    return struct.unpack_from(f"={count}I", data)


def _fields(shape: struct.Struct, data: bytes, at: int) -> tuple[int, ...]:
    try:
        return shape.unpack_from(data, at)
    except struct.error as error:
        raise BadInput(f"sock_diag: {len(data) - at} bytes, {shape.size} expected") from error


def _aligned(size: int) -> int:
    return -(-size // 4) * 4
