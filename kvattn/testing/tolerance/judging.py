"""The verdict on one result: pass, suspect or fail, element by element, and what it could not have seen.

An element passes within the statistical bound, fails beyond the worst case, and is suspect between them.  All errors
together are suspect where they lean one way (`kvattn.testing.tolerance.mean_error`).  What is expected is
computed here, in float64, whose own error is added to the bounds where the tested code computes in float64 too.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvattn.errors import ShapeError
from kvattn.testing.arithmetic import FLOAT64, Arithmetic
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance.bounding import HEADS, Examined, examined
from kvattn.testing.tolerance.calls import Call
from kvattn.testing.tolerance.limits import Limits
from kvattn.testing.tolerance.mean_error import MeanError, mean_error
from kvattn.testing.tolerance.power import Power, power, weakest
from kvattn.typing import Array, Visible

ROWS = 64
"""Rows of which the power is computed."""


class Element(NamedTuple):
    """One number of a result.

    Attributes
    ----------
    channel
        ``"out"`` or ``"lse"``.
    place
        Where it stands.
    got, expected, statistical, worst
        The numbers, and the bounds.
    ulps
        The error in units in the last place of the format that it is stored in.

    Examples
    --------
    >>> print(Element("out", (0, 0, 2, 1), 1.5, 1.0, 0.25, 1.0, 0.5))
    out[0, 0, 2, 1] is 1.5, expected 1: off by 0.5 (0.5 ulps), 2 of the statistical bound, 0.5 of the worst case
    """

    channel: str
    place: tuple[int, ...]
    got: float
    expected: float
    statistical: float
    worst: float
    ulps: float

    def __str__(self) -> str:
        with np.errstate(all="ignore"):
            off = float(np.abs(np.subtract(self.got, self.expected)))
            parts = [float(np.divide(off, bound)) if off else 0.0 for bound in (self.statistical, self.worst)]
        return (
            f"{self.channel}{list(self.place)} is {self.got:.6g}, expected {self.expected:.6g}: off by {off:.2g}"
            f" ({self.ulps:.2g} ulps), {parts[0]:.2g} of the statistical bound, {parts[1]:.2g} of the worst case"
        )


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a result is worth.

    Attributes
    ----------
    word
        ``"fail"`` where an element is beyond the worst case, ``"suspect"`` where one is beyond the statistical bound or
        the errors lean one way, else ``"pass"``.
    grades, lse_grades
        0, 1, 2 for pass, suspect, fail: ``[B, Hq, T, Dv]`` and ``[B, Hq, T]``, None where there was no lse.
    farthest
        The worst element; None where there is none.
    mean
        Whether the errors of the output lean one way.
    sees, proves
        What the statistical bound would show as suspect, and the worst case as failed.
    vacuous
        Share of the output's elements whose worst case is wider than all values that they see.
    arithmetic
        Of the tested code, as stated.

    Examples
    --------
    >>> from kvattn.testing.arithmetic import FLOAT32_BLAS
    >>> x = np.eye(4)[None, None]
    >>> verdict = judge(np.full_like(x, 0.25), 0 * x, x, x, arithmetic=FLOAT32_BLAS)
    >>> verdict.word, verdict.passed, verdict.suspect, verdict.failed
    ('pass', 16, 0, 0)
    """

    word: Literal["pass", "suspect", "fail"]
    grades: NDArray[np.int8] = field(repr=False)
    lse_grades: NDArray[np.int8] | None = field(repr=False)
    farthest: Element | None
    mean: MeanError
    sees: Power
    proves: Power
    vacuous: float
    arithmetic: Arithmetic

    @property
    def passed(self) -> int:
        """Elements within the statistical bound, log-sum-exps among them.

        >>> x = np.eye(2)[None, None]
        >>> judge(np.full_like(x, 0.5), 0 * x, x, x, arithmetic=FLOAT64).passed
        4
        """
        return self._count(0)

    @property
    def suspect(self) -> int:
        """Elements between the two bounds.

        >>> x = np.eye(2)[None, None]
        >>> judge(np.full_like(x, 0.5), 0 * x, x, x, arithmetic=FLOAT64).suspect
        0
        """
        return self._count(1)

    @property
    def failed(self) -> int:
        """Elements beyond the worst case.

        >>> x = np.eye(2)[None, None]
        >>> judge(np.zeros_like(x), 0 * x, x, x, arithmetic=FLOAT64).failed
        4
        """
        return self._count(2)

    def _count(self, grade: int) -> int:
        lse = 0 if self.lse_grades is None else int((self.lse_grades == grade).sum())
        return int((self.grades == grade).sum()) + lse

    def __str__(self) -> str:
        a = self.arithmetic
        counts = f"{self.passed} pass, {self.suspect} suspect, {self.failed} fail"
        formats = f"compute {a.compute}, weights {a.probabilities}, sums {a.accumulate}, stored {a.store}"
        lines = [f"{self.word}: {counts} ({formats})"]
        if self.farthest is not None:
            lines.append(f"  farthest: {self.farthest}")
        lines += [f"  {self.mean}", f"  would be suspect: {self.sees}", f"  would fail: {self.proves}"]
        if self.vacuous:
            lines.append(f"  the worst case of {self.vacuous:.0%} of the elements is wider than the values they see")
        return "\n".join(lines)


def judge(
    found: Any,
    q: Any,
    k: Any,
    v: Any,
    *,
    arithmetic: Arithmetic,
    lse: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    bias: Any = None,
    visible: Visible | None = None,
    sinks: Any = None,
) -> Verdict:
    """Judge the result of one attention call.

    Parameters
    ----------
    found
        The output, ``[B, Hq, T, Dv]``.
    q, k, v
        What the tested code was given: ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``.
    arithmetic
        In which the tested code computes.
    lse
        Its log-sum-exp, ``[B, Hq, T]``, natural; None where it has none.
    scale, softcap, sinks
        As in `kvattn.attend`.
    bias, visible
        Broadcast to ``[B, Hq, T, S]``.

    Returns
    -------
    Verdict
        Prints as a few lines.

    Raises
    ------
    ShapeError
        Where sizes do not fit.

    Examples
    --------
    >>> import kvattn
    >>> from kvattn.testing.arithmetic import FLOAT32_BLAS
    >>> r = np.random.default_rng(0)
    >>> q, k, v = (r.standard_normal((1, 2, 20, 8)).astype(np.float32) for _ in "qkv")
    >>> out = kvattn.attention(q, k, v, dtype=np.float32)
    >>> judge(out, q, k, v, arithmetic=FLOAT32_BLAS).word
    'pass'
    >>> judge(out, q, k, v, arithmetic=FLOAT32_BLAS, scale=1 / 3).word
    'fail'
    """
    call = Call(q, k, v, scale, softcap, bias, visible, sinks)
    shape = (*call.pairs[:3], call.v.shape[3])
    got, got_lse = _read("found", found, shape), None if lse is None else _read("lse", lse, shape[:3])
    out, logs = _gathered(call, arithmetic, shape)
    if "float64" in (arithmetic.compute, arithmetic.accumulate):  # what is expected errs as much
        own = _gathered(call, replace(FLOAT64, tiles=0), shape)
        out, logs = (
            x._replace(statistical=x.statistical + y.statistical, worst=x.worst + y.worst)
            for x, y in zip((out, logs), own, strict=True)
        )
    grades, lse_grades = _graded(got, out), None if got_lse is None else _graded(got_lse, logs)
    elements = [_farthest("out", got, out, grades, arithmetic.store)]
    if got_lse is not None and lse_grades is not None:
        elements.append(_farthest("lse", got_lse, logs, lse_grades, arithmetic.compute))
    ranked = [element for element in elements if element is not None]
    with np.errstate(invalid="ignore"):
        mean = mean_error(got - out.exact, out.exact, out.variance, out.drift)
    highest = max((int(x.max(initial=0)) for x in (grades, lse_grades) if x is not None), default=0)
    word: Literal["pass", "suspect", "fail"] = ("pass", "suspect", "fail")[max(highest, int(mean.leans))]
    sees, proves = _powers(call, arithmetic)
    return Verdict(
        word,
        grades,
        lse_grades,
        max(ranked, key=lambda pair: pair[0])[1] if ranked else None,
        mean,
        sees,
        proves,
        _vacuous(call, out),
        arithmetic,
    )


def _read(name: str, x: Any, shape: tuple[int, ...]) -> Array:
    given = np.asarray(x).astype(np.float64)
    if given.shape != shape:
        raise ShapeError(f"{name} must have shape {shape}, got {given.shape}")
    return given


def _gathered(call: Call, arithmetic: Arithmetic, shape: tuple[int, ...]) -> tuple[Limits, Limits]:
    out = Limits(*(np.zeros(shape) for _ in Limits._fields))
    logs = Limits(*(np.zeros(shape[:3]) for _ in Limits._fields))
    for some in examined(call, arithmetic, heads=HEADS):
        for whole, part in ((out, some.out), (logs, some.lse)):
            for into, values in zip(whole, part, strict=True):
                into[some.rows.place] = values
    return out, logs


def _graded(got: Array, limits: Limits) -> NDArray[np.int8]:
    with np.errstate(invalid="ignore"):
        error = np.where(got == limits.exact, 0.0, np.abs(got - limits.exact))
        error = np.where(np.isnan(error), np.inf, error)
        grades = np.where(error <= limits.statistical, 0, np.where(error <= limits.worst, 1, 2))
    lost = np.isnan(limits.exact) | np.isnan(limits.worst)  # NaN and infinity among what is seen
    return np.where(lost, np.where(np.isfinite(got), 2, 0), grades).astype(np.int8)


def _farthest(
    channel: str, got: Array, limits: Limits, grades: NDArray[np.int8], store: str
) -> tuple[tuple[int, float], Element] | None:
    if not got.size:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.where(got == limits.exact, 0.0, np.abs(got - limits.exact))
        ratio = np.where(error == 0, 0.0, error / limits.statistical)
    ratio = np.where(np.isnan(ratio), np.where(grades == 2, np.inf, 0.0), ratio)
    order = grades * 1e300 + np.minimum(ratio, 1e299)
    at = tuple(int(i) for i in np.unravel_index(int(order.argmax()), order.shape))
    kind = format_of(store)
    size = abs(float(limits.exact[at]))
    step = max(2 * kind.roundoff * 2.0 ** np.floor(np.log2(size)), kind.tiny) if 0 < size < np.inf else kind.tiny
    here = [float(x[at]) for x in (got, limits.exact, limits.statistical, limits.worst)]
    element = Element(channel, at, here[0], here[1], here[2], here[3], float(error[at]) / step)
    return (int(grades[at]), float(ratio[at])), element


def _powers(call: Call, arithmetic: Arithmetic) -> tuple[Power, Power]:
    heads = max(call.q.shape[0] * call.q.shape[1], 1)
    rows: list[Examined] = list(examined(call, arithmetic, take=max(1, ROWS // heads)))[:ROWS]
    sees = weakest([power(some, some.out.statistical, some.lse.statistical) for some in rows])
    return sees, weakest([power(some, some.out.worst, some.lse.worst) for some in rows])


def _vacuous(call: Call, out: Limits) -> float:
    """Share of elements whose worst case is wider than all values of their channel."""
    if not out.worst.size or not call.pairs[3]:
        return 0.0
    group = np.arange(call.q.shape[1]) * call.k.shape[1] // call.q.shape[1]
    wide = (call.v.max(axis=2, keepdims=True) - call.v.min(axis=2, keepdims=True))[:, group]
    return float((out.worst > np.maximum(wide, np.abs(out.exact))).mean())
