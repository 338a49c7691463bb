"""What the project promises of itself: bounds, packages, small modules, true decisions."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from pathlib import Path

import pytest

import allocscope

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULE_LINES_MAX = 500
PYTHON_FOLDERS = ("allocscope", "probes", "tests", "tools")
C_FOLDERS = ("probes/src", "probes/include", "fixtures", "tests")

REQUIREMENTS = [
    *PROJECT["build-system"]["requires"],
    *PROJECT["project"]["dependencies"],
    *(r for extra in PROJECT["project"]["optional-dependencies"].values() for r in extra),
]


def python_modules() -> list[Path]:
    return sorted(path for name in PYTHON_FOLDERS for path in (ROOT / name).rglob("*.py"))


def c_files() -> list[Path]:
    return sorted(path for name in C_FOLDERS for path in (ROOT / name).rglob("*.[ch]"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def name_and_bounds(requirement: str) -> tuple[str, str]:
    found = re.fullmatch(r"([A-Za-z0-9-]+)(.*)", requirement)
    assert found, requirement
    return found[1], found[2]


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_a_dependency_is_bounded_or_pinned(requirement):
    _, bounds = name_and_bounds(requirement)
    assert "==" in bounds or (">=" in bounds and "<" in bounds)


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_a_dependency_is_explained_with_the_bounds_it_has(requirement):
    name, bounds = name_and_bounds(requirement)
    page = (ROOT / "docs/decisions/0001-dependencies.md").read_text()
    assert f"`{name}`" in page
    if "==" not in bounds:
        assert f"`{name}` {bounds}" in page


def test_every_package_is_listed():
    listed = {name for name in PROJECT["tool"]["setuptools"]["packages"] if "fixtures" not in name}
    there = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "allocscope").rglob("__init__.py")
    }
    assert listed == there


@pytest.mark.own_malloc
def test_the_public_function_can_be_called_twice():
    """No package of the same name may take the place of the function once it is loaded."""
    for _ in range(2):
        assert allocscope.observe(os.getpid()).process.pid == os.getpid()


@pytest.mark.parametrize("path", python_modules(), ids=named)
def test_a_module_is_small_and_says_what_it_is_for(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MODULE_LINES_MAX
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", c_files(), ids=named)
def test_a_c_file_is_small_and_says_what_it_is_for(path):
    """In the file itself, before anything is included, or in its header."""
    headers = [path.with_suffix(".h"), ROOT / "probes" / "include" / f"{path.stem}.h"]
    explained = [path, *(header for header in headers if header.exists())]
    assert len(path.read_text().splitlines()) <= MODULE_LINES_MAX
    assert any("/*" in each.read_text().partition("#include")[0] for each in explained)


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=named)
def test_a_test_waits_for_events_only(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert "sleep" not in {
        getattr(call.func, "attr", getattr(call.func, "id", "")) for call in calls
    }


def test_the_changelog_speaks_of_this_version_or_the_next():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{PROJECT['project']['version']}]" in text or "## [Unreleased]" in text


def test_the_readme_names_the_commands_that_work_in_a_fresh_clone():
    text = (ROOT / "README.md").read_text()
    assert "./dev demo" in text and "./dev test" in text
