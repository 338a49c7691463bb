"""How a program is started with a malloc setting, and how glibc comes to its limit of arenas.

Rules: what the process was started with stays in the command, for one GLIBC_TUNABLES replaces the
other; of that only what looks like a tunable is repeated, for it goes into a shell. Tunables are
there from glibc 2.26 on (2.25 could be built with them); the variables MALLOC_… work in every
version, but have no word for the thread caches.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from allocscope.account.settings import (
    ENV_NAMES,
    FIRST_VERSION_LIMIT_BY_CPUS,
    version_number,
)
from allocscope.model.heap import Settings
from allocscope.model.tune import SettingKey
from allocscope.parse.environ import TUNABLES, tunables
from allocscope.units import plural

FIRST_VERSION_WITH_TUNABLES = (2, 26)
PREFIX = "glibc.malloc."
PLAIN = re.compile(r"[A-Za-z0-9_.]+", re.ASCII)


def start_with(key: SettingKey, value: int, version: str | None, environ: Mapping[str, str]) -> str:
    """The command, for a shell, with CMD for the program and its arguments. ``environ``: what the
    process was started with."""
    number = version_number(version)
    variable = ENV_NAMES.get(key)
    if variable is not None and (number is None or number < FIRST_VERSION_WITH_TUNABLES):
        return f"{variable}={value} CMD"
    kept = {
        name: said
        for name, said in tunables(environ.get(TUNABLES, "")).items()
        if PLAIN.fullmatch(name) and PLAIN.fullmatch(said)
    }
    kept[PREFIX + key] = str(value)
    return f"{TUNABLES}={':'.join(f'{name}={said}' for name, said in kept.items())} CMD"


def limit_rule(settings: Settings, version: str | None) -> str | None:
    """How many arenas glibc makes at most, and by what; None where that is not known."""
    limit = settings.arena_limit
    if limit is None:
        return None
    if settings.arena_max.value:
        return f"at most {limit}, by arena_max ({settings.arena_max.origin})"
    number = version_number(version)
    if number is None or settings.cpus_online is None:
        return None
    cpus = f"{plural(settings.cpus_online, 'CPU')} online"
    if number >= FIRST_VERSION_LIMIT_BY_CPUS:
        by = f"the larger of {cpus} and arena_test {settings.arena_test.value}, from glibc 2.44 on"
    else:
        by = f"8 for each of {cpus}"
    quota = settings.cpus_cgroup
    unseen = "" if quota is None else f"; the cgroup's quota of {quota:g} CPUs plays no part in it"
    return f"at most {limit}: {by}{unseen}"
