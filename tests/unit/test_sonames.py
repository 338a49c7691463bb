"""Which library a path names."""

from __future__ import annotations

import pytest

from allocscope.parse import sonames

LIB = "/usr/lib/x86_64-linux-gnu/"
PATHS = {
    LIB + "libc.so.6": {"glibc", "libc"},
    LIB + "libc.so.6 (deleted)": {"glibc", "libc"},
    LIB + "libc.so.6;5f3a1b2c": {"glibc", "libc"},
    LIB + "libc-2.31.so": {"glibc", "libc"},
    LIB + "libc-2.31.so.dpkg-tmp": {"glibc", "libc"},
    LIB + "libc-2.x.so": set(),
    LIB + "libc-2.31": set(),
    LIB + "libcrypto.so.3": set(),
    LIB + "libc_malloc_debug.so.0": {"malloc_debug"},
    LIB + "ld-linux-x86-64.so.2": {"loader", "libc"},
    LIB + "ld-2.31.so (deleted)": {"loader", "libc"},
    "/lib/ld-musl-x86_64.so.1": {"musl", "loader", "libc"},
    "/lib/ld-musl-x86_64.so.1 (deleted)": {"musl", "loader", "libc"},
    "/lib/libc.musl-x86_64.so.1": {"musl"},
    "/lib/libc.so": {"musl", "libc"},
    "/libc.so.6/program": set(),
    "/opt/libheaptrack_preload.so.1": {"forwards"},
    LIB + "libmemusage.so": {"forwards"},
    LIB + "libjemalloc.so.2": set(),
    "": set(),
}
QUESTIONS = {
    "glibc": sonames.is_glibc,
    "malloc_debug": sonames.is_malloc_debug,
    "musl": sonames.is_musl,
    "loader": sonames.is_loader,
    "libc": sonames.is_libc,
    "forwards": sonames.forwards_malloc,
}


@pytest.mark.parametrize("path", PATHS)
def test_what_a_path_names(path: str) -> None:
    assert {word for word, asked in QUESTIONS.items() if asked(path)} == PATHS[path]
