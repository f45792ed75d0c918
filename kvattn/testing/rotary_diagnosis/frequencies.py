"""What the frequencies are, where they are not those expected: another base, another scaling, another exponent.

First the changes that code is known to make to what was expected, each computed and compared; then, where none of them
fits, the scheme that fits the frequencies by themselves.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvattn.positions.ntk import ntk_base
from kvattn.testing.rotary_diagnosis.bench import NEAR, RotaryBench
from kvattn.testing.rotary_diagnosis.model import Model
from kvattn.testing.rotary_diagnosis.schemes import Named, geometry, name_scheme

Numbers = NDArray[np.float64]


class Change(NamedTuple):
    """A known change: its class, what it is in numbers and in words, and the frequencies that it gives."""

    fault_class: str
    parameters: dict[str, Any]
    words: str
    frequencies: Numbers


def changes(expected: Numbers, width: int, sharp: float) -> Iterator[Change]:
    """Yield what code is known to make of frequencies that were expected.

    Examples
    --------
    >>> [change.parameters for change in changes(np.array([0.25, 0.025]), 8, 1e-6)][0]
    {'scheme': 'plain', 'expected': 'linear with base 100, factor 4'}
    """
    count = len(expected)
    right = name_scheme(expected, sharp)
    if "base" not in right.parameters or count < 2:
        return
    base, factor = float(right.parameters["base"]), float(right.parameters.get("factor", 1.0))
    plain = geometry(base, count)

    def scaled(scheme: str, words: str, frequencies: Numbers, **numbers: Any) -> Change:
        return Change("rope-scaling", {"scheme": scheme, **numbers, "expected": str(right)}, words, frequencies)

    if right.scheme != "plain":
        yield scaled("plain", f"no scaling, base {base:g}", plain)
    if right.scheme == "proportional":
        moving = int(np.count_nonzero(expected))
        inner = np.concatenate([geometry(base, moving), np.zeros(count - moving)])
        yield Change(
            "rope-partial",
            {"exponent_width": 2 * moving, "expected": 2 * count},
            f"exponents over the {2 * moving} features that turn, not over all {2 * count}",
            inner,
        )
    if factor != 1:
        yield scaled("linear", f"every frequency over {factor:g}", plain / factor, factor=factor)
        yield scaled("linear", f"every frequency times {factor:g}", plain * factor, factor=1 / factor)
        grown = geometry(ntk_base(2 * count, alpha=factor, base=base), count)
        yield scaled("ntk", f"a larger base, by NTK with alpha {factor:g}", grown, alpha=factor)
    if right.scheme in {"YaRN", "Llama-3"}:
        kept = (expected / plain - 1 / factor) / (1 - 1 / factor)
        yield scaled(right.scheme, "the ramp the wrong way round", plain * (1 - kept + kept / factor), ramp="reversed")
        yield scaled(right.scheme, "no ramp: kept or divided", np.where(kept > 0.5, plain, plain / factor), ramp="none")
        mixed = 1 / (kept / plain + (1 - kept) * factor / plain)
        yield scaled(right.scheme, "wavelengths mixed and not frequencies", mixed, ramp="wavelengths")
        if right.scheme == "Llama-3":
            yield from _smoothed(right, plain, kept, scaled)
    for divisor in dict.fromkeys((width, 2 * width, count, 4 * count)):
        if divisor != 2 * count:
            factor_left = expected / plain if right.scheme != "proportional" else np.ones(count)
            yield Change(
                "rope-partial" if divisor == width else "rope-scaling",
                {"exponent_width": divisor, "expected": 2 * count},
                f"exponents over {divisor} and not over {2 * count}",
                np.asarray(base ** -(np.arange(0, 2 * count, 2) / divisor)) * factor_left,
            )
    yield scaled("plain", "frequencies in reverse order", expected[::-1], order="reversed")
    yield scaled("plain", "exponents from 1 and not from 0", expected * base ** (-1 / count), exponents_from=1)


def _smoothed(right: Named, plain: Numbers, kept: Numbers, scaled: Callable[..., Change]) -> Iterator[Change]:
    """Yield what code makes of Llama-3's middle band, given how much of each frequency is to be kept."""
    factor, trained = float(right.parameters["factor"]), float(right.parameters["trained"])
    low, high = float(right.parameters["low"]), float(right.parameters["high"])
    middle = (kept > 1e-6) & (kept < 1 - 1e-6)

    def of(share: Numbers) -> Numbers:
        return np.asarray(plain * (share + (1 - share) / factor))

    words = "the two terms of the smoothing exchanged, the other bands right"
    yield scaled("Llama-3", words, of(np.where(middle, 1 - kept, kept)), smoothing="exchanged")
    words = "no smoothing, the middle band kept, as where branches are asked with the low and high factors exchanged"
    yield scaled("Llama-3", words, of(np.where(middle, 1.0, kept)), smoothing="kept")
    words = "no smoothing, the middle band divided, as where masks are made with the low and high factors exchanged"
    yield scaled("Llama-3", words, of(np.where(middle, 0.0, kept)), smoothing="divided")
    for length, which in (
        (trained * factor, "the new length"),
        (trained / factor, "the trained length over the factor"),
    ):
        share = np.clip((length * plain / (2 * np.pi) - low) / (high - low), 0, 1)
        words = f"{which}, {length:g}, where the trained one, {trained:g}, belongs"
        yield scaled("Llama-3", words, of(share), factor=factor, trained=length)


def read_frequencies(bench: RotaryBench) -> None:
    """Name the frequencies of queries and of keys where they are not the expected ones.

    Examples
    --------
    >>> from kvattn.positions import Rotary, llama3_rotary
    >>> from kvattn.testing.rotary_diagnosis.structure import read_structure
    >>> from kvattn.testing.rotary_diagnosis.bench import bench_of
    >>> bench = bench_of(Rotary.of(32, 5e5).rotate, llama3_rotary(32), 32)
    >>> read_structure(bench)
    >>> read_frequencies(bench)
    >>> bench.findings[0].detail
    'Frequencies are plain with base 500000: no scaling, base 500000; expected Llama-3 with base 500000, factor 8, \
trained 8192, low 1, high 4.'
    """
    found: dict[str, Named | Change] = {}
    for side, known in bench.known.items():
        right = frequencies_for(bench, known)
        read = known.frequencies
        if close(read, right, bench.sharp):
            bench.known[side] = replace(known, frequencies=right)
            continue
        found[side] = _named(bench, side, read, right)
    if not found:
        return
    bench.stopped = bench.stopped or hasattr(bench.target.expects, "trained")  # further lengths follow from this one
    words = {side: _say(bench, name) for side, name in found.items()}
    alike = len(found) == len(bench.known) and len({text[2] for text in words.values()}) == 1
    for side, (fault_class, parameters, text) in words.items():
        whose = ""
        if not alike and bench.target.pair:
            whose = {"q": " of queries", "k": " of keys"}[side]
        bench.add(
            fault_class,
            {**parameters, "of": side} if whose else parameters,
            f"Frequencies{whose} are {text}",
            kind=bench.legal if alike else "fault",
            reproduce=bench.line([0, 1, 2, 3], side),
        )
        if alike:
            break


def close(read: Numbers, right: Numbers, sharp: float) -> bool:
    """Say whether frequencies agree, whole turns aside.

    >>> close(np.array([1.0]), np.array([1.1]), 1e-6)
    False
    """
    if len(read) != len(right):
        return False
    apart = np.abs(np.angle(np.exp(1j * (read - right))))
    return bool((apart <= sharp * np.abs(right) + 1e-9).all())


def frequencies_for(bench: RotaryBench, known: Model) -> Numbers:
    """Return the expected frequencies, for as many pairs as turn.

    >>> from kvattn.positions import Rotary
    >>> from kvattn.testing.rotary_diagnosis.bench import bench_of
    >>> frequencies_for(bench_of(Rotary.of(4).rotate, width=8), Model.of(Rotary.of(4), 8))
    array([1.  , 0.01])
    """
    right = np.array(bench.expected(NEAR).frequencies)
    count = len(known.first)
    if len(right) == count:
        return right
    numbers = name_scheme(right).parameters  # as many pairs as turn: that others were expected is said already
    return geometry(float(numbers.get("base", 10000.0)), count) / float(numbers.get("factor", 1.0))


def _named(bench: RotaryBench, side: str, read: Numbers, right: Numbers) -> Named | Change:
    sharp = 10 * bench.sharp
    for change in (*_other_lengths(bench), *changes(right, bench.width, bench.sharp)):
        if close(read, change.frequencies, bench.sharp):
            bench.known[side] = replace(bench.known[side], frequencies=change.frequencies)
            return change
    named = name_scheme(read, sharp)
    if named.scheme in {"plain", "linear", "proportional"}:
        bench.known[side] = replace(bench.known[side], frequencies=_rebuilt(named, len(read)))
    else:
        bench.stopped = True
    return named


def _rebuilt(named: Named, count: int) -> Numbers:
    numbers = named.parameters
    whole = geometry(numbers["base"], count) / numbers.get("factor", 1.0)
    return np.where(np.arange(count) < round(numbers.get("share", 1.0) * count), whole, 0.0)


def _other_lengths(bench: RotaryBench) -> Iterator[Change]:
    """Yield frequencies that are expected at other lengths than the one that ran."""
    trained = getattr(bench.target.expects, "trained", None)
    if trained is None:
        return
    factor = float(getattr(bench.target.expects, "factor", 1.0))
    for length in (int(trained) + 1, int(trained * factor), bench.target.context):
        yield Change(
            "rope-dynamic",
            {"frequencies_of_length": length, "length": NEAR},
            f"those of a sequence of {length} tokens in one of {NEAR}",
            np.array(bench.expected(length).frequencies),
        )
    base = getattr(bench.target.expects, "base", None)
    if base is not None and hasattr(bench.target.expects, "short"):
        plain = geometry(float(base), len(bench.expected(NEAR).frequencies))
        yield Change("rope-scaling", {"scheme": "plain"}, "no divisors at all", plain)


def _say(bench: RotaryBench, found: Named | Change) -> tuple[str, dict[str, Any], str]:
    if isinstance(found, Change):
        named, wanted = name_scheme(found.frequencies), name_scheme(np.array(bench.expected(NEAR).frequencies))
        return found.fault_class, found.parameters, f"{named.told}: {found.words}; expected {wanted}."
    wanted = name_scheme(np.array(bench.expected(NEAR).frequencies), bench.sharp)
    parameters: dict[str, Any] = {"scheme": found.scheme, **found.parameters}
    if bench.target.expects is not None:
        parameters["expected"] = str(wanted)
    if found.scheme == "list":
        read, right = np.array(found.parameters["frequencies"]), np.array(bench.expected(NEAR).frequencies)
        if len(read) != len(right):
            return "rope-scaling", parameters, f"{found}; expected {wanted}."
        worst = int(np.argmax(np.abs(np.log(np.maximum(read, 1e-30) / np.maximum(right, 1e-30)))))
        text = f"of no known scheme; pair {worst} turns by {read[worst]:.6g} per position, expected {right[worst]:.6g}."
        return "rope-scaling", parameters, text
    return "rope-scaling", parameters, f"{found}; expected {wanted}."
