"""``doctor``: what works here, what does not, and the cure.

Each check says what the finding means for the reader's work, not only that something is absent.
Rules: nothing is stopped or changed; a check never ends the examination. ``missing`` means that a
verb cannot work, ``degraded`` that it works with a loss; only what model.checks calls ``NEEDED``
stands in the way of ``arenas``.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from collections.abc import Iterator

from allocscope.app import doctor_target
from allocscope.errors import MissingPart
from allocscope.lab import fixture
from allocscope.model.checks import Check, Checkup, DoctorData
from allocscope.proc import features, procfs, refusal

GDB_SECONDS = 10.0


def doctor(pid: int | None = None) -> Checkup:
    """Examines this machine, and the process ``pid`` where one is given.

    Raises NoSuchProcess, and NoGlibcHeap for a kernel thread."""
    started = time.monotonic_ns()
    process = None if pid is None else procfs.identify(pid)
    checks = list(_machine())
    if process is not None:
        checks += doctor_target.checks(process)
    return Checkup(process, DoctorData(tuple(checks)), time.monotonic_ns() - started)


def _machine() -> Iterator[Check]:
    yield _native_helper()
    yield _page_states()
    yield _page_frames()
    yield _reclaim()
    yield _ptrace()
    yield _gdb()
    yield _compiler()
    yield _cgroup()
    yield _swap()


def _native_helper() -> Check:
    trouble = features.native_helper()
    if trouble is None:
        return Check("native-helper", "ok", f"loaded, under Python {platform.python_version()}", "")
    return Check(
        "native-helper",
        "missing",
        f"cannot be loaded: {trouble}",
        "Install allocscope again with pip, with a C compiler at hand.",
    )


def _page_states() -> Check:
    if features.has_pagemap_scan():
        return Check("pagemap-scan", "ok", f"kernel {features.kernel()} has it", "")
    return Check(
        "pagemap-scan",
        "degraded",
        f"kernel {features.kernel()} has none: page states are read one by one, which takes about "
        "three times as long, and the zero page is told apart only with CAP_SYS_ADMIN",
        "Linux 6.7 or later has it.",
    )


def _page_frames() -> Check:
    if features.shows_page_frames() and features.has_kpageflags():
        return Check("page-frames", "ok", "pagemap shows frames, kpageflags can be read", "")
    return Check(
        "page-frames",
        "degraded",
        "pagemap hides frame numbers or kpageflags cannot be read: lazily freed pages are known "
        "only by mapping",
        "Run as root in the initial user namespace (CAP_SYS_ADMIN).",
    )


def _reclaim() -> Check:
    missing = [] if refusal.holds(refusal.CAP_SYS_NICE) else ["CAP_SYS_NICE"]
    if not (features.shows_page_frames() and features.has_kpageflags()):
        missing.append("CAP_SYS_ADMIN to see page frames")
    if not missing:
        return Check("reclaim", "ok", "CAP_SYS_NICE is there, and page frames can be seen", "")
    return Check(
        "reclaim",
        "degraded",
        f"lazyfree --reclaim is not allowed: it needs {' and '.join(missing)}",
        "Run as root in the initial user namespace.",
    )


_YAMA = {
    0: "Yama allows it to the same user",
    1: "Yama allows it to the ancestors of a process only",
    2: "Yama allows it to holders of CAP_SYS_PTRACE only",
    3: "Yama forbids it to everybody",
}


def _ptrace() -> Check:
    scope = features.yama_scope()
    yama = "no Yama here" if scope is None else f"{_YAMA.get(scope, '')} (ptrace_scope {scope})"
    capable = refusal.holds(refusal.CAP_SYS_PTRACE)
    if scope == 3:
        cure = "Only a reboot with another setting changes that."
        return Check("ptrace", "missing", f"{yama}: no process can be read or copied", cure)
    if capable:
        return Check("ptrace", "ok", f"CAP_SYS_PTRACE is there; {yama}", "")
    if not scope:
        return Check(
            "ptrace",
            "degraded",
            f"no CAP_SYS_PTRACE: your own processes only; {yama}",
            "Run as root for other users' processes.",
        )
    return Check(
        "ptrace",
        "degraded",
        f"no CAP_SYS_PTRACE, and {yama}: snapshots are not allowed",
        "Run as root, or set kernel.yama.ptrace_scope to 0 with sysctl.",
    )


def _gdb() -> Check:
    path = shutil.which("gdb")
    cure = "Install it, for example: apt install gdb. No other verb needs it."
    if path is None:
        return Check("gdb", "missing", "not installed: ask and --ask-glibc cannot work", cure)
    try:
        shown = subprocess.run(
            [path, "-nx", "--version"], capture_output=True, timeout=GDB_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Check("gdb", "missing", f"{path} does not run: {error}", cure)
    return Check("gdb", "ok", shown.stdout.decode(errors="replace").partition("\n")[0], "")


def _compiler() -> Check:
    try:
        return Check("c-compiler", "ok", " ".join(fixture.default_compiler()), "")
    except MissingPart as error:
        cure = f"{error.hint}. Only repro needs it."
        return Check("c-compiler", "missing", "none: repro cannot build its fixtures", cure)


def _cgroup() -> Check:
    version = features.cgroup_version()
    if version is None:
        return Check(
            "cgroup",
            "degraded",
            "no cgroup hierarchy is mounted: CPU quotas and memory limits are unknown",
            "In a container, mount /sys/fs/cgroup read-only.",
        )
    return Check("cgroup", "ok", f"version {version}", "")


def _swap() -> Check:
    size = features.swap_bytes()
    if size is None:
        return Check("swap", "ok", "unknown", "")
    if not size:
        return Check("swap", "ok", "none: what is not resident was released", "")
    return Check(
        "swap",
        "ok",
        f"{size >> 20} MiB: swapped pages of a heap are left alone and counted as unread",
        "",
    )
