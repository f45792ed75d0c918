"""What is left of a count when batch, heads and widths are known: pairs, or rows, at each length.

At each node ``(T, S, W)`` the count of one sequence and one head is interpolated in the widths; each coefficient
then is ``u · pairs(T, S, W) + r · T``, with a unit u and, for work per query row, a rest r.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from kvattn.testing.counter_diagnosis.bench import CounterBench
from kvattn.testing.counter_diagnosis.grid import WIDTHS, axes_of, degree, sizes_at
from kvattn.testing.counter_diagnosis.pairs import Node, Rule, Table
from kvattn.testing.counter_diagnosis.polynomials import Monomial, Polynomial, interpolate

Columns: TypeAlias = dict[Monomial, dict[Node, Fraction]]
"""For each product of widths, its coefficient at each node."""

LENGTHS = (
    (1, 1), (2, 2), (3, 3), (5, 5), (8, 8), (16, 16), (17, 17), (100, 100), (130, 130),
    (1, 7), (1, 64), (1, 300), (2, 9), (4, 10), (6, 9), (5, 17), (8, 24), (16, 32), (33, 77), (12, 130),
    (256, 512), (512, 512), (400, 675),
)  # fmt: skip
"""T and S: one short of, at and over tiles; (8, 24), (16, 32) and (8, 8), (16, 16) say the unit."""

WINDOWS = (1, 2, 3, 6, 9, 64, 150)
"""Each with every length where it is not much longer than the keys, the short ones with few keys only."""

_SOLVED = (((8, 24), (16, 32)), ((8, 8), (16, 16)))


def columns(bench: CounterBench, nodes: Iterable[Node], known: Collection[Monomial] = (), **asked: Any) -> Columns:
    """Read the coefficients at each node that can be asked for; products of widths that are known may be 0 at all.

    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> columns(bench_of(lambda *, queries, width: 4 * queries**2 * width + 5), [(3, 3, None)])
    {(('width', 1),): {(3, 3, None): Fraction(36, 1)}, (): {(3, 3, None): Fraction(5, 1)}}
    """
    found: Columns = {}
    axes = axes_of(bench, widths_only=True)
    if known and all(degree(widths) <= 1 for widths in known):
        axes = {name: points[:2] for name, points in axes.items()}
    polynomials: dict[Node, Polynomial] = {}
    for node in nodes:
        keywords = {"queries": node[0], "keys": node[1], "window": node[2], **asked}
        seen = sizes_at(bench, {}, **keywords)
        if (seen.queries, seen.keys, seen.window) != node:
            continue
        polynomials[node] = interpolate(lambda at, k=keywords: bench.count(sizes_at(bench, at, **k)), axes)  # type: ignore[misc]
    for widths in dict.fromkeys([*known, *(w for polynomial in polynomials.values() for w in polynomial)]):
        found[widths] = {node: polynomial.get(widths, Fraction(0)) for node, polynomial in polynomials.items()}
    return {
        widths: found[widths] for widths in sorted(found, key=lambda w: (len(w) != 1, [WIDTHS.index(n) for n, _ in w]))
    }


@dataclass(frozen=True)
class Fit:
    """One coefficient explained.

    Attributes
    ----------
    rule
        How pairs are counted.
    unit, rest
        u and r.

    Examples
    --------
    >>> from kvattn.testing.counter_diagnosis.pairs import DENSE
    >>> Fit(DENSE[0], Fraction(2), Fraction(1)).at((3, 5, None))
    Fraction(33, 1)
    """

    rule: Rule
    unit: Fraction
    rest: Fraction

    def at(self, node: Node) -> Fraction:
        """Return the coefficient at a node.

        >>> from kvattn.testing.counter_diagnosis.pairs import DENSE
        >>> Fit(DENSE[0], Fraction(2), Fraction(0)).at((3, 5, None))
        Fraction(30, 1)
        """
        return self.unit * Fraction(self.rule.count(node)) + self.rest * node[0]

    def pairs(self, column: Table) -> dict[Node, Fraction]:
        """Say how many pairs another column of the same unit and rest takes.

        >>> from kvattn.testing.counter_diagnosis.pairs import DENSE
        >>> Fit(DENSE[0], Fraction(2), Fraction(0)).pairs({(3, 3, None): Fraction(12)})
        {(3, 3, None): Fraction(6, 1)}
        """
        return {node: (read - self.rest * node[0]) / self.unit for node, read in column.items()}


def fit(column: Table, rules: Sequence[Rule]) -> Fit | None:
    """Return the first rule that explains a column, with no rest where that is possible.

    >>> from kvattn.testing.counter_diagnosis.pairs import DENSE
    >>> found = fit({(t, t, None): Fraction(5 * t * t + t) for t in (1, 8, 16)}, DENSE)
    >>> found.unit, found.rest, found.rule.kind
    (Fraction(5, 1), Fraction(1, 1), 'right')
    """
    ends = next(
        (pair for pair in (tuple((*n, None) for n in two) for two in _SOLVED) if all(n in column for n in pair)), None
    )
    if ends is None:
        return None
    one, two = ends
    for plain in (True, False):
        for rule in rules:
            p, q = Fraction(rule.count(one)), Fraction(rule.count(two))
            span = p * two[0] - q * one[0]
            if plain:
                unit, rest = (column[one] / p, Fraction(0)) if p else (Fraction(0), Fraction(0))
            elif span:
                unit = (column[one] * two[0] - column[two] * one[0]) / span
                rest = (column[one] - unit * p) / one[0]
            else:
                continue
            settled = rule.settled(Fit(rule, unit, rest).pairs(column)) if unit else None
            if settled is not None:
                return Fit(settled, unit, rest)
    return None


def polynomial_of(table: Table) -> Polynomial | None:
    """Return the polynomial of degree 2 in T and S that a table is; None where it is none.

    >>> polynomial_of({(t, s, None): Fraction(t * s) for t in (1, 2, 3) for s in (5, 6, 7)})
    {(('queries', 1), ('keys', 1)): Fraction(1, 1)}
    """
    square = all(t == s for t, s, _ in table)
    powers = [(t, s) for t in range(3) for s in range(3) if t + s <= 2 and not (square and s)]
    rows = [[*(Fraction(t) ** a * s**b for a, b in powers), read] for (t, s, _), read in table.items()]
    for column in range(len(powers)):
        pivot = next((row for row in rows[column:] if row[column]), None)
        if pivot is None:
            return None
        rows.remove(pivot)
        pivot = [entry / pivot[column] for entry in pivot]
        rows = [[x - row[column] * y for x, y in zip(row, pivot, strict=True)] for row in rows]
        rows.insert(column, pivot)
    if any(row[-1] for row in rows[len(powers) :]):
        return None
    named = {tuple((n, p) for n, p in zip(("queries", "keys"), power, strict=True) if p): rows[k][-1]
             for k, power in enumerate(powers)}  # fmt: skip
    return {monomial: factor for monomial, factor in named.items() if factor}
