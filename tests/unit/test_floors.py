"""The house's floors: imports go downward only, pure rooms stay pure, passive use cases never act.

Strategy: read the imports of every module as syntax, wherever they stand (at the top, inside a
function, under TYPE_CHECKING, or as a literal given to ``import_module``), make a graph of them,
and hold the graph against the rules. The rules run on any tree that looks like ``allocscope/``, so
that they are tested on small trees that break them.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "allocscope"

FLOORS = {
    "errors": 0,
    "version": 0,
    "immutable": 0,
    "typed": 0,
    "closing": 0,
    "units": 0,
    "model": 0,
    "parse": 1,
    "glibc": 2,
    "owners": 3,
    "account": 4,
    "causes": 5,
    "native": 6,
    "render": 7,
    "proc": 7,
    "files": 7,
    "act": 8,
    "lab": 9,
    "app": 10,
    "": 11,  # allocscope/__init__.py, the public API
    "cli": 12,
    "__main__": 13,
}
STRANGERS = {"render", "proc", "files"}
PURE = {
    "errors",
    "immutable",
    "typed",
    "units",
    "model",
    "parse",
    "glibc",
    "owners",
    "account",
    "causes",
    "render",
}
IMPURE_MODULES = {
    "os", "subprocess", "ctypes", "cffi", "pygdbmi", "socket", "_cffi_backend", "allocscope._probes"
}  # fmt: skip
TERMINAL_ROOMS = {"click": {"cli", "__main__"}, "rich": {"cli", "render", "__main__"}}
ASKING = {
    "arenas_asked",
    "arenas_frozen",
    "ask",
    "doctor",
    "doctor_leftovers",
    "doctor_target",
    "frozen_heap",
    "glibc_says",
    "reclaim",
    "record_frozen",
    "trim_apply",
    "trim_rehearse",
    "trim_repeat",
}
"""The use cases of app that stop, copy, call or change a target, or forecast what that would cost,
and so may reach ``act``."""

Graph = dict[str, set[str]]


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_names(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names that a module imports; ``from a import b`` yields both ``a`` and ``a.b``."""
    parents = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=name, names=names, level=level):
                base = parents[: len(parents) - level + 1] if level else []
                origin = ".".join([*base, *([name] if name else [])])
                yield origin
                yield from (f"{origin}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def import_graph(package: Path) -> Graph:
    """What importing each module runs: ours with their parent packages, foreign ones as written."""
    known = modules(package)
    graph: Graph = {}
    for module, path in known.items():
        tree = ast.parse(path.read_text(), str(path))
        targets = set()
        for name in imported_names(tree, module, path.name == "__init__.py"):
            if not name.startswith(f"{package.name}."):
                targets.add(name)
            elif name in known or name == f"{package.name}._probes":
                parts = name.split(".")
                targets |= {".".join(parts[:size]) for size in range(2, len(parts) + 1)}
        graph[module] = targets - {module}
    return graph


def room(module: str) -> str:
    """``allocscope.parse.maps`` lives in ``parse``; the package itself in ``""``."""
    return module.partition(".")[2].partition(".")[0]


def within(name: str, root: str) -> bool:
    return name == root or name.startswith(f"{root}.")


def reachable(graph: Graph, start: str) -> set[str]:
    """All modules that importing ``start``, or calling what it defines, may import."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for target in graph.get(waiting.pop(), set()) - seen:
            seen.add(target)
            waiting.append(target)
    return seen


def climbs(graph: Graph) -> Iterator[str]:
    for module, targets in graph.items():
        if room(module) not in FLOORS:
            yield f"{module} stands on no floor"
            continue
        for target in targets:
            here, there = room(module), room(target)
            if not within(target, "allocscope") or there in ("_probes", here):
                continue
            if FLOORS.get(there, 99) > FLOORS[here]:
                yield f"{module} climbs to {target}"
            elif {here, there} <= STRANGERS:
                yield f"{module} knows its sibling {target}"


def impurities(graph: Graph) -> Iterator[str]:
    for module, targets in graph.items():
        if room(module) in PURE:
            for target in targets:
                if any(within(target, impure) for impure in IMPURE_MODULES):
                    yield f"{module} is in a pure room and imports {target}"


def paths_to_act(graph: Graph) -> Iterator[str]:
    asking = [f"allocscope.app.{name}" for name in ASKING]
    for module in graph:
        if room(module) not in ("", "app") or any(within(module, name) for name in asking):
            continue
        for target in sorted(reachable(graph, module)):
            if within(target, "allocscope.act"):
                yield f"{module} is passive and reaches {target}"


def terminals(graph: Graph) -> Iterator[str]:
    for library, rooms in TERMINAL_ROOMS.items():
        for module, targets in graph.items():
            if room(module) not in rooms and any(within(target, library) for target in targets):
                yield f"{module} imports {library}"
        if any(within(target, library) for target in reachable(graph, "allocscope")):
            yield f"import allocscope reaches {library}"


RULES = [climbs, impurities, paths_to_act, terminals]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule):
    assert list(rule(import_graph(PACKAGE))) == []


BROKEN = [
    (climbs, {"parse/maps.py": "from allocscope.glibc import arena"}, "parse.maps climbs to"),
    (climbs, {"parse/maps.py": "from ..glibc import arena"}, "parse.maps climbs to"),
    (climbs, {"model/a.py": "def f():\n    import allocscope.cli"}, "model.a climbs to"),
    (climbs, {"render/table.py": "import allocscope.proc"}, "render.table knows its sibling"),
    (climbs, {"attic/a.py": ""}, "attic.a stands on no floor"),
    (impurities, {"causes/thp.py": "def f():\n    from os import path"}, "imports os"),
    (impurities, {"glibc/w.py": "from allocscope import _probes"}, "imports allocscope._probes"),
    (impurities, {"glibc/w.py": "import importlib as i\ni.import_module('ctypes.util')"}, "ctypes"),
    (paths_to_act, {"app/arenas.py": "def f():\n    from allocscope.lab import x",
                    "lab/x.py": "import allocscope.act.gdb"}, "app.arenas is passive and reaches"),
    (paths_to_act, {"__init__.py": "import allocscope.app.ask"}, "allocscope is passive and"),
    (terminals, {"app/arenas.py": "import rich.table"}, "app.arenas imports rich"),
    (terminals, {"render/table.py": "import click"}, "render.table imports click"),
    (terminals, {"__init__.py": "from .cli import ask"}, "import allocscope reaches click"),
]  # fmt: skip


def small_tree(root: Path, files: dict[str, str]) -> Path:
    """A package that keeps every rule, then ``files`` laid over it."""
    package = root / "allocscope"
    sound = {f"{name}/__init__.py": "" for name in FLOORS if not name.startswith("_") and name}
    sound |= {"__init__.py": "", "glibc/arena.py": "", "act/gdb.py": "import subprocess"}
    sound |= {"app/ask.py": "from allocscope.act import gdb", "cli/ask.py": "import click, rich"}
    for name, text in {**sound, **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


def test_a_sound_tree_breaks_no_rule(tmp_path):
    graph = import_graph(small_tree(tmp_path, {}))
    assert [broken for rule in RULES for broken in rule(graph)] == []


@pytest.mark.parametrize(("rule", "files", "message"), BROKEN)
def test_a_tree_that_breaks_a_rule_is_caught(tmp_path, rule, files, message):
    broken = list(rule(import_graph(small_tree(tmp_path, files))))
    assert any(message in line for line in broken), broken


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded once it ran ``code``."""
    script = f"import sys\n{code}\nprint(*sorted(sys.modules), file=sys.stderr)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


def heavy(loaded: set[str], *names: str) -> list[str]:
    return sorted(m for m in loaded if any(within(m, name) for name in names))


def test_importing_the_package_loads_no_terminal_library():
    loaded = loaded_by("import allocscope")
    assert "allocscope" in loaded
    assert heavy(loaded, "click", "rich", "lxml", "pygdbmi", "elftools") == []


HEAVY = {
    "lxml", "pygdbmi", "elftools", "rich", "asyncio", "concurrent", "decimal", "importlib.metadata",
    "logging", "shutil", "subprocess", "tempfile", "pathlib", "urllib",
}  # fmt: skip
"""What costs milliseconds to load, and reading a process has no use for."""
NO_BUSINESS = {"act", "files", "lab", "causes"}
DEAR = ("click", "dataclasses", "inspect", "typing", "re", "enum", "json")
"""Milliseconds each, and the plainest call is worth a hundred."""
MOST_MODULES = 74
"""Of ours, in the plainest call. Each is a quarter of a millisecond; who needs more raises this."""


def loaded_by_command(*arguments: str) -> set[str]:
    return loaded_by(
        "from allocscope.cli import main\n"
        f"try:\n    main({list(arguments)})\nexcept SystemExit as end:\n    assert not end.code"
    )


@pytest.mark.own_malloc
@pytest.mark.parametrize("more", [[], ["--exact"]])
def test_the_json_of_arenas_loads_only_what_it_needs(more):
    loaded = loaded_by_command("arenas", str(os.getpid()), "--json", *more)
    assert "allocscope.app.arenas" in loaded
    assert heavy(loaded, *HEAVY) == []
    assert heavy(loaded, *(f"allocscope.{room}" for room in NO_BUSINESS)) == []
    assert heavy(loaded, "allocscope.render") <= [
        "allocscope.render",
        "allocscope.render.json",
        "allocscope.render.text",
    ]


@pytest.mark.own_malloc
def test_the_plainest_call_does_without_click():
    loaded = loaded_by_command("arenas", str(os.getpid()), "--json")
    assert heavy(loaded, *DEAR, "allocscope.cli.group") == []
    assert len(heavy(loaded, "allocscope")) <= MOST_MODULES


@pytest.mark.own_malloc
def test_every_value_class_on_the_way_is_made_cheaply():
    """One that the standard library's decorator made costs half a millisecond at each start."""
    loaded = loaded_by(
        "import allocscope.cli.plain, allocscope.app.arenas, allocscope.render.json\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    for kind in vars(module).values() if name.startswith('allocscope') else ():\n"
        "        if hasattr(kind, '__dataclass_fields__') and isinstance(kind, type):\n"
        "            if kind.__init__.__module__ != 'allocscope.immutable':\n"
        "                sys.modules[f'dear.{kind.__qualname__}'] = module"
    )
    assert heavy(loaded, "dear") == []
