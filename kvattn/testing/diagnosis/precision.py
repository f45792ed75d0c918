"""Number formats on the way: which stage is rounded, and to what.

Method: attention is computed once for every stage and format, exactly but for that one rounding, and compared with
the weights that a target gives; once more for numbers that are cut off, as by a mask on the bits of a float32, which
rounds them towards 0.  Where nothing agrees to the last digits, as where a whole softmax runs in float32,
the finest format whose unit covers the error is named; a change of q too small for that format then tells
whether q was converted too, and changes that are larger, to which format.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.recipe import DRAWN, LOUD, ONE_HOT, RANDOM, Built, Recipe, Sizes
from kvattn.testing.formats import FORMATS

Rows = NDArray[np.float64]

NARROW = ("float32", "float16", "tf32", "bfloat16", "float8_e4m3", "float8_e5m2")
"""Formats that are tried, the finest first."""

_SIZES = Sizes(1, 2, 2, 5, 11, 12, 12)
_UNIT: Mapping[str, float] = MappingProxyType({name: FORMATS[name].roundoff for name in FORMATS})


def _plain(stage: str, round_: Callable[[Rows], NDArray[Any]], built: Built) -> Rows:
    """Attention in float64 with one stage rounded."""

    def at(name: str, x: Rows) -> Rows:
        return np.asarray(round_(x), np.float64) if name == stage else x

    q, k, v = (np.asarray(x, np.float64) for x in (built.q, built.k, built.v))
    q, k, v = at("q, k", q), at("q, k", k), at("v", v)
    scale = q.shape[-1] ** -0.5
    q = at("scaled q", q * scale) / scale
    scores = at("scores", at("products", np.einsum("bhtd,bhsd->bhts", q, k)) * scale)
    shifted = at("shifted", scores - scores.max(-1, keepdims=True))
    e = at("exp", np.exp(shifted))
    total = at("total", e.sum(-1, keepdims=True))
    weights = at("probabilities", at("exp before v", e) / total)
    return at("out", weights @ v)


STAGES = (
    "q, k",
    "v",
    "scaled q",
    "products",
    "scores",
    "shifted",
    "exp",
    "total",
    "exp before v",
    "probabilities",
    "out",
)
"""What may be rounded, in the order of the computation; "exp before v" leaves the total unrounded."""


_SAID: Mapping[str, str] = MappingProxyType(
    {
        "everything": "It computes in",
        "softmax": "Its softmax runs in",
        "q, k": "q and k are rounded to",
        "v": "v is rounded to",
        "scaled q": "The scaled q is rounded to",
        "products": "The products q·k are rounded to",
        "scores": "The scores are rounded to",
        "shifted": "The scores less their maximum are rounded to",
        "exp": "The exponentials are rounded to",
        "total": "The sum of the exponentials is rounded to",
        "exp before v": "The exponentials are rounded before the product with v, and not before their sum, to",
        "probabilities": "The probabilities are rounded to",
        "out": "The output is rounded to",
    }
)


def read_precision(lab: Lab) -> None:
    """Name stage and format of a computation that is coarser than its inputs.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(rounded={"probabilities": "bfloat16"}))
    >>> read_precision(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters
    ('precision', {'stage': 'probabilities', 'format': 'bfloat16'})
    """
    if lab.dtype == "float16":
        return
    tiny = (DRAWN[0].replace("0.7", "1e-3"), DRAWN[1].replace("0.7", "1e-3"))  # where float16 has no digits left
    cases = [lab.case(_SIZES, DRAWN, values) for values in (ONE_HOT, RANDOM)]
    cases += [lab.case(_SIZES, LOUD, ONE_HOT), lab.case(_SIZES, tiny, f"1e-6 * {RANDOM}")]
    cases = [replace(case, sizes=replace(case.sizes, Hkv=case.sizes.Hq)) for case in cases]
    read = [lab.see(case).out for case in cases]
    exact = [_plain("", lambda x: x, case.build()) for case in cases]
    off = max(float(np.abs(r - e).max()) for r, e in zip(read, exact, strict=True))
    own = FORMATS[lab.dtype].roundoff
    if not off > 64 * own or off > 0.2:
        return
    built = [case.build() for case in cases]
    for stage, name, towards, round_ in _roundings():
        if all(np.abs(r - _plain(stage, round_, b)).max() <= 32 * own for r, b in zip(read, built, strict=True)):
            _report(lab, stage, name, off, cases[0], towards)
            return
    within = [n for n in NARROW if _UNIT[n] > 8 * own and _UNIT[n] / 64 <= off <= 8 * _UNIT[n]]
    if within and _rough(lab, cases[1], off):
        blind = [n for n in within if (n == within[0] or off >= _UNIT[n] / 4) and _blind(lab, cases[1], n)]
        coarse = next((n for n in blind if _UNIT[n] == _UNIT[blind[-1]]), within[0])  # q tells the format that it has
        _report(lab, "everything" if blind else "softmax", coarse, off, cases[0])


def _roundings() -> Iterator[tuple[str, str, str, Callable[[Rows], NDArray[Any]]]]:
    """Stage, format, where numbers go if not to the nearest, and the rounding: to the nearest of all formats first."""
    for name in NARROW:
        for stage in STAGES:
            yield stage, name, "", FORMATS[name].round
    for name in NARROW[1:]:
        for stage in STAGES:
            yield stage, name, "0", partial(_cut, name)


def _cut(name: str, x: Rows) -> NDArray[Any]:
    """Cut the bits of a float32 off that a format has not."""
    return FORMATS[name].cut(FORMATS["float32"].round(x))


def _rough(lab: Lab, case: Recipe, off: float) -> bool:
    """Say whether the output jumps where q moves evenly, as roundings do and a wrong formula does not."""
    rows = [lab.see(replace(case, edits=(f"q = q * (1 + {n} / 4096)",))).out for n in range(4)]
    return bool(np.abs(np.diff(rows, 3, axis=0)).max() > off / 16)


def _blind(lab: Lab, case: Recipe, name: str) -> bool:
    """Say whether a change of q below the format's unit changes nothing."""
    moved = replace(case, edits=(f"q = q * (1 + {_UNIT[name] / 64!r})",))
    return bool((lab.see(case).out == lab.see(moved).out).mean() > 0.7)


def _report(lab: Lab, stage: str, name: str, off: float, case: Recipe, towards: str = "") -> None:
    how = f"{name} towards {towards}" if towards else name
    detail = f"{_SAID[stage]} {how}, although its inputs are {lab.dtype}: errors up to {off:.2g}."
    wide = lab.dtype
    stated = {
        "q, k": Arithmetic(wide, inputs=name),
        "scaled q": Arithmetic(wide, inputs=name),
        "v": Arithmetic(wide, inputs=name),
        "exp before v": Arithmetic(wide, probabilities=name),
        "probabilities": Arithmetic(wide, probabilities=name, tiles=0),
        "out": Arithmetic(wide, store=name),
        "everything": Arithmetic(name),
    }
    inside = Arithmetic(name, accumulate=wide, store=wide, probabilities=wide, inputs=wide)
    if _UNIT[name] > 2.0**-7:
        lab.stopped = True
        lab.notes.append(f"{name} is too coarse to read the rest")
    parameters = {"stage": stage, "format": name}
    if towards:  # errors of twice the size: those of two roundings to the nearest
        stored = name if stage == "out" else wide
        lab.coarsen(2 * _UNIT[name], Arithmetic(name, accumulate=wide, store=stored, tiles=0))
        parameters["towards"] = towards
    else:  # a format that was guessed by the errors is no finer than they are
        unit = max(_UNIT[name], off / 4) if stage in ("everything", "softmax") else _UNIT[name]
        lab.coarsen(unit, stated.get(stage, inside))
    lab.add("precision", parameters, detail, case, kind="convention" if name == "float32" else None)
