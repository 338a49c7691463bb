"""``--html FILE``: the page's own files, and writing it so that nobody sees half of it."""

from __future__ import annotations

import contextlib
import tempfile
from importlib import resources
from pathlib import Path

from allocscope.errors import WrongUsage
from allocscope.render.html import PageFiles


def page_files() -> PageFiles:
    """The style sheet and the script, as they came with the package."""
    folder = resources.files("allocscope.render") / "page_files"
    style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("explain.css", "explain.js")
    )
    return PageFiles(style, script)


def write_privately(page: str, path: Path) -> None:
    """Writes the page for its owner only (mode 0600), whole or not at all; a file that was there is
    replaced. WrongUsage where that cannot be."""
    try:
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(page)
            Path(partial).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(partial).unlink()
            raise
    except OSError as error:
        raise WrongUsage(
            f"{path} cannot be written: {error.strerror}", "Give another file to --html."
        ) from error
