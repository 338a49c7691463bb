"""How a C library names itself in its read-only data.

Rules: a banner is for display, never for choosing a layout: distributions carry patches that
change layouts under an unchanged version. A static program holds no banner of glibc, so there the
messages of its malloc are the mark.

Source: csu/version.c and malloc/malloc.c of glibc; ldso/dynlink.c and src/errno of musl; Go's
debug/buildinfo.
"""

from __future__ import annotations

from allocscope.immutable import immutable

LONGEST = 512
"""No mark and no banner is longer: how much two neighbouring blocks must overlap when a file is
searched in blocks."""

_GLIBC_MARK = b"GNU C Library ("
_GLIBC_RELEASES = (b") stable release version ", b") development release version ")
_LONGEST_TEXT = 300
_GLIBC_MALLOC = b"corrupted double-linked list"
_MUSL_LOADER = b"musl libc ("
_MUSL_MARKS = (_MUSL_LOADER, b"MUSL_LOCPATH", b"\0No error information\0")
_GO_MARK = b"\xff Go buildinf:"


@immutable
class Banner:
    """``version``: "2.36". ``text``: the packager's own words, "Debian GLIBC 2.36-9+deb12u14"."""

    version: str
    text: str


def find(data: bytes) -> Banner | None:
    """The banner of glibc anywhere in ``data``, or None."""
    start = data.find(_GLIBC_MARK)
    while start >= 0:
        start += len(_GLIBC_MARK)
        line = data[start : start + LONGEST].partition(b"\0")[0].partition(b"\n")[0]
        for release in _GLIBC_RELEASES:
            text, _, behind = line.partition(release)
            version = _leading_version(behind)
            if 0 < len(text) <= _LONGEST_TEXT and version is not None:
                return Banner(version, text.decode("utf-8", "surrogateescape"))
        start = data.find(_GLIBC_MARK, start)
    return None


def musl_version(data: bytes) -> str | None:
    """The version of musl, given the read-only data of its loader; None without its mark or its
    version."""
    start = data.find(_MUSL_LOADER)
    words = data[start:].split(b"\0")[1:-1] if start >= 0 else []
    versions = (word.decode("ascii") for word in words if _is_version(word, parts=(3,)))
    return next(versions, None)


def has_musl(data: bytes) -> bool:
    """Does ``data`` hold a mark of musl?"""
    return any(mark in data for mark in _MUSL_MARKS)


def has_glibc_malloc(data: bytes) -> bool:
    """Does ``data`` hold a message that only glibc's malloc prints (2.3 to 2.44 at least)?"""
    return _GLIBC_MALLOC in data


def has_go(data: bytes) -> bool:
    """Does ``data`` hold the mark that Go's linker writes into every program?"""
    return _GO_MARK in data


def _leading_version(text: bytes) -> str | None:
    """ "2.36" of "2.36.\\n"; None where the text does not begin with a version."""
    version = text[: len(text) - len(text.lstrip(b"0123456789."))].rstrip(b".")
    return version.decode("ascii") if _is_version(version, parts=(2, 3, 4)) else None


def _is_version(word: bytes, *, parts: tuple[int, ...]) -> bool:
    numbers = word.split(b".")
    return len(numbers) in parts and all(number.isdigit() for number in numbers)
