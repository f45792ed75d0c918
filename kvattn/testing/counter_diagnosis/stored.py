"""The reading of a counter of bytes: rows at each length, in pages, in a window, in some of the layers; then scales."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from kvattn.testing.counter_diagnosis.bench import CounterBench
from kvattn.testing.counter_diagnosis.factors import Factors, read_factors
from kvattn.testing.counter_diagnosis.grid import WIDTHS, degree, sizes_at
from kvattn.testing.counter_diagnosis.layers import read_layers
from kvattn.testing.counter_diagnosis.pairs import Node, Rule, Table
from kvattn.testing.counter_diagnosis.polynomials import Monomial
from kvattn.testing.counter_diagnosis.rows import TOKENS, WINDOW, blocks, paged, pages
from kvattn.testing.counter_diagnosis.scales import read_bits, read_scales
from kvattn.testing.counter_diagnosis.sizes import Sizes
from kvattn.testing.counter_diagnosis.tables import Columns, columns
from kvattn.testing.counter_diagnosis.units import name_byte_units

_LONG = 1024
"""Tokens at which widths and heads are read: whole pages of any size up to it."""

_TOKENS = (1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 64, 100, 128, 130, 255, 256, 257, 300, 513, _LONG)
_BLOCKS = tuple(2**n for n in range(1, 11))


@dataclass
class Stored:
    """What a counter of bytes does, as far as it is read.

    Attributes
    ----------
    factors
        Batch, layers, heads, and the size of a number.
    units
        Bytes for each width and row.
    rules
        Rows, for each mode: ``"tokens"``, ``"page"`` and ``"window"``.
    unit
        How many times the bytes of a number are counted.

    Examples
    --------
    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> bench = bench_of(lambda *, tokens, width, itemsize: 2 * tokens * width * itemsize)
    >>> read_stored(bench).at(bench.sizes(keys=3, width=8, itemsize=4))
    Fraction(192, 1)
    """

    factors: Factors
    units: dict[Monomial, Fraction]
    rules: dict[str, Rule] = field(default_factory=dict)
    unit: Fraction = Fraction(1)

    def at(self, sizes: Sizes) -> Fraction | None:
        """Say what it should count by what was read; None where something was not.

        >>> from kvattn.testing.counter_diagnosis.bench import bench_of
        >>> bench = bench_of(lambda *, tokens, width, itemsize: 3 * tokens * width)
        >>> read_stored(bench).at(bench.sizes(keys=3, width=8, itemsize=4))
        Fraction(72, 1)
        """
        mode = "window" if sizes.window is not None else "page" if sizes.page > 1 else "tokens"
        narrow = sizes.layers if sizes.window_layers is None else sizes.window_layers
        rule = self.rules.get(mode)
        if rule is None or sizes.scale_group is not None or narrow != sizes.layers or (sizes.window and sizes.page > 1):
            return None
        rows = Fraction(rule.count((sizes.queries, sizes.keys, sizes.page if mode == "page" else sizes.window)))
        at = {name: getattr(sizes, name) for name in ("batch", "layers", "kv_heads", "group", *WIDTHS)}
        item = Fraction(sizes.bits, 8) if sizes.bits else Fraction(sizes.itemsize)
        total = Fraction(0)
        for widths, unit in self.units.items():
            shape = Fraction(1)
            for name, power in widths:
                shape *= at[name] ** power
            if any(("item", 1) in monomial for monomial in self.factors.outer[widths]):
                shape *= item
            total += unit * rows * shape * self.factors.share(widths, at)
        return total


def read_stored(bench: CounterBench) -> Stored | None:
    """Read it; None where what was read leaves nothing to compare.

    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> bench = bench_of(lambda *, tokens, width, itemsize, window=None: 2 * tokens * width * itemsize)
    >>> _ = read_stored(bench)
    >>> bench.findings[0].parameters
    {'window': 'ignored'}
    """
    factors = read_factors(bench, queries=1, keys=_LONG)
    if factors is None:
        return None
    steps = (1, 3) if bench.can("queries") else (0,)
    long = 1 if not bench.can("tokens") else _LONG
    lengths = [n for n in _TOKENS if n <= long]
    table = columns(bench, [(t, n, None) for n in lengths for t in steps if t <= n], factors.outer)
    read = Stored(factors, {})
    rules = [*TOKENS, *map(paged, _BLOCKS)] if bench.can("tokens") else [TOKENS[0]]
    found = _rule_of(table, rules, factors)
    if found is None:
        sizes = bench.wrong(sizes_at(bench, {}, queries=t, keys=n) for n in lengths for t in steps if t <= n)
        bench.unexplained(sizes, None, "How it grows with the tokens is no rule that is known")
        return None
    rule, read.units = found
    read.unit = name_byte_units(bench, read.units, factors)
    _name_rule(bench, rule, sizes_at(bench, {}, queries=steps[-1], keys=17))
    if bench.stopped:
        return None
    read.rules["tokens"] = rule
    if bench.can("page", "tokens"):
        paged_rows: dict[Node, Fraction] = {
            (t, n, page): bench.count(sizes_at(bench, {}, queries=t, keys=n, page=page))
            for n in (1, 3, 4, 5, 15, 16, 17, 100)
            for page in (4, 24, 64)
            for t in steps
            if t <= n
        }
        _named(bench, read, "page", paged_rows, pages(rule), sizes_at(bench, {}, queries=1, keys=17, page=4))
    if bench.can("window", "tokens") and not bench.stopped:
        nodes = [(n, w) for n in (1, 2, 5, 8, 9, 40, 300, 700) for w in (1, 2, 4, 7, 8, 64, 300)]
        windows: dict[Node, Fraction] = {
            (t, n, w): bench.count(sizes_at(bench, {}, queries=t, keys=n, window=w))
            for n, w in nodes
            for t in steps
            if t <= n
        }
        every = [*WINDOW, *map(blocks, _BLOCKS[3:]), *(_paged_window(page) for page in _BLOCKS[2:])]
        _named(bench, read, "window", windows, every, sizes_at(bench, {}, queries=steps[-1], keys=9, window=4))
        if bench.can("window_layers", "layers") and not bench.stopped:
            read_layers(bench)
    if not bench.stopped:
        read_bits(bench)
        read_scales(bench, lambda sizes: _too_large(read, sizes))
    return read


def _rule_of(table: Columns, rules: Sequence[Rule], factors: Factors) -> tuple[Rule, dict[Monomial, Fraction]] | None:
    """Return the rule that explains every column, with the bytes of each row."""
    if table.keys() - factors.outer.keys():
        return None
    for rule in rules:
        units = {}
        for widths, column in table.items():
            last = max(column, key=lambda node: (node[1], node[0]))
            unit = column[last] / count if (count := Fraction(rule.count(last))) else Fraction(0)
            if not unit or rule.settled({node: read / unit for node, read in column.items()}) is None:
                break
            units[widths] = unit
        else:
            return rule, units
    return None


def _too_large(read: Stored, sizes: Sizes) -> Fraction:
    """How many times the numbers of a token are counted, by heads and unit; 1 where they are counted right."""
    widths = next((w for w in read.units if degree(w) == 1), ())
    heads = read.factors.share(widths, {"kv_heads": sizes.kv_heads, "group": sizes.group}) / sizes.kv_heads
    rows = Fraction(read.rules["tokens"].count((sizes.queries, sizes.keys, None))) / sizes.keys
    return heads * rows * read.unit or Fraction(1)


def _paged_window(page: int) -> Rule:
    """The rows of a window, in whole pages."""
    return Rule(
        lambda node: -(-Fraction(WINDOW[0].count(node)) // page) * page,
        f"rounds the rows of the window up to whole pages of {page}",
        "convention",
        {"page": page},
    )


def _named(
    bench: CounterBench,
    read: Stored,
    mode: str,
    table: Table,
    rules: Sequence[Rule],
    sizes: Sizes,
) -> None:
    """Find the rule of a mode, in units of what one token takes without it."""
    row = bench.count(sizes_at(bench, {}, queries=1, keys=_LONG)) / Fraction(
        read.rules["tokens"].count((sizes.queries and 1, _LONG, None))
    )
    rows = {node: count / row for node, count in table.items()}
    rule = next((found for rule in rules if (found := rule.settled(rows)) is not None), None)
    if rule is None and any(finding.kind == "fault" for finding in bench.findings):
        bench.notes.append(f"What it takes with a {mode} was not read, beside what is named")
        return
    asked = ({"queries": t or 1, "keys": n, mode: size} for t, n, size in table)
    shows = bench.wrong([sizes, *(sizes_at(bench, {}, **one) for one in asked)])
    if rule is None:
        bench.unexplained(shows, None, f"How it grows with the tokens is no rule that is known, with a {mode}")
        return
    read.rules[mode] = rule
    _name_rule(bench, rule, shows)


def _name_rule(bench: CounterBench, rule: Rule, sizes: Sizes) -> None:
    if rule.kind != "right":
        kind = "fault" if rule.kind == "fault" else "convention"
        bench.add(dict(rule.parameters), f"It {rule.words}.", sizes, kind="fault" if kind == "fault" else "convention")
