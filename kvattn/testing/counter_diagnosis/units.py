"""What a counter of FLOPs takes for each pair: the products of which widths, and what beside them."""

from collections.abc import Mapping
from fractions import Fraction

from kvattn.testing.counter_diagnosis.bench import CounterBench, plain_number
from kvattn.testing.counter_diagnosis.factors import LETTERS, WIDTHS, degree, sizes_at
from kvattn.testing.counter_diagnosis.polynomials import Monomial, told
from kvattn.testing.counter_diagnosis.tables import Fit
from kvattn.testing.counter_diagnosis.widths import flop_unit, read_widths


def name_units(bench: CounterBench, fits: Mapping[Monomial, Fit], other: Mapping[Monomial, Fit]) -> None:
    """Say what a multiply-add counts, which widths come in, and whether there is more than products.

    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> from kvattn.testing.counter_diagnosis.pairs import DENSE
    >>> bench = bench_of(lambda *, queries, width: 2 * queries**2 * width)
    >>> name_units(bench, {(("width", 1),): Fit(DENSE[0], Fraction(2), Fraction(0))}, {})
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
