"""What a count takes of batch, layers, heads and widths: one exact polynomial, at lengths that stay the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
import random
from typing import Any

from kvattn.testing.counter_diagnosis.bench import CounterBench
from kvattn.testing.counter_diagnosis.polynomials import Monomial, Polynomial, interpolate, told, value
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

_HEADS = {
    (1, 1): "query_heads",
    (1, 0): "kv_heads",
    (0, 0): "ignored",
    (0, 1): "query_heads // kv_heads",
    (2, 1): "query_heads * kv_heads",
    (2, 2): "query_heads ** 2",
    (2, 0): "kv_heads ** 2",
    (1, 2): "query_heads ** 2 // kv_heads",
}


@dataclass(frozen=True)
class Factors:
    """The polynomial, its terms sorted by their widths.

    Attributes
    ----------
    outer
        For each product of widths, what it is multiplied with.

    Examples
    --------
    >>> split({(("batch", 1), ("width", 1)): Fraction(2)}).outer
    {(('width', 1),): {(('batch', 1),): Fraction(2, 1)}}
    """

    outer: Mapping[Monomial, Polynomial]

    def share(self, widths: Monomial, at: Mapping[str, int]) -> Fraction:
        """Return how many times as large a term is at these sizes as where batch, layers and heads are 1.

        >>> split({(("batch", 1), ("width", 1)): Fraction(2)}).share((("width", 1),), {"batch": 3})
        Fraction(3, 1)
        """
        return value(self.outer[widths], at) / value(self.outer[widths], {})


def split(polynomial: Polynomial) -> Factors:
    """Sort the terms.

    >>> list(split({(("batch", 1),): Fraction(2)}).outer)
    [()]
    """
    outer: dict[Monomial, Polynomial] = {}
    for monomial, factor in polynomial.items():
        widths = tuple(part for part in monomial if part[0] in WIDTHS)
        outer.setdefault(widths, {})[tuple(part for part in monomial if part[0] not in WIDTHS)] = factor
    return Factors(outer)


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


def read_factors(bench: CounterBench, **node: Any) -> Factors | None:
    """Interpolate, and compare with questions off the grid; None where it is no polynomial.

    Parameters
    ----------
    bench
        The counter.
    node
        Lengths, the same in every question.

    Examples
    --------
    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> bench = bench_of(lambda *, kv_heads, query_heads, queries, width: 4 * kv_heads * queries**2 * width)
    >>> _ = read_factors(bench, queries=4)
    >>> bench.findings[0].parameters
    {'heads': 'kv_heads'}
    """
    axes = axes_of(bench)
    polynomial = interpolate(lambda at: bench.count(sizes_at(bench, at, **node)), axes)
    if not polynomial:
        what = "FLOPs" if bench.target.counts == "flops" else "bytes"
        bench.add({"counts": 0}, f"It counts no {what} at all.", sizes_at(bench, {}, **node))
        bench.stopped = True
        return None
    generator = random.Random(0)
    off = {"batch": (2, 5), "layers": (2, 7), "kv_heads": (4, 5), "group": (3, 5), "item": (4, 8)}
    for _ in range(6):
        at = {name: generator.choice(off.get(name, (32, 40, 64, 72, 128))) for name in axes}
        sizes = sizes_at(bench, at, **node)
        if bench.count(sizes) != value(polynomial, at):
            bench.unexplained(sizes, None, "It is no polynomial of batch, layers, heads and widths")
            return None
    factors = split(polynomial)
    for widths in factors.outer:
        _name_outer(bench, factors, widths, axes, polynomial, node)
    return None if bench.stopped else factors


def _name_outer(
    bench: CounterBench,
    factors: Factors,
    widths: Monomial,
    axes: Mapping[str, Any],
    polynomial: Polynomial,
    node: Mapping[str, Any],
) -> None:
    """Say which of batch, layers and heads a term has in place of the right ones."""
    bytes_ = bench.target.counts == "bytes"
    if degree(widths) > 1 and not bytes_:  # projections
        return
    shape = sizes_at(bench, {name: {"kv_heads": 2, "group": 4, "item": 2}.get(name, 3) for name in axes
                             if name not in WIDTHS}, **node)  # fmt: skip
    if degree(widths) > 1 or len(factors.outer[widths]) > 1:
        bench.unexplained(shape, None, f"It counts {told(polynomial, LETTERS)}")
        return
    (outer,) = (dict(monomial) for monomial in factors.outer[widths])
    products = [w for w in factors.outer if degree(w) == 1]
    alike = all(factors.outer[w].keys() == factors.outer[widths].keys() for w in products)
    names_of = {"width": "keys", "value_width": "values"} if bytes_ else {"width": "QK", "value_width": "PV"}
    which = {} if alike else {"of": names_of.get("".join(name for name, _ in widths), "all")}
    for name in ("batch", "layers"):
        if name in axes and outer.get(name, 0) != 1:
            power = "ignored" if not outer.get(name) else f"{name} ** {outer[name]}"
            words = f"takes no notice of {name}" if power == "ignored" else f"takes {power} for {name}"
            bench.add({name: power, **which}, f"It {words}{_of(which)}.", shape)
    if not widths and bytes_:  # what stands beside the numbers is nobody's head
        return
    found = (outer.get("kv_heads", 0), outer.get("group", 0))
    right = (1, 0 if bytes_ else 1) if bench.grouped else (1, 0)
    if "kv_heads" not in axes or found == right:
        return
    if bytes_ and found == (1, 1) and widths == (("head", 1),) and bench.grouped:
        words = "It takes hidden for the numbers of a token, in place of kv_heads * width."
        bench.add({"numbers": "hidden"}, words, shape)
        return
    names = _HEADS if bench.grouped else {(0, 0): "ignored", (2, 0): "heads ** 2"}
    name = names.get(found, f"kv_heads**{found[0]} * group**{found[1]}")
    wanted = "kv_heads" if bytes_ else "query_heads"
    bench.add({"heads": name, **which}, f"It takes {name} in place of {wanted}{_of(which)}.".replace(
        "takes ignored in place of", "takes no"), shape)  # fmt: skip


def _of(which: Mapping[str, str]) -> str:
    return f", for {which['of']}" if which else ""
