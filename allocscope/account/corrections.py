"""What malloc_info's figures really mean: its known inaccuracies, recognised by evidence and taken
off.

Strategy: the version number decides nothing, because distributions backport. The document itself
shows which variant wrote it:

- *The flag bit.* Rows of unsorted, small and large bins sum up raw size words, so every chunk in
  them counts one byte too many (PREV_INUSE, always set there: a free chunk's neighbour below is in
  use). Rows of fastbins are exact. They come first, and their counts add up to the arena's "fast"
  total: that tells the two apart, whatever a chunk under way has in its size word.
- *Top.* From 2.31 (and branches 2.28 to 2.30) "rest" includes the top chunk, with its true size and
  one count. Where "rest" counts one chunk more than the rows list, top is in it, and what the rows
  do not explain is top's size.
- *Unsorted garbage* (2.18 and older, RHEL 7; BZ 16112). The unsorted row starts from uninitialised
  memory. It is recognised when its figures cannot belong to one list of chunks.

Pure functions; sums are modulo 2**64, as glibc's own. Facts: glibc malloc/malloc.c,
``__malloc_info``; commits b6d2c4475d (top), 8b35e35d0f (unsorted).
"""

from __future__ import annotations

from allocscope.errors import BadInput
from allocscope.model.glibc_says import FreeOfArena, InfoHeap, MallocInfo

_FLAG_BITS = 7
_PREV_INUSE = 1
_WORD = 1 << 64


def corrected(info: MallocInfo) -> tuple[FreeOfArena, ...]:
    """The free memory of each arena in true bytes, in the document's order.

    Raises BadInput when a heap's total does not follow from its own rows in any known way.
    """
    return tuple(_free_of(heap) for heap in info.heaps)


def has_garbage(heap: InfoHeap) -> bool:
    """Whether this heap's unsorted row (and with it its "rest") comes from uninitialised memory (BZ
    16112).
    """
    row = heap.unsorted
    if row is None:
        return False
    fits = row.count * row.from_bytes <= row.total_bytes <= row.count * row.to_bytes
    flagged = row.from_bytes & row.to_bytes & _FLAG_BITS == _PREV_INUSE
    return not (fits and flagged and row.total_bytes <= heap.system_bytes + row.count)


def _free_of(heap: InfoHeap) -> FreeOfArena:
    rows = list(heap.sizes)
    fast_left = heap.fast_count or 0
    while rows and fast_left > 0:
        fast_left -= rows.pop(0).count
    if heap.unsorted is not None:
        rows.append(heap.unsorted)
    count = sum(row.count for row in rows) % _WORD
    printed_bytes = sum(row.total_bytes for row in rows) % _WORD
    beyond_rows = (heap.rest_bytes - printed_bytes) % _WORD
    top_bytes: int | None
    if heap.rest_count == (count + 1) % _WORD:
        top_bytes = beyond_rows
    elif heap.rest_count == count and beyond_rows == 0:
        top_bytes = None
    else:
        raise BadInput(
            f"malloc_info contradicts itself in heap {heap.index}: the rows list {count} chunks of"
            f" {printed_bytes} bytes, the total says {heap.rest_count} of {heap.rest_bytes}"
        )
    return FreeOfArena(
        index=heap.index,
        fast_count=heap.fast_count,
        fast_bytes=heap.fast_bytes,
        bin_count=count,
        bin_bytes=(printed_bytes - count) % _WORD,
        top_bytes=top_bytes,
    )
