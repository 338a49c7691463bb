"""Why the kernel refused something about a process, and what cures it.

Strategy: errno alone says little (EACCES and EPERM have a dozen causes), so the reason is looked
for, in the order in which the kernel checks: does the process exist at all, is it hidden, whose is
it, may it be dumped, Yama, and what remains (user namespaces, security modules).

Source: ptrace(2), "Ptrace access mode checking"; ``__ptrace_may_access`` in kernel/ptrace.c;
proc(5) for hidepid.
"""

from __future__ import annotations

import errno
import os

from allocscope.errors import (
    AllocscopeError,
    BadInput,
    InternalError,
    MissingPart,
    NoSuchProcess,
    PermissionRefused,
)
from allocscope.model.process import ProcessStatus
from allocscope.parse import status as status_text

CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21
CAP_SYS_NICE = 23
CAP_CHECKPOINT_RESTORE = 40

_GONE = (errno.ENOENT, errno.ESRCH)
_REFUSED = (errno.EACCES, errno.EPERM)
_AS_ROOT = "Run it as root, or give allocscope CAP_SYS_PTRACE"


def translate(pid: int, what: str, error: OSError) -> AllocscopeError:
    """The error to raise (``from error``) when reading ``what`` of process ``pid`` failed.

    ``what`` completes "cannot read …", as in ``maps`` or ``the memory``.
    """
    if error.errno in _REFUSED:
        return permission(pid, what)
    if error.errno not in _GONE:
        return InternalError(f"cannot read {what} of process {pid}: {error.strerror}")
    if not exists(pid):
        return NoSuchProcess(f"there is no process {pid}", "It may have ended meanwhile.")
    if _status(pid) is None:
        return permission(pid, what)
    if error.errno == errno.ENOENT and not _kernel_has(pid, error.filename):
        return MissingPart(
            f"cannot read {what} of process {pid}: this kernel has no such file",
            "`allocscope doctor` lists what this kernel lacks.",
        )
    return ended(pid)


def ended(pid: int) -> NoSuchProcess:
    """For a process that still has its number, but no memory any more: it is about to be gone."""
    return NoSuchProcess(f"process {pid} is ending", "Nothing is left of its memory.")


def permission(pid: int, what: str) -> PermissionRefused:
    """The refusal of a ptrace-style access to ``pid``, with its most likely reason and the cure."""
    message = f"not allowed to read {what} of process {pid}"
    target = _status(pid)
    if target is None:
        return PermissionRefused(
            f"{message}: it exists, but /proc is mounted with hidepid and hides it from this user",
            f"{_AS_ROOT}, or join the group that the gid= option of /proc names.",
        )
    reason, cure = _reason(pid, target)
    return PermissionRefused(f"{message}: {reason}", cure)


def exists(pid: int) -> bool:
    """Is there a process or thread of this number, visible in /proc or not? Sends no signal
    (kill(2) with 0)."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def holds(capability: int) -> bool:
    """Does this process have the capability in its effective set?"""
    own = _status(os.getpid())
    capabilities = (own and own.effective_capabilities) or 0
    return bool(capabilities >> capability & 1)


def _reason(pid: int, target: ProcessStatus) -> tuple[str, str]:
    scope = _yama_scope()
    if scope == 3:
        return (
            "the Yama security module forbids it to everybody (kernel.yama.ptrace_scope = 3)",
            "Only a reboot with another setting changes that.",
        )
    if holds(CAP_SYS_PTRACE):
        return (
            "CAP_SYS_PTRACE is there, but the target lives in another user namespace, or a "
            "security module (SELinux, AppArmor, a container's profile) forbids it",
            "Run allocscope on the host, or in the target's own user namespace.",
        )
    if target.uid != os.geteuid():
        return (
            f"it belongs to uid {target.uid}, you are uid {os.geteuid()}, without CAP_SYS_PTRACE",
            f"{_AS_ROOT}, or run it as uid {target.uid}.",
        )
    if _owner(pid) != target.uid:
        return (
            "it is yours but not dumpable (a set-id program, or PR_SET_DUMPABLE 0)",
            f"{_AS_ROOT}.",
        )
    if scope:
        return (
            f"kernel.yama.ptrace_scope = {scope} allows it to {_YAMA.get(scope, 'nobody')} only",
            f"{_AS_ROOT}, or set kernel.yama.ptrace_scope to 0 with sysctl.",
        )
    return (
        "it is yours, but holds a capability or an identity that you lack, or a security module "
        "forbids it",
        f"{_AS_ROOT}.",
    )


_YAMA = {1: "the ancestors of a process", 2: "holders of CAP_SYS_PTRACE"}


def _yama_scope() -> int:
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _owner(pid: int) -> int | None:
    """Who owns the files of /proc/PID: root, whatever the uid, where the process is not
    dumpable."""
    try:
        return os.stat(f"/proc/{pid}/maps").st_uid
    except OSError:
        return None


def _kernel_has(pid: int, path: object) -> bool:
    """Does /proc have a file of this name at all? Looked up in this very process."""
    own = str(path).replace(f"/proc/{pid}/", "/proc/self/", 1).replace(f"/task/{pid}/", "/")
    return os.path.lexists(own)


def _status(pid: int) -> ProcessStatus | None:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return status_text.parse(file.read())
    except (OSError, BadInput):
        return None
