"""Cosine attention: queries and keys of unit length, and a learned temperature for each head.

    s_h(i, j) = τ_h · q_i · k_j / (max(‖q_i‖, ε) · max(‖k_j‖, ε)),      τ_h = exp(min(logit_scale_h, ln 100))

A score is then a cosine times τ_h and never larger than τ_h, whatever the hidden states grow to.  The layer's own scale
must be 1: ``Grouped(w, query_key=(Cosine.learned(logit_scale),), scale=1.0)``.

Shapes: queries ``[B, Hq, T, D]``, keys ``[B, Hkv, T, D]``, temperatures ``[Hq]``; both verbs are row by row.
Cached per token: the key of unit length, ``Hkv · D`` numbers, and a value.
Cost: per row ``3·D + 1`` FLOPs and a square root, ``D`` more for a query with a temperature.

Source: Henry et al. 2020 (2010.04245) §3; with the bound on τ: Liu et al. 2022, Swin V2 (2111.09883) §3.2.
Where libraries differ: in ε.  torch's ``normalize`` and this file divide by ``max(‖x‖, ε)``, others by ``‖x‖ + ε`` or
by ``sqrt(‖x‖² + ε)``; it matters for rows near 0 alone.  Swin V2's paper bounds τ from above by 100, where the
query-key norm paper leaves it free; x-transformers takes one fixed scale of 10 for all heads, here
``Grouped(w, query_key=(Cosine(),), scale=10.0)``.
"""

from dataclasses import dataclass
import math

import numpy as np

from kvattn.arguments import real
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.typing import Array, Positions
from kvattn.variants.dense.query_key_norm import weights_of

LARGEST = math.log(100.0)
"""Swin V2's bound on the logarithm of a temperature."""


@dataclass(frozen=True, eq=False)
class Cosine:
    """Unit length for queries and keys, and a temperature on queries.

    Parameters
    ----------
    temperature
        τ, ``[Hq]``, finite; None for 1.
    eps
        ε, the least length that is divided by, above 0.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        Temperatures of another rank or dtype or not finite, ε not above 0; on use, temperatures that do not fit.

    Examples
    --------
    >>> at = np.zeros((1, 1, 1), int)
    >>> Cosine(np.array([10.0])).queries(np.array([[[[3.0, 4.0]]]]), at)
    array([[[[6., 8.]]]])
    >>> Cosine(np.array([10.0])).keys(np.array([[[[3.0, 4.0]]]]), at)
    array([[[[0.6, 0.8]]]])
    """

    temperature: Array | None = None
    eps: float = 1e-12

    def __post_init__(self) -> None:
        if self.temperature is not None:
            held = weights_of("temperature", self.temperature, 1)
            if not np.isfinite(held).all():
                raise ArgumentError(f"temperature must be finite for every head, got {held.tolist()}")
            object.__setattr__(self, "temperature", held)
        object.__setattr__(self, "eps", real("eps", self.eps, above=0.0))

    @classmethod
    def learned(cls, logit_scale: Array, most: float = LARGEST, eps: float = 1e-12) -> "Cosine":
        """Temperatures as they are stored: ``exp(min(logit_scale, most))``, in float64, rounded once.

        >>> Cosine.learned(np.log([10.0, 1000.0])).temperature.round(9)
        array([ 10., 100.])
        """
        stored = weights_of("logit_scale", logit_scale, 1)
        grown = np.exp(np.minimum(stored.astype(np.float64), real("most", most)))
        return cls(grown.astype(stored.dtype), eps)

    def queries(self, q: Array, positions: Positions) -> Array:
        """``τ · q / max(‖q‖, ε)``, ``[B, Hq, T, D]``; positions do not matter.

        >>> Cosine().queries(np.array([[[[0.0, -2.0]]]]), np.zeros((1, 1, 1), int))
        array([[[[ 0., -1.]]]])
        """
        if self.temperature is None:
            return self.keys(q, positions)
        if self.temperature.shape != q.shape[1:2]:
            raise ShapeError(f"temperature must have shape [Hq] with Hq={q.shape[1]}, got {self.temperature.shape}")
        if self.temperature.dtype != q.dtype:
            raise DtypeError(f"temperature must have the dtype of the queries, {q.dtype}, got {self.temperature.dtype}")
        charge(Tally(arithmetic=q.size))
        return np.asarray(self.keys(q, positions) * self.temperature[:, None, None])

    def keys(self, k: Array, positions: Positions) -> Array:
        """``k / max(‖k‖, ε)``, ``[B, Hkv, T, D]``; positions do not matter.

        >>> Cosine().keys(np.zeros((1, 1, 1, 2)), np.zeros((1, 1, 1), int))
        array([[[[0., 0.]]]])
        """
        k = np.ascontiguousarray(k)
        charge(_unit_cost(k.size // k.shape[-1], k.shape[-1]))
        return np.asarray(k / np.maximum(np.sqrt((k * k).sum(-1, keepdims=True)), self.eps))

    def queries_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `queries` counts.

        >>> Cosine(np.ones(2)).queries_cost(tokens=3, heads=2, width=4)
        Tally(arithmetic=102, transcendental=6)
        """
        rows = tokens * heads
        return _unit_cost(rows, width) + Tally(arithmetic=0 if self.temperature is None else rows * width)

    def keys_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `keys` counts.

        >>> Cosine(np.ones(2)).keys_cost(tokens=3, heads=2, width=4)
        Tally(arithmetic=78, transcendental=6)
        """
        return _unit_cost(tokens * heads, width)


def _unit_cost(rows: int, width: int) -> Tally:
    return Tally(arithmetic=rows * (3 * width + 1), transcendental=rows)
