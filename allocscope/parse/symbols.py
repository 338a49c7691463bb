"""Does a library export a name, and where: through the hash table that the loader itself uses.

Strategy: one lookup reads a few words (a bucket, a short chain, the candidates' names), never the
whole table, so it costs some ten small reads, on disk or in memory. Symbol versions are ignored:
the default one is found.

Rule: chains come from the file; every walk is bounded.

Source: elf(5); the description of DT_GNU_HASH in binutils (ELF GNU hash sections); the System V
ABI for DT_HASH.
"""

from __future__ import annotations

import struct

from allocscope.parse import elf
from allocscope.parse.elf import Image

_DT_HASH, _DT_SYMTAB, _DT_GNU_HASH = 4, 6, 0x6FFFFEF5
_LONGEST_CHAIN = 10_000
_SYMBOLS = {64: struct.Struct("<IBBHQQ"), 32: struct.Struct("<IIIBBH")}
"""By bits: st_name, st_info, st_other, st_shndx, st_value, st_size; in another order in 32 bits."""


def exported(image: Image, name: bytes) -> int | None:
    """The address, without load bias, at which ``image`` defines ``name`` for others; None if it
    does not."""
    tags = {tag: elf.address_of(image, value) for tag, value in elf.dynamic(image)}
    symbols, strings = tags.get(_DT_SYMTAB), tags.get(elf.DT_STRTAB)
    if symbols is None or strings is None:
        return None
    if _DT_GNU_HASH in tags:
        candidates = _gnu_candidates(image, tags[_DT_GNU_HASH], name)
    elif _DT_HASH in tags:
        candidates = _sysv_candidates(image, tags[_DT_HASH], name)
    else:
        return None
    for index in candidates:
        symbol = _SYMBOLS[image.header.bits]
        data = image.read(symbols + index * symbol.size, symbol.size)
        if len(data) < symbol.size:
            return None
        if image.header.bits == 64:
            at, _, _, section, value, _ = symbol.unpack(data)
        else:
            at, value, _, _, _, section = symbol.unpack(data)
        if section and image.read(strings + at, len(name) + 1) == name + b"\0":
            return int(value)
    return None


def _gnu_candidates(image: Image, table: int, name: bytes) -> list[int]:
    """Indices of the symbols whose hash is that of ``name``."""
    head = image.read(table, 16)
    if len(head) < 16:
        return []
    buckets, first, bloom_words, _ = struct.unpack("<IIII", head)
    wanted = _gnu_hash(name)
    at_buckets = table + 16 + bloom_words * image.header.bits // 8
    index = _word(image, at_buckets + wanted % buckets * 4) if buckets else None
    found: list[int] = []
    if index is None or index < first:
        return found
    at_hashes = at_buckets + buckets * 4
    for _ in range(_LONGEST_CHAIN):
        value = _word(image, at_hashes + (index - first) * 4)
        if value is None:
            break
        if value | 1 == wanted | 1:
            found.append(index)
        if value & 1:
            break
        index += 1
    return found


def _sysv_candidates(image: Image, table: int, name: bytes) -> list[int]:
    """Indices of the symbols in the bucket of ``name``."""
    buckets = _word(image, table)
    index = _word(image, table + 8 + _sysv_hash(name) % buckets * 4) if buckets else None
    found: list[int] = []
    while buckets and index and len(found) < _LONGEST_CHAIN:
        found.append(index)
        index = _word(image, table + 8 + (buckets + index) * 4)
    return found


def _word(image: Image, address: int) -> int | None:
    data = image.read(address, 4)
    return int.from_bytes(data, "little") if len(data) == 4 else None


def _gnu_hash(name: bytes) -> int:
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


def _sysv_hash(name: bytes) -> int:
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high
    return value
