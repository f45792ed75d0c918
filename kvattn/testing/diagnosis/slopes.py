"""ALiBi: the slope of each head, what it is multiplied with, and where the distance is counted from.

Method: with scores that are 0 the logarithms of the weights are the penalty, up to a constant per row; each form of
distance that code uses is fitted by one slope per head, and the slopes are compared with the tables in use.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.positions.alibi import mpt_slopes, power_slopes
from kvattn.positions.alibi import slopes as paper_slopes
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.places import key_places, query_places
from kvattn.testing.diagnosis.recipe import FLAT, Built, Recipe, Sizes
from kvattn.testing.diagnosis.weights import centred_logs

SLOPES = "np.array([0.3, 0.05, 0.7, 0.11, 0.45, 0.2, 0.62, 0.15])[:{Hq}]"
"""Slopes of eight heads, in no order."""

_SIZES = (Sizes(2, 8, 2, 4, 9, 12, 12), Sizes(2, 6, 3, 4, 9, 12, 12))

FORMS: Mapping[str, Callable[[Any, Any, int, int], Any]] = MappingProxyType(
    {
        "|q - k|": lambda i, j, t, s: abs(i - j),
        "q - k": lambda i, j, t, s: i - j,
        "|q - k|, queries from 0": lambda i, j, t, s: abs(i - (s - t) - j),
        "|q - k + 1|": lambda i, j, t, s: abs(i - j + 1),
        "|q - k - 1|": lambda i, j, t, s: abs(i - j - 1),
        "(q - k) ** 2": lambda i, j, t, s: (i - j) ** 2,
        "log(1 + |q - k|)": lambda i, j, t, s: np.log1p(abs(i - j)),
        "sqrt(|q - k|)": lambda i, j, t, s: np.sqrt(abs(i - j)),
        "max(q - k, 0)": lambda i, j, t, s: np.maximum(i - j, 0),
        "max(k - q, 0)": lambda i, j, t, s: np.maximum(j - i, 0),
    }
)
"""Distances from the places of queries and keys, T and S; the contract's first."""

TABLES: Mapping[str, Callable[[int], Any]] = MappingProxyType(
    {
        "2 ** (-8 (h + 1) / H) for every H": power_slopes,
        "2 ** (-8 h / H)": lambda n: [2 ** (-8 * h / n) for h in range(n)],
        "the paper's, in reverse": lambda n: paper_slopes(n)[::-1],
        "MPT's": mpt_slopes,
        "2 ** -(h + 1)": lambda n: [2.0 ** -(h + 1) for h in range(n)],
        "2 ** -h": lambda n: [2.0**-h for h in range(n)],
        "1 / (h + 1)": lambda n: [1 / (h + 1) for h in range(n)],
        "the paper's for 8 heads": lambda n: paper_slopes(8)[:n] if n <= 8 else paper_slopes(n),
        "the next power of two's, the first H": lambda n: paper_slopes(1 << (n - 1).bit_length())[:n],
        "one for all heads": lambda n: [paper_slopes(n)[0]] * n,
        "the paper's in descending order": lambda n: sorted(paper_slopes(n), reverse=True),
    }
)
"""Slopes of H heads, where they are not the paper's."""

_GIVEN: Mapping[str, Callable[[NDArray[np.float64], Sizes], Any]] = MappingProxyType(
    {
        "in reverse": lambda m, n: m[::-1],
        "of head 0 for all": lambda m, n: np.full_like(m, m[0]),
        "by key/value head": lambda m, n: m[np.arange(n.Hq) // (n.Hq // n.Hkv)],
        "of head h % Hkv": lambda m, n: m[np.arange(n.Hq) % n.Hkv],
    }
)


def read_alibi(lab: Lab) -> None:
    """Fit the slopes of ``alibi=True`` and the form of the distance.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(formulas={"slopes": "2 ** (-8 * h / H)"}))
    >>> read_alibi(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["slopes"]
    ('alibi-slopes', '2 ** (-8 h / H)')
    """
    cases = [lab.case(sizes, FLAT, alibi="True") for sizes in _SIZES]
    found = _fitted(lab, "alibi", cases)
    if found is None:
        return
    wanted = [np.array(paper_slopes(case.sizes.Hq)) for case in cases]
    if _near(lab, found, wanted):
        _row_constant(lab, "alibi", cases[0])
        return
    lab.set_aside("alibi")
    name = next((n for n, t in TABLES.items() if _near(lab, found, [np.array(t(c.sizes.Hq)) for c in cases])), "")
    n = next(n for n in range(len(cases)) if not _near(lab, found[n : n + 1], wanted[n : n + 1]))
    _tell(lab, "alibi", name, found[n:], wanted[n:], cases[n])  # heads at which the tables differ


def read_alibi_slopes(lab: Lab) -> None:
    """Fit what ``alibi_slopes=`` are multiplied with, and by whom they are used.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(formulas={"penalty": "m * abs(at - j)"}))
    >>> read_alibi_slopes(lab)
    >>> lab.findings[0].parameters["factor"]
    -1.0
    """
    cases = [lab.case(sizes, FLAT, alibi_slopes=SLOPES) for sizes in _SIZES]
    found = _fitted(lab, "alibi_slopes", cases)
    if found is None:
        return
    wanted = [np.asarray(case.build().options["alibi_slopes"], np.float64) for case in cases]
    if _near(lab, found, wanted):
        _row_constant(lab, "alibi_slopes", cases[0])
        return
    lab.set_aside("alibi_slopes")
    name = ""
    for words, rule in _GIVEN.items():
        if _near(lab, found, [rule(m, case.sizes) for m, case in zip(wanted, cases, strict=True)]):
            name = words
    _tell(lab, "alibi_slopes", name, found, wanted, cases[0])


def _fitted(lab: Lab, argument: str, cases: list[Recipe]) -> list[NDArray[np.float64]] | None:
    """Fit one slope per head in the contract's distance; report another distance and return None."""
    logs = [centred_logs(lab.weights(case)) for case in cases]
    if max(float(np.abs(x).max()) for x in logs) <= lab.sharp:
        lab.set_aside(argument)
        lab.add("mask-dropped", {"argument": argument}, f"{argument}= changes nothing.", cases[0])
        return None
    for name, form in FORMS.items():
        fits = [_slopes(log, case.build(), form) for log, case in zip(logs, cases, strict=True)]
        if all(np.isfinite(rest) and rest <= 5 * lab.sharp for _, rest in fits):
            if name == next(iter(FORMS)):
                return [slope for slope, _ in fits]
            lab.set_aside(argument)
            rounded = np.round(fits[0][0], 5).tolist()
            detail = f"The penalty is slope * ({name}), expected slope * |q - k|; the slopes read are {rounded}."
            lab.add("alibi-slopes", {"argument": argument, "distance": name}, detail, cases[0])
            return None
    lab.set_aside(argument)
    row = np.round(logs[0][0, 0, 0], 4).tolist()
    detail = f"With {argument}= the log weights of row 0 of head 0 are {row}, which is no slope times a distance."
    lab.add("alibi-slopes", {"argument": argument, "distance": "other", "read": row}, detail, cases[0])
    return None


def _slopes(logs: NDArray[np.float64], built: Built, form: Callable[..., Any]) -> tuple[NDArray[np.float64], float]:
    length, count = built.q.shape[2], built.k.shape[2]
    far = np.asarray(form(query_places(built), key_places(built), length, count), np.float64)
    far = np.broadcast_to(far - far.mean(-1, keepdims=True), logs.shape)
    slope = -(far * logs).sum((0, 2, 3)) / (far**2).sum((0, 2, 3))
    return slope, float(np.abs(logs + slope[:, None, None] * far).max())


def _near(lab: Lab, found: list[NDArray[np.float64]], wanted: list[Any]) -> bool:
    return all(bool(np.abs(f - w).max() <= lab.sharp) for f, w in zip(found, wanted, strict=True))


def _tell(
    lab: Lab,
    argument: str,
    name: str,
    found: list[NDArray[np.float64]],
    wanted: list[NDArray[np.float64]],
    case: Recipe,
) -> None:
    ratio = found[0] / wanted[0]
    read = np.round(found[0], 6).tolist()
    parameters: dict[str, Any] = {"argument": argument, "slopes": name or "other", "read": read}
    text = f"are {name}" if name else f"of {case.sizes.Hq} heads are {np.round(found[0], 4).tolist()}"
    if not name and np.ptp(ratio) <= 10 * lab.sharp * abs(ratio[0]):
        parameters |= {"slopes": "scaled", "factor": round(float(ratio[0]), 5)}
        text = f"are the expected ones times {ratio[0]:.5g}"
    expected = np.round(wanted[0], 4).tolist()
    lab.add("alibi-slopes", parameters, f"The slopes {text}, expected {expected}.", case)


def _row_constant(lab: Lab, argument: str, case: Recipe) -> None:
    """Softmax does not see what a whole row shares; the log-sum-exp does."""
    seen = lab.see(case)
    if seen.lse is None or "lse" in lab.behaviour.without:
        return
    off = seen.lse - np.asarray(lab.behaviour.expected(seen.built).lse, np.float64)
    if np.abs(off).max() <= 10 * lab.sharp * max(1.0, lab.behaviour.lse_factor):
        return
    lab.set_aside(argument)
    row = np.round(off[0, 0], 4).tolist()
    parameters = {"argument": argument, "row_constant": row}
    detail = f"The weights are right; the lse of head 0 is off by {row}: the penalty has another constant in each row."
    lab.add("alibi-slopes", parameters, detail, case, channel="lse", kind=None if lab.can("sinks") else "convention")
