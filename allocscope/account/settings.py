"""The malloc settings in force, and where each comes from.

The value is always the one in ``mp_``, read from the target. Its origin is inferred, and the
evidence says from what: the environment that the program was started with, the value it has without
anybody's doing, and ``no_dyn_threshold``, which glibc sets when somebody set a threshold.
"""

from __future__ import annotations

from collections.abc import Mapping

from allocscope.glibc.layouts import Layout
from allocscope.glibc.par import (
    DEFAULT_MMAP_MAX,
    DEFAULT_THRESHOLD,
    ParValues,
)
from allocscope.immutable import immutable
from allocscope.model.heap import Setting, Settings
from allocscope.parse.environ import TUNABLES, tunables

ENV_NAMES = {
    "arena_max": "MALLOC_ARENA_MAX",
    "arena_test": "MALLOC_ARENA_TEST",
    "mmap_threshold": "MALLOC_MMAP_THRESHOLD_",
    "trim_threshold": "MALLOC_TRIM_THRESHOLD_",
    "top_pad": "MALLOC_TOP_PAD_",
    "mmap_max": "MALLOC_MMAP_MAX_",
}
FIRST_VERSION_LIMIT_BY_CPUS = (2, 44)
TCACHE_DEFAULT_COUNTS = (7, 16)
TCACHE_DEFAULT_BYTES = {8: (0x408, 0x411), 4: (0x3FC, 0x401)}
"""By the width of a word."""


@immutable
class Surroundings:
    """What the kernel knows: the start environment (None when unreadable), CPUs (None when the
    process was elsewhere), and the version that the library names."""

    environ: Mapping[str, str] | None
    cpus_online: int | None
    cpus_cgroup: float | None
    version: str | None


def _number(text: str) -> int | None:
    """A tunable's value as glibc reads it: decimal, octal (0…) or hexadecimal (0x…)."""
    text = text.strip()
    try:
        if text.lower().startswith("0x"):
            return int(text, 16)
        return int(text, 8) if text.startswith("0") and len(text) > 1 else int(text)
    except ValueError:
        return None


def _malloc_tunables(environ: Mapping[str, str]) -> dict[str, int]:
    """The numbers of ``glibc.malloc.*`` in GLIBC_TUNABLES, by their last name."""
    found = {}
    for name, text in tunables(environ.get(TUNABLES, "")).items():
        value = _number(text)
        if name.startswith("glibc.malloc.") and value is not None:
            found[name.removeprefix("glibc.malloc.")] = value
    return found


class _Origins:
    """Finds the origin of one value after the other, from the same evidence."""

    def __init__(self, par: ParValues, environ: Mapping[str, str] | None) -> None:
        self.par = par
        self.environ = environ or {}
        self.readable = environ is not None
        self.tunables = _malloc_tunables(self.environ)

    def of(
        self, name: str, value: int, defaults: tuple[int, ...], *, dynamic: bool = False
    ) -> Setting:
        env = ENV_NAMES.get(name, "")
        if self.tunables.get(name) == value:
            return Setting(value, "tunable", f"GLIBC_TUNABLES sets glibc.malloc.{name}={value}")
        if env and _number(self.environ.get(env, "")) == value:
            return Setting(value, "environment", f"{env}={self.environ[env]}")
        if value in defaults:
            return self._default(name, env, value)
        if dynamic and not self.par.no_dyn_threshold:
            evidence = (
                "raised by glibc when a larger mmapped chunk was freed (no_dyn_threshold is 0)"
            )
            return Setting(value, "dynamic", evidence)
        if not self.readable:
            return Setting(
                value, "unknown", "not the default; the start environment cannot be read"
            )
        return Setting(value, "mallopt", "not the default, and no variable at start says so")

    def of_tcache(self, name: str, value: int | None, defaults: tuple[int, ...]) -> Setting:
        if value is None:
            return Setting(0, "default", "this glibc has no tcache (it came with 2.26)")
        return self.of(name, value, defaults)

    def _default(self, name: str, env: str, value: int) -> Setting:
        wanted = self.tunables.get(name, _number(self.environ.get(env, "")) if env else None)
        if wanted is not None:
            evidence = f"the start environment asks for {wanted}: without effect"
            return Setting(value, "default", evidence, without_effect=True)
        return Setting(value, "default", "the value glibc starts with")


def version_number(version: str | None) -> tuple[int, int] | None:
    """``"2.36"`` as ``(2, 36)``; None where it is unknown or no such thing."""
    major, _, minor = (version or "").partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def arena_limit(par: ParValues, surroundings: Surroundings) -> int | None:
    """How many arenas glibc makes at most: ``arena_max`` if set, else 8 per CPU (2 in 32-bit
    programs), from 2.44 max(CPUs, arena_test).

    None when the version or the CPUs are unknown. Cgroup quotas play no part in it (malloc/arena.c,
    arena_get2)."""
    if par.arena_max:
        return par.arena_max
    version = version_number(surroundings.version)
    if version is None or surroundings.cpus_online is None:
        return None
    if version >= FIRST_VERSION_LIMIT_BY_CPUS:
        return max(surroundings.cpus_online, par.arena_test)
    return par.layout.abi.arenas_per_cpu * surroundings.cpus_online


def settings(
    par: ParValues, layout: Layout, arena_count: int, surroundings: Surroundings
) -> Settings:
    """All settings of the contract. ``layout``: the row that was chosen for the target."""
    origins = _Origins(par, surroundings.environ)
    threshold = (DEFAULT_THRESHOLD,)
    abi = par.layout.abi
    return Settings(
        arena_max=origins.of("arena_max", par.arena_max, (0,)),
        arena_test=origins.of("arena_test", par.arena_test, (abi.arenas_per_cpu,)),
        arena_limit=arena_limit(par, surroundings),
        arena_count=arena_count,
        cpus_online=surroundings.cpus_online,
        cpus_cgroup=surroundings.cpus_cgroup,
        mmap_threshold_bytes=origins.of(
            "mmap_threshold", par.mmap_threshold, threshold, dynamic=True
        ),
        trim_threshold_bytes=origins.of(
            "trim_threshold", par.trim_threshold, threshold, dynamic=True
        ),
        top_pad_bytes=origins.of("top_pad", par.top_pad, threshold),
        mmap_max=origins.of("mmap_max", par.n_mmaps_max, (DEFAULT_MMAP_MAX,)),
        thresholds_dynamic=not par.no_dyn_threshold,
        tcache_count=origins.of_tcache("tcache_count", par.tcache_count, TCACHE_DEFAULT_COUNTS),
        tcache_max_bytes=origins.of_tcache(
            "tcache_max", par.tcache_max_bytes, TCACHE_DEFAULT_BYTES[abi.word_bytes]
        ),
        hugetlb=_huge_pages(par, layout, origins.tunables.get("hugetlb")),
    )


def _huge_pages(par: ParValues, layout: Layout, wanted: int | None) -> Setting:
    """The size of the huge pages that malloc uses. ``wanted``: glibc.malloc.hugetlb, which is a
    mode (1: transparent ones, 2: of the pool) or the size of the pool's pages."""
    value = par.hp_pagesize or par.thp_pagesize
    if wanted and not value:
        known = par.layout.hp_pagesize is not None
        why = "glibc found no such pages" if known else "it came with glibc 2.35"
        evidence = f"the start environment asks for {wanted}: without effect ({why})"
        return Setting(0, "default", evidence, without_effect=True)
    origin = "default" if wanted is None else "tunable"
    return Setting(value, origin, _huge_evidence(par, layout))


def _huge_evidence(par: ParValues, layout: Layout) -> str:
    """Which memory is of huge pages. Seen with strace under 2.36 to 2.44, on x86-64 and i386."""
    most = layout.heap_max_bytes(par.hp_pagesize)
    if par.hp_pagesize:
        text = f"mp_.hp_pagesize is {par.hp_pagesize}"
        if layout.heaps_on_hugetlb(par.hp_pagesize):
            return f"{text}: heaps use hugetlb pages"
        return (
            f"{text}, and a thread's heap has {most} bytes at most: only chunks with mappings of "
            "their own use hugetlb pages, no heap does"
        )
    if par.thp_pagesize:
        text = f"mp_.thp_pagesize is {par.thp_pagesize}"
        if par.thp_pagesize <= most:
            return f"{text}: heaps ask for transparent huge pages"
        return (
            f"{text}, and a thread's heap has {most} bytes at most: the main heap and chunks with "
            "mappings of their own ask for transparent huge pages, heaps of threads do not"
        )
    return "mp_ asks for no huge pages"
