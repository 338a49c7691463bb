"""What a call of malloc_trim is put together from, looked up in this very process, where ctypes and
the memory itself tell whether it is right."""

from __future__ import annotations

import ctypes
import os

import pytest

from allocscope.act import code, symbols, trim_plan
from allocscope.errors import MissingPart
from allocscope.model.process import Mapping
from allocscope.proc import libc, procfs

PID = os.getpid()


@pytest.fixture
def mappings() -> tuple[Mapping, ...]:
    return procfs.mappings(PID)


def test_pieces_of_code(mappings: tuple[Mapping, ...]) -> None:
    links = code.find_links(PID, mappings)
    assert ctypes.string_at(links.pop_rdi, 2) == b"\x5f\xc3"
    assert ctypes.string_at(links.pop_rsi, 2) == b"\x5e\xc3"
    assert ctypes.string_at(links.pop_rax, 2) == b"\x58\xc3"
    displacement = links.store_displacement.to_bytes(1, "little", signed=True)
    store = b"\x89\x47" + displacement + b"\xc3" if links.store_displacement else b"\x89\x07\xc3"
    assert ctypes.string_at(links.store_eax, len(store)) == store


def test_no_code_to_be_found(mappings: tuple[Mapping, ...]) -> None:
    with pytest.raises(MissingPart, match="the code that a call is put together from"):
        code.find_links(PID, [m for m in mappings if "x" not in m.perms])


def test_the_place_of_errno(mappings: tuple[Mapping, ...]) -> None:
    """pthread_self is the thread's control block (x86-64)."""
    image = libc.identify(PID, mappings)[0]
    function = symbols.resolve(PID, image, ("__errno_location",))["__errno_location"]
    this = ctypes.CDLL(None)
    this.pthread_self.restype = this.__errno_location.restype = ctypes.c_uint64
    wanted = (this.__errno_location() - this.pthread_self()) % (1 << 64)
    assert trim_plan._errno_offset(PID, mappings, function) == wanted


def test_a_place_that_the_code_does_not_tell(mappings: tuple[Mapping, ...]) -> None:
    image = libc.identify(PID, mappings)[0]
    malloc = symbols.resolve(PID, image, ("malloc",))["malloc"]
    with pytest.raises(MissingPart, match="keeps errno in a place"):
        trim_plan._errno_offset(PID, mappings, malloc)


def test_code_as_the_file_has_it(mappings: tuple[Mapping, ...]) -> None:
    image = libc.identify(PID, mappings)[0]
    malloc = symbols.resolve(PID, image, ("malloc",))["malloc"]
    assert code.text_at(PID, mappings, malloc, 16) == ctypes.string_at(malloc, 16)
    assert code.text_at(PID, mappings, 1, 16) == b""
