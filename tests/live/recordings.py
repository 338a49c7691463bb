"""Recordings as other versions would have written them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from allocscope.files.container import Reader, Writer


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The same file, with sound checksums, after ``change`` of the facts of each sample."""
    with Reader(path) as reader:
        sections = [(section.name, reader.read(section)) for section in reader.sections]
    with Writer(path) as writer:
        for name, content in sections:
            if name == b"FACT":
                facts = json.loads(content)
                change(facts)
                content = json.dumps(facts).encode()
            writer.add(name, content)
    return path
