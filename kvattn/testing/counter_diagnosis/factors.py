"""What a count takes of batch, layers, heads and widths: one exact polynomial, at lengths that stay the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
import random
from typing import Any

from kvattn.testing.counter_diagnosis.bench import CounterBench
from kvattn.testing.counter_diagnosis.grid import LETTERS, WIDTHS, axes_of, degree, sizes_at
from kvattn.testing.counter_diagnosis.manners import read_rounded
from kvattn.testing.counter_diagnosis.polynomials import Monomial, Polynomial, interpolate, told, value

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
    corners = ({name: points[end] for name, points in axes.items()} for end in (0, 1, -1))
    polynomial: Polynomial = {}
    if any(bench.count(sizes_at(bench, at, **node)) for at in corners):
        polynomial = interpolate(lambda at: bench.count(sizes_at(bench, at, **node)), axes)
    if not polynomial and not read_rounded(bench):
        what = "FLOPs" if bench.target.counts == "flops" else "bytes"
        bench.add({"counts": 0}, f"It counts no {what} at all.", sizes_at(bench, {}, **node))
        bench.stopped = True
    if bench.stopped:
        return None
    generator = random.Random(0)
    off = {"batch": (2, 5), "layers": (2, 7), "kv_heads": (4, 5), "group": (3, 5), "item": (4, 8)}
    for _ in range(6):
        at = {name: generator.choice(off.get(name, (32, 40, 64, 72, 128))) for name in axes}
        sizes = sizes_at(bench, at, **node)
        if bench.count(sizes) != value(polynomial, at):
            if read_rounded(bench):
                return None
            bench.unexplained(sizes, None, "It is no polynomial of batch, layers, heads and widths")
            return None
    factors = split(polynomial)
    explained = [_name_outer(bench, factors, widths, axes, polynomial, node) for widths in factors.outer]
    return factors if all(explained) else None


def _name_outer(
    bench: CounterBench,
    factors: Factors,
    widths: Monomial,
    axes: Mapping[str, Any],
    polynomial: Polynomial,
    node: Mapping[str, Any],
) -> bool:
    """Say which of batch, layers and heads a term has in place of the right ones."""
    bytes_ = bench.target.counts == "bytes"
    if degree(widths) > 1 and not bytes_:  # projections
        return True
    shape = sizes_at(bench, {name: {"kv_heads": 2, "group": 4, "item": 2}.get(name, 3) for name in axes
                             if name not in WIDTHS}, **node)  # fmt: skip
    if degree(widths) > 1 or len(factors.outer[widths]) > 1:
        bench.unexplained(shape, None, f"It counts {told(polynomial, LETTERS)}")
        return False
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
        return True
    found = (outer.get("kv_heads", 0), outer.get("group", 0))
    right = (1, 0 if bytes_ else 1) if bench.grouped else (1, 0)
    if "kv_heads" not in axes or found == right:
        return True
    if bytes_ and found == (1, 1) and widths == (("head", 1),) and bench.grouped:
        words = "It takes hidden for the numbers of a token, in place of kv_heads * width."
        bench.add({"numbers": "hidden"}, words, shape)
        return True
    names = _HEADS if bench.grouped else {(0, 0): "ignored", (2, 0): "heads ** 2"}
    name = names.get(found, f"kv_heads**{found[0]} * group**{found[1]}")
    wanted = "kv_heads" if bytes_ else "query_heads"
    bench.add({"heads": name, **which}, f"It takes {name} in place of {wanted}{_of(which)}.".replace(
        "takes ignored in place of", "takes no"), shape)  # fmt: skip
    return True


def _of(which: Mapping[str, str]) -> str:
    return f", for {which['of']}" if which else ""
