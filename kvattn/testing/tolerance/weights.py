"""From errors of scores to errors of weights, and what the weights themselves suffer.

With ``m`` the largest score, ``a_j = exp(s_j - m)``, ``A = Σ a_j``, ``p_j = a_j / A``: tested code has, up to one
factor that all weights of a row share and that cancels, ``a_j exp(τ_j)``, where ``|τ_j| <= ε_j``::

    ε_j = e_j                                   the score's own error (`kvattn.testing.tolerance.scores`)
        + ((1 + u)^3 - 1) (m - s_j + e_j + E)   shift by the maximum, base 2; E, the largest e_j, moves the maximum
        - log(1 - c) · (1 + rescales)           exp, wrong by a factor 1 ± c, once more for every later tile   [T10]

An online softmax shifts in steps that only go up, so that its shifts add up to the one shift; its inexact maxima are
shared, and cancel.  Below the normal numbers of ``compute`` and of ``probabilities`` a weight may lose ``absolute``,
but never more than itself [T3]; `kvattn.testing.tolerance.steps` says what it does lose.

The variance of τ is that of the score, of the shift, and of exp; the largest score has none of the last two [S2].
"""

import math
from typing import Any, NamedTuple

import numpy as np

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance.chains import LOOSE, above, binade, normal, rescales, total_unit, underflow
from kvattn.testing.tolerance.scores import Scores
from kvattn.testing.tolerance.steps import Steps, rounded, stepped
from kvattn.typing import Array, Visible


class Weights(NamedTuple):
    """Weights of some rows, as exact as float64 has them, and their errors; ``S'`` keys, the sink included.

    Of N heads, everything has N in front.

    Attributes
    ----------
    p
        ``[R, S']``, sums to 1 in every row that sees something.
    more, less
        ``p (exp(ε) - 1)`` and ``p exp(-ε)``, ``[R, S']``.
    absolute
        What underflow takes from a weight, in units of the total, ``[R, S']``.
    variance
        Of the part of τ that equal keys share, ``[R, S']``: score, shift, exp.
    later
        Of the part that rescales add, ``[R, 1]``.
    rounded
        ``p``, but 0 where the weight before division is 1, so that its roundings and products are exact, ``[R, S']``.
    top, total
        ``m`` and ``A``, ``[R, 1]``; 0 and 1 in rows that see nothing.
    shift
        E, ``[R, 1]``.
    keys
        How many keys a row sees, the sink too, ``[R, 1]``.
    drift
        By how much scores may be off on the mean, ``[R, S']``, or a 0.
    again
        How often sums are rescaled that are not 0, ``[R, 1]``, or a 0.
    mixed, added
        What rounding to steps does to the weights that are mixed, and, to the formats that they are added in, to
        those of the total, ``[R, S']``.
    """

    p: Array
    more: Array
    less: Array
    absolute: Array
    variance: Array
    later: Array
    rounded: Array
    top: Array
    total: Array
    shift: Array
    keys: Array
    drift: Array = np.zeros(())
    again: Array = np.zeros(())
    mixed: Steps = Steps(np.zeros(()), np.zeros(()))
    added: Steps = Steps(np.zeros(()), np.zeros(()))

    @property
    def empty(self) -> Visible:
        """Rows that see nothing, ``[R]``.

        >>> Weights(*([np.ones((1, 1))] * 10), np.zeros((1, 1))).empty
        array([ True])
        """
        return np.asarray(self.keys[..., 0] == 0)

    @property
    def lse(self) -> Array:
        """``m + log A``, ``[R]``; -inf in rows that see nothing.

        >>> one = np.ones((1, 1))
        >>> Weights(one, one, one, one, one, one, one, 0 * one, 2 * one, one, one).lse
        array([0.69314718])
        """
        found: Array = np.where(self.empty, -np.inf, (self.top + np.log(self.total))[..., 0])
        return found

    @property
    def flat(self) -> "Weights":
        """The rows of all heads, one below the other.

        >>> Weights(*([np.ones((2, 3, 1))] * 11)).flat.keys.shape
        (6, 1)
        """
        count = math.prod(self.p.shape[:-1])

        def below(x: Array) -> Array:
            return x if x.ndim <= 2 else x.reshape(*x.shape[: -self.p.ndim], count, x.shape[-1])

        arrays: dict[str, Any] = {name: below(getattr(self, name)) for name in self._fields[:-2]}
        mixed, added = (Steps(below(x.known), below(x.chance)) for x in self[-2:])
        return Weights(**arrays, mixed=mixed, added=added)


def divided_first(arithmetic: Arithmetic) -> bool:
    """Say whether weights are divided by their total before they are rounded and mixed.

    >>> divided_first(Arithmetic(tiles=0)), divided_first(Arithmetic(tiles=1)), divided_first(Arithmetic(merges=1))
    (True, False, True)
    """
    return arithmetic.tiles == 0 or arithmetic.merges == 1


def weighed(scores: Scores, arithmetic: Arithmetic) -> Weights:
    """Compute weights, and bound their errors.

    Parameters
    ----------
    scores
        Of some rows.
    arithmetic
        Of the tested code.

    Returns
    -------
    Weights
        Of the same rows.

    Examples
    --------
    >>> s = np.array([[0.0, 0.0]])
    >>> found = weighed(Scores(s, s, s, s), Arithmetic("float32"))
    >>> found.p, bool((found.more < 1e-5).all())
    (array([[0.5, 0.5]]), True)
    """
    s, error = scores.exact, scores.worst
    u = format_of(arithmetic.compute).roundoff
    top = s.max(axis=-1, keepdims=True, initial=-np.inf)
    top = np.where(np.isneginf(top), 0.0, top)
    hidden = np.isneginf(s)
    a = np.exp(s - top)
    total = a.sum(axis=-1, keepdims=True)
    count = np.asarray((~hidden).sum(axis=-1, keepdims=True), np.float64)
    total = np.where(count == 0, 1.0, total)
    depth = np.where(hidden, 0.0, top - s)
    shift = error.max(axis=-1, keepdims=True, initial=0.0)

    exp_error = 2 * arithmetic.exp_ulp * u
    each = -math.log1p(-exp_error) if exp_error < 1 else math.inf
    epsilon = error + above(u, 3) * (depth + error + shift) + each * (1 + rescales(count, arithmetic))  # [T10]
    epsilon = np.where(hidden, 0.0, epsilon)
    p = a / total
    with np.errstate(over="ignore", invalid="ignore"):
        more = np.where(epsilon < 1, p * np.expm1(epsilon), np.exp(epsilon - depth - np.log(total)) - p)
    more = np.where(hidden, 0.0, more)
    less = np.where(hidden, 0.0, p * np.exp(-epsilon))

    divided = divided_first(arithmetic)
    absolute = _lost(total * less, total * (p + more), arithmetic.compute)
    if not divided:
        absolute = absolute + _lost(total * less, total * (p + more), arithmetic.probabilities)
    absolute = absolute / total
    if divided:
        for name in (arithmetic.compute, arithmetic.probabilities):
            absolute = absolute + _lost(less, p + more, name)
    absolute = np.where(hidden, 0.0, absolute)  # [T3]

    variance = scores.variance + ((u * binade(depth)) ** 2 + LOOSE * exp_error**2 * (depth > 0)) / 3  # [S2]
    variance = np.where(hidden, 0.0, variance)
    again = np.maximum(np.minimum(count, arithmetic.tiles + scores.sink) - 1, 0)  # the first sum is 0
    later = LOOSE * exp_error**2 / 3 * np.log2(1 + again)  # [S2]
    changed = p if divided else np.where(depth > 0, p, 0.0)
    into, onto = _steps(a, p, total, arithmetic)
    return Weights(
        p, more, less, absolute, variance, later, changed, top, total, shift, count, scores.drift, again, into, onto
    )


def _steps(a: Array, p: Array, total: Array, arithmetic: Arithmetic) -> tuple[Steps, Steps]:
    """What rounding to steps does to the weights that are mixed, and to those that are added; in units of the total."""
    names = {arithmetic.compute, arithmetic.probabilities}  # each once: what is in a format stays
    first = stepped(a, arithmetic.compute).over(total)
    added = first
    if total_unit(arithmetic):  # all digits are known, not only those below the normal numbers
        low = stepped(a, arithmetic.probabilities)
        known = np.where(a < 1 - 2.0**-40, rounded(a, arithmetic.probabilities), 0.0)  # the largest is 1 at any scale
        added = first + Steps(known, low.chance).over(total)  # [S4]
    for name in sorted(names):
        if divided_first(arithmetic):
            first = first + stepped(p, name)
        elif name != arithmetic.compute:
            first = first + stepped(a, name).over(total)
    return first, added


def _lost(less: Array, more: Array, name: str) -> Array:
    """What underflow takes from weights between two bounds: nothing above the normal numbers, all of them at most."""
    return np.where(less >= normal(name), 0.0, np.minimum(underflow(name), more))
