"""Counters of FLOPs and of bytes into which known faults can be planted, to see a check name them.

Written apart from `kvattn.testing.counter_diagnosis`, query by query.  Each field that differs from its default
plants one fault, or one convention.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any


@cache
def visible(queries: int, keys: int, causal: bool, window: int | None) -> int:
    """Add up, query by query, how many keys each sees.

    >>> visible(2, 5, False, None), visible(2, 5, True, None), visible(2, 5, True, 3)
    (10, 9, 6)
    """
    total = 0
    for query in range(queries):
        last = keys - queries + query if causal or window is not None else keys - 1
        first = 0 if window is None else max(0, last - window + 1)
        total += last - first + 1
    return total


@dataclass
class PlantedFlops:
    """A counter of FLOPs.

    Attributes
    ----------
    unit, softmax, row
        FLOPs of a multiply-add, beside it for each pair, and for each query.
    products
        Which products are counted: ``"QK"``, ``"PV"``.
    heads
        Number of heads that it takes, of (Hq, Hkv).
    pairs, value_pairs
        Of (T, S, causal, W); those of the second product, the same if None.
    widths
        (D, Dv) that it takes, of (D, Dv, hidden // Hq).
    finish
        What becomes of the number: float in GFLOPs, 32 bits.
    deep
        Layers that it takes, with the pairs of each, of (layers, layers with a window).
    keeps
        Whether calls add up.

    Examples
    --------
    >>> PlantedFlops()(query_heads=4, kv_heads=2, queries=3, keys=5, width=8, value_width=6) == 2 * 4 * 3 * 5 * (8 + 6)
    True
    """

    unit: Any = 2
    softmax: int = 0
    row: int = 0
    products: tuple[str, ...] = ("QK", "PV")
    heads: Callable[[int, int], int] = field(default_factory=lambda: lambda query, _: query)
    pairs: Callable[[int, int, bool, int | None], Any] = field(default_factory=lambda: visible)
    value_pairs: Callable[[int, int, bool, int | None], Any] | None = None
    widths: Callable[[int, int, int], tuple[int, int]] = field(default_factory=lambda: lambda d, dv, _: (d, dv))
    finish: Callable[[Any], Any] = field(default_factory=lambda: lambda count: count)
    deep: Callable[[int, int], tuple[int, int]] = field(
        default_factory=lambda: lambda layers, narrow: (layers - narrow, narrow)
    )
    batches: bool = True
    keeps: bool = False
    kept: Any = 0

    def __call__(
        self,
        *,
        batch: int = 1,
        layers: int = 1,
        query_heads: int,
        kv_heads: int,
        queries: int,
        keys: int,
        width: int,
        value_width: int,
        hidden: int | None = None,
        causal: bool = False,
        window: int | None = None,
        window_layers: int | None = None,
    ) -> Any:
        """Count."""
        narrow = 0 if window is None else layers if window_layers is None else window_layers
        wide, near = self.deep(layers, narrow)
        total: Any = 0
        derived = width if hidden is None else hidden // query_heads
        for count, reach in ((wide, None), (near, window)):
            scores, mixed = (f(queries, keys, causal, reach) for f in (self.pairs, self.value_pairs or self.pairs))
            d, dv = self.widths(width, value_width, derived)
            one = self.unit * (scores * d * ("QK" in self.products) + mixed * dv * ("PV" in self.products))
            total += count * (one + self.softmax * scores + self.row * queries)
        total = total * self.heads(query_heads, kv_heads) * (batch if self.batches else 1)
        self.kept = self.kept + total if self.keeps else total
        return self.finish(self.kept)


@dataclass
class PlantedBytes:
    """A counter of the bytes of a cache, or of what a step reads.

    Attributes
    ----------
    heads
        Number of heads that it takes, of (Hq, Hkv).
    rows
        Of (T, S, W): the rows that it takes.
    numbers
        Numbers of a row, of (D, Dv, hidden // Hq).
    size
        Bytes of a number, of itemsize.
    scales
        Bytes of a row's scales, of (D, Dv, group, bytes of a scale).
    pages
        Rows in whole pages, of (rows, page).
    deep
        As in `PlantedFlops`.
    beside, finish
        Bytes for each row of a layer beside its numbers; what becomes of the number.

    Examples
    --------
    >>> PlantedBytes()(kv_heads=2, query_heads=8, tokens=10, width=8, value_width=4, itemsize=2) == 2 * 10 * (8 + 4) * 2
    True
    """

    heads: Callable[[int, int], Any] = field(default_factory=lambda: lambda _, kv: kv)
    rows: Callable[[int, int, int | None], Any] = field(
        default_factory=lambda: lambda t, s, w: s if w is None else min(s, w + max(t, 1) - 1)
    )
    numbers: Callable[[int, int, int], int] = field(default_factory=lambda: lambda d, dv, _: d + dv)
    size: Callable[[Any], Any] = field(default_factory=lambda: lambda itemsize: itemsize)
    scales: Callable[[int, int, int, int], int] = field(
        default_factory=lambda: lambda d, dv, g, size: (-(-d // g) - (-dv // g)) * size
    )
    pages: Callable[[int, int], int] = field(default_factory=lambda: lambda rows, page: -(-rows // page) * page)
    deep: Callable[[int, int], tuple[int, int]] = field(
        default_factory=lambda: lambda layers, narrow: (layers - narrow, narrow)
    )
    beside: int = 0
    finish: Callable[[Any], Any] = field(default_factory=lambda: lambda count: count)

    def __call__(
        self,
        *,
        batch: int = 1,
        layers: int = 1,
        query_heads: int,
        kv_heads: int,
        queries: int = 0,
        tokens: int,
        width: int,
        value_width: int,
        hidden: int | None = None,
        itemsize: int = 2,
        group: int | None = None,
        scale_itemsize: int = 2,
        page: int = 1,
        window: int | None = None,
        window_layers: int | None = None,
    ) -> Any:
        """Count."""
        narrow = 0 if window is None else layers if window_layers is None else window_layers
        wide, near = self.deep(layers, narrow)
        derived = width if hidden is None else hidden // query_heads
        row = self.numbers(width, value_width, derived) * self.size(itemsize)
        if group is not None:
            row += self.scales(width, value_width, group, scale_itemsize)
        row = row * self.heads(query_heads, kv_heads) + self.beside
        rows = wide * self.pages(self.rows(queries, tokens, None), page)
        if near:
            rows += near * self.pages(self.rows(queries, tokens, window), page)
        return self.finish(batch * rows * row)
