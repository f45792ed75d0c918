"""Going back in a paged cache: fewer pages of the same, and the position behind what is left.

Without positions of their own tokens end at their length.  With them the last token says where the next one stands,
unless tokens were forgotten or moved there: then it was noted, as a mark of a length and the position behind it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kvattn.caches.batches import per_sequence
from kvattn.caches.rows import R
from kvattn.caches.tables import Table
from kvattn.errors import RollbackError

if TYPE_CHECKING:
    from kvattn.caches.paged import Paged


def truncate(cache: "Paged[R]", length: int | Sequence[int]) -> "Paged[R]":
    """What `kvattn.caches.paged.Paged.truncate` gives."""
    lengths = per_sequence("length", length, cache.lengths)
    tables = tuple(t.take(-(-n // cache.page)) for t, n in zip(cache._tables, lengths, strict=True))
    for table, n in zip(tables, lengths, strict=True):
        if n % cache.page and table[-1] is None:
            raise RollbackError(f"length must lie in or at the edge of a page that is held, got {n}")
    ends = lengths
    if cache.schema.placed:
        ends = tuple(_end(cache, b, n, table) for b, (n, table) in enumerate(zip(lengths, tables, strict=True)))
    marks = tuple(mark if mark[0] <= n else (n, end) for mark, n, end in zip(cache._marks, lengths, ends, strict=True))
    return replace(cache, lengths=lengths, ends=ends, _marks=marks, _tables=tables)


def _end(cache: "Paged[R]", b: int, n: int, table: Table) -> int:
    """The position behind the first n tokens of a sequence: what was noted there, or one behind the last token."""
    mark = cache._marks[b]
    if n == cache.lengths[b]:
        return cache.ends[b]
    if n == mark[0]:
        return mark[1]
    if not n:
        return 0
    last = table[-1]
    if last is None:
        raise RollbackError(f"length must lie behind a token that is held, which says its position, got {n}")
    return int(last.arrays[-1][0, (n - 1) % cache.page, 0]) + 1
