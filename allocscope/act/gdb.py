"""gdb, driven over its machine interface (pygdbmi): attach, call functions by address, detach.

Strategy: gdb is only the hand that makes a call. It reads no symbols, no libraries and no start-up
files (that, not the call, is what keeps a process stopped for long in a plain ``gdb -p``); every
address comes from us. Each command carries a token, and we wait on gdb's pipe for the result that
carries it, under our own deadline. Commands may be sent ahead (:meth:`Gdb.submit`), so that a
stopped process does not wait for our round trips.

Rules:

- gdb has a session of its own: Ctrl-C reaches us, not gdb in the middle of a call.
- However the block ends, nothing of gdb is left: a call that is under way is broken off and
  unwound, the process is let go, gdb is killed and reaped, all within ``GRACE_NS``.
- A process that is attached as ``disposable`` is not rescued: killing gdb is enough for it.

Facts: gdb manual, "GDB/MI"; gdb 13's order of events, observed: ``^done`` of an attach comes
before the process has stopped, ``*stopped`` after.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from typing import Any

from pygdbmi.IoManager import IoManager

from allocscope.closing import Closing
from allocscope.errors import AllocscopeError, MissingPart, NoSuchProcess, PermissionRefused, Unsafe
from allocscope.proc import procfs, refusal

GRACE_NS = 5_000_000_000
"""How long letting a process go may take, after the deadline if need be."""

ATTACH_NS = 1_000_000_000
"""How long gdb may take to stop a live process. A thread in vfork stops when its child goes on, and
gdb waits for it while the others stand still."""

_LOOK_AGAIN_NS = 10_000_000

NOWHERE = "/nonexistent"
SETTINGS = (
    "set auto-load off",
    "set auto-solib-add off",
    f"set sysroot {NOWHERE}",
    f"set debug-file-directory {NOWHERE}",
    f"set libthread-db-search-path {NOWHERE}",
    "set confirm off",
    "set pagination off",
    "set unwindonsignal on",
)
"""Read nothing, ask nothing, undo a call that a signal breaks off. gdb 8 and later know them all.
"""

INSTALL = (
    "Install it (apt install gdb, or dnf install gdb). Nothing else needs it but asking glibc."
)


class CallRefused(Unsafe):
    """gdb could not make a call, or it was broken off; the process is as it was before the call."""


class Late(Unsafe):
    """gdb did not answer in time."""


class Gdb(Closing):
    """A gdb of our own, in ``with``. ``deadline_ns`` (monotonic clock) bounds every wait in it.

    Starting it does not wait for gdb to be ready: the first answer does.
    Raises MissingPart where there is no gdb.
    """

    def __init__(self, deadline_ns: int, program: str = "gdb") -> None:
        self._deadline_ns = deadline_ns
        self._token = 0
        self._results: dict[int, dict[str, Any]] = {}
        self._stop_count = 0
        self._last_words = ""
        self._attached: int | None = None
        self._disposable = False
        self._calls: set[int] = set()
        self._spoke = False
        self._dummy: subprocess.Popen[bytes] | None = None
        self._process = _start(program)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._io = IoManager(self._process.stdin, self._process.stdout, None)
        self._poll = select.poll()
        self._poll.register(self._process.stdout, select.POLLIN)

    @property
    def process_id(self) -> int:
        """The pid of gdb itself."""
        return self._process.pid

    def ready(self) -> None:
        """Waits until gdb has started, so that what follows takes no longer than it must."""
        self.result(self.submit("-gdb-version"))

    def rehearse(self) -> None:
        """Attaches to a process of our own once and lets it go. A gdb that does so for the first
        time keeps a process stopped 4 to 5 ms longer than afterwards (gdb 13, measured).

        Where even that is refused, attaching to the real process will tell why.
        """
        self.ready()
        with contextlib.suppress(OSError, PermissionRefused):
            if self._dummy is None:
                self._dummy = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
                self.attach(self._dummy.pid, disposable=True)
                self.release()

    def submit(self, command: str) -> int:
        """Sends a command without waiting; its token is for :meth:`result`."""
        self._token += 1
        try:
            self._io.write(f"{self._token}{command}", read_response=False)
        except OSError as error:
            raise self._ended() from error
        return self._token

    def result(self, token: int) -> Any:
        """What gdb answered. Raises CallRefused with gdb's own words when it answered an error."""
        return self._answer(token, self._deadline_ns)

    def attach(self, pid: int, disposable: bool = False) -> None:
        """Stops all threads of ``pid``. ``disposable``: a copy that was made to be thrown away.

        Raises NoSuchProcess, PermissionRefused or Unsafe (somebody else traces it), whichever is
        the reason. A live process that does not stop within ``ATTACH_NS`` is let go by ending gdb,
        which then is of no more use (Late).
        """
        if disposable:
            self._attach(pid, disposable, self._deadline_ns)
            return
        try:
            self._attach(pid, disposable, time.monotonic_ns() + ATTACH_NS)
        except Late:
            self._end()
            raise

    def _attach(self, pid: int, disposable: bool, deadline_ns: int) -> None:
        # A copy is handed over with a SIGSTOP pending, which would break off every call. Anywhere
        # else SIGSTOP is what breaks a call off (break_off), and is kept from the process.
        action = "nostop noprint" if disposable else "stop print"
        handling = f'-interpreter-exec console "handle SIGSTOP {action} nopass"'
        self._answer(self.submit(handling), deadline_ns)
        stops = self._stop_count
        self._attached, self._disposable = pid, disposable
        token = self.submit(f"-target-attach {pid}")
        try:
            self._answer(token, deadline_ns)
        except CallRefused as error:
            self._attached = None
            raise _why_not_attached(pid, error) from error
        while self._stop_count == stops:
            self._pump(deadline_ns)
        # A call is made by one thread alone, the leader; break_off relies on it, too.
        self._answer(self.submit("-gdb-set scheduler-locking on"), deadline_ns)

    def submit_call(self, address: int, prototype: str, arguments: tuple[int, ...] = ()) -> int:
        """Sends a call of the function at ``address``, such as ``"int(int, void *)"``.

        Only built-in C types: gdb has no symbols. The token is for :meth:`returned`.
        """
        result_type, _, parameters = prototype.removesuffix(")").partition("(")
        types = parameters.split(",") if arguments else []
        values = ", ".join(f"({t}) {v:#x}" for t, v in zip(types, arguments, strict=True))
        function = f"({result_type} (*)({parameters})) {address:#x}"
        self._calls.add(self._token + 1)  # before it is sent: an interrupt may come right behind
        return self.submit(f'-data-evaluate-expression "({function})({values})"')

    def returned(self, token: int) -> int:
        """The integer that a submitted call returned. Raises as :meth:`call` does."""
        payload = self.result(token)
        try:
            return int(payload["value"], 0)
        except ValueError:
            raise CallRefused(f"gdb answered a call with {payload['value']!r}") from None

    def call(self, address: int, prototype: str, arguments: tuple[int, ...] = ()) -> int:
        """Calls a function in the attached process and waits for its integer result.

        Raises CallRefused when the call was broken off (by a fault in it, say) and undone, Unsafe
        when the deadline passed while it ran: then :meth:`break_off` undoes it.
        """
        return self.returned(self.submit_call(address, prototype, arguments))

    def break_off(self) -> None:
        """Ends the calls that were submitted and have not returned, and undoes the running one.

        An interrupt may have come before, while or after a call was sent, so what gdb is at is
        asked of gdb: it answers the question behind the calls when none is running any more.
        Raises Unsafe when gdb does not manage it within ``GRACE_NS``.
        """
        end_ns = time.monotonic_ns() + GRACE_NS
        question = self.submit("-gdb-version")
        asked_to_stop = False
        while question not in self._results:
            if self._attached is not None and not self._stands_still(self._attached):
                # Nothing can block SIGSTOP, and only the thread that makes the call runs.
                if not asked_to_stop:
                    os.kill(self._attached, signal.SIGSTOP)
                asked_to_stop = True
            else:
                asked_to_stop = False
            self._pump(end_ns, _LOOK_AGAIN_NS)
        for token in {question, *self._calls}:
            self._calls.discard(token)
            self._results.pop(token, None)
        if self._attached is not None and _stop_is_pending(self._attached):
            os.kill(self._attached, signal.SIGCONT)  # takes the SIGSTOP back that came too late

    @staticmethod
    def _stands_still(pid: int) -> bool:
        """Does the thread that makes calls stand in a stop that gdb sees?"""
        return procfs.stat(pid).state in "tZX"

    def grant(self, least_ns: int = GRACE_NS) -> None:
        """Moves the deadline to ``least_ns`` from now, unless it is later: for what must be undone
        after it passed, or was begun just before."""
        self._deadline_ns = max(self._deadline_ns, time.monotonic_ns() + least_ns)

    def release(self) -> None:
        """Lets the process go on, as it was, if one is attached; waits at most ``GRACE_NS``."""
        if self._attached is not None:
            self._answer(self.submit("-target-detach"), time.monotonic_ns() + GRACE_NS)
            self._attached = None

    def close(self) -> None:
        """Breaks off, detaches, ends gdb. Raises nothing of its own and never leaves gdb behind."""
        signals = {signal.SIGINT, signal.SIGTERM}
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            if self._attached is not None and not self._disposable:
                if self._calls:
                    with contextlib.suppress(AllocscopeError, OSError):
                        self.break_off()
                with contextlib.suppress(AllocscopeError, OSError):
                    self.release()
        finally:
            self._end()
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    def _end(self) -> None:
        """Kills and reaps gdb, and takes back the SIGSTOPs of an attach that it did not finish."""
        for process in filter(None, (self._process, self._dummy)):
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        if self._attached is not None and not self._disposable:
            with contextlib.suppress(OSError):
                os.kill(self._attached, signal.SIGCONT)
        self._attached = None

    def _answer(self, token: int, deadline_ns: int) -> Any:
        while token not in self._results:
            self._pump(deadline_ns)
        self._calls.discard(token)
        record = self._results.pop(token)
        if record["message"] == "error":
            raise CallRefused(f"gdb could not do it: {record['payload']['msg']}")
        return record["payload"]

    def _pump(self, deadline_ns: int, look_again_ns: int | None = None) -> None:
        """Waits until gdb says something, and files it; or until it is time to look again."""
        left_ns = deadline_ns - time.monotonic_ns()
        wait_ns = left_ns if look_again_ns is None else min(left_ns, look_again_ns)
        events = self._poll.poll(max(wait_ns / 1e6, 0))
        if not events and wait_ns < left_ns:
            return
        if not events:
            raise Late(
                "gdb did not answer before the deadline",
                "Give it more time with --deadline.",
            )
        records = self._io.get_gdb_response(timeout_sec=0, raise_error_on_timeout=False)
        if not records and not events[0][1] & select.POLLIN:
            raise self._ended()
        for record in records:
            if record["type"] == "result":
                self._spoke = True
                self._results[record["token"]] = record
            elif record["type"] == "notify" and record["message"] == "stopped":
                self._stop_count += 1
            elif record["type"] == "output":
                self._last_words = record["payload"]

    def _ended(self) -> AllocscopeError:
        status = self._process.wait()
        words = f": {self._last_words}" if self._last_words else ""
        if self._spoke:
            return Unsafe(f"gdb ended in the middle of its work (exit status {status}){words}")
        return MissingPart(f"gdb does not start (exit status {status}){words}", INSTALL)


def _stop_is_pending(pid: int) -> bool:
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    pending = int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
    return bool(pending >> (signal.SIGSTOP - 1) & 1)


def _start(program: str) -> subprocess.Popen[bytes]:
    command = [program, "-nx", "-q", "-readnever", "--interpreter=mi2"]
    for setting in SETTINGS:
        command += ["-iex", setting]
    # The C locale keeps its messages plain; without DEBUGINFOD_URLS it asks no server (gdb 10
    # does not know the setting for that).
    environment = {k: v for k, v in os.environ.items() if k != "DEBUGINFOD_URLS"}
    environment["LC_ALL"] = "C"
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    except FileNotFoundError as error:
        raise MissingPart(f"there is no {program} on this machine", INSTALL) from error
    except OSError as error:
        raise MissingPart(f"{program} cannot be started: {error.strerror}", INSTALL) from error


def _why_not_attached(pid: int, error: CallRefused) -> AllocscopeError:
    """The reason, from the process's own state and not from gdb's wording."""
    try:
        status = procfs.status(pid)
    except NoSuchProcess:
        return NoSuchProcess(f"process {pid} went away before gdb could attach")
    if status.state in "ZX":
        return NoSuchProcess(f"process {pid} has ended: it is a zombie")
    if status.tracer_pid:
        return Unsafe(
            f"process {pid} is already traced by process {status.tracer_pid}",
            "A process can have one tracer: end that debugger or strace first.",
        )
    refused = refusal.permission(pid, "the registers")
    return PermissionRefused(f"{refused.message} ({error.message})", refused.hint)
