"""The running sums of a row, addition by addition, as independent errors and as errors that are not.

With ``x_t = p_t v_t`` and ``S_t`` their sum up to t, an addition errs by at most ``u |S_t|``, and rounding to nearest
by at most ``|x_t|``.  A term of a few steps of S is not rounded by chance: S is a multiple of its step, so that x is
rounded to one, whatever S is; below half a step it is lost.  What is cut off rather than rounded errs by half a
step on the mean, always towards zero.  Equal terms, added to a sum in one binade, err alike.

Cost: ``[rows, channels, keys]`` once, `CHUNK` numbers at a time.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance.chains import LOOSE, binade, path, unit, weight_unit
from kvattn.testing.tolerance.weights import Weights
from kvattn.typing import Array

CHUNK = 1 << 17
"""Numbers in a block of rows, keys and channels."""


class Alike(NamedTuple):
    """Which keys of a head are copies of each other.

    Attributes
    ----------
    keys
        ``[S']``: a number for each set of equal keys, -1 for a key that is like no other.
    pairs
        ``[S']``: whether another key is equal, and its value too.
    """

    keys: Array
    pairs: NDArray[np.bool_]

    def sets(self) -> list[NDArray[np.intp]]:
        """Return the sets of equal keys, by their indices.

        >>> Alike(np.array([0, -1, 0]), np.array([False, False, False])).sets()
        [array([0, 2])]
        """
        return [np.flatnonzero(self.keys == number) for number in np.unique(self.keys[self.keys >= 0])]

    def squared(self, x: Array) -> Array:
        """Return the sum of squares of each row, those of equal keys added before they are squared.

        >>> Alike(np.array([0, -1, 0]), np.array([False, False, False])).squared(np.ones((1, 3)))
        array([5.])
        """
        found: Array = (np.where(self.keys >= 0, 0.0, x) ** 2).sum(1)
        for same in self.sets():
            found = found + x[:, same].sum(1) ** 2
        return found

    def mixed(self, x: Array, v: Array) -> Array:
        """Return the same of each channel: ``x_j v_j`` are squared, those of equal keys added before.

        >>> Alike(np.array([0, -1, 0]), np.array([False, False, False])).mixed(np.ones((1, 3)), np.ones((3, 1)))
        array([[5.]])
        """
        found: Array = np.where(self.keys >= 0, 0.0, x) ** 2 @ v**2
        for same in self.sets():
            found = found + (x[:, same] @ v[same]) ** 2
        return found


NO_COPIES = Alike(np.array(-1), np.array(False))
"""Of any keys that are all different."""


class Sums(NamedTuple):
    """What becomes of the sums of some rows, ``[R, Dv]`` each, in units of the total.

    Attributes
    ----------
    moved
        ``Σ_j more_j |v_j - o|``: what wrong weights do at most.
    variance
        Of what wrong weights and additions do.
    second
        How far wrong weights shift the mean: of ``exp(τ_j)``, of the total with them, and of τ.
    lost
        What additions lose, all in one direction.
    together
        What equal terms err, all in one direction.
    """

    moved: Array
    variance: Array
    second: Array
    lost: Array
    together: Array


def summed(weights: Weights, v: Array, out: Array, alike: Alike, arithmetic: Arithmetic) -> Sums:
    """Follow the sums of some rows.

    Parameters
    ----------
    weights, v, out
        Of R rows and S' keys; ``[S', Dv]``, ``[R, Dv]``; of N heads, everything has N in front.
    alike
        Copies among the keys.
    arithmetic
        Of the tested code.

    Returns
    -------
    Sums
        Of numerator and total together.

    Examples
    --------
    >>> from kvattn.testing.tolerance.scores import Scores
    >>> from kvattn.testing.tolerance.weights import weighed
    >>> s, a = np.zeros((1, 400)), Arithmetic("bfloat16")
    >>> none = Alike(np.full(400, -1), np.full(400, False))
    >>> w, v = weighed(Scores(s, s, s, s), a), np.ones((400, 1))
    >>> bool(summed(w, v, w.p @ v, none, a).lost > 0.3)
    True
    """
    p, u, u_p = weights.p, unit(arithmetic), weight_unit(arithmetic)
    rows, width = out.shape[-2:]
    copied, share = alike.keys >= 0, 1 - 0.5 / arithmetic.sum_ulp
    each = np.where(copied, 0.0, weights.variance) + weights.later
    alone = np.where(copied, 0.0, weights.rounded)
    few = np.minimum(each, 40.0)
    moments = np.exp(few) * np.expm1(few) * np.exp(2 * (p**2 * few).sum(-1, keepdims=True))
    ends = v.max(-2, keepdims=True, initial=0.0), v.min(-2, keepdims=True, initial=0.0)
    widest = np.maximum(ends[0] - out, out - ends[1])  # a mean stays among its values
    variance = np.minimum(np.maximum(_about(p**2 * moments, v, out), 0), widest**2)  # [S3]
    variance = variance + LOOSE * u_p**2 / 3 * (alone**2 @ v**2)  # [S4]
    second = _shifted(weights, v, out)
    moved, lost, cut, together, running = (np.zeros_like(out) for _ in range(5))
    root, in_order, pairs = np.sqrt(3 / LOOSE), arithmetic.order == "sequential", alike.pairs.any()
    columns, begun = np.ascontiguousarray(np.swapaxes(v, -1, -2))[..., None, :, :], np.zeros(out.shape, np.bool_)
    step = max(1, CHUNK // max(1, rows * width))
    for first in range(0, v.shape[-2], step):
        some = slice(first, first + step)
        away = np.abs(columns[..., some] - out[..., None])  # [R, Dv, keys]
        moved += (away @ weights.more[..., some, None])[..., 0]  # [T11]
        if not in_order:
            continue
        x = p[..., None, some] * columns[..., some]
        sums = np.cumsum(x, axis=-1)
        sums += running[..., None]
        running = sums[..., -1].copy()
        np.abs(sums, out=sums)
        sums *= u
        if not begun.all():  # what is added to 0 is added without error
            sums *= np.cumsum(x != 0, axis=-1) + begun[..., None] > 1
            begun |= (x != 0).any(axis=-1)
        size = np.abs(x, out=away)
        if pairs:
            together += np.minimum(sums, size)[:, :, alike.pairs[some]].sum(2)  # [S10]
        if share:
            sums *= x != 0
            cut += sums.sum(-1)
        else:
            lost += _caught(x, size, sums, weights.total[..., None])  # [S6]
            size *= root
            np.minimum(sums, size, out=sums)
        variance += LOOSE * (1 - share) ** 2 * np.einsum("...k,...k->...", sums, sums) / 3  # [S5]
    totals = Total(*(x.reshape(*out.shape[:-1], 1) for x in additions(weights.flat, alike, arithmetic)))
    if not in_order:
        variance += LOOSE * u**2 / 3 * (float(path(v.shape[-2], arithmetic)) * (p**2 @ v**2) + 2 * out**2)
    lost = np.abs(lost) + cut + totals.lost * np.abs(out)
    deviation = p * np.sqrt(weights.variance)
    for same in alike.sets():
        variance += (deviation[:, same] @ v[same] - deviation[:, same].sum(1, keepdims=True) * out) ** 2  # [S7]
        variance += LOOSE * u_p**2 / 3 * (weights.rounded[:, same] @ v[same]) ** 2  # [S4]
    variance = variance + totals.variance * out**2
    together = together + totals.together * np.abs(out)
    rest = 1 - np.minimum(totals.lost, 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # what is divided by less than the total grows
        second, lost, together = (np.where(rest > 0, x / rest, np.inf) for x in (second, lost, together))
        variance = np.where(rest > 0, variance / rest**2, np.inf)  # [S6]
    return Sums(moved, variance, second, lost, together)


class Total(NamedTuple):
    """What becomes of the softmax's total, ``[R]`` each, in units of itself.

    Attributes
    ----------
    variance, lost, together
        As in `Sums`.
    """

    variance: Array
    lost: Array
    together: Array


def additions(weights: Weights, alike: Alike, arithmetic: Arithmetic) -> Total:
    """Follow the running sum of the weights.

    Parameters
    ----------
    weights
        Of R rows.
    alike
        Copies among their keys.
    arithmetic
        Of the tested code.

    Returns
    -------
    Total
        Of each row.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> w = Weights(one, one, one, one, one, one, one, 0 * one, one, one, one)
    >>> float(additions(w, Alike(np.array([-1]), np.array([False])), Arithmetic("float32")).lost[0])
    0.0
    """
    u, p = unit(arithmetic), weights.p
    if arithmetic.order == "pairwise":
        none = np.zeros(len(p))
        return Total(LOOSE * u**2 / 3 * (float(path(p.shape[1], arithmetic)) * (p**2).sum(1) + 2), none, none)
    share, sums = 1 - 0.5 / arithmetic.sum_ulp, u * np.cumsum(p, axis=1)
    lost = np.abs([_caught(p, p, sums, weights.total * offset) for offset in (1.0, np.sqrt(2))]).max(0)  # [S6]
    sums = np.minimum(sums, p)
    if arithmetic.totals == "rounded":
        sums = sums * _below(p, sums / u, arithmetic) + 2 * u / max(p.shape[1], 1)  # [S12]
    sums = np.where(np.cumsum(p > 0, axis=1) > 1, sums, 0.0)  # what is added to 0 is added without error
    erring = np.where(weights.rounded > 0, sums, 0.0)  # a weight of 1 is added without error
    if share:
        lost = sums.sum(1)
    variance = LOOSE * (1 - share) ** 2 * (erring**2 / 3).sum(1)  # [S5]
    return Total(variance, lost, np.where(alike.keys >= 0, erring, 0.0).sum(1))  # [S10]


def _caught(x: Array, size: Array, sums: Array, total: Array) -> Array:
    """What terms of at most four steps of their sum are rounded by, altogether; ``sums`` is ``u |S|``."""
    if not (size < 8 * sums).any():
        return np.zeros(x.shape[:-1])
    _, exponent = np.frexp(sums * total)
    step = np.ldexp(1.0, exponent) / total
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = np.where((size < 4 * step) & (sums > 0), np.rint(x / step) * step - x, 0.0).sum(-1)
    return found


def _below(x: Array, sums: Array, arithmetic: Arithmetic) -> Array:
    """What share of a step of their sums the digits of weights below it are; those lost when it grows are two more."""
    digit = 2 * format_of(arithmetic.probabilities).roundoff * binade(x)
    step = 2 * format_of(arithmetic.accumulate).roundoff * 2 * binade(sums)
    found: Array = 1 - np.minimum(digit / np.where(step > 0, step, 1), 1)
    return found


def _shifted(weights: Weights, v: Array, out: Array) -> Array:
    """By how much ``Σ p exp(τ) v / Σ p exp(τ)`` differs from o on the mean: second order, and what shifts τ itself."""
    p, found = weights.p, np.zeros_like(out)
    both = np.expm1(np.minimum(weights.variance + weights.later, 100.0) / 2)
    for weight in (p * both, 2 * p**2 * both):  # exp(τ), which is convex; and with the total
        found += np.abs(weight @ v - weight.sum(-1, keepdims=True) * out)
    around = p * weights.drift
    if around.any():
        found += np.sqrt(np.maximum(_about(around, v, out), 0) * around.sum(-1, keepdims=True))
    return found


def _about(weight: Array, v: Array, out: Array) -> Array:
    """``Σ_j weight_j (v_j - o)²``, by products of matrices."""
    found: Array = weight @ v**2 - 2 * out * (weight @ v) + out**2 * weight.sum(-1, keepdims=True)
    return found
