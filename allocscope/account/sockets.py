"""How much memory the buffers of a process's sockets hold.

Rules: what was sent over a unix socket and not read lies in the receiver's queue, but is charged to
the sender; it is counted once, for a process that holds either end. A socket that several processes
hold counts for each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from allocscope.parse.sockdiag import InetSocket, UnixSocket


def of_unix(sockets: Iterable[UnixSocket], own: Set[int]) -> int:
    """Bytes that the unix sockets with these inodes hold. ``sockets``: all of their network
    namespace."""
    every = {socket.inode: socket for socket in sockets}
    total = 0
    for inode in own & every.keys():
        socket = every[inode]
        sender = every.get(socket.peer)
        total += max(socket.unread_bytes, sender.sent_bytes if sender else 0)
        if socket.peer not in own:
            total += socket.sent_bytes
    return total


def of_inet(sockets: Iterable[InetSocket], own: Set[int]) -> int:
    """Bytes that the TCP and UDP sockets with these inodes hold."""
    return sum(socket.memory_bytes for socket in sockets if socket.inode in own)
