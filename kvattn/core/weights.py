"""Weights of whole rows: what becomes of all scores of a query at once, and sums along keys in a fixed order.

    weights[h, i, :]  =  weigh(scores[h, i, :], seen[h, i, :])

A weighing is a value that turns the scores of all keys into weights: a softmax, a sigmoid, a broken stick.
Shapes: scores, seen and weights ``[Hq, T, S]`` with S a multiple of 256, the keys' columns in slot order.
Columns that nobody holds, and keys that no row sees, stand there as hidden; more of them, in front,
between or behind, change no bit: what is hidden weighs exactly 0 and every sum adds one block of 256
columns after the other.  Nothing is cached.

Source: softmax, Vaswani et al. 2017 (1706.03762) §3.2.1; in two passes over the row, not online.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from kvattn.arrays import floating
from kvattn.axes import sizes
from kvattn.caches.blocks import BLOCK
from kvattn.counting import Tally
from kvattn.errors import DtypeError
from kvattn.typing import Array, Place, Visible


class Weights(NamedTuple):
    """What a weighing makes of scores.

    Attributes
    ----------
    weights
        ``[Hq, T, S]``, exactly 0 where the key is hidden.
    lse
        ``[Hq, T]``, log of the denominator for a softmax, else NaN.
    """

    weights: Array
    lse: Array


class Weighing(Protocol):
    """How scores become weights; values of ``place`` broadcast against ``[Hq, T, S]``, its queries are ``[Hq, T, D]``.

    A weighing that also has ``check(heads, width, dtype)`` is asked, when a layer is made, whether it fits.
    """

    def definition(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """The paper's equation on whole matrices; any S, and hidden scores are finite."""

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """The same with bits that hidden columns do not change, not even by NaN."""

    def cost(self, *, pairs: int, rows: int, width: int) -> Tally:
        """What weighing so many pairs in so many rows counts, of queries with so many features."""


class Beside(Protocol):
    """What is mixed with the same weights besides values; asked ``check(heads, value_width, dtype)`` where it can."""

    def definition(self, weights: Array, place: Place) -> Array:
        """The paper's equation: ``[Hq, T, Dv]`` from weights ``[Hq, T, S]`` of any S."""

    def mix(self, weights: Array, place: Place) -> Array:
        """The same with bits that hidden columns do not change."""

    def mix_cost(self, *, pairs: int, rows: int, value_width: int) -> Tally:
        """What `mix`, and adding it to the mixed values, count."""


def kept(name: str, value: Any, letters: str) -> Array:
    """A read-only copy of a weighing's own array: float32 where it is, else float64.

    >>> kept("table", [[1, 2]], "P D")
    array([[1., 2.]])
    """
    dtype = np.float32 if getattr(value, "dtype", None) == np.float32 else np.float64
    held = floating(name, value, dtype).copy()
    sizes((name, held, letters))
    held.flags.writeable = False
    return held


def check_kept(name: str, held: Array, letters: str, dtype: "np.dtype[Any]") -> None:
    """Refuse an array of another layer's sizes or dtype.

    >>> check_kept("table", np.zeros((2, 3), np.float32), "P 3", np.dtype(float))
    Traceback (most recent call last):
    kvattn.errors.DtypeError: table must have the dtype of the projections, float64, got float32
    """
    sizes((name, held, letters))
    if held.dtype != dtype:
        raise DtypeError(f"{name} must have the dtype of the projections, {dtype}, got {held.dtype}")


def shown_scores(scores: Array, seen: Visible) -> Array:
    """Scores with -inf where the key is hidden, whatever stood there.

    >>> shown_scores(np.array([[[1.0, np.nan]]]), np.array([[[True, False]]]))
    array([[[  1., -inf]]])
    """
    return np.where(seen, scores, -np.inf).astype(scores.dtype, copy=False)


def row_sum(numbers: Array) -> Array:
    """Sums along the last axis, one block of 256 columns after the other: ``[..., S]`` to ``[..., 1]``.

    >>> row_sum(np.ones((2, 512)))
    array([[512.],
           [512.]])
    """
    blocks = np.ascontiguousarray(numbers).reshape(*numbers.shape[:-1], -1, BLOCK).sum(axis=-1)
    total: Array = np.add.accumulate(blocks, axis=-1)[..., -1:]
    return total


def sums_from(numbers: Array) -> Array:
    """What stands in each column and behind it, added from the last column on, one after the other.

    >>> sums_from(np.array([1.0, 2.0, 4.0]))
    array([7., 6., 4.])
    """
    return np.ascontiguousarray(np.add.accumulate(numbers[..., ::-1], axis=-1)[..., ::-1])


def without_lse(weights: Array) -> Weights:
    """Weights that no softmax made, with NaN for their lse.

    >>> without_lse(np.ones((1, 1, 2))).lse
    array([[nan]])
    """
    return Weights(weights, np.full(weights.shape[:-1], np.nan, weights.dtype))


def softmax(scores: Array, seen: Visible) -> Weights:
    """Softmax over the keys that a row sees; weights 0 and lse -inf where it sees none.

    Parameters
    ----------
    scores
        ``[..., S]``, S a multiple of 256.
    seen
        Of the same shape.

    Examples
    --------
    >>> at = np.arange(256)
    >>> softmax(np.where(at < 2, np.log(3) * at, 9.0), at < 2).weights[:3]
    array([0.25, 0.75, 0.  ])
    """
    shown = shown_scores(scores, seen)
    top = shown.max(axis=-1, keepdims=True)
    shift = np.maximum(top, float(np.finfo(scores.dtype).min))
    powers = np.exp(shown - shift)
    total = row_sum(powers)
    empty = total == 0.0
    divisor = np.where(empty, 1.0, total).astype(scores.dtype, copy=False)
    lse = np.where(empty, -np.inf, top + np.log(divisor)).astype(scores.dtype, copy=False)
    return Weights(powers / divisor, lse[..., 0])


@dataclass(frozen=True)
class Softmax:
    """The softmax as a weighing: for layers that look at the weights, not only at their mix.

    Examples
    --------
    >>> Softmax().definition(np.zeros((1, 1, 4)), np.ones((1, 1, 4), bool), None).weights
    array([[[0.25, 0.25, 0.25, 0.25]]])
    """

    def definition(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """``exp(s) / Σ exp(s)`` over visible keys.

        >>> Softmax().definition(np.zeros((1, 1, 1)), np.ones((1, 1, 1), bool), None).lse
        array([[0.]])
        """
        top = np.where(seen, scores, -np.inf).max(axis=-1, keepdims=True, initial=-np.inf)
        finite = np.where(np.isneginf(top), 0.0, top)
        powers = np.where(seen, np.exp(np.where(seen, scores, 0.0) - finite), 0.0)
        total = powers.sum(axis=-1, keepdims=True)
        weights = np.divide(powers, total, out=np.zeros_like(powers), where=total != 0)
        with np.errstate(divide="ignore"):
            lse = (top + np.log(total))[..., 0]
        return Weights(weights.astype(scores.dtype, copy=False), lse.astype(scores.dtype, copy=False))

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """The same in blocks.

        >>> Softmax().weigh(np.zeros((1, 1, 256)), np.arange(256) < 2, None).weights[0, 0, :3]
        array([0.5, 0.5, 0. ])
        """
        return softmax(scores, seen)

    def cost(self, *, pairs: int, rows: int, width: int) -> Tally:
        """A comparison, a subtraction, an exponential, an addition and a division per pair; per row a logarithm.

        >>> Softmax().cost(pairs=10, rows=2, width=4)
        Tally(arithmetic=42, transcendental=12)
        """
        return Tally(arithmetic=4 * pairs + rows, transcendental=pairs + rows)
