"""How a C library names itself in its read-only data.

Rules: a banner is for display, never for choosing a layout: distributions carry patches that
change layouts under an unchanged version. A static program holds no banner of glibc, so there the
messages of its malloc are the mark.

Source: csu/version.c and malloc/malloc.c of glibc; ldso/dynlink.c and src/errno of musl; Go's
debug/buildinfo.
"""

from __future__ import annotations

import re

from allocscope.immutable import immutable

LONGEST = 512
"""No mark and no banner is longer: how much two neighbouring blocks must overlap when a file is
searched in blocks."""

_GLIBC = re.compile(
    rb"GNU C Library \(([^\0\n]{1,300}?)\) (?:stable|development) release version "
    rb"(\d+(?:\.\d+){1,3})"
)
_GLIBC_MARK = b"GNU C Library ("
_GLIBC_MALLOC = b"corrupted double-linked list"
_MUSL_LOADER = b"musl libc ("
_MUSL_MARKS = (_MUSL_LOADER, b"MUSL_LOCPATH", b"\0No error information\0")
_MUSL_VERSION = re.compile(rb"\0(\d+\.\d+\.\d+)\0")
_GO_MARK = b"\xff Go buildinf:"


@immutable
class Banner:
    """``version``: "2.36". ``text``: the packager's own words, "Debian GLIBC 2.36-9+deb12u14"."""

    version: str
    text: str


def find(data: bytes) -> Banner | None:
    """The banner of glibc anywhere in ``data``, or None."""
    start = data.find(_GLIBC_MARK)
    found = _GLIBC.search(data, start) if start >= 0 else None
    if found is None:
        return None
    return Banner(found[2].decode("ascii"), found[1].decode("utf-8", "surrogateescape"))


def musl_version(data: bytes) -> str | None:
    """The version of musl, given the read-only data of its loader; None without its mark or its
    version."""
    start = data.find(_MUSL_LOADER)
    found = _MUSL_VERSION.search(data, start) if start >= 0 else None
    return found[1].decode("ascii") if found else None


def has_musl(data: bytes) -> bool:
    """Does ``data`` hold a mark of musl?"""
    return any(mark in data for mark in _MUSL_MARKS)


def has_glibc_malloc(data: bytes) -> bool:
    """Does ``data`` hold a message that only glibc's malloc prints (2.3 to 2.44 at least)?"""
    return _GLIBC_MALLOC in data


def has_go(data: bytes) -> bool:
    """Does ``data`` hold the mark that Go's linker writes into every program?"""
    return _GO_MARK in data
