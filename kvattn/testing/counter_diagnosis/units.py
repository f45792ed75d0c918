"""What is taken for each pair, or each row: the widths, how often, and what beside them."""

from collections.abc import Mapping
from fractions import Fraction

from kvattn.testing.counter_diagnosis.bench import CounterBench
from kvattn.testing.counter_diagnosis.factors import Factors
from kvattn.testing.counter_diagnosis.grid import LETTERS, WIDTHS, degree, sizes_at
from kvattn.testing.counter_diagnosis.numbers import plain_number
from kvattn.testing.counter_diagnosis.polynomials import Monomial, told
from kvattn.testing.counter_diagnosis.tables import Fit
from kvattn.testing.counter_diagnosis.widths import (
    DERIVED,
    Part,
    Reading,
    byte_unit,
    flop_unit,
    no_size,
    own_size,
    read_widths,
)


def name_flop_units(bench: CounterBench, fits: Mapping[Monomial, Fit], other: Mapping[Monomial, Fit]) -> None:
    """Say what a multiply-add counts, which widths come in, and whether there is more than products.

    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> from kvattn.testing.counter_diagnosis.pairs import DENSE
    >>> bench = bench_of(lambda *, queries, width: 2 * queries**2 * width)
    >>> name_flop_units(bench, {(("width", 1),): Fit(DENSE[0], Fraction(2), Fraction(0))}, {})
    >>> bench.findings[0].parameters
    {'unit': 1}
    """
    units = {name: Fraction(0) for name in WIDTHS if name == "width" or bench.can(name)}
    if "head" not in units and bench.can("hidden", "width"):
        units["head"] = Fraction(0)
    for widths, found in fits.items():
        if degree(widths) == 1:
            units[widths[0][0]] = found.unit
    sizes = sizes_at(bench, {"width": 16, "value_width": 24, "head": 8, "kv_heads": 2, "group": 4}, queries=4, keys=10)
    readings = read_widths("flops", units, flop_unit)
    if not readings:
        words = told({w: found.unit for w, found in fits.items()}, LETTERS)
        bench.unexplained(sizes, None, f"For each pair and query head it counts {words}")
        return
    others = [part for reading in readings[1:] for part in reading.parts if part.kind == "fault"]
    for part in readings[0].parts:
        alternative = {"or": [dict(o.parameters) for o in others]} if others and part.kind == "fault" else {}
        words = "".join(f", or {o.words}" for o in others) if alternative else ""
        bench.add({**part.parameters, **alternative}, f"It {part.words}{words}.", sizes, kind=part.kind)
    soft = fits.get((), None)
    rest = {w: found.rest for w, found in (*fits.items(), *other.items()) if found.rest and degree(w) <= 1}
    if soft is not None or rest:
        unit = Fraction(0) if soft is None else soft.unit
        if unit < 0 or unit > 100 or any(r < 0 for r in rest.values()):
            bench.unexplained(sizes, None, f"It counts {told({(): unit})} for each pair beside the products")
            return
        parts = [f"{plain_number(unit)} for each pair"] * bool(unit) + [f"{told(rest, LETTERS)} for each query"] * bool(
            rest
        )
        parameters = {"softmax": plain_number(unit), **({"per query": told(rest, LETTERS)} if rest else {})}
        bench.add(parameters, f"It counts more than products: {' and '.join(parts)}.", sizes, kind="convention")
    projections = {w: found.unit + found.rest for w, found in other.items() if degree(w) > 1}
    if projections:
        text = told(projections, LETTERS)
        bench.add({"projections": text}, f"It counts projections too, {text} for each of the tokens.", sizes,
                  kind="convention")  # fmt: skip


def name_byte_units(bench: CounterBench, each: Mapping[Monomial, Fraction], factors: Factors) -> Fraction:
    """Say what a number takes, which widths come in, and what stands beside them.

    Returns
    -------
    Fraction
        How many times its bytes are counted.

    Examples
    --------
    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> from kvattn.testing.counter_diagnosis.factors import split
    >>> bench, one = bench_of(lambda *, tokens, width, itemsize: 0), Fraction(4)
    >>> name_byte_units(bench, {(("width", 1),): one}, split({(("item", 1), ("width", 1)): one}))
    Fraction(2, 1)
    >>> bench.findings[0].parameters
    {'factor': 2}
    """
    units = {name: Fraction(0) for name in WIDTHS if name == "width" or bench.can(name)}
    if bench.can("hidden", "width"):
        units["head"] = Fraction(0)
    powers = set()
    for widths, unit in each.items():
        if degree(widths) == 1:
            units[widths[0][0]] = unit
            powers |= {dict(monomial).get("item", 0) for monomial in factors.outer[widths]}
    asked = bench.can("itemsize") or bench.can("bits")
    naming = own_size if not asked else no_size if powers == {0} else byte_unit
    readings = read_widths("bytes", units, naming)
    sizes = sizes_at(bench, {"width": 16, "value_width": 24, "head": 8, "kv_heads": 2, "group": 4, "item": 4}, keys=10)
    if not readings or not powers <= {0, 1} or len(powers) != 1:
        bench.unexplained(sizes, None, f"For each row it counts {told(dict(each), LETTERS)}")
        return Fraction(1)
    if not asked:
        unit = readings[0].unit
        bench.own_bits = int(8 * unit) if (8 * unit).denominator == 1 else 16
        sizes = sizes_at(bench, {"width": 16, "value_width": 24, "kv_heads": 2, "group": 4}, keys=10)
    if not bench.can("kv_heads") and not bench.can("query_heads"):  # such rows are those of latent attention
        readings = [_latent(reading) for reading in readings]
    other = [part for reading in readings[1:] for part in reading.parts if part.kind == "fault"]
    hidden = any("numbers" in finding.parameters for finding in bench.findings)  # which says that, too
    for part in readings[0].parts:
        if hidden and DERIVED in part.parameters.values():
            continue
        alternative = {"or": [dict(o.parameters) for o in other]} if other and part.kind == "fault" else {}
        words = "".join(f", or {o.words}" for o in other) if alternative else ""
        bench.add({**part.parameters, **alternative}, f"It {part.words}{words}.", sizes, kind=part.kind)
    beside = each.get((), Fraction(0))
    if beside:
        words = f"It takes {plain_number(beside)} bytes for each row beside its numbers."
        bench.add({"beside": plain_number(beside)}, words, sizes, kind="convention")
    return readings[0].unit if asked and powers == {1} else Fraction(1)


def _latent(reading: Reading) -> Reading:
    """Take one row for keys and values together as a choice."""
    words = "counts one row for keys and values together, as a latent cache keeps"
    latent = Part("convention", {"stored": "one row for keys and values"}, words)
    parts = (latent if part.parameters == {"left out": "keys or values"} else part for part in reading.parts)
    return Reading(reading.unit, tuple(parts))
