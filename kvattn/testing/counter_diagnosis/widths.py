"""Which widths a count takes, and how often: one factor for each of D, Dv and ``hidden // query_heads``.

Two FLOPs for each of D and Dv is the contract's; (1, 1) takes a multiply-add as one, (4, 0) takes D for Dv, (2, 0)
leaves a product out, (5, 5) is a backward pass.  A reading is a pattern and a unit; the one with the fewest faults
wins, and where two have as few both are told.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from kvattn.testing.counter_diagnosis.numbers import plain_number, shown
from kvattn.testing.diagnosis.finding import Kind

DERIVED = "hidden // query_heads"
"""What stands in place of a width that is its own argument."""

_PASSES = {
    Fraction(5, 2): "backward, scores recomputed in tiles",
    Fraction(3): "forward and backward",
    Fraction(7, 2): "forward and backward, scores recomputed in tiles",
}


@dataclass(frozen=True)
class Part:
    """One thing that a reading says.

    Attributes
    ----------
    kind, parameters, words
        As in a finding; the words come after "It".

    Examples
    --------
    >>> Part("convention", {"unit": 1}, "takes a multiply-add as one").parameters
    {'unit': 1}
    """

    kind: Kind
    parameters: Mapping[str, Any]
    words: str


@dataclass(frozen=True)
class Reading:
    """A pattern and a unit that explain the factors.

    Attributes
    ----------
    unit
        FLOPs or bytes for each number.
    parts
        Where it differs from the contract; empty where it does not.

    Examples
    --------
    >>> read_widths("flops", {"width": Fraction(2), "value_width": Fraction(2)}, flop_unit)[0].parts
    ()
    """

    unit: Fraction
    parts: tuple[Part, ...] = field(default=())

    @property
    def cost(self) -> tuple[int, int]:
        """Faults, and conventions.

        >>> Reading(Fraction(1)).cost
        (0, 0)
        """
        kinds = [part.kind for part in self.parts]
        times = sum("factor" in part.parameters for part in self.parts)  # which explains anything, and so the least
        return kinds.count("fault") + times, kinds.count("convention")


def read_widths(
    counts: str, factors: Mapping[str, Fraction], unit: Callable[[Fraction], tuple[Part, ...]]
) -> list[Reading]:
    """Explain the factors of D, Dv and ``hidden // query_heads``; the best first, then those that are as good.

    Parameters
    ----------
    counts
        ``"flops"`` or ``"bytes"``.
    factors
        By ``"width"``, ``"value_width"`` and ``"head"``, for those that the counter takes.
    unit
        Says what a unit means.

    Examples
    --------
    >>> found = read_widths("flops", {"width": Fraction(4), "value_width": Fraction(0)}, flop_unit)
    >>> [part.parameters for part in found[0].parts]
    [{'value_width': 'width'}]
    """
    found = []
    for pattern, parts in _patterns(counts, factors):
        ratios = {factors[name] / times for name, times in pattern.items()}
        if len(ratios) == 1 and all(not factors[name] for name in factors if name not in pattern):
            (one,) = ratios
            if one > 0:
                found.append(Reading(one, (*parts, *unit(one))))
    found.sort(key=lambda reading: reading.cost)
    same = [reading for reading in found if reading.cost[0] == found[0].cost[0]]
    return same if same and same[0].cost[0] else same[:1]


def _patterns(counts: str, names: Mapping[str, Fraction]) -> Iterator[tuple[dict[str, int], tuple[Part, ...]]]:
    """How often each width comes in, and what is to be said of it."""
    words = _LEFT_OUT[counts]
    if "value_width" in names:
        yield {"width": 1, "value_width": 1}, ()
        yield {"width": 2}, (Part("fault", {"value_width": "width"}, "takes width in place of value_width"),)
        yield {"value_width": 2}, (Part("fault", {"width": "value_width"}, "takes value_width in place of width"),)
        yield {"width": 1}, (words[1],)
        yield {"value_width": 1}, (words[0],)
        if counts == "flops":
            for times, what in (((3, 2), "backward"), ((4, 3), "forward and backward")):
                told = f"{what}, scores recomputed"
                part = Part("convention", {"passes": told}, f"counts another pass: {told}")
                yield {"width": times[0], "value_width": times[1]}, (part,)
    else:
        yield {"width": 2}, ()
        yield {"width": 1}, (words[2],)
    if "head" in names:
        every = Part("fault", {"width": DERIVED}, f"takes {DERIVED} in place of width")
        yield {"head": 2}, (every,)
        yield {"head": 1}, (every, words[2])
        if "value_width" in names:
            yield {"head": 1, "value_width": 1}, (every,)
            part = Part("fault", {"value_width": DERIVED}, f"takes {DERIVED} in place of value_width")
            yield {"width": 1, "head": 1}, (part,)


_LEFT_OUT = {
    "flops": (
        Part("fault", {"left out": "QK"}, "leaves the product of queries and keys out"),
        Part("fault", {"left out": "PV"}, "leaves the product of weights and values out"),
        Part("fault", {"left out": "QK or PV"}, "counts one of the two products"),
    ),
    "bytes": (
        Part("fault", {"left out": "keys"}, "leaves the keys out"),
        Part("fault", {"left out": "values"}, "leaves the values out"),
        Part("fault", {"left out": "keys or values"}, "counts keys or values, and not both"),
    ),
}


def flop_unit(unit: Fraction) -> tuple[Part, ...]:
    """Say what so many FLOPs for a multiply-add mean.

    >>> flop_unit(Fraction(2)), flop_unit(Fraction(1))[0].parameters, flop_unit(Fraction(6))[0].parameters
    ((), {'unit': 1}, {'passes': 'forward and backward'})
    """
    for each in (2, 1):
        times = unit / each
        one = (Part("convention", {"unit": 1}, "takes a multiply-add as one"),) if each == 1 else ()
        if times == 1:
            return one
        if times in _PASSES:
            told = _PASSES[times]
            part = Part("convention", {"passes": told}, f"counts another pass, {shown(times)} times this one: {told}")
            return (*one, part)
    twice = "; a backward pass without recomputed scores takes twice as many" if unit == 4 else ""
    factor = shown(unit / 2)
    return (Part("fault", {"factor": plain_number(unit / 2)}, f"counts {factor} times as many as there are{twice}"),)


def byte_unit(unit: Fraction) -> tuple[Part, ...]:
    """Say what so many bytes for each byte of a number mean.

    >>> byte_unit(Fraction(8))[0].parameters, byte_unit(Fraction(2))[0].kind
    ({'unit': 'bits'}, 'fault')
    """
    if unit == 1:
        return ()
    if unit == 8:
        return (Part("convention", {"unit": "bits"}, "counts bits"),)
    return (Part("fault", {"factor": plain_number(unit)}, f"counts {shown(unit)} times as many as there are"),)


def own_size(unit: Fraction) -> tuple[Part, ...]:
    """Say what so many bytes for each number mean, of a counter that takes no size of a number.

    >>> own_size(Fraction(2))[0].kind, own_size(Fraction(3))[0].kind
    ('convention', 'fault')
    """
    kind: Kind = "convention" if unit in (Fraction(1, 2), 1, 2, 4, 8) else "fault"
    return (Part(kind, {"itemsize": plain_number(unit)}, f"takes {shown(unit)} bytes for a number"),)


def no_size(unit: Fraction) -> tuple[Part, ...]:
    """Say the same of a counter that takes a size of a number and does not use it.

    >>> no_size(Fraction(1))[0].words
    'counts numbers, whatever their size'
    """
    words = "counts numbers" if unit == 1 else f"takes {shown(unit)} bytes for a number"
    return (Part("fault", {"itemsize": "ignored", "bytes": plain_number(unit)}, f"{words}, whatever their size"),)
