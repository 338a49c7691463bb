"""Which library a path names, by the file's name alone: the C libraries, their loaders, and what
puts itself in front of malloc.

Rule: an upgrade may leave " (deleted)", ";5f3a" (rpm) or ".dpkg-tmp" behind a name, so only its
beginning counts, where the name is distinct enough.
"""

from __future__ import annotations

_DELETED = " (deleted)"


def is_glibc(path: str) -> bool:
    """libc.so.6, or libc-2.NN.so as releases before 2.34 named the file."""
    name = _name(path)
    number, named, _ = name.removeprefix("libc-2.").partition(".so")
    older = name.startswith("libc-2.") and bool(named) and number.isdigit()
    return older or name.startswith("libc.so.6")


def is_malloc_debug(path: str) -> bool:
    """libc_malloc_debug.so of glibc 2.34 and later."""
    return _name(path).startswith("libc_malloc_debug.so")


def is_musl(path: str) -> bool:
    """musl's one library is its loader, too, and goes by several names."""
    name = _name(path).removesuffix(_DELETED)
    return name == "libc.so" or (
        name.startswith(("ld-musl-", "libc.musl-")) and name.endswith(".so.1")
    )


def is_loader(path: str) -> bool:
    """ld-linux-x86-64.so.2, ld-2.31.so, ld-musl-x86_64.so.1 and their like."""
    name = _name(path)
    return name.startswith("ld-") and ".so" in name


def is_libc(path: str) -> bool:
    """Any C library, or its loader: what brings a malloc without being an allocator of its own."""
    return is_glibc(path) or is_loader(path) or _name(path).startswith("libc.so")


def forwards_malloc(path: str) -> bool:
    """Libraries that count the calls of malloc and hand them on to the next in the order."""
    name = _name(path)
    return name.startswith(("libheaptrack_preload", "libmemusage")) and ".so" in name


def _name(path: str) -> str:
    return path.rpartition("/")[2]
