"""The ELF reader, exported symbols and banners, on images of which every byte is known."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit import tiny_elf

from allocscope.errors import BadInput
from allocscope.parse import banner, elf, symbols

BUILD_ID = bytes(range(20))
LIBRARY = tiny_elf.shared_library(
    soname=b"libtiny.so.7",
    needed=(b"libm.so.6", b"libc.so.6"),
    exports=((b"malloc", 0x1230), (b"free", 0x4560), (b"malloc_trim", 0x7890)),
    imports=(b"realloc",),
    notes=tiny_elf.note(b"Go", 4, b"abc/def") + tiny_elf.note(b"GNU", 3, BUILD_ID),
    interpreter=b"/lib64/ld-linux-x86-64.so.2\0",
)
BIAS = 0x7F0000000000


def of_bytes(data: bytes) -> elf.Read:
    return lambda position, size: data[position : position + size] if position >= 0 else b""


def in_memory(data: bytes) -> elf.Image:
    """As the loader would map it: its first segment begins at offset 0."""
    start = BIAS + tiny_elf.BASE
    return elf.from_memory(of_memory(data, start), start)


def of_memory(data: bytes, start: int) -> elf.Read:
    return lambda address, size: of_bytes(data)(address - start, size)


@pytest.fixture(params=["file", "memory"])
def image(request: pytest.FixtureRequest) -> elf.Image:
    return elf.from_file(of_bytes(LIBRARY)) if request.param == "file" else in_memory(LIBRARY)


def test_header(image):
    assert (image.header.bits, image.header.type, image.header.machine) == (64, elf.ET_DYN, 62)
    (load,) = image.header.of_kind(elf.PT_LOAD)
    assert (load.address, load.offset, load.file_bytes) == (tiny_elf.BASE, 0, len(LIBRARY))


def test_notes_and_build_id(image):
    assert list(elf.notes(image)) == [(b"Go", 4, b"abc/def"), (b"GNU", 3, BUILD_ID)]
    assert elf.build_id(image) == BUILD_ID.hex()


def test_names_and_interpreter(image):
    assert elf.names(image, elf.DT_SONAME) == (b"libtiny.so.7",)
    assert elf.names(image, elf.DT_NEEDED) == (b"libm.so.6", b"libc.so.6")
    assert elf.interpreter(image) == b"/lib64/ld-linux-x86-64.so.2"


@pytest.mark.parametrize("style", ["gnu", "sysv"])
def test_exported_symbols(style):
    library = tiny_elf.shared_library(
        exports=((b"malloc", 0x1230), (b"free", 0x4560)), imports=(b"realloc",), hash_style=style
    )
    image = elf.from_file(of_bytes(library))
    assert symbols.exported(image, b"malloc") == 0x1230
    assert symbols.exported(image, b"free") == 0x4560
    assert symbols.exported(image, b"realloc") is None
    assert symbols.exported(image, b"mallo") is None


def test_pointers_that_the_loader_has_relocated_are_understood():
    """glibc adds the bias to the pointers in the dynamic section, where it is writable."""
    image = in_memory(LIBRARY)
    (table,) = image.header.of_kind(elf.PT_DYNAMIC)
    changed = bytearray(LIBRARY)
    for at in range(table.offset, table.offset + table.file_bytes, 16):
        tag = int.from_bytes(changed[at : at + 8], "little")
        if tag in (tiny_elf.DT_STRTAB, tiny_elf.DT_SYMTAB, tiny_elf.DT_GNU_HASH):
            value = int.from_bytes(changed[at + 8 : at + 16], "little") + BIAS
            changed[at + 8 : at + 16] = value.to_bytes(8, "little")
    assert symbols.exported(in_memory(bytes(changed)), b"malloc_trim") == 0x7890


def test_a_library_without_notes_and_interpreter():
    image = elf.from_file(of_bytes(tiny_elf.shared_library()))
    assert elf.build_id(image) is None
    assert elf.interpreter(image) is None
    assert symbols.exported(image, b"malloc") is None


def test_a_32_bit_program_is_recognised():
    image = elf.from_file(of_bytes(tiny_elf.program_32(b"\xf4")))
    assert (image.header.bits, image.header.machine) == (32, tiny_elf.EM_386)
    assert image.header.of_kind(elf.PT_LOAD)[0].address == 0x08048000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#!/bin/sh\n" * 20,
        b"\x7fELF",
        LIBRARY[:60],
        LIBRARY[:100],
        b"\x7fELF\2\2\1" + LIBRARY[7:],  # big-endian
        LIBRARY[:56] + b"\xff\xff" + LIBRARY[58:],  # 65535 program headers
    ],
)
def test_what_is_no_usable_elf_file_is_refused(data):
    with pytest.raises(BadInput):
        elf.from_file(of_bytes(data))


@settings(max_examples=400)
@given(st.data())
def test_a_damaged_image_is_read_or_refused(data):
    """Any few bytes changed, anywhere: answers may be wrong, but they are answers, or BadInput."""
    damaged = bytearray(LIBRARY)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    reads = 0

    def read(position: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        return of_bytes(bytes(damaged))(position, size)

    try:
        image = elf.from_file(read)
    except BadInput:
        return
    list(elf.notes(image))
    elf.build_id(image)
    elf.interpreter(image)
    elf.names(image, elf.DT_NEEDED)
    symbols.exported(image, b"malloc")
    assert reads < 50_000


@given(st.binary(max_size=600))
def test_garbage_is_refused_and_has_no_banner(data):
    with pytest.raises(BadInput):
        elf.from_file(of_bytes(b"\0" + data))
    assert banner.find(data) is None
    banner.musl_version(data)


@pytest.mark.parametrize(
    ("text", "version", "words"),
    [
        (b"GNU C Library (Debian GLIBC 2.36-9+deb12u14) stable release version 2.36.\nCopy",
         "2.36", "Debian GLIBC 2.36-9+deb12u14"),
        (b"GNU C Library (Ubuntu GLIBC 2.23-0ubuntu11) stable release version 2.23, by Roland",
         "2.23", "Ubuntu GLIBC 2.23-0ubuntu11"),
        (b"GNU C Library (Gentoo 2.38-r10 (patchset 9)) stable release version 2.38.",
         "2.38", "Gentoo 2.38-r10 (patchset 9)"),
        (b"GNU C Library (GNU libc) development release version 2.42.9000.",
         "2.42.9000", "GNU libc"),
    ],
)  # fmt: skip
def test_banners_of_glibc(text, version, words):
    found = banner.find(b"\0noise GNU C Libraries\0" + text + b"\0")
    assert found == banner.Banner(version, words)


def test_a_banner_does_not_reach_over_the_end_of_a_string():
    assert banner.find(b"GNU C Library (a\0) stable release version 2.36.") is None
    assert banner.find(b"GNU C Library (" + b"x" * 400 + b") stable release version 2.36") is None


def test_marks():
    assert banner.musl_version(b"musl libc (x86_64)\nVersion %s\n\0abc\0001.2.3\0") == "1.2.3"
    assert banner.musl_version(b"\0001.2.3\0") is None
    assert banner.has_musl(b"x\0No error information\0y")
    assert banner.has_glibc_malloc(b"\0corrupted double-linked list\0")
    assert banner.has_go(b"\xff Go buildinf:\x08\x02")
    assert not banner.has_glibc_malloc(b"") and not banner.has_go(b"") and not banner.has_musl(b"")
