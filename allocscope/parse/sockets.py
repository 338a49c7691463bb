"""What /proc/PID/net says of sockets: bytes in their queues, and pages of memory by protocol.

Rules: queues are told per socket, by inode, in tcp, tcp6, udp and udp6 (not of unix sockets);
sockstat tells of a whole network namespace. Source: proc_pid_net(5); tcp4_seq_show in
net/ipv4/tcp_ipv4.c, sockstat_seq_show in net/ipv4/proc.c.
"""

from __future__ import annotations

from allocscope.errors import BadInput
from allocscope.immutable import immutable


@immutable
class Queues:
    """Unsent and unread bytes of one socket. ``listening``: what would be unread are connections
    that wait, not bytes."""

    inode: int
    send_bytes: int
    receive_bytes: int
    listening: bool


def queues(data: bytes) -> tuple[Queues, ...]:
    """Every socket of one of the four files. Raises BadInput."""
    return tuple(_queues(line) for line in data.decode("ascii", "replace").splitlines()[1:])


def _queues(line: str) -> Queues:
    fields = line.split()
    try:
        send, receive = (int(part, 16) for part in fields[4].split(":"))
        listening = fields[3] == "0A"
        return Queues(int(fields[9]), send, 0 if listening else receive, listening)
    except (ValueError, IndexError) as error:
        raise BadInput(f"net: this is not a line of a socket: {line[:80]!a}") from error


def protocol_memory(data: bytes) -> dict[str, int]:
    """``{"TCP": pages, …}`` of sockstat, where it tells the memory of a protocol. Raises
    BadInput."""
    found: dict[str, int] = {}
    for line in data.decode("ascii", "replace").splitlines():
        protocol, _, rest = line.partition(":")
        words = rest.split()
        try:
            pairs = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        except ValueError as error:
            raise BadInput(f"sockstat: this is not a line of it: {line[:80]!a}") from error
        if "mem" in pairs:
            found[protocol] = pairs["mem"]
    return found
