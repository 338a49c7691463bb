"""Real programs as targets: started, put to work, and left alone when their state is built.

Each is a context manager that hands over a pid. Readiness is a line that the program prints, or
the kernel's word that all its threads sleep; nothing is waited for by time.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from allocscope.lab.child import child

HERE = Path(__file__).parent
THREADS = 20
CLIENTS = 4  # http.server listens with a backlog of 5
READY_SECONDS = 120.0


class NotInstalled(Exception):
    """The program is not on this machine: a reason to skip. That it fails to run is none."""


def thread_states(pid: int) -> list[str]:
    """The state letter of every thread of ``pid`` (proc(5), the field after the comm)."""
    states = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
    return states


def wait_until(
    description: str, condition: Callable[[], bool], seconds: float = READY_SECONDS
) -> None:
    """Lets others run until ``condition()`` holds; TimeoutError with the description where it
    never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{description}: not within {seconds:g} s")
        os.sched_yield()


@contextlib.contextmanager
def http_server(directory: Path, requests: int = 200) -> Iterator[int]:
    """``python3 -m http.server`` that answered ``requests`` requests, and now has 20 more
    connections open, each with a thread of the server that waits for the end of a request."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    (directory / "page").write_bytes(os.urandom(1 << 18))
    with child([*command, "--directory", str(directory)], ends_at_eof=False) as server:
        found = re.search(r"port (\d+)", server.line(READY_SECONDS))
        assert found, "http.server names its port"
        address = ("127.0.0.1", int(found.group(1)))
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(
                pool.map(lambda i: _fetch(address, "/page" if i % 2 else "/"), range(requests))
            )
        assert all(answer.startswith(b"HTTP/1.0 200") for answer in answers)
        with contextlib.ExitStack() as connections:
            for _ in range(THREADS):
                open_one = connections.enter_context(
                    socket.create_connection(address, timeout=READY_SECONDS)
                )
                open_one.sendall(b"GET /page HTTP/1.0\r\n")
            wait_until(
                "http.server serves every open connection and sleeps",
                lambda: thread_states(server.pid) == ["S"] * (THREADS + 1),
            )
            yield server.pid


def _fetch(address: tuple[str, int], path: str) -> bytes:
    with socket.create_connection(address, timeout=READY_SECONDS) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        pieces = []
        while piece := connection.recv(1 << 16):
            pieces.append(piece)
        return b"".join(pieces)


@contextlib.contextmanager
def java_threads(directory: Path, *options: str) -> Iterator[int]:
    """A Java program whose 20 threads compressed and inflated, which allocates from malloc, and
    then parked. ``options``: for the machine."""
    java, javac = installed("java"), installed("javac")
    subprocess.run(
        [javac, "-d", str(directory), str(HERE / "Threads.java")], check=True, timeout=READY_SECONDS
    )
    command = [java, "-Xmx128m", *options, "-cp", str(directory), "Threads", str(THREADS)]
    with speaking(command) as pid:
        yield pid


@contextlib.contextmanager
def ruby_threads() -> Iterator[int]:
    """A Ruby program whose 20 threads built strings, dropped most of them, and then slept."""
    with speaking([installed("ruby"), str(HERE / "threads.rb"), str(THREADS)]) as pid:
        yield pid


@contextlib.contextmanager
def speaking(command: list[str]) -> Iterator[int]:
    """A program that says "ready"."""
    with child(command) as program:
        said = program.line(READY_SECONDS)
        assert said == "ready", said
        yield program.pid


def installed(program: str) -> str:
    """Its path; NotInstalled where there is none."""
    path = shutil.which(program)
    if path is None:
        raise NotInstalled(f"{program} not installed")
    return path
