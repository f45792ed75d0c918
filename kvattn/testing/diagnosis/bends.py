"""How a score is bent: the softcap's formula and place, and the bias.

Method: logarithms of probabilities give the bent scores up to a constant per row; each formula that code
is known to use is tried on the true scores, at two caps.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.behaviour import sizes_of
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.recipe import DRAWN, LOUD, Built, Recipe, Sizes
from kvattn.testing.diagnosis.weights import centred_logs

_SIZES, _SQUARE = Sizes(3, 6, 2, 4, 7, 26, 26), Sizes(2, 6, 2, 5, 5, 26, 26)
BIAS = "r.standard_normal(({B}, {Hq}, {T}, {S}))"
"""A bias that differs everywhere."""

Scores = NDArray[np.float64]
_tanh = np.tanh

CAPS: dict[str, Callable[[Scores, Scores, float, float], Scores]] = {
    "c * tanh(s / c)": lambda s, x, a, c: c * _tanh(s / c),
    "s": lambda s, x, a, c: s,
    "c * tanh(s)": lambda s, x, a, c: c * _tanh(s),
    "s * tanh(s / c)": lambda s, x, a, c: s * _tanh(s / c),
    "s * tanh(s)": lambda s, x, a, c: s * _tanh(s),
    "tanh(s / c)": lambda s, x, a, c: _tanh(s / c),
    "tanh(s)": lambda s, x, a, c: _tanh(s),
    "a * c * tanh(x / c)": lambda s, x, a, c: a * c * _tanh(x / c),
    "a * c * tanh(s / c)": lambda s, x, a, c: a * c * _tanh(s / c),
    "c * tanh(a * s / c)": lambda s, x, a, c: c * _tanh(a * s / c),
    "c * tanh(x / c)": lambda s, x, a, c: c * _tanh(x / c),
    "c * tanh(s * c)": lambda s, x, a, c: c * _tanh(s * c),
    "tanh(s * c) / c": lambda s, x, a, c: _tanh(s * c) / c,
    "clip(s, -c, c)": lambda s, x, a, c: np.clip(s, -c, c),
    "s / (1 + |s| / c)": lambda s, x, a, c: s / (1 + np.abs(s) / c),
    "c * tanh(s / c), twice": lambda s, x, a, c: c * _tanh(_tanh(s / c)),
}
"""Capped scores from the score s = a x, the product x, the scale a and the cap c; the contract's first."""

_MEANT = {
    "s": "softcap= changes nothing",
    "a * c * tanh(x / c)": "the cap is applied before the scale",
}


def _apart(one: Scores, other: Scores) -> float:
    """Return the largest difference that is not the same for a whole row."""
    gap = one - other
    return float(np.abs(gap - gap.mean(-1, keepdims=True)).max())


def _parts(lab: Lab, built: Built) -> tuple[Scores, Scores, float]:
    raw = lab.scores(built)
    a = lab.behaviour.used_scale(sizes_of(built), built.options.get("scale"))
    return a * raw, raw, a


def read_softcap(lab: Lab) -> None:
    """Fit the formula of ``softcap=``.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(cap="c * tanh(s)"))
    >>> read_softcap(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["formula"]
    ('softcap', 'c * tanh(s)')
    """
    cases = [lab.case(_SIZES, DRAWN, softcap=cap) for cap in ("0.4", "1.1")]
    read = [centred_logs(lab.weights(case)) for case in cases]

    def fits(formula: Callable[[Scores, Scores, float, float], Scores]) -> bool:
        built = [case.build() for case in cases]
        gaps = (
            _apart(logs, formula(*_parts(lab, b), float(b.options["softcap"])))
            for logs, b in zip(read, built, strict=True)
        )
        return max(gaps) <= 5 * lab.sharp

    name = next((name for name, formula in CAPS.items() if fits(formula)), "")
    if name == "c * tanh(s / c)":
        return
    lab.set_aside("softcap")
    said = _MEANT.get(name, f"the cap is {name}" if name else _described(lab, cases[0], read[0]))
    loud = replace(cases[0], scores=LOUD)
    parameters = {"formula": name or "other"}
    if name == "s":
        parameters = {"formula": "s", "applied": "not at all"}
    lab.add(
        "softcap",
        parameters,
        f"{said if said.startswith('softcap') else said[0].upper() + said[1:]}, expected c * tanh(s / c).",
        loud,
    )


def _described(lab: Lab, case: Recipe, logs: Scores) -> str:
    built = case.build()
    score = _parts(lab, built)[0][0, 0, 0]
    pairs = ", ".join(
        f"{s - score[0]:.3f} to {b - logs[0, 0, 0, 0]:.3f}"
        for s, b in list(zip(score, logs[0, 0, 0], strict=True))[1:4]
    )
    return f"softcap={built.options['softcap']} bends score differences from {pairs}"


def read_bias(lab: Lab) -> None:
    """Fit the factor on ``bias=``, and its place beside the cap.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(bias_factor=-1.0))
    >>> read_bias(lab)
    >>> lab.findings[0].parameters
    {'argument': 'bias', 'factor': -1.0}
    """
    case = lab.case(_SIZES, DRAWN, bias=BIAS)
    built = case.build()
    score, _, a = _parts(lab, built)
    bias = np.asarray(built.options["bias"], np.float64)
    logs = centred_logs(lab.weights(case))
    moved = logs - (score - score.mean(-1, keepdims=True))
    centred = bias - bias.mean(-1, keepdims=True)
    factor = float((centred * moved).sum() / (centred**2).sum())
    if _apart(moved, factor * centred) > 20 * lab.sharp:
        lab.set_aside("bias")
        for words, which in _others(bias, case.sizes).items():
            if _apart(moved, np.broadcast_to(which, bias.shape)) <= 20 * lab.sharp:
                lab.add("mask-compose", {"argument": "bias", "of": words}, f"{_said(words)}.", case)
                return
        detail = f"The bias does not move the scores by itself: by {factor:.4g} of it on the whole, unevenly."
        lab.add("unclassified", {"argument": "bias", "mean_factor": round(factor, 6)}, detail, case)
        return
    if abs(factor) <= lab.sharp:
        lab.set_aside("bias")
        lab.add("mask-dropped", {"argument": "bias"}, "bias= changes nothing.", case)
        return
    if abs(factor - 1) > 5 * lab.sharp:
        lab.behaviour = replace(lab.behaviour, bias_factor=factor)
        why = ": it is added before the scale" if abs(factor - a) <= 5 * lab.sharp else ""
        if why:
            lab.set_aside("bias")
        detail = f"The bias enters the scores times {factor:.6g}{why}, expected times 1."
        parameters = {"argument": "bias", "factor": round(factor, 6)}
        lab.add("scale", {**parameters, "place": "before the scale"} if why else parameters, detail, case)
        return
    if not _square(lab):
        return
    if lab.can("bias", "softcap"):
        _place(lab, lab.case(_SIZES, DRAWN, bias=BIAS, softcap="0.7"))


def _others(bias: Scores, sizes: Sizes) -> dict[str, Scores]:
    """Return biases that may be taken for the one that was given, ``[B, Hq, T, S]``."""
    heads = np.arange(sizes.Hq)
    group = sizes.Hq // sizes.Hkv
    return {
        "head 0": bias[:, :1],
        "sequence 0": bias[:1],
        "row 0": bias[:, :, :1],
        "key 0": bias[..., :1],
        "head h % Hkv": bias[:, heads % sizes.Hkv],
        "head h // (Hq // Hkv)": bias[:, heads // group],
        "heads in reverse": bias[:, ::-1],
        "keys in reverse": bias[..., ::-1],
        "the next key": np.roll(bias, -1, -1),
        "the key before": np.roll(bias, 1, -1),
        ("the transposed" if sizes.T == sizes.S else "[S, T] read as [T, S]"): np.ascontiguousarray(
            bias.swapaxes(2, 3)
        ).reshape(bias.shape),
        "heads and queries swapped by a view": np.ascontiguousarray(bias.swapaxes(1, 2)).reshape(bias.shape),
    }


def _said(words: str) -> str:
    return f"The bias of {words} is added to all" if words.endswith(" 0") else f"The bias is taken from: {words}"


def _square(lab: Lab) -> bool:
    """Say whether the bias is added as it is where there are as many queries as keys."""
    case = lab.case(_SQUARE, DRAWN, bias=BIAS)
    built = case.build()
    score, bias = _parts(lab, built)[0], np.asarray(built.options["bias"], np.float64)
    moved = centred_logs(lab.weights(case)) - (score - score.mean(-1, keepdims=True))
    if case.sizes.T != case.sizes.S or _apart(moved, bias) <= 20 * lab.sharp:
        return True
    lab.set_aside("bias")
    if _apart(moved, bias.swapaxes(2, 3)) <= 20 * lab.sharp:
        detail = "Where T = S the bias is added transposed: [t, s] takes what was given for [s, t]."
        lab.add("mask-compose", {"argument": "bias", "of": "the transposed", "when": "T = S"}, detail, case)
    else:
        detail = "Where T = S the bias does not move the scores by itself."
        lab.add("unclassified", {"argument": "bias", "when": "T = S"}, detail, case)
    return False


def _place(lab: Lab, case: Recipe) -> None:
    built = case.build()
    score, _, _ = _parts(lab, built)
    bias, cap = np.asarray(built.options["bias"], np.float64), float(built.options["softcap"])
    logs = centred_logs(lab.weights(case))
    if _apart(logs, cap * _tanh(score / cap) + bias) <= 10 * lab.sharp:
        return
    lab.set_aside("softcap")
    readings = {
        "after the bias": cap * _tanh((score + bias) / cap),
        "lost beside a bias": score + bias,
        "in place of the bias": cap * _tanh(score / cap),
    }
    place = next((place for place, wanted in readings.items() if _apart(logs, wanted) <= 10 * lab.sharp), "other")
    detail = f"softcap and bias together: the cap is {place}, expected c * tanh(s / c) + bias."
    lab.add("softcap", {"place": place, "with": ["bias"]}, detail, case)
