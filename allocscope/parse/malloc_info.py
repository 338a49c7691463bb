"""malloc_info's XML in, :class:`MallocInfo` out, exactly as printed: nothing is corrected here.

Strategy: lxml builds the tree with entities, DTDs and the network off; then every figure is taken
by name and checked. One parser reads what glibc 2.17 to 2.44 print: figures that a version does not
have (mmap totals before 2.20, heap counts before 2.27, fast totals from 2.43) become None; every
other one must be there, once, as a plain decimal below 2**64.

Rules: whatever the bytes are, only BadInput escapes, and it names the line. Elements and attributes
that we do not know are passed over, so that a later glibc may add some. Facts: glibc
malloc/malloc.c, ``__malloc_info``.
"""

from __future__ import annotations

import re
from typing import Any

from lxml import etree

from allocscope.errors import BadInput
from allocscope.model.glibc_says import InfoHeap, MallocInfo, SizeRow

MAX_DOCUMENT_BYTES = 1 << 28
"""Far beyond any real document: one arena prints at most about 10 KiB."""

_DECIMAL = re.compile(r"[0-9]{1,20}\Z")
_WORD_LIMIT = 1 << 64

Figures = dict[tuple[str, str, str], int]


def parse(xml: bytes) -> MallocInfo:
    """Reads a document that ``malloc_info(0, file)`` wrote; sizes in bytes, counts in chunks, both
    as printed.

    Raises BadInput when the document is not well-formed, is no malloc_info output, or lacks a
    figure that every version prints.
    """
    root = _tree(xml)
    if root.tag != "malloc":
        raise _bad(root, f"the root element is <{root.tag}> and not <malloc>")
    if root.get("version") != "1":
        raise _bad(root, f"version {root.get('version')!r} of the format is not known")
    heaps = tuple(_heap(element, index) for index, element in enumerate(root.findall("heap")))
    if not heaps:
        raise _bad(root, "there is no <heap> element")
    figures = _figures(root)
    fast_count, fast_bytes = _optional_total(root, figures, "fast")
    mmap_count, mmap_bytes = _optional_total(root, figures, "mmap")
    return MallocInfo(
        heaps=heaps,
        fast_count=fast_count,
        fast_bytes=fast_bytes,
        rest_count=_required(root, figures, "total", "rest", "count"),
        rest_bytes=_required(root, figures, "total", "rest", "size"),
        mmap_count=mmap_count,
        mmap_bytes=mmap_bytes,
        system_bytes=_required(root, figures, "system", "current", "size"),
        max_system_bytes=_required(root, figures, "system", "max", "size"),
        aspace_bytes=_required(root, figures, "aspace", "total", "size"),
        aspace_mprotect_bytes=_required(root, figures, "aspace", "mprotect", "size"),
    )


def _tree(xml: bytes) -> Any:
    if len(xml) > MAX_DOCUMENT_BYTES:
        raise BadInput(f"malloc_info's document is too long to be one: {len(xml)} bytes")
    parser = etree.XMLParser(
        resolve_entities=False,
        load_dtd=False,
        dtd_validation=False,
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(xml, parser)
    except etree.XMLSyntaxError as error:
        raise BadInput(
            f"malloc_info's XML is broken at line {error.lineno or 1}: {error.msg}",
            "A document that ends early was cut off while glibc wrote it: ask again.",
        ) from error
    except (ValueError, LookupError) as error:
        raise BadInput(f"malloc_info's XML cannot be read: {error}") from error
    if root is None:
        raise BadInput("malloc_info's XML holds no element")
    document: Any = root.getroottree().docinfo
    if document.doctype:
        raise BadInput("malloc_info's XML has a document type, which glibc never writes")
    return root


def _heap(element: Any, index: int) -> InfoHeap:
    if _number(element, "nr") != index:
        raise _bad(element, f"heap nr {element.get('nr')} stands where nr {index} belongs")
    sizes = element.find("sizes")
    if sizes is None:
        raise _bad(element, f"heap {index} has no <sizes>")
    unsorted = sizes.findall("unsorted")
    if len(unsorted) > 1:
        raise _bad(unsorted[1], f"heap {index} has more than one <unsorted>")
    figures = _figures(element)
    fast_count, fast_bytes = _optional_total(element, figures, "fast")
    return InfoHeap(
        index=index,
        sizes=tuple(_row(row) for row in sizes.findall("size")),
        unsorted=_row(unsorted[0]) if unsorted else None,
        fast_count=fast_count,
        fast_bytes=fast_bytes,
        rest_count=_required(element, figures, "total", "rest", "count"),
        rest_bytes=_required(element, figures, "total", "rest", "size"),
        system_bytes=_required(element, figures, "system", "current", "size"),
        max_system_bytes=_required(element, figures, "system", "max", "size"),
        aspace_bytes=_required(element, figures, "aspace", "total", "size"),
        aspace_mprotect_bytes=_required(element, figures, "aspace", "mprotect", "size"),
        subheap_count=figures.get(("aspace", "subheaps", "size")),
    )


def _row(element: Any) -> SizeRow:
    return SizeRow(
        from_bytes=_number(element, "from"),
        to_bytes=_number(element, "to"),
        total_bytes=_number(element, "total"),
        count=_number(element, "count"),
    )


def _figures(parent: Any) -> Figures:
    """The ``total``, ``system`` and ``aspace`` children of an element by (tag, type, attribute)."""
    found: Figures = {}
    for element in parent:
        if element.tag not in ("total", "system", "aspace"):
            continue
        kind = element.get("type")
        if kind is None:
            raise _bad(element, f"<{element.tag}> has no type")
        for attribute in ("count", "size"):
            if element.get(attribute) is None:
                continue
            key = (element.tag, kind, attribute)
            if key in found:
                raise _bad(element, f'<{element.tag} type="{kind}"> appears twice')
            found[key] = _number(element, attribute)
    return found


def _required(parent: Any, figures: Figures, tag: str, kind: str, attribute: str) -> int:
    try:
        return figures[tag, kind, attribute]
    except KeyError:
        raise _bad(parent, f'<{tag} type="{kind}"> with a {attribute} is missing') from None


def _optional_total(parent: Any, figures: Figures, kind: str) -> tuple[int | None, int | None]:
    """Count and size of a total that some versions do not print; half of one is an error."""
    count, size = (figures.get(("total", kind, name)) for name in ("count", "size"))
    if (count is None) != (size is None):
        raise _bad(parent, f'<total type="{kind}"> is incomplete')
    return count, size


def _number(element: Any, attribute: str) -> int:
    text = element.get(attribute)
    if text is None:
        raise _bad(element, f"<{element.tag}> has no {attribute}")
    if not _DECIMAL.match(text) or int(text) >= _WORD_LIMIT:
        raise _bad(element, f"{attribute}={text[:40]!r} is no number that glibc could print")
    return int(text)


def _bad(element: Any, what: str) -> BadInput:
    return BadInput(f"malloc_info's XML, line {element.sourceline}: {what}")
