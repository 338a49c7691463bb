"""Builds allocscope._probes: the C sources of probes/src behind the declarations of probes/include.

The headers are the only declarations: what cffi needs is read out of them (preprocessor lines
dropped).
"""

from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent
HEADERS = sorted(p.name for p in (ROOT / "include").glob("*.h"))
SOURCES = sorted((ROOT / "src").glob("*.c"))
HEADER_ORDER = ["source.h", "walk.h"]


def declarations() -> str:
    """All public declarations, headers that others build on first, without preprocessor lines."""
    names = HEADER_ORDER + [name for name in HEADERS if name not in HEADER_ORDER]
    lines: list[str] = []
    for name in names:
        text = (ROOT / "include" / name).read_text()
        lines += [line for line in text.splitlines() if not line.startswith("#")]
    return "\n".join(lines)


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "allocscope._probes",
    "\n".join(f'#include "{name}"' for name in HEADERS),
    sources=[f"probes/src/{path.name}" for path in SOURCES],
    include_dirs=["probes/include", "probes/src"],
    depends=[f"probes/include/{name}" for name in HEADERS],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra"],
    py_limited_api=True,
)
