"""The owner that the kernel itself names: a file, a stack, the vdso, shared memory.

Rules: a name that a program gave its memory with prctl(PR_SET_VMA_ANON_NAME) is its own word about
it, and counts (glibc names its memory so from 2.39 on where glibc.mem.decorate_maps is set; Go,
Android's libraries and others do too); a name that is not known leaves the memory unexplained. A
private mapping of a program or library that may be written to is its data; every other private one
is code, constants, or a file that somebody reads.
"""

from __future__ import annotations

from collections.abc import Iterable

from allocscope.immutable import immutable
from allocscope.model.owners import Claim, OwnerKey
from allocscope.model.process import Mapping

SPECIAL = {
    "[vdso]": "the kernel's code for fast system calls",
    "[vvar]": "the kernel's data for fast system calls",
    "[vvar_vclock]": "the kernel's data for fast system calls",
    "[vsyscall]": "the kernel's page for old system calls",
    "[uprobes]": "the kernel's page for probes",
    "[sigpage]": "the kernel's page for signals",
}
NAMED: tuple[tuple[str, OwnerKey, str], ...] = (
    ("[anon: glibc: pthread stack", "thread-stacks", "stack of a thread"),
    ("[anon: glibc: pthread user stack", "thread-stacks", "stack of a thread"),
    ("[anon: glibc: loader malloc", "loader-and-special", "the loader's own memory"),
    ("[anon: glibc: fatal", "loader-and-special", "glibc's message"),
    ("[anon: Go:", "runtime-heap", "Go"),
    ("[anon:Go:", "runtime-heap", "Go"),
    ("[anon:v8", "runtime-heap", "V8"),
    ("[anon:cpython:", "runtime-heap", "CPython"),
    ("[anon:jemalloc", "other-allocator", "jemalloc"),
    ("[anon:mimalloc", "other-allocator", "mimalloc"),
    ("[anon:tcmalloc", "other-allocator", "tcmalloc"),
    ("[anon:scudo:", "other-allocator", "scudo"),
    ("[anon:partition_alloc", "other-allocator", "PartitionAlloc"),
    ("[anon:.bss]", "program-data", ".bss"),
)
"""How names that programs give their memory begin, and what they say."""

_SHARED_MEMORY = ("/dev/zero", "/memfd:", "/SYSV", "/dev/shm/", "[anon_shmem:")
UNNAMED = "anonymous memory in which no structure of a known owner was found"


@immutable
class Files:
    """What must be known of mapped files beside their names. ``programs``: paths with executable
    mappings; ``tmpfs_devices``: devices, as maps prints them, whose files are memory."""

    programs: frozenset[str]
    tmpfs_devices: frozenset[str]


def files_of(mappings: Iterable[Mapping], tmpfs_devices: Iterable[str]) -> Files:
    programs = {m.path for m in mappings if m.inode and m.perms[2] == "x"}
    return Files(frozenset(programs), frozenset(tmpfs_devices))


def by_mapping(mapping: Mapping, files: Files, start: int, end: int) -> Claim:
    """The owner of ``[start, end)`` of a mapping that no recogniser claimed."""
    key, owner, evidence = _owner(mapping, files)
    return Claim(start, end, key, owner, evidence)


def _owner(mapping: Mapping, files: Files) -> tuple[OwnerKey, str, str]:
    path = mapping.path
    if path in SPECIAL:
        return "loader-and-special", path, SPECIAL[path]
    if path == "[stack]":
        return "thread-stacks", "stack of the main thread", "the kernel names it [stack]"
    if path.startswith(_SHARED_MEMORY) or mapping.device in files.tmpfs_devices:
        return "shared-memory", path, "memory behind a file that exists in no file system on disk"
    if mapping.inode:
        return _of_file(mapping, files)
    if not mapping.private:
        return "shared-memory", path or "shared anonymous memory", "a shared mapping without a file"
    for name, key, owner in NAMED:
        if path.startswith(name):
            return key, owner, f"named {path} by whoever mapped it"
    if path.startswith("anon_inode:"):
        return "file-shared", path, "a mapping of a kernel object"
    if mapping.perms.startswith("---"):
        return "loader-and-special", "reserved address space", "no access: it cannot hold anything"
    return "unexplained", "unexplained", UNNAMED


def _of_file(mapping: Mapping, files: Files) -> tuple[OwnerKey, str, str]:
    path = mapping.path
    if not mapping.private:
        return "file-shared", path, "a shared mapping of this file"
    if mapping.writable and path in files.programs:
        return "program-data", path, "a writable private mapping of a program or library"
    return "file-private", path, "a private mapping of this file"
