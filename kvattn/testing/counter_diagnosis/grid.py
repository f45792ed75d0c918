"""Where a counter is interpolated: a grid of batch, layers, heads and widths, at lengths that stay the same."""

from collections.abc import Mapping
from typing import Any

from kvattn.testing.counter_diagnosis.bench import CounterBench
from kvattn.testing.counter_diagnosis.polynomials import Monomial
from kvattn.testing.counter_diagnosis.sizes import Sizes

WIDTHS = ("width", "value_width", "head")
"""Axes that are widths; each term of a product has one of them, once."""

LETTERS = {
    "batch": "B",
    "layers": "L",
    "kv_heads": "Hkv",
    "group": "G",
    "width": "D",
    "value_width": "Dv",
    "head": "(M / Hq)",
    "item": "itemsize",
    "queries": "T",
    "keys": "S",
}
"""As in `kvattn.axes`; ``Hq = Hkv G``."""


def degree(monomial: Monomial) -> int:
    """Sum of the exponents.

    >>> degree((("width", 2), ("head", 1)))
    3
    """
    return sum(power for _, power in monomial)


def axes_of(bench: CounterBench, *, widths_only: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the grid on which a counter is interpolated.

    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> axes_of(bench_of(lambda *, batch, queries, width: 0))
    {'batch': (1, 3), 'width': (8, 16, 24)}
    """
    axes: dict[str, tuple[int, ...]] = {} if widths_only else {n: (1, 3) for n in ("batch", "layers") if bench.can(n)}
    if not widths_only:
        if bench.can("kv_heads") or bench.can("query_heads"):
            axes["kv_heads"] = (1, 2, 3)
        if bench.grouped:
            axes["group"] = (1, 2, 4)
        if bench.target.counts == "bytes" and (bench.can("itemsize") or bench.can("bits")):
            axes["item"] = (1, 2)
    axes["width"] = (8, 16, 24)
    if bench.can("value_width"):
        axes["value_width"] = (8, 40)
    if bench.can("hidden", "width"):
        axes["head"] = (8, 56)
    return axes


def sizes_at(bench: CounterBench, at: Mapping[str, int], **asked: Any) -> Sizes:
    """Return the sizes at a point of the grid.

    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> sizes_at(bench_of(lambda *, tokens, width, itemsize: 0), {"item": 2}, keys=9).itemsize
    2
    """
    told_item = {"itemsize": at["item"], "bits": 8 * at["item"]} if "item" in at else {}
    plain = {name: size for name, size in at.items() if name != "item"}
    if bench.target.counts == "bytes" and "item" not in at:
        told_item = {"itemsize": 1, "bits": 8}
    return bench.sizes(**{"width": 8, "value_width": 8, "head": 8, **plain, **told_item, **asked})
