"""Memory of a process's sockets, asked of the kernel through netlink (sock_diag(7)).

Strategy: one dump for each sort of socket, of the network namespace that the process is in. Where
that is another than ours the netlink socket is opened over there, which needs CAP_SYS_ADMIN.

Rules: nothing of the target is touched; a kernel that does not know a sort of socket, or refuses,
gives None for all of them.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from allocscope.account import sockets as account
from allocscope.errors import BadInput
from allocscope.immutable import immutable
from allocscope.native import ffi, lib
from allocscope.parse import sockdiag
from allocscope.parse.sockdiag import InetSocket

NETLINK_SOCK_DIAG = 4
"""include/uapi/linux/netlink.h; the socket module has no name for it."""
DATAGRAM_BYTES = 1 << 17
LONGEST_WAIT_S = 2.0


@immutable
class Buffers:
    """What a process's sockets hold in the kernel. ``half_closed_count``: TCP connections that the
    other side has closed and the process has not."""

    bytes: int
    half_closed_count: int


def buffers(pid: int, inodes: frozenset[int]) -> Buffers | None:
    """Of the sockets with these inodes; None where the kernel does not tell."""
    try:
        with _netlink(pid) as link:
            unix = [sockdiag.unix_socket(body) for body in _dump(link, sockdiag.unix_request())]
            inet = list(_inet(link))
    except (OSError, BadInput):
        return None
    held = account.of_unix(unix, inodes) + account.of_inet(inet, inodes)
    closing = [s for s in inet if s.inode in inodes and s.state == sockdiag.CLOSE_WAIT]
    return Buffers(held, len(closing))


def _inet(link: socket.socket) -> Iterator[InetSocket]:
    for family, protocol in sockdiag.INET:
        for body in _dump(link, sockdiag.inet_request(family, protocol)):
            yield sockdiag.inet_socket(body)


@contextlib.contextmanager
def _netlink(pid: int) -> Iterator[socket.socket]:
    """A netlink socket in the network namespace of ``pid``. Raises OSError."""
    with open(f"/proc/{pid}/ns/net", "rb") as theirs:
        if os.path.samestat(os.fstat(theirs.fileno()), os.stat("/proc/self/ns/net")):
            link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
        else:
            link = _within(theirs.fileno())
    with link:
        link.settimeout(LONGEST_WAIT_S)
        yield link


def _within(namespace: int) -> socket.socket:
    opened = ffi.new("int *")
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    code = lib.as_socket_in(namespace, socket.AF_NETLINK, kind, NETLINK_SOCK_DIAG, opened)
    if code:
        raise OSError(code, os.strerror(code))
    return socket.socket(fileno=opened[0])


def _dump(link: socket.socket, request: bytes) -> Iterator[bytes]:
    link.send(request)
    done = False
    while not done:
        found, done = sockdiag.bodies(link.recv(DATAGRAM_BYTES))
        yield from found
