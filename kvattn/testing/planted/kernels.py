"""Planted faults of kernels: sums that are not rescaled, channels left out, no maximum, numbers that are cut off.

Each class is a callable of the contract's form; all but `ShortLse` return the output alone.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.testing.formats import FORMATS
from kvattn.testing.planted.attention import Planted
from kvattn.testing.planted.mutant import Mutant
from kvattn.typing import Array

_RIGHT = Planted()


@dataclass(frozen=True)
class Unscaled:
    """An online softmax that does not scale down what was summed before, when a tile raises the maximum.

    >>> one = np.ones((1, 1, 1, 1))
    >>> float(Unscaled(16)(one, one, one).sum())
    1.0
    """

    tile: int
    what: str = "the output"

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
        """Attend tile by tile."""
        scores, v = _scores(q, k, causal), _of_heads(q, v)
        top, total = np.full((*scores.shape[:3], 1), -np.inf), np.zeros((*scores.shape[:3], 1))
        out = np.zeros((*q.shape[:3], v.shape[3]))
        for begin in range(0, k.shape[2], self.tile):
            part = scores[..., begin : begin + self.tile]
            higher = np.maximum(top, part.max(-1, keepdims=True))
            base = np.where(np.isneginf(higher), 0.0, higher)
            down, top = np.exp(top - base), higher
            weights = np.exp(part - base)
            total = total * (1.0 if self.what == "the total" else down) + weights.sum(-1, keepdims=True)
            out = out * (1.0 if self.what == "the output" else down)
            out += _mixed(weights, v[:, :, begin : begin + self.tile])
        return np.asarray(out / np.where(total > 0, total, 1.0), q.dtype)


@dataclass(frozen=True)
class FewChannels:
    """Scores of the channels in full tiles alone.

    >>> FewChannels(8)(*(np.ones((1, 1, 1, 9)),) * 3).shape
    (1, 1, 1, 9)
    """

    tile: int

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
        """Attend, and leave the last channels of q and k out."""
        full = q.shape[3] // self.tile * self.tile or q.shape[3]
        keep = np.arange(q.shape[3]) < full
        return np.asarray(_RIGHT(np.where(keep, q, 0), k, v, causal=causal)[0], q.dtype)


@dataclass(frozen=True)
class Bare:
    """No maximum is taken off before exp.

    >>> float(Bare()(*(np.ones((1, 1, 1, 1)),) * 3).sum())
    1.0
    """

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
        """Attend without care."""
        with np.errstate(all="ignore"):
            e = np.exp(_scores(q, k, causal)).astype(q.dtype)
            total = e.sum(-1, keepdims=True)
            return np.asarray(_mixed(e / np.where(total == 0, 1, total), _of_heads(q, v)), q.dtype)


@dataclass(frozen=True)
class Cut:
    """One stage (``"exp"``, ``"probabilities"``, ``"out"``) is cut off to a number format: rounded towards 0.

    >>> float(Cut("out", "bfloat16")(*(np.full((1, 1, 1, 1), 1.99),) * 3).sum())
    1.984375
    """

    stage: str
    name: str

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
        """Attend, and cut one stage off."""
        scores = _scores(q, k, causal)
        top = scores.max(-1, keepdims=True)
        e = self._at("exp", np.exp(scores - np.where(np.isneginf(top), 0.0, top)))
        total = e.sum(-1, keepdims=True)
        weights = self._at("probabilities", e / np.where(total > 0, total, 1.0))
        return np.asarray(self._at("out", _mixed(weights, _of_heads(q, v))), q.dtype)

    def _at(self, stage: str, x: Array) -> Array:
        return FORMATS[self.name].cut(x.astype(np.float32)) if stage == self.stage else x


@dataclass(frozen=True)
class ShortLse:
    """An lse that is stored in a number format of few bits.

    >>> float(ShortLse("bfloat16")(*(np.full((1, 1, 1, 1), 1.1),) * 3)[1].sum())
    1.2109375
    """

    name: str

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> tuple[Array, Array]:
        """Attend, and round the lse."""
        out, lse = _RIGHT(q, k, v, causal=causal)
        return out, np.asarray(FORMATS[self.name].round(lse), q.dtype)


def _of_heads(q: Array, x: Array) -> Array:
    return np.repeat(x.astype(np.float64), q.shape[1] // x.shape[1], 1)


def _scores(q: Array, k: Array, causal: bool) -> Array:
    scores = q.astype(np.float64) @ _of_heads(q, k).swapaxes(2, 3) / np.sqrt(q.shape[3])
    late = np.arange(k.shape[2]) > np.arange(q.shape[2])[:, None] + k.shape[2] - q.shape[2]
    return np.asarray(np.where(late & causal, -np.inf, scores))


def _mixed(weights: Array, v: Array) -> Array:
    """Mix the values; one that has no weight is not looked at."""
    return np.asarray(np.where(weights[..., None] != 0, weights[..., None] * v[:, :, None], 0).sum(-2))


_DOWN = {"towards": "0"}

KERNELS = (
    *(
        Mutant(
            f"{what} not scaled down after {tile} keys",
            Unscaled(tile, what),
            "lse-merge",
            {"running": what, "tile": tile},
        )
        for what, tile in (("the output", 16), ("the output", 12), ("the total", 32))
    ),
    *(
        Mutant(
            f"channels behind full tiles of {tile} left out",
            FewChannels(tile),
            "tile-tail",
            {"axis": "channels", "tile": tile},
        )
        for tile in (8, 16)
    ),
    Mutant("no maximum taken off", Bare(), "precision", {"stage": "range of exp"}),
    *(
        Mutant(f"{stage} cut off to {name}", Cut(stage, name), "precision", {"stage": stage, "format": name, **_DOWN})
        for stage, name in (("probabilities", "bfloat16"), ("out", "bfloat16"), ("exp", "bfloat16"), ("out", "float16"))
    ),
    *(
        Mutant(f"lse stored in {name}", ShortLse(name), "lse-merge", {"content": f"rounded to {name}"})
        for name in ("float16", "bfloat16")
    ),
)
"""Faults of kernels; each must be all that a check finds."""
