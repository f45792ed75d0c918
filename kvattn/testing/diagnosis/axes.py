"""Axes that are taken for others: a softmax over the queries or heads, heads and tokens swapped by a view.

Method: attention is computed on random data with each such mistake, and compared with what the target gives.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.diagnosis.recipe import DRAWN, RANDOM, Built, Sizes

Rows = NDArray[np.float64]

_SIZES = (Sizes(2, 6, 2, 4, 7, 10, 10), Sizes(3, 4, 2, 5, 9, 12, 12))

AXES: Mapping[str, int] = MappingProxyType({"queries": 2, "heads": 1, "sequences": 0})
"""Axes of the scores ``[B, H, T, S]`` that a softmax may run over in place of the keys."""

VIEWS: Mapping[str, Callable[[Rows], Rows]] = MappingProxyType(
    {
        "[B, H, T, D] read as [B, T, H, D]": lambda x: x.reshape(
            x.shape[0], x.shape[2], x.shape[1], x.shape[3]
        ).swapaxes(1, 2),
        "[B, T, H, D] read as [B, H, T, D]": lambda x: np.ascontiguousarray(x.swapaxes(1, 2)).reshape(x.shape),
    }
)
"""Reshapes in the place of a transpose."""

_OF = (("q", "k", "v"), ("k", "v"), ("q",), ("k",), ("v",), ("out",), ("q", "k", "v", "out"), ("q", "out"))

Model = tuple[str, dict[str, object], str, Callable[[Built], Rows]]


def read_axes(lab: Lab) -> bool:
    """Name a wrong axis, and say whether there is one; the rest is then not read.

    Examples
    --------
    >>> from kvattn.testing.planted.wrapped import Viewed
    >>> from kvattn.testing.targets import target_of
    >>> lab = Lab(target_of(Viewed("k", "v")))
    >>> read_axes(lab), lab.findings[0].fault_class, lab.findings[0].parameters["of"]
    (True, 'gqa-map', ['k', 'v'])
    """
    cases = [lab.case(sizes, DRAWN, RANDOM) for sizes in _SIZES]
    try:
        seen = [lab.see(case) for case in cases]
    except Refused:
        return False
    for fault_class, parameters, words, model in _models():
        if all(_near(lab, each.out, model(each.built)) for each in seen):
            case = next((c for c, each in zip(cases, seen, strict=True) if _shows(lab, each.out, each.built)), None)
            if case is None:
                return False  # it is right
            lab.add(fault_class, parameters, words, case)
            lab.stopped = True
            return True
    return False


def _models() -> Iterator[Model]:
    for name, axis in AXES.items():
        words = f"The softmax runs over the {name}, expected over the keys: the weights of a row do not sum to 1."
        yield "unclassified", {"softmax_over": name}, words, _over(axis)
    for (form, view), of, repeated in product(VIEWS.items(), _OF, (False, True)):
        arrays = " and ".join(", ".join(of).replace("out", "the output").rsplit(", ", 1))
        words = f"Heads and tokens of {arrays} are swapped by a view, not by a transpose: {form}."
        parameters: dict[str, object] = {"map": "heads and tokens swapped", "of": [*of], "view": form}
        yield "gqa-map", parameters, words, _viewed(view, of, repeated)


def _attended(q: Rows, k: Rows, v: Rows, axis: int = 3) -> Rows:
    group = q.shape[1] // k.shape[1]
    scores = np.einsum("bhtd,bhsd->bhts", q, np.repeat(k, group, 1)) / np.sqrt(q.shape[3])
    weights = np.exp(scores - scores.max(axis, keepdims=True))
    return np.asarray(weights / weights.sum(axis, keepdims=True) @ np.repeat(v, group, 1))


def _over(axis: int) -> Callable[[Built], Rows]:
    return lambda built: _attended(*_wide(built), axis=axis)


def _viewed(view: Callable[[Rows], Rows], of: tuple[str, ...], repeated: bool) -> Callable[[Built], Rows]:
    def model(built: Built) -> Rows:
        arrays = dict(zip("qkv", _wide(built), strict=True))
        if repeated:
            group = arrays["q"].shape[1] // arrays["k"].shape[1]
            arrays |= {name: np.repeat(arrays[name], group, 1) for name in "kv"}
        arrays |= {name: view(arrays[name]) for name in of if name != "out"}
        out = _attended(arrays["q"], arrays["k"], arrays["v"])
        return view(np.ascontiguousarray(out)) if "out" in of else out

    return model


def _wide(built: Built) -> tuple[Rows, Rows, Rows]:
    q, k, v = (np.asarray(x, np.float64) for x in built[:3])
    return q, k, v


def _near(lab: Lab, got: Rows, want: Rows) -> bool:
    return bool((np.abs(got - want) <= 10 * lab.sharp).all())


def _shows(lab: Lab, got: Rows, built: Built) -> bool:
    return not _near(lab, got, _attended(*_wide(built)))
