"""Scales of quantised keys and values: what ``k_scale`` and ``v_scale`` are multiplied with.

Method: the slope of the log weights over q·k, and the size of an output whose values are unit vectors, head by head.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.behaviour import sizes_of
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.recipe import BY_HEAD, MILD, Recipe, Sizes
from kvattn.testing.diagnosis.weights import centred_logs

FACTORS = "np.array([0.5, 1.7, 1.2, 0.8])[:{Hkv}]"
"""Scales of four heads."""

_OTHERS = "np.array([1.1, 0.6, 0.9, 1.4])[:{Hkv}]"

_SIZES = Sizes(2, 8, 4, 4, 7, 26, 26)

USES: Mapping[str, Callable[[NDArray[np.float64], NDArray[np.int64], int], Any]] = MappingProxyType(
    {
        "of its key/value head": lambda f, g, n: f[g],
        "not at all": lambda f, g, n: np.ones(n),
        "of head 0 for all": lambda f, g, n: np.full(n, f[0]),
        "of the last head for all": lambda f, g, n: np.full(n, f[-1]),
        "the mean for all": lambda f, g, n: np.full(n, f.mean()),
        "the largest for all": lambda f, g, n: np.full(n, f.max()),
        "divided by": lambda f, g, n: 1 / f[g],
        "twice": lambda f, g, n: f[g] ** 2,
        "of head h % Hkv": lambda f, g, n: f[np.arange(n) % len(f)],
        "in reverse": lambda f, g, n: f[::-1][g],
        "its square root": lambda f, g, n: np.sqrt(f[g]),
    }
)
"""Factor of each query head, from the scales, the head map and Hq; the contract's first."""


def read_factors(lab: Lab) -> None:
    """Fit ``k_scale`` and ``v_scale``.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(formulas={"v_scale": "x"}))
    >>> read_factors(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters
    ('quantised-kv', {'argument': 'v_scale', 'used': 'not at all'})
    """
    for name in ("k_scale", "v_scale"):
        if lab.can(name):
            values = BY_HEAD if name == "v_scale" else None
            case = lab.case(_SIZES, MILD, **({} if values is None else {"values": values}), **{name: FACTORS})
            _read(lab, name, case)
    if lab.can("k_scale", "v_scale"):
        _read_both(lab)


def _read_both(lab: Lab) -> None:
    """Give both: values must have their own scales."""
    case = lab.case(_SIZES, MILD, BY_HEAD, k_scale=FACTORS, v_scale=_OTHERS)
    seen = lab.see(case)
    ours, others = (np.asarray(seen.built.options[name], np.float64) for name in ("v_scale", "k_scale"))
    heads = np.array(lab.behaviour.heads("value", case.sizes.Hq, case.sizes.Hkv))
    used = seen.out[..., : case.sizes.Hkv].sum(-1).mean((0, 2))
    rules = {"k_scale": others, "k_scale * v_scale": others * ours}
    for words, rule in rules.items():
        if np.abs(used - rule[heads]).max() <= 10 * lab.sharp:
            lab.set_aside("v_scale")
            detail = f"Where both are given, v is multiplied by {words}, expected v_scale."
            lab.add("quantised-kv", {"argument": "v_scale", "used": words, "with": ["k_scale"]}, detail, case)
            return


def _read(lab: Lab, name: str, case: Recipe) -> None:
    built = case.build()
    given = np.asarray(built.options[name], np.float64)
    heads = np.array(lab.behaviour.heads("key" if name == "k_scale" else "value", case.sizes.Hq, case.sizes.Hkv))
    if name == "v_scale":
        out = lab.see(case).out[..., : case.sizes.Hkv]
        used = out.sum(-1).mean((0, 2))
        rest = 0.0
    else:
        unit = lab.behaviour.used_scale(sizes_of(built), None)
        if abs(unit) < lab.sharp:
            return  # nothing of k is left in the scores
        raw = lab.scores(built) * unit
        raw -= raw.mean(-1, keepdims=True)
        logs = centred_logs(lab.weights(case))
        used = (raw * logs).sum((0, 2, 3)) / (raw**2).sum((0, 2, 3))
        rest = float(np.abs(logs - used[:, None, None] * raw).max())
    close = 10 * lab.sharp
    use = next((n for n, rule in USES.items() if np.abs(rule(given, heads, case.sizes.Hq) - used).max() <= close), "")
    if use == next(iter(USES)) and rest <= close:
        return
    lab.set_aside(name)
    read = np.round(used, 4).tolist()
    detail = f"{name}= is used {use}" if use else f"{name}= multiplies the heads by {read}"
    expected = np.round(given[heads], 4).tolist()
    parameters = {"argument": name, "used": use or "other"} | ({} if use else {"read": read})
    lab.add("quantised-kv", parameters, f"{detail}, expected {expected} for the query heads.", case)
