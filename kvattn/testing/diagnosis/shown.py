"""Returned probabilities: asking for them must change nothing else, and they must be the probabilities.

Method: the same case with and without ``return_weights``, for each option in turn.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.behaviour import sizes_of
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.recipe import DRAWN, Recipe, Sizes
from kvattn.testing.diagnosis.sight import MASK
from kvattn.testing.diagnosis.totals import SINKS

_SIZES = Sizes(2, 4, 2, 4, 7, 12, 12)
_TEXTS: Mapping[str, str] = MappingProxyType(
    {"causal": "True", "window": "2", "mask": MASK, "softcap": "0.5", "sinks": SINKS, "scale": "0.2"}
)

Rows = NDArray[np.float64]


def read_shown(lab: Lab) -> None:
    """Compare the output beside ``return_weights``, and the weights that are returned.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(lost={"causal": "return_weights"}))
    >>> read_shown(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters
    ('mask-dropped', {'argument': 'causal', 'with': ['return_weights']})
    """
    for names in ((), ("causal",), ("causal", "window"), ("mask",), ("softcap",), ("sinks",), ("scale",)):
        if lab.can(*names, "return_weights"):
            options = {name: _TEXTS[name] for name in names}
            if not _same(lab, lab.case(_SIZES, DRAWN, **options, return_weights="True"), names):
                return


def _same(lab: Lab, case: Recipe, names: tuple[str, ...]) -> bool:
    seen = lab.see(case)
    want = np.asarray(lab.behaviour.expected(seen.built).out, np.float64)
    if np.abs(seen.out - want).max() > 5 * lab.sharp or np.isnan(seen.out).any():
        lab.set_aside("return_weights")
        lost = names[-1:] or ("causal",)
        kept = {n: x for n, x in seen.built.options.items() if n not in lost}
        without = lab.behaviour.expected(seen.built._replace(options=kept)).out
        if names and np.abs(seen.out - without).max() <= 5 * lab.sharp:
            kind = {"softcap": "softcap", "sinks": "sink", "scale": "scale"}.get(lost[0], "mask-dropped")
            detail = f"{lost[0]} is lost where the weights are asked for."
            lab.add(kind, {"argument": lost[0], "with": ["return_weights"]}, detail, case)
            return False
        detail = "Asking for the weights changes the output."
        lab.add("unclassified", {"with": ["return_weights", *names]}, detail, case)
        return False
    if seen.weights is None:
        lab.notes.append("return_weights= returns no weights")
        return True
    got = seen.weights.astype(np.float64)
    right = want[..., : case.sizes.S]
    if got.shape != right.shape:
        lab.notes.append(f"return_weights= returns {list(got.shape)}, where the probabilities are {list(right.shape)}")
        return True
    if np.abs(got - right).max() <= 5 * lab.sharp:
        return True
    lab.set_aside("return_weights")
    name = next((n for n, x in _others(lab, seen.built, right).items() if _near(lab, got, x)), "other")
    detail = f"The weights that are returned are {name}, expected the probabilities."
    line = f"{case.code()}; print(np.asarray({case.call()}[-1])[0, 0].round(4).tolist(), 'expected', "
    line += f"{right[0, 0].round(4).tolist()})"
    lab.add("unclassified", {"argument": "return_weights", "returns": name}, detail, reproduce=lab.script(line))
    return False


def _others(lab: Lab, built: Any, right: Rows) -> dict[str, Rows]:
    raw = lab.scores(built)
    scores = raw * lab.behaviour.used_scale(sizes_of(built), built.options.get("scale"))
    options = {n: x for n, x in built.options.items() if n == "scale"}
    unmasked = np.asarray(lab.behaviour.expected(built._replace(options=options)).out, np.float64)
    with np.errstate(divide="ignore"):
        logs = np.log(right)
    return {
        "the scores": scores,
        "the products q·k": raw,
        "their logarithms": logs,
        "those of a call without masks": unmasked[..., : right.shape[-1]],
        "those of head 0": np.broadcast_to(right[:, :1], right.shape),
        "the mean over the heads": np.broadcast_to(right.mean(1, keepdims=True), right.shape),
        "of the keys to the queries": np.swapaxes(right, 2, 3) if right.shape[2] == right.shape[3] else right * np.nan,
    }


def _near(lab: Lab, got: Rows, want: Rows) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(((np.abs(got - want) <= 5 * lab.sharp) | (got == want)).all())
