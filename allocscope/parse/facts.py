"""The facts of a recording as JSON text, and back.

Strategy: one object whose keys are the fields of model.recording.Facts; mappings as the lines that
the kernel printed. Rules: reading trusts nothing: whatever is missing, of another type or out of
range is BadInput. Keys that are not known are passed over, so that a later version may add some.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, get_args

from allocscope.errors import BadInput
from allocscope.immutable import names_of
from allocscope.model.libc import X86_64, Allocator, LibcImage
from allocscope.model.owners import HeapKey
from allocscope.model.process import Mapping, Process, SmapsEntry
from allocscope.model.recording import Facts, KernelFacts, LazyPages, Ownership, RecordedThread
from allocscope.model.situation import Contention
from allocscope.parse import maps, plain

SCHEMA = "allocscope/recording"
SCHEMA_VERSION = 1
_WORD_END = 1 << 64
_SMAPS = tuple(name for name in names_of(SmapsEntry) if name != "mapping")

_OBJECTS = (
    "image", "others", "process", "allocator", "mappings", "smaps", "threads", "ownership",
    "kernel", "contention", "lazyfree",
)  # fmt: skip

T = TypeVar("T")
Object = dict[str, Any]


def dump(facts: Facts, tool_version: str) -> bytes:
    """The text, ASCII only."""
    answer: Object = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "tool_version": tool_version,
        **_plain(facts, without=_OBJECTS),
        "process": _plain(facts.process),
        "image": _plain_image(facts.image),
        "others": [_plain_image(image) for image in facts.others],
        "allocator": _plain(facts.allocator),
        "mappings": _lines(facts.mappings),
        "threads": [_plain(thread) for thread in facts.threads],
        "smaps": None,
        "ownership": plain.dump(facts.ownership),
        "kernel": plain.dump(facts.kernel),
        "contention": plain.dump(facts.contention),
        "lazyfree": plain.dump(facts.lazyfree),
    }
    if facts.smaps is not None:
        rows = [[getattr(entry, name) for name in _SMAPS] for entry in facts.smaps]
        answer["smaps"] = {"mappings": _lines(entry.mapping for entry in facts.smaps), "rows": rows}
    return json.dumps(answer, allow_nan=False, separators=(",", ":")).encode("ascii")


def load(text: bytes) -> Facts:
    """The facts. BadInput when this is not such a text, or of a later schema."""
    try:
        found = _Fields(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the facts of this recording are not JSON: {error}") from error
    if found.text("schema") != SCHEMA:
        raise BadInput("the facts of this recording are of another kind")
    version = found.number("schema_version")
    if version != SCHEMA_VERSION:
        raise BadInput(
            f"this recording's facts are of schema version {version}; known is {SCHEMA_VERSION}",
            "Read it with the version of allocscope that made it, or a later one.",
        )
    process, image, allocator = found.part("process"), found.part("image"), found.part("allocator")
    return Facts(
        captured_at=found.real("captured_at"),
        source=found.text("source"),
        consistency=found.text("consistency"),
        pause_ns=found.number("pause_ns"),
        with_contents=found.truth("with_contents"),
        process=Process(
            pid=process.number("pid"),
            start_ticks=process.number("start_ticks"),
            comm=process.text("comm"),
            exe=process.text("exe"),
            thread_count=process.number("thread_count"),
            uptime_s=process.real("uptime_s"),
        ),
        image=_image(image),
        allocator=Allocator(allocator.text("name"), allocator.texts("others")),
        rss_bytes=found.number("rss_bytes"),
        mappings=found.mappings("mappings"),
        smaps=_smaps(found),
        environ=_environ(found),
        cpus_online=found.optional("cpus_online", found.number),
        cpus_cgroup=found.optional("cpus_cgroup", found.real),
        threads=tuple(
            RecordedThread(row.number("tid"), row.text("name"), row.number("thread_pointer"))
            for row in found.parts("threads")
        ),
        ownership=_ownership(found),
        kernel=_later(found, "kernel", KernelFacts),
        others=tuple(map(_image, found.parts("others"))) if "others" in found.names() else (),
        contention=_later(found, "contention", Contention),
        lazyfree=_lazyfree(found),
    )


def _ownership(found: _Fields) -> Ownership | None:
    owned = _later(found, "ownership", Ownership)
    heaps = get_args(HeapKey)
    for claim in owned.claims if owned is not None else ():
        if not claim.start < claim.end or claim.key in heaps:
            raise BadInput("the facts of this recording have an impossible claim of memory")
    return owned


def _lazyfree(found: _Fields) -> LazyPages | None:
    pages = _later(found, "lazyfree", LazyPages)
    for mapping in pages.mappings if pages is not None else ():
        if not mapping.start < mapping.end:
            raise BadInput("the facts of this recording have an impossible lazyfree mapping")
    return pages


def _later(found: _Fields, name: str, kind: type[T]) -> T | None:
    """What the first versions did not record."""
    if name not in found.names() or found.value(name) is None:
        return None
    return plain.load(kind, found.value(name), name)


def _image(image: _Fields) -> LibcImage:
    return LibcImage(
        kind=image.text("kind"),
        path=image.text("path"),
        mappings=image.mappings("mappings"),
        load_bias=image.optional("load_bias", image.number),
        version=image.optional("version", image.text),
        banner=image.optional("banner", image.text),
        build_id=image.optional("build_id", image.text),
        file_readable=image.truth("file_readable"),
        static=image.truth("static"),
        bits=image.number("bits"),
        evidence=image.text("evidence"),
        machine=image.text("machine") if "machine" in image.names() else X86_64,
    )


def _smaps(found: _Fields) -> tuple[SmapsEntry, ...] | None:
    if found.value("smaps") is None:
        return None
    listed = found.part("smaps")
    mappings, rows = listed.mappings("mappings"), listed.rows("rows", len(_SMAPS))
    if len(mappings) != len(rows):
        raise BadInput("the recorded smaps has more or fewer rows than mappings")
    return tuple(
        SmapsEntry(mapping, **dict(zip(_SMAPS, row, strict=True)))
        for mapping, row in zip(mappings, rows, strict=True)
    )


def _environ(found: _Fields) -> dict[str, str] | None:
    if found.value("environ") is None:
        return None
    part = found.part("environ")
    return {name: part.text(name) for name in part.names()}


def _plain(value: Any, without: Sequence[str] = ()) -> Object:
    names = (name for name in names_of(type(value)) if name not in without)
    return {name: getattr(value, name) for name in names}


def _plain_image(image: LibcImage) -> Object:
    return {**_plain(image, without=("mappings",)), "mappings": _lines(image.mappings)}


def _lines(mappings: Iterable[Mapping]) -> str:
    return "".join(
        f"{m.start:x}-{m.end:x} {m.perms} {m.offset:08x} {m.device} {m.inode} {m.path}".rstrip(" ")
        + "\n"
        for m in mappings
    )


class _Fields:
    """A JSON object of which every value is asked for by its type."""

    def __init__(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise BadInput("the facts of this recording are not as they should be")
        self._value: Object = value

    def names(self) -> list[str]:
        return list(self._value)

    def value(self, name: str) -> Any:
        try:
            return self._value[name]
        except KeyError:
            raise BadInput(f"the facts of this recording lack {name}") from None

    def _typed(self, name: str, kind: type) -> Any:
        value = self.value(name)
        if type(value) is not kind:
            raise self._wrong(name)
        return value

    @staticmethod
    def _wrong(name: str) -> BadInput:
        return BadInput(f"the facts of this recording have an impossible {name}")

    def text(self, name: str) -> str:
        return str(self._typed(name, str))

    def truth(self, name: str) -> bool:
        return bool(self._typed(name, bool))

    def number(self, name: str) -> int:
        value = int(self._typed(name, int))
        if not 0 <= value < _WORD_END:
            raise self._wrong(name)
        return value

    def real(self, name: str) -> float:
        value = self.value(name)
        if type(value) not in (int, float) or not 0 <= value < 1e12:
            raise self._wrong(name)
        return float(value)

    def optional(self, name: str, get: Callable[[str], T]) -> T | None:
        return None if self.value(name) is None else get(name)

    def part(self, name: str) -> _Fields:
        return _Fields(self.value(name))

    def parts(self, name: str) -> list[_Fields]:
        return [_Fields(row) for row in self._typed(name, list)]

    def texts(self, name: str) -> tuple[str, ...]:
        values = self._typed(name, list)
        if not all(type(value) is str for value in values):
            raise self._wrong(name)
        return tuple(values)

    def rows(self, name: str, width: int) -> list[list[int]]:
        rows = self._typed(name, list)
        for row in rows:
            if type(row) is not list or len(row) != width:
                raise self._wrong(name)
            if not all(type(value) is int and 0 <= value < _WORD_END for value in row):
                raise self._wrong(name)
        return list(rows)

    def mappings(self, name: str) -> tuple[Mapping, ...]:
        """Ascending, as the kernel lists them."""
        found = maps.parse(self.text(name)) if self.text(name) else ()
        beyond = 0
        for mapping in found:
            if not beyond <= mapping.start < mapping.end < _WORD_END:
                raise self._wrong(name)
            beyond = mapping.end
        return found
