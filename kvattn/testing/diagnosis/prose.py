"""What an answer looks like where no name fits: support, row sums, slope over q·k, mixture with the exact answer.

Method: one-hot values show the weights, which are fitted by exp(a q·k); random values show by how much of the exact
output, of the mean of the values and of the query the output is made.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.diagnosis.recipe import MILD, ONE_HOT, RANDOM, Recipe, Sizes
from kvattn.testing.diagnosis.sight import runs

Rows = NDArray[np.float64]

_SIZES = Sizes(2, 4, 2, 5, 7, 8, 8)


def reads_like(lab: Lab, recipe: Recipe | None = None) -> str:
    """Say in a sentence what was read out, under the options of a case or under none.

    Examples
    --------
    >>> from kvattn.testing.targets import target_of
    >>> def half(q, k, v):
    ...     return 0.5 * np.repeat(v.mean(2, keepdims=True), q.shape[2], 2)
    >>> reads_like(Lab(target_of(half), grouped=False))
    'It reads like weights exp(0 q·k) over all keys, in rows that sum to 0.5; the output is 0.5 of the mean of v.'
    """
    options = () if recipe is None else recipe.options
    try:
        parts = [_weights(lab, options), _mixture(lab, options)]
    except (Refused, ValueError, IndexError):
        return ""
    said = "; ".join(part for part in parts if part)
    return f"It reads like {said}." if said else ""


def _weights(lab: Lab, options: tuple[tuple[str, str], ...]) -> str:
    case = replace(lab.case(_SIZES, MILD, ONE_HOT), options=options)
    weights = lab.weights(case)
    built = case.build()
    if not np.isfinite(weights).all():
        return "NaN or infinity"
    sums = weights.sum(-1)
    seen = np.abs(weights) > 1e-6 * np.abs(weights).max(-1, keepdims=True)
    wanted = lab.behaviour.visible(built)
    if np.array_equal(seen, wanted):
        sight = "all keys" if wanted.all() else "the right keys"
    else:
        b, h, t = (int(i) for i in np.argwhere((seen != wanted).any(-1))[0])
        sight = f"keys {runs(np.flatnonzero(seen[b, h, t]).tolist())} in row {t} of head {h}"
    total = f"{sums.flat[0]:.4g}" if np.ptp(sums) < 1e-6 else f"{sums.min():.4g} to {sums.max():.4g}"
    both = seen & wanted & (weights > 0)
    raw = lab.scores(built)
    slope, rest = _line(raw, weights, both)
    fit = f"exp({slope:.4g} q·k)" + (f" give or take {np.expm1(rest):.0%}" if rest > 1e-3 else "")
    return f"weights {fit} over {sight}, in rows that sum to {total}"


def _line(raw: Rows, weights: Rows, both: NDArray[np.bool_]) -> tuple[float, float]:
    """Fit log weight = slope q·k + a constant per row; return slope and the largest residual."""
    count = np.maximum(both.sum(-1, keepdims=True), 1)
    logs = np.where(both, np.log(np.where(both, weights, 1.0)), 0.0)
    x = np.where(both, raw - np.where(both, raw, 0).sum(-1, keepdims=True) / count, 0)
    y = np.where(both, logs - logs.sum(-1, keepdims=True) / count, 0)
    slope = float((x * y).sum() / max(float((x * x).sum()), 1e-30))
    slope = 0.0 if abs(slope) < 1e-9 else slope
    return slope, float(np.abs(y - slope * x).max())


def _mixture(lab: Lab, options: tuple[tuple[str, str], ...]) -> str:
    case = replace(lab.case(_SIZES, MILD, RANDOM), options=options)
    seen = lab.see(case)
    exact = np.asarray(lab.behaviour.expected(seen.built).out, np.float64)
    heads = lab.behaviour.heads("value", case.sizes.Hq, case.sizes.Hkv)
    mean = np.broadcast_to(seen.built.v.astype(np.float64)[:, heads].mean(2, keepdims=True), exact.shape)
    names, columns = ["the exact output", "the mean of v"], [exact, mean]
    if seen.built.q.shape == exact.shape:
        names.append("q")
        columns.append(seen.built.q.astype(np.float64))
    table = np.stack([x.ravel() for x in columns], -1)
    share, *_ = np.linalg.lstsq(table, seen.out.ravel(), rcond=None)
    rest = float(np.abs(table @ share - seen.out.ravel()).max())
    if not np.isfinite(rest) or rest > 0.02:
        return ""
    parts = [f"{a:.4g} of {name}" for a, name in zip(share, names, strict=True) if abs(a) > 1e-7]
    return f"the output is {' and '.join(parts)}" if parts else "the output is 0"
