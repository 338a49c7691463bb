"""Small ELF images made by hand, with everything in one segment, so that a test knows each byte."""

from __future__ import annotations

import struct

BASE = 0x10000
EM_386, EM_X86_64 = 3, 62

_HEADERS = 7 * 56 + 64
DT_NULL, DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_SONAME = 0, 1, 4, 5, 6, 14
DT_GNU_HASH = 0x6FFFFEF5


def note(owner: bytes, kind: int, content: bytes) -> bytes:
    name = owner + b"\0"
    padded = name + bytes(-len(name) % 4) + content + bytes(-len(content) % 4)
    return struct.pack("<III", len(name), len(content), kind) + padded


def gnu_hash(name: bytes) -> int:
    value = 5381
    for byte in name:
        value = (value * 33 + byte) % 2**32
    return value


def shared_library(
    *,
    soname: bytes = b"libtiny.so.1",
    needed: tuple[bytes, ...] = (),
    exports: tuple[tuple[bytes, int], ...] = (),
    imports: tuple[bytes, ...] = (),
    notes: bytes = b"",
    interpreter: bytes = b"",
    text: bytes = b"",
    hash_style: str = "gnu",
) -> bytes:
    """A 64-bit library. ``exports``: names and addresses; ``text`` lies behind everything else."""
    strings = bytearray(b"\0")

    def string(name: bytes) -> int:
        strings.extend(name + b"\0")
        return len(strings) - len(name) - 1

    names = [b"", *imports, *(name for name, _ in exports)]
    values = [0] * (1 + len(imports)) + [address for _, address in exports]
    symbols = b"".join(
        struct.pack("<IBBHQQ", string(name) if name else 0, 0x12, 0, 5 if value else 0, value, 0)
        for name, value in zip(names, values, strict=True)
    )
    dynamic = [(DT_SONAME, string(soname)), *((DT_NEEDED, string(name)) for name in needed)]
    hashes = _gnu_table(names, 1 + len(imports)) if hash_style == "gnu" else _sysv_table(names)

    parts: list[tuple[bytes, int]] = []
    at = BASE + _HEADERS

    def place(data: bytes) -> int:
        nonlocal at
        address = at
        parts.append((data, address))
        at += len(data) + -len(data) % 8
        return address

    at_notes, at_symbols, at_hashes = place(notes), place(symbols), place(hashes)
    at_strings, at_interpreter, at_text = place(bytes(strings)), place(interpreter), place(text)
    hash_tag = DT_GNU_HASH if hash_style == "gnu" else DT_HASH
    dynamic += [(hash_tag, at_hashes), (DT_STRTAB, at_strings), (DT_SYMTAB, at_symbols), (0, 0)]
    table = b"".join(struct.pack("<QQ", tag, value) for tag, value in dynamic)
    at_dynamic = place(table)
    segments = [(1, 4, BASE, at - BASE), (2, 4, at_dynamic, len(table))]
    segments += [(4, 4, at_notes, len(notes))] if notes else []
    segments += [(3, 4, at_interpreter, len(interpreter))] if interpreter else []
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 3, EM_X86_64, 1, at_text, 64, 0, 0, 64, 56,
        len(segments), 0, 0, 0,
    )  # fmt: skip
    for kind, flags, address, size in segments:
        header += struct.pack("<IIQQQQQQ", kind, flags, address - BASE, address, 0, size, size, 8)
    image = bytearray(header)
    for data, address in parts:
        image.extend(bytes(address - BASE - len(image)) + data)
    return bytes(image)


def program_32(code: bytes) -> bytes:
    """A static 32-bit program for x86 that runs ``code``."""
    base, start = 0x08048000, 52 + 32
    header = struct.pack(
        "<16sHHIIIIIHHHHHH", b"\x7fELF\1\1\1", 2, EM_386, 1, base + start, 52, 0, 0, 52, 32, 1,
        0, 0, 0,
    )  # fmt: skip
    size = start + len(code)
    return header + struct.pack("<IIIIIIII", 1, 0, base, base, size, size, 5, 0x1000) + code


def program_64(code: bytes, notes: bytes = b"") -> bytes:
    """A static 64-bit program for x86 that runs ``code``."""
    base, behind = 0x400000, 64 + 2 * 56
    start = behind + len(notes)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, EM_X86_64, 1, base + start, 64, 0, 0, 64, 56, 2,
        0, 0, 0,
    )  # fmt: skip
    size = start + len(code)
    for kind, flags, at, length in ((1, 5, 0, size), (4, 4, behind, len(notes))):
        header += struct.pack(
            "<IIQQQQQQ",
            kind,
            flags,
            at,
            base + at,
            base + at,
            length,
            length,
            0x1000 if at == 0 else 4,
        )
    return header + notes + code


def _gnu_table(names: list[bytes], first: int) -> bytes:
    """One bucket; the symbols from ``first`` on are its chain."""
    chain = [gnu_hash(name) & ~1 for name in names[first:]]
    if chain:
        chain[-1] |= 1
    bucket = first if chain else 0
    head = struct.pack("<IIIIQI", 1, first, 1, 0, 2**64 - 1, bucket)
    return head + struct.pack(f"<{len(chain)}I", *chain)


def _sysv_table(names: list[bytes]) -> bytes:
    """One bucket, which chains all symbols."""
    last = len(names) - 1
    chain = [0, *range(last)]
    return struct.pack(f"<{3 + len(chain)}I", 1, len(chain), last, *chain)
