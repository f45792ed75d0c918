"""Faults that stand in no list: they must be caught and described; no name is expected."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvattn.testing.planted.attention import Planted
from kvattn.testing.planted.mutant import Mutant
from kvattn.typing import Array

_RIGHT = Planted(returns_lse=False)


@dataclass(frozen=True)
class After:
    """Attention whose output, inputs or scale a small function changes.

    >>> one = np.ones((1, 1, 1, 1))
    >>> float(After(lambda out, q, k, v: 2 * out)(one, one, one).sum())
    2.0
    """

    out: Callable[[Array, Array, Array, Array], Any] = field(default_factory=lambda: _kept)
    before: Callable[[Array, Array, Array], Any] = field(default_factory=lambda: _given)

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
        """Attend, and change it."""
        given = self.before(q, k, v)
        return np.asarray(self.out(np.asarray(_RIGHT(*given, causal=causal)), q, k, v), v.dtype)


@dataclass(frozen=True)
class Sharpened:
    """Weights raised to a power, and made to sum to 1 again or not.

    >>> one = np.ones((1, 1, 1, 1))
    >>> float(Sharpened(2.0)(one, one, one).sum())
    1.0
    """

    power: float
    normal: bool = True

    def __call__(self, q: Array, k: Array, v: Array) -> Array:
        """Attend with bent weights."""
        group = q.shape[1] // k.shape[1]
        k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
        scores = np.einsum("bhtd,bhsd->bhts", q, k) / np.sqrt(q.shape[3])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = (weights / weights.sum(-1, keepdims=True)) ** self.power
        if self.normal:
            weights = weights / weights.sum(-1, keepdims=True)
        return np.asarray(weights @ v, v.dtype)


def _kept(out: Array, *_: Array) -> Array:
    return out


def _given(q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
    return q, k, v


def _entmax(q: Array, k: Array, v: Array) -> Array:
    """Attend with squared rectified scores in place of exponentials."""
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    weights = np.maximum(1 + np.einsum("bhtd,bhsd->bhts", q, k) / np.sqrt(q.shape[3]), 0) ** 2
    return np.asarray(weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30) @ v, v.dtype)


def _distance(q: Array, k: Array, v: Array) -> Array:
    """Score by distance."""
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    scores = -((q[:, :, :, None] - k[:, :, None]) ** 2).sum(-1) / np.sqrt(q.shape[3])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True) @ v, v.dtype)


def _swapped(q: Array, k: Array, v: Array) -> Array:
    """Mix the keys by scores with the values, where the widths allow."""
    return np.asarray(_RIGHT(q, v, k) if k.shape == v.shape else _RIGHT(q, k, v))


ODD = (
    Mutant(
        "one channel of the output negated",
        After(lambda out, q, k, v: out * np.where(np.arange(out.shape[-1]) == 1, -1, 1)),
        "",
    ),
    Mutant("a millionth in the denominator", After(lambda out, q, k, v: out / (1 + 1e-6)), ""),
    Mutant(
        "the output times 1.02 beyond 60 keys", After(lambda out, q, k, v: out * (1.02 if k.shape[2] > 60 else 1)), ""
    ),
    Mutant("the mean of v leaks in", After(lambda out, q, k, v: 0.99 * out + 0.01 * v.mean((1, 2), keepdims=True)), ""),
    Mutant(
        "the output of odd heads in reverse",
        After(lambda out, q, k, v: np.where(np.arange(out.shape[1])[:, None, None] % 2 == 1, out[:, :, ::-1], out)),
        "",
    ),
    Mutant("the output's channels moved", After(lambda out, q, k, v: np.roll(out, 1, -1)), ""),
    Mutant("the query added to the output", After(lambda out, q, k, v: out + 0.1 * q.mean(-1, keepdims=True)), ""),
    Mutant("zero where a query is negative", After(lambda out, q, k, v: out * (q[..., :1] > -1)), ""),
    Mutant("a query of the next row", After(before=lambda q, k, v: (np.roll(q, -1, 2), k, v)), ""),
    Mutant("values of the key before", After(before=lambda q, k, v: (q, k, np.roll(v, 1, 2))), ""),
    Mutant("keys sorted by their first channel", After(before=lambda q, k, v: (q, np.sort(k, 2), v)), ""),
    Mutant(
        "q normalised", After(before=lambda q, k, v: (q / np.sqrt((q * q).mean(-1, keepdims=True) + 1e-6), k, v)), ""
    ),
    Mutant("keys clipped", After(before=lambda q, k, v: (q, np.clip(k, -0.5, 0.5), v)), ""),
    Mutant(
        "half the channels of q",
        After(before=lambda q, k, v: (np.where(np.arange(q.shape[3]) < q.shape[3] // 2, q, 0), k, v)),
        "",
    ),
    Mutant("the absolute value of q", After(before=lambda q, k, v: (np.abs(q), k, v)), ""),
    Mutant("weights squared and normalised at long keys", Sharpened(1.5), ""),
    Mutant("weights bent and not normalised", Sharpened(1.1, normal=False), ""),
    Mutant("rectified squares for exponentials", _entmax, ""),
    Mutant("distances for products", _distance, ""),
    Mutant("keys and values swapped", _swapped, ""),
    Mutant(
        "a temperature that grows with the query",
        Planted(formulas={"hidden": "where(keep, x * (1 + 0.05 * (x.shape[2] > 3)), -inf)"}),
        "",
    ),
    Mutant(
        "a bias on the first key",
        Planted(formulas={"hidden": "where(keep, x, -inf) + 0.2 * (abs(x - x[..., :1]) == 0)"}),
        "",
    ),
)
