"""The little of ELF that a look from outside needs: headers, program headers, notes, the dynamic
section.

Strategy: everything is asked for by virtual address, as the loader sees it, through one ``read``
callable; so the same code reads a file on disk (:func:`from_file`) and an image that was loaded
into a process whose file is gone (:func:`from_memory`). Section headers are never used: a loaded
image has none.

Rules: offsets and counts come from the file and are hostile; every table is bounded, and what does
not fit is BadInput or absent. Little-endian only, 64 and 32 bits. (pyelftools does far more, and
its import alone takes longer than a whole reading; it is left to the commands that read symbols
and cores.)

Source: elf(5); the System V ABI, chapters 4 and 5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

from allocscope.errors import BadInput
from allocscope.immutable import immutable
from allocscope.model.libc import AARCH64, I386, OTHER, X86_64
from allocscope.model.process import Mapping

Read = Callable[[int, int], bytes]
"""``read(position, size)``: up to ``size`` bytes, fewer or none where they cannot be had."""

ET_EXEC, ET_DYN = 2, 3
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_PHDR, PT_TLS = 1, 2, 3, 4, 6, 7
PF_X, PF_W, PF_R = 1, 2, 4
DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_SONAME, DT_DEBUG = 1, 5, 10, 14, 21

_MACHINES = {(3, 32): I386, (62, 64): X86_64, (183, 64): AARCH64}
"""By e_machine (EM_386, EM_X86_64, EM_AARCH64) and bits."""

_MOST_HEADERS = 256
_MOST_NOTE_BYTES = 64 * 1024
_MOST_DYNAMIC_BYTES = 16 * 1024
_LONGEST_NAME = 4096
_PAGE_BYTES = 4096


@immutable
class Segment:
    """One program header; addresses are those of the file, without the load bias."""

    kind: int
    flags: int
    offset: int
    address: int
    file_bytes: int
    memory_bytes: int


@immutable
class Header:
    """The file header and all program headers. ``bits``: 64 or 32."""

    bits: int
    type: int
    machine: int
    entry: int
    segments: tuple[Segment, ...]

    @property
    def machine_name(self) -> str:
        """One of the names of model.libc."""
        return _MACHINES.get((self.machine, self.bits), OTHER)

    def of_kind(self, kind: int) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.kind == kind)


@immutable
class Image:
    """A header together with the means to read what it describes.

    ``read`` takes the file's own virtual addresses. ``relocated_by``: what the loader added to the
    pointers in the dynamic section; 0 for a file.
    """

    header: Header
    read: Read
    relocated_by: int = 0


def header(read: Read) -> Header:
    """The headers found at position 0 of ``read``. Raises BadInput where there is no usable ELF
    header."""
    start = read(0, 64)
    if len(start) < 52 or start[:4] != b"\x7fELF":
        raise BadInput("this is not an ELF file")
    if start[4] not in (1, 2) or start[5] != 1:
        raise BadInput("this ELF file is neither 32-bit nor 64-bit little-endian")
    bits = 64 if start[4] == 2 else 32
    try:
        if bits == 64:
            kind, machine, _, entry, table = struct.unpack_from("<HHIQQ", start, 16)
            size, count = struct.unpack_from("<HH", start, 54)
        else:
            kind, machine, _, entry, table = struct.unpack_from("<HHIII", start, 16)
            size, count = struct.unpack_from("<HH", start, 42)
    except struct.error as error:
        raise BadInput("this ELF header is cut off") from error
    if size != (56 if bits == 64 else 32) or not 0 < count <= _MOST_HEADERS:
        raise BadInput(f"this ELF file has {count} program headers of {size} bytes")
    entries = read(table, size * count)
    if len(entries) < size * count:
        raise BadInput("the program headers of this ELF file are cut off")
    unpack = _segment_64 if bits == 64 else _segment_32
    segments = tuple(unpack(entries, at) for at in range(0, size * count, size))
    return Header(bits, kind, machine, entry, segments)


def load_bias(header: Header, mappings: Iterable[Mapping]) -> int | None:
    """What the loader added to the addresses of a file: told by the first of its mappings that a
    loadable segment accounts for. None: none does."""
    for mapping in mappings:
        for load in header.of_kind(PT_LOAD):
            begins = load.offset // _PAGE_BYTES * _PAGE_BYTES == mapping.offset
            if begins or load.offset <= mapping.offset < load.offset + max(load.file_bytes, 1):
                return mapping.start - mapping.offset + load.offset - load.address
    return None


def from_file(read: Read) -> Image:
    """An ELF file; ``read`` takes offsets in it. Raises BadInput."""
    found = header(read)
    loads = found.of_kind(PT_LOAD)

    def read_address(address: int, size: int) -> bytes:
        for load in loads:
            inside = address - load.address
            if 0 <= inside < load.file_bytes:
                return read(load.offset + inside, min(size, load.file_bytes - inside))
        return b""

    return Image(found, read_address)


def from_memory(read: Read, base: int) -> Image:
    """An image loaded at ``base``; ``read`` takes addresses of the process. Raises BadInput."""
    found = header(lambda offset, size: read(base + offset, size))
    loads = found.of_kind(PT_LOAD)
    if not loads:
        raise BadInput("this ELF image has nothing to load")
    bias = base - min(load.address - load.offset for load in loads)
    return Image(found, lambda address, size: read(bias + address, size), bias)


def notes(image: Image) -> Iterator[tuple[bytes, int, bytes]]:
    """All notes as (owner without its NUL, type, content); a malformed rest is passed over."""
    for segment in image.header.of_kind(PT_NOTE):
        data = image.read(segment.address, min(segment.file_bytes, _MOST_NOTE_BYTES))
        at = 0
        while at + 12 <= len(data):
            name_size, content_size, kind = struct.unpack_from("<III", data, at)
            name_at = at + 12
            content_at = name_at + _rounded(name_size)
            at = content_at + _rounded(content_size)
            if content_at + content_size > len(data):
                break
            name = data[name_at : name_at + name_size].rstrip(b"\0")
            yield name, kind, data[content_at : content_at + content_size]


def build_id(image: Image) -> str | None:
    """The GNU build-id as hex digits, or None."""
    for name, kind, content in notes(image):
        if name == b"GNU" and kind == 3 and content:
            return content.hex()
    return None


def interpreter(image: Image) -> bytes | None:
    """The path in PT_INTERP; None in a library and in a static program."""
    for segment in image.header.of_kind(PT_INTERP):
        text = image.read(segment.address, min(segment.file_bytes, _LONGEST_NAME))
        return text.split(b"\0", 1)[0] or None
    return None


def dynamic(image: Image) -> tuple[tuple[int, int], ...]:
    """The dynamic section as (tag, value) pairs in their order, values as they stand there; empty
    without one."""
    entry = "<QQ" if image.header.bits == 64 else "<II"
    width = struct.calcsize(entry)
    pairs = []
    for segment in image.header.of_kind(PT_DYNAMIC):
        data = image.read(segment.address, min(segment.memory_bytes, _MOST_DYNAMIC_BYTES))
        for at in range(0, len(data) - width + 1, width):
            tag, value = struct.unpack_from(entry, data, at)
            if tag == 0:
                break
            pairs.append((tag, value))
    return tuple(pairs)


def address_of(image: Image, value: int) -> int:
    """A pointer from the dynamic section as an address of the file.

    glibc adds the load bias to most of them in place, musl does not; an unbiased one is always
    below the bias.
    """
    return value - image.relocated_by if value >= image.relocated_by else value


def names(image: Image, tag: int) -> tuple[bytes, ...]:
    """The strings of the dynamic section that belong to ``tag``: DT_SONAME or DT_NEEDED."""
    pairs = dynamic(image)
    table = next((address_of(image, value) for kind, value in pairs if kind == DT_STRTAB), None)
    if table is None:
        return ()
    texts = (image.read(table + value, 256) for kind, value in pairs if kind == tag)
    return tuple(text.split(b"\0", 1)[0] for text in texts)


def _segment_64(data: bytes, at: int) -> Segment:
    kind, flags, offset, address, _, file_bytes, memory_bytes = struct.unpack_from(
        "<IIQQQQQ", data, at
    )
    return Segment(kind, flags, offset, address, file_bytes, memory_bytes)


def _segment_32(data: bytes, at: int) -> Segment:
    kind, offset, address, _, file_bytes, memory_bytes, flags = struct.unpack_from(
        "<IIIIIII", data, at
    )
    return Segment(kind, flags, offset, address, file_bytes, memory_bytes)


def _rounded(size: int) -> int:
    return (size + 3) & ~3
