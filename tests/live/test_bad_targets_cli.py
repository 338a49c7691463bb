"""Bad input, as people meet it on the command line: each case ends with the documented exit code,
a message that names the cause and what to do next, and a target that is as it was."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live.bad_targets import NOBODY, built, preloadable, standing
from live.cli import assert_refused, command, unharmed
from live.steady import build as build_target
from live.steady import refused, wait_state

from allocscope import observe
from allocscope.lab.fixture import RunningFixture

BLOCKS = 500


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def waiter(directory: Path) -> str:
    return built(directory, "waiter")


def answer(pid: int) -> Any:
    """A complete answer about ``pid``, without a residue."""
    done = command("arenas", str(pid), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    value = json.loads(done.stdout)
    assert value["process"]["pid"] == pid
    assert all(arena["residue_bytes"] == 0 for arena in value["data"]["arenas"])
    return value


def refuses(pid: int, status: int, cause: str, cure: str) -> None:
    assert_refused(command("arenas", str(pid)), status, cause, cure)


# ---- no process at all ----


def test_no_such_pid() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    refuses(ended.pid, 3, f"no process {ended.pid}", "ended meanwhile")


@pytest.mark.parametrize("number", ["0", "4194305", "99999999999999999999"])
def test_no_pid_at_all(number: str) -> None:
    assert_refused(command("arenas", number), 3, f"no process {number}", "")


@pytest.mark.parametrize("word", ["-5", "ten", "1.5", "12x", "/"])
def test_not_a_pid_and_not_a_file(word: str) -> None:
    done = command("arenas", "--", word)
    assert_refused(done, 9, f"{word} cannot be read", "arenas --name RE")


def test_a_file_of_another_kind() -> None:
    done = command("arenas", "/etc/passwd")
    assert_refused(done, 9, "/etc/passwd is neither a recording", "arenas --name RE")


def test_an_empty_word() -> None:
    assert_refused(command("arenas", ""), 2, "a target is empty", "arenas --name RE")


@pytest.mark.parametrize("word", ["ten", "/etc/passwd"])
def test_a_verb_that_needs_a_process(word: str) -> None:
    assert_refused(command("ask", word), 2, f"{word} is not a pid", "arenas")


def test_a_negative_pid_looks_like_an_option() -> None:
    done = command("arenas", "-5")
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such option" in done.stderr and "--help" in done.stderr


def test_a_kernel_thread() -> None:
    if Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("needs CAP_SYS_ADMIN on a host: a pid namespace has no kernel threads")
    refuses(2, 5, "2 (kthreadd) is a kernel thread", "Choose a user process")


def test_a_zombie(directory: Path) -> None:
    with refused(build_target(directory, "refused"), "zombie") as pid, unharmed(pid):
        refuses(pid, 3, "it is a zombie", "has yet to collect its exit status")


def test_a_thread(running: Callable[..., RunningFixture]) -> None:
    pid = running("arena-spread").pid
    thread = max(int(task.name) for task in Path(f"/proc/{pid}/task").iterdir())
    refuses(thread, 3, f"{thread} is a thread of process {pid}", f"Use {pid}")


# ---- other users ----


def as_user(uid: int, *more: str) -> list[str]:
    """The words that run a command as ``uid``. It may still read all files, so that it finds
    allocscope's wherever they lie; that is no permission to read a process."""
    if os.geteuid():
        pytest.skip("needs CAP_SETUID to become another user")
    keeps = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *keeps, *more]


def test_another_users_process(waiter: str) -> None:
    wrapper = as_user(NOBODY)
    with standing([waiter]) as pid:
        done = command("arenas", str(pid), wrapper=wrapper)
        assert_refused(done, 4, f"belongs to uid 0, you are uid {NOBODY}", "CAP_SYS_PTRACE")


def test_ones_own_process_without_being_root(waiter: str) -> None:
    with standing([*as_user(NOBODY), waiter, str(BLOCKS)]) as pid:
        done = command("arenas", str(pid), "--json", wrapper=as_user(NOBODY))
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    if yama.exists() and int(yama.read_text()):
        assert_refused(done, 4, "kernel.yama.ptrace_scope", "sysctl")
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["data"]["totals"]["live_count"] >= BLOCKS


def test_pid_1() -> None:
    """It may be anything, and readable or not; but the answer fits what the kernel allows here."""
    with unharmed(1):
        done = command("arenas", "1", "--json")
    try:
        Path("/proc/1/exe").readlink()
        Path("/proc/1/maps").read_bytes()
    except PermissionError:
        assert_refused(done, 4, "of process 1: ", "")
        assert len(done.stderr.splitlines()) > 1
    else:
        assert done.returncode in (0, 5, 6), done.stderr
        assert done.returncode == 5 or json.loads(done.stdout)["process"]["pid"] == 1


# ---- allocscope itself ----


def test_itself() -> None:
    """It moves while it looks, so nothing but its own identity is certain."""
    shell = f"exec {sys.executable} -m allocscope arenas $$ --json"
    done = command("--version", wrapper=["sh", "-c", shell, "--"])
    assert done.returncode in (0, 6), done.stderr
    value = json.loads(done.stdout)
    assert value["process"]["exe"] == str(Path(sys.executable).resolve())
    assert value["data"]["totals"]["live_bytes"] > 0


def test_itself_through_the_library() -> None:
    found = observe(os.getpid())
    assert found.process.pid == os.getpid()
    assert found.data.totals.live_bytes > 0


def test_no_snapshot_of_itself() -> None:
    shell = f"exec {sys.executable} -m allocscope arenas $$ --snapshot"
    done = command("--version", wrapper=["sh", "-c", shell, "--"])
    assert_refused(done, 7, "cannot stop itself", "only reads")


# ---- other C libraries ----


@pytest.mark.parametrize(
    ("source", "compiler", "cause"),
    [
        ("waiter", ["musl-gcc"], "uses musl"),
        ("waiter", ["musl-gcc", "-static"], "static program without a trace of glibc's malloc"),
        ("bare", ["gcc", "-nostdlib", "-static"], "static program without a trace of glibc"),
        (
            "bare",
            ["gcc", "-nostdlib", "-static", "-m32"],
            "static program without a trace of glibc",
        ),
    ],
    ids=["musl", "static musl", "no libc", "32 bits"],
)
def test_without_glibc(source: str, compiler: list[str], cause: str, directory: Path) -> None:
    with standing([built(directory, source, *compiler), str(BLOCKS)]) as pid:
        refuses(pid, 5, cause, "allocscope reads heaps of glibc malloc")


def test_a_go_program_is_referred_to_map_and_to_gos_own_tools(directory: Path) -> None:
    with standing([built(directory, "bare", "gcc", "-nostdlib", "-static", "-DGO")]) as pid:
        refuses(pid, 5, "is a Go program", f"`allocscope map {pid}` shows it")
        refuses(pid, 5, "is a Go program", "net/http/pprof")


def test_a_static_program_with_glibc(directory: Path) -> None:
    program = built(directory, "waiter", "gcc", "-static")
    with standing([program, str(BLOCKS)]) as pid:
        value = answer(pid)
    assert value["libc"]["kind"] == "glibc"
    assert value["data"]["totals"]["live_count"] >= BLOCKS


# ---- other allocators ----


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("jemalloc", "libjemalloc.so.2"),
        ("tcmalloc", "libtcmalloc_minimal.so.4"),
        ("mimalloc", "libmimalloc.so.2"),
    ],
)
def test_another_allocator_is_named(name: str, library: str, waiter: str) -> None:
    with standing([waiter, str(BLOCKS)]) as pid:
        plain = answer(pid)
    assert plain["allocator"] == {"name": "glibc", "others": []}
    assert plain["data"]["totals"]["live_count"] >= BLOCKS
    environment = {"LD_PRELOAD": preloadable(library)}
    with standing([waiter, str(BLOCKS)], environment=environment) as pid:
        value = answer(pid)
        table = command("arenas", str(pid)).stdout
    assert value["allocator"]["name"] == name
    assert [caveat["code"] for caveat in value["caveats"]] == ["other-allocator"]
    assert value["data"]["totals"]["live_count"] < 20
    assert f"here {name} serves malloc, not glibc" in " ".join(table.split())


# ---- odd states ----


def test_a_stopped_process(waiter: str) -> None:
    with standing([waiter, str(BLOCKS)]) as pid:
        moving = answer(pid)
        os.kill(pid, signal.SIGSTOP)
        wait_state(pid, "T")
        with unharmed(pid):
            stopped = answer(pid)
        os.kill(pid, signal.SIGCONT)
        wait_state(pid, "S")
    assert stopped["data"] == moving["data"]


def test_a_traced_process(waiter: str) -> None:
    """Reading needs no stop, so another's tracing is no obstacle."""
    with standing([waiter, str(BLOCKS)]) as pid:
        tracer = subprocess.Popen(
            ["strace", "-o", os.devnull, "-p", str(pid)], stderr=subprocess.PIPE, text=True
        )
        with tracer, contextlib.ExitStack() as stack:
            stack.callback(tracer.terminate)
            assert tracer.stderr
            assert "attached" in tracer.stderr.readline()
            wait_state(pid, "S")
            with unharmed(pid):
                value = answer(pid)
        wait_state(pid, "S")
    assert value["data"]["totals"]["live_count"] >= BLOCKS


def test_malloc_that_was_never_called(waiter: str) -> None:
    with standing([waiter]) as pid:
        value = answer(pid)
    assert value["data"]["totals"]["system_bytes"] == 0
    assert [arena["is_main"] for arena in value["data"]["arenas"]] == [True]


@pytest.mark.parametrize(
    ("stage", "options", "cause"),
    [
        ("entry", [], "has no C library that allocscope knows"),
        ("libc", [], "none of the known malloc layouts fits its memory"),
        ("entry", ["-static"], "none of the known malloc layouts fits its memory"),
    ],
    ids=["at its first instruction", "before relocation", "static"],
)
def test_malloc_that_is_not_ready(
    stage: str, options: list[str], cause: str, directory: Path
) -> None:
    held, program = built(directory, "held"), built(directory, "waiter", "gcc", *options)
    with standing([held, stage, program], state="t") as pid:
        refuses(pid, 5, cause, "only just started")
