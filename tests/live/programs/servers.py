"""More real programs as targets, where they are installed: each filled by some work, then left
alone. Each takes a directory of its own and hands over a pid."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from live.programs import (
    READY_SECONDS,
    NotInstalled,
    installed,
    speaking,
    thread_states,
    wait_until,
)

from allocscope.lab.child import child


@contextlib.contextmanager
def node(directory: Path) -> Iterator[int]:
    """A node process after compressing in its worker threads, waiting on its stdin."""
    del directory
    script = (
        "const zlib = require('zlib'); let left = 40;"
        "for (let i = 0; i < 40; i++) zlib.gzip(Buffer.alloc(200000 + i * 1000, 'x' + i),"
        " () => { if (!--left) { process.stdin.resume();"
        " setImmediate(() => process.stdout.write('ready\\n')); } });"
    )
    with speaking([installed("node"), "-e", script]) as pid:
        wait_until("node sleeps", lambda: set(thread_states(pid)) == {"S"})
        yield pid


@contextlib.contextmanager
def memcached(directory: Path) -> Iterator[int]:
    """memcached with some thousand values stored."""
    listening = directory / "socket"
    user = ["-u", "root"] if os.geteuid() == 0 else []
    command = [installed("memcached"), *user, "-s", str(listening), "-t", "4"]
    with (
        child(command, ends_at_eof=False) as server,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.settimeout(READY_SECONDS)
        wait_until("memcached listens", lambda: connection.connect_ex(str(listening)) == 0)
        for number in range(3000):
            value = b"v" * (number % 900 + 1)
            connection.sendall(b"set k%d 0 0 %d\r\n%s\r\n" % (number, len(value), value))
            assert connection.recv(100) == b"STORED\r\n"
        yield server.pid


@contextlib.contextmanager
def nginx(directory: Path) -> Iterator[int]:
    """The worker of an nginx that answered some requests."""
    program = installed("nginx")
    listening = directory / "socket"
    (directory / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {directory}/pid; error_log stderr;\n"
        "events { }\n"
        f"http {{ access_log off; server {{ listen unix:{listening}; return 200 hello; }} }}\n"
    )
    command = [program, "-p", str(directory), "-c", "nginx.conf", "-e", "stderr"]
    with child(command, ends_at_eof=False) as master:
        children = Path(f"/proc/{master.pid}/task/{master.pid}/children")
        wait_until("nginx has a worker", lambda: bool(children.read_text()))
        for _ in range(50):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(READY_SECONDS)
                connection.connect(str(listening))
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
        worker = int(children.read_text())
        wait_until("nginx's worker sleeps", lambda: thread_states(worker) == ["S"])
        yield worker


def _cluster(directory: Path) -> tuple[list[str], Path]:
    """A new database cluster: how its program starts (it refuses to run as root), and where it
    is."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not homes:
        raise NotInstalled("postgres not installed")
    data = directory / "data"
    owner: list[str] = []
    if os.geteuid() == 0:
        owner = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        owner += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        os.chown(directory, 65534, 65534)
    subprocess.run(
        [*owner, str(homes[-1] / "initdb"), "-D", str(data), "-A", "trust", "-U", "owner"],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=READY_SECONDS,
    )
    return [*owner, str(homes[-1] / "postgres")], data


@contextlib.contextmanager
def fresh_postgres(directory: Path) -> Iterator[int]:
    """The first process of a PostgreSQL server, up and without any work."""
    program, data = _cluster(directory)
    command = [*program, "-D", str(data), "-k", str(directory), "-c", "listen_addresses="]
    status = data / "postmaster.pid"  # its last line says how far it is
    with child(command, ends_at_eof=False) as server:
        wait_until(
            "postgres is ready",
            lambda: status.exists() and status.read_text().rstrip().endswith("ready"),
        )
        yield server.pid


@contextlib.contextmanager
def postgres(directory: Path) -> Iterator[int]:
    """A PostgreSQL in single-user mode that filled a table and waits for the next command."""
    program, data = _cluster(directory)
    with child([*program, "--single", "-D", str(data), "postgres"]) as server:
        server.send(
            b"create table t as select i, repeat('x', i % 500) s from generate_series(1, 20000) i\n"
            b"select count(*) n from (select s, count(*) from t group by s) g\n"
        )
        while "n = " not in server.line(READY_SECONDS):
            pass
        wait_until("postgres waits", lambda: thread_states(server.pid) == ["S"])
        yield server.pid
