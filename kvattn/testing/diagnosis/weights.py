"""What a score is before anything bends it: linear in q·k, and by which factor.

Method: with one-hot values an output row is a row of probabilities; differences of their logarithms
are differences of scores, and their slope over q·k is the scale that was used.
"""

from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.axes import read_axes
from kvattn.testing.diagnosis.behaviour import GIVEN, SCALES
from kvattn.testing.diagnosis.channels import read_channels
from kvattn.testing.diagnosis.heads import name_map
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.prose import reads_like
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.diagnosis.recipe import FLAT, LOUD, MILD, Recipe, Sizes

_SIZES = (Sizes(3, 8, 2, 5, 7, 26, 19), Sizes(2, 6, 3, 4, 6, 20, 23))


def centred_logs(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log weights less their row mean: scores, up to what softmax cannot see.

    >>> centred_logs(np.array([0.5, 0.5]))
    array([0., 0.])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(weights)
        return np.asarray(logs - logs.mean(-1, keepdims=True))


def read_weights(lab: Lab) -> None:
    """Read support, key heads and default scale of the plain call.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(scale="1 / D"))
    >>> read_weights(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["rule"]
    ('scale', '1 / D')
    """
    _read_widths(lab)
    slopes, maps = [], []
    first, second = _SIZES
    for wanted in (first, replace(second, D=lab.shapes.other_width(lab.case(first, MILD).sizes.D, second.D))):
        recipe = lab.case(wanted, MILD)
        sizes = recipe.sizes
        if not _all_seen(lab, lab.case(sizes, FLAT)):
            lab.stopped = True
            return
        weights = lab.weights(recipe)
        built = recipe.build()
        raw = np.einsum("bhtd,bgsd->bhgts", built.q.astype(np.float64), built.k.astype(np.float64))
        raw -= raw.mean(-1, keepdims=True)  # [B, Hq, Hkv, T, S]
        logs = centred_logs(weights)
        slope = np.einsum("bhgts,bhts->hg", raw, logs) / (raw**2).sum((0, 3, 4))  # [Hq, Hkv]
        rest = np.abs(logs[:, :, None] - slope[None, :, :, None, None] * raw).max((0, 3, 4))
        best = rest.argmin(-1)
        used = slope[np.arange(sizes.Hq), best]
        if rest.min(-1).max() > 3 * lab.sharp * max(1.0, float(np.abs(logs).max())):
            if read_axes(lab) or read_channels(lab):
                return
            lab.add(
                "unclassified",
                {"largest_residual": round(float(rest.min(-1).max()), 4), "slope": round(float(used.mean()), 6)},
                "The logarithms of the weights are no linear function of q·k of any one key head: the best line has"
                f" slope {used.mean():.4g} and leaves {rest.min(-1).max():.3g}. {reads_like(lab)}".strip(),
                recipe,
            )
            lab.stopped = True
            return
        maps.append([int(g) for g in best])
        slopes.append((sizes, used))
    if all(np.abs(used).min() > lab.sharp for _, used in slopes):
        lab.behaviour = replace(lab.behaviour, key_map=name_map(lab, maps, "k"))
    _name_scale(lab, slopes)


def _read_widths(lab: Lab) -> None:
    """Find out whether values may have another width than keys."""
    case = lab.case(_SIZES[0], MILD)
    try:
        lab.see(case)
    except Refused as refused:
        lab.see(replace(case, sizes=replace(case.sizes, Dv=case.sizes.D)))
        lab.shapes = replace(lab.shapes, equal_head_dims=True)
        lab.notes.append(f"Values that are not as wide as the keys are refused: {refused}")


def _all_seen(lab: Lab, recipe: Recipe) -> bool:
    weights = lab.weights(recipe)
    if not np.isfinite(weights).all():
        mild = replace(recipe, scores=MILD)
        if np.isfinite(lab.weights(mild)).all():
            lab.notes.append("With q and k of zeros the output is NaN or infinite.")
            return True
        lab.add("unclassified", {"out": "nan"}, "The plain call gives NaN or infinity.", mild)
        return False
    hidden = weights <= 1e-6 * weights.max(-1, keepdims=True)
    if not hidden.any():
        return True
    b, h, t, _ = (int(i) for i in np.argwhere(hidden)[0])
    seen = np.flatnonzero(~hidden[b, h, t]).tolist()
    later = np.triu(np.ones(hidden.shape[2:], np.bool_), 1)
    triangle = all(np.array_equal(hidden[0, 0], np.triu(later, d)) for d in [recipe.sizes.S - recipe.sizes.T + 1])
    cause = {"argument": "causal", "value": False} if triangle or np.array_equal(hidden[0, 0], later) else {}
    lab.add(
        "mask-dropped",
        {**cause, "row": [b, h, t], "sees": seen},
        f"Without any mask, row {t} of head {h} sees only keys {seen} of {recipe.sizes.S}.",
        recipe,
    )
    return False


def _name_scale(lab: Lab, slopes: list[tuple[Sizes, NDArray[np.float64]]]) -> None:
    """Fit the default scale at two sets of sizes."""
    values = [float(used.mean()) for _, used in slopes]
    uneven = [float(np.ptp(used)) for _, used in slopes]
    first = next(iter(SCALES))
    sized = [asdict(sizes) for sizes, _ in slopes]
    name = next(
        (
            n
            for n, rule in SCALES.items()
            if all(abs(a - rule(s)) <= lab.sharp for a, s in zip(values, sized, strict=True))
        ),
        "",
    )
    if name == first and max(uneven) <= 2 * lab.sharp:
        return
    sizes, per_head = slopes[0]
    ratios = [a / SCALES[first](asdict(s)) for a, (s, _) in zip(values, slopes, strict=True)]
    parameters = {"rule": name or "other", "used": round(values[0], 6), "expected": round(sizes.D**-0.5, 6)}
    if max(uneven) > 2 * lab.sharp:
        text = f"differs between heads: {np.round(per_head, 4).tolist()}"
        parameters["per_head"] = np.round(per_head, 6).tolist()
        lab.stopped = True
    elif name:
        text = f"is {name}"
        lab.behaviour = replace(lab.behaviour, scale=name)
    elif abs(ratios[0] - ratios[1]) <= 10 * lab.sharp:
        text = f"is {ratios[0]:.6g} / sqrt(D)"
        parameters["factor"] = round(ratios[0], 6)
        lab.behaviour = replace(lab.behaviour, factor=ratios[0])
    else:
        text = f"is {values[0]:.6g} at D = {sizes.D} and {values[1]:.6g} at D = {slopes[1][0].D}"
        lab.stopped = True
    lab.add("scale", parameters, f"The default scale {text}, expected 1 / sqrt(D).", lab.case(sizes, LOUD))


def read_given_scale(lab: Lab) -> None:
    """Read what ``scale=`` does.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(ignore=("scale",)))
    >>> read_given_scale(lab)
    >>> lab.findings[0].parameters["used"]
    'ignored'
    """
    own = lab.behaviour.used_scale(lab.case(_SIZES[0], MILD).sizes, None)
    read = []
    for given in (0.31, 0.13):
        recipe = lab.case(_SIZES[0], MILD, scale=repr(given))
        raw = lab.scores(recipe.build())
        raw -= raw.mean(-1, keepdims=True)
        read.append((given, float((raw * centred_logs(lab.weights(recipe))).sum() / (raw**2).sum())))
    name = next((n for n, rule in GIVEN.items() if all(abs(rule(g, own) - used) <= lab.sharp for g, used in read)), "")
    if name != "scale":
        given, used = read[0]
        parameters = {"argument": "scale", "used": name or "other", "given": given, "read": round(used, 6)}
        text = "is ignored" if name == "ignored" else f"gives {name or 'another scale'}"
        lab.add(
            "scale",
            parameters,
            f"scale={given} {text}: the scores are q·k times {used:.6g}.",
            lab.case(_SIZES[0], LOUD, scale=repr(given)),
        )
        lab.behaviour = replace(lab.behaviour, given=name or "scale")
        if not name:
            lab.set_aside("scale")
        return
    nought = lab.case(_SIZES[0], MILD, scale="0.0")
    try:
        weights = lab.weights(nought)
    except Refused as refused:
        lab.notes.append(f"scale=0.0 is refused: {refused}")
        return
    if not np.allclose(weights, 1 / nought.sizes.S, atol=lab.sharp):
        lab.add(
            "scale",
            {"argument": "scale", "given": 0.0, "used": "ignored"},
            "scale=0.0 is taken for no scale; it should make all weights equal.",
            nought,
        )
