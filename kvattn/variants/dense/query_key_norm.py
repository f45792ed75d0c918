"""Query-key normalisation (QK-norm): each query and each key is normed before they meet.

    root mean square  (RMSNorm):     x / sqrt(mean(x²) + ε) · w
    standard deviation (LayerNorm):  (x - mean(x)) / sqrt(mean((x - mean(x))²) + ε) · w + b

Scores are then bounded by the weights, whatever the hidden states grow to.  Each norm is a
`kvattn.typing.QueryKey`; its place in ``query_key=(…)`` says whether it stands before or after rotation.

Shapes: queries ``[B, Hq, T, D]``, keys ``[B, Hkv, T, D]``.  `HeadRmsNorm` and `HeadLayerNorm` take the mean over
a head's D features, with weights ``[D]`` or ``[H, D]``; `FullRmsNorm` over all ``H·D`` features of a projection.
Cached per token: keys as the last value of ``query_key`` leaves them, so nothing more than without a norm.
Cost: `kvattn.ops.rms_norm` or `kvattn.ops.layer_norm` for each row.

Source: Henry et al. 2020 (2010.04245) §3.1 (unit length, see `kvattn.variants.dense.cosine`); Dehghani et al. 2023
(2302.05442) §2 (LayerNorm); OLMo 2 (2501.00656) (RMSNorm, over the whole projection).
Where libraries differ: in place, width, weights and ε; the page has the table.  Gemma and Qwen3-Next store
w - 1 (`HeadRmsNorm.zero_centred`).  What transformers calls an L2 norm in Llama-4 divides by the root *mean*
square and is `HeadRmsNorm` without weights.  Nearly all compute norms in float32, whatever the model's dtype.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn import ops
from kvattn.arguments import real
from kvattn.arrays import anything
from kvattn.counting import Tally
from kvattn.errors import DtypeError, ShapeError
from kvattn.typing import Array, Positions
from kvattn.variants.dense.projections import join, split


def weights_of(name: str, value: Any, *ranks: int) -> Array:
    """Weights of a norm or a gate as a read-only copy.

    Raises
    ------
    DtypeError
        When they are neither float64 nor float32.
    ShapeError
        When they have none of these ranks, or are empty.

    Examples
    --------
    >>> weights_of("query", np.ones(3), 1).flags.writeable
    False
    >>> weights_of("query", np.ones(3), 2)
    Traceback (most recent call last):
    kvattn.errors.ShapeError: query must be a non-empty array of rank 2, got shape (3,)
    """
    held = np.array(anything(name, value))
    if held.dtype not in (np.dtype(np.float64), np.dtype(np.float32)):
        raise DtypeError(f"{name} must be float64 or float32, got {held.dtype}")
    if held.ndim not in ranks or not held.size:
        axes = " or ".join(f"{rank}" for rank in ranks)
        raise ShapeError(f"{name} must be a non-empty array of rank {axes}, got shape {held.shape}")
    held.flags.writeable = False
    return held


@dataclass(frozen=True, eq=False)
class HeadRmsNorm:
    """RMSNorm of each head.

    Parameters
    ----------
    query, key
        Weights ``[D]`` for all heads alike, or ``[H, D]``; None multiplies by nothing.
    eps
        ε, added to the mean square.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        Weights of another rank or dtype, ε below 0; on use, weights that do not fit the heads.

    Examples
    --------
    >>> norm = HeadRmsNorm(query=np.array([1.0, 2.0]), eps=0.0)
    >>> norm.queries(np.array([[[[3.0, -3.0]]]]), np.zeros((1, 1, 1), int))
    array([[[[ 1., -2.]]]])
    """

    query: Array | None = None
    key: Array | None = None
    eps: float = 1e-6

    def __post_init__(self) -> None:
        _settle(self, ("query", "key"), 1, 2)

    @classmethod
    def zero_centred(cls, query: Array, key: Array, eps: float = 1e-6) -> "HeadRmsNorm":
        """With weights that are stored less one, as Gemma's and Qwen3-Next's are.

        >>> HeadRmsNorm.zero_centred(np.zeros(2), np.ones(2)).key
        array([2., 2.])
        """
        return cls(weights_of("query", query, 1, 2) + 1.0, weights_of("key", key, 1, 2) + 1.0, eps)

    def queries(self, q: Array, positions: Positions) -> Array:
        """Normed queries ``[B, Hq, T, D]``; positions do not matter.

        >>> HeadRmsNorm(eps=0.0).queries(np.full((1, 1, 1, 2), 7.0), np.zeros((1, 1, 1), int))
        array([[[[1., 1.]]]])
        """
        return ops.rms_norm(q, _by_head("query", self.query, q), self.eps)

    def keys(self, k: Array, positions: Positions) -> Array:
        """Normed keys ``[B, Hkv, T, D]``; positions do not matter.

        >>> HeadRmsNorm(eps=0.0).keys(np.full((1, 1, 1, 2), 7.0), np.zeros((1, 1, 1), int))
        array([[[[1., 1.]]]])
        """
        return ops.rms_norm(k, _by_head("key", self.key, k), self.eps)

    def queries_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `queries` counts.

        >>> HeadRmsNorm().queries_cost(tokens=3, heads=2, width=4)
        Tally(arithmetic=84, transcendental=6)
        """
        return _rms_cost(tokens * heads, width, self.query is not None)

    def keys_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `keys` counts.

        >>> HeadRmsNorm(key=np.ones(4)).keys_cost(tokens=3, heads=2, width=4)
        Tally(arithmetic=108, transcendental=6)
        """
        return _rms_cost(tokens * heads, width, self.key is not None)


@dataclass(frozen=True, eq=False)
class HeadLayerNorm:
    """LayerNorm of each head.

    Parameters
    ----------
    query, key
        Weights ``[D]`` for all heads alike, or ``[H, D]``.
    query_bias, key_bias
        What is added, of such a shape, or None.
    eps
        ε, added to the variance.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        Weights of another rank or dtype, ε below 0; on use, weights that do not fit the heads.

    Examples
    --------
    >>> norm = HeadLayerNorm(query=np.array([1.0, 2.0]), key=np.ones(2), eps=0.0)
    >>> norm.queries(np.array([[[[5.0, 3.0]]]]), np.zeros((1, 1, 1), int))
    array([[[[ 1., -2.]]]])
    """

    query: Array
    key: Array
    query_bias: Array | None = None
    key_bias: Array | None = None
    eps: float = 1e-5

    def __post_init__(self) -> None:
        weights_of("query", self.query, 1, 2)
        weights_of("key", self.key, 1, 2)
        _settle(self, ("query", "key", "query_bias", "key_bias"), 1, 2)

    def queries(self, q: Array, positions: Positions) -> Array:
        """Normed queries ``[B, Hq, T, D]``; positions do not matter.

        >>> HeadLayerNorm(np.ones(2), np.ones(2), eps=0.0).queries(np.array([[[[7.0, 9.0]]]]), np.zeros((1, 1, 1), int))
        array([[[[-1.,  1.]]]])
        """
        weight, bias = _by_head("query", self.query, q), _by_head("query_bias", self.query_bias, q)
        return ops.layer_norm(q, weight, bias, self.eps)

    def keys(self, k: Array, positions: Positions) -> Array:
        """Normed keys ``[B, Hkv, T, D]``; positions do not matter.

        >>> HeadLayerNorm(np.ones(2), np.ones(2), eps=0.0).keys(np.array([[[[7.0, 9.0]]]]), np.zeros((1, 1, 1), int))
        array([[[[-1.,  1.]]]])
        """
        weight, bias = _by_head("key", self.key, k), _by_head("key_bias", self.key_bias, k)
        return ops.layer_norm(k, weight, bias, self.eps)

    def queries_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `queries` counts.

        >>> HeadLayerNorm(np.ones(4), np.ones(4)).queries_cost(tokens=3, heads=2, width=4)
        Tally(arithmetic=162, transcendental=6)
        """
        return _layer_cost(tokens * heads, width, self.query_bias is not None)

    def keys_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `keys` counts.

        >>> HeadLayerNorm(np.ones(4), np.ones(4)).keys_cost(tokens=3, heads=2, width=4)
        Tally(arithmetic=162, transcendental=6)
        """
        return _layer_cost(tokens * heads, width, self.key_bias is not None)


@dataclass(frozen=True, eq=False)
class FullRmsNorm:
    """RMSNorm over all heads of a projection at once: one mean square for a token's queries, one for its keys.

    Parameters
    ----------
    query, key
        Weights ``[Hq·D]`` and ``[Hkv·D]``, head by head.
    eps
        ε, added to the mean square.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        Weights of another rank or dtype, ε below 0; on use, weights that do not fit the heads.

    Examples
    --------
    >>> norm = FullRmsNorm(query=np.ones(2), key=np.ones(1), eps=0.0)
    >>> norm.queries(np.array([[[[1.0]], [[7.0]]]]), np.zeros((1, 1, 1), int))
    array([[[[0.2]],
    <BLANKLINE>
            [[1.4]]]])
    """

    query: Array
    key: Array
    eps: float = 1e-6

    def __post_init__(self) -> None:
        weights_of("query", self.query, 1)
        weights_of("key", self.key, 1)
        _settle(self, ("query", "key"), 1)

    def queries(self, q: Array, positions: Positions) -> Array:
        """Normed queries ``[B, Hq, T, D]``; positions do not matter.

        >>> FullRmsNorm(np.ones(2), np.ones(2), 0.0).queries(
        ...     np.full((1, 2, 1, 1), 7.0), np.zeros((1, 1, 1), int)
        ... ).ravel()
        array([1., 1.])
        """
        return _full("query", self.query, q, self.eps)

    def keys(self, k: Array, positions: Positions) -> Array:
        """Normed keys ``[B, Hkv, T, D]``; positions do not matter.

        >>> FullRmsNorm(np.ones(2), np.ones(2), 0.0).keys(np.full((1, 2, 1, 1), 7.0), np.zeros((1, 1, 1), int)).ravel()
        array([1., 1.])
        """
        return _full("key", self.key, k, self.eps)

    def queries_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `queries` counts.

        >>> FullRmsNorm(np.ones(8), np.ones(4)).queries_cost(tokens=3, heads=2, width=4)
        Tally(arithmetic=102, transcendental=3)
        """
        return _rms_cost(tokens, heads * width, weighted=True)

    def keys_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `keys` counts.

        >>> FullRmsNorm(np.ones(8), np.ones(4)).keys_cost(tokens=3, heads=1, width=4)
        Tally(arithmetic=54, transcendental=3)
        """
        return _rms_cost(tokens, heads * width, weighted=True)


def _settle(norm: Any, names: tuple[str, ...], *ranks: int) -> None:
    """Keep read-only weights and a plain ε."""
    for name in names:
        value = getattr(norm, name)
        object.__setattr__(norm, name, None if value is None else weights_of(name, value, *ranks))
    object.__setattr__(norm, "eps", real("eps", norm.eps, least=0.0))


def _by_head(name: str, weight: Array | None, rows: Array) -> Array | None:
    """Weights that broadcast against rows ``[B, H, T, D]``."""
    if weight is None:
        return None
    wanted = rows.shape[-1:] if weight.ndim == 1 else (rows.shape[1], rows.shape[3])
    _check(name, weight, wanted, rows)
    return weight if weight.ndim == 1 else weight[:, None, :]


def _full(name: str, weight: Array, rows: Array, eps: float) -> Array:
    heads, width = rows.shape[1], rows.shape[3]
    _check(name, weight, (heads * width,), rows)
    return split(ops.rms_norm(join(rows), weight, eps), heads)


def _check(name: str, weight: Array, wanted: tuple[int, ...], rows: Array) -> None:
    if weight.shape != wanted:
        raise ShapeError(f"{name} must have shape {wanted} for rows of shape {rows.shape}, got {weight.shape}")
    if weight.dtype != rows.dtype:
        raise DtypeError(f"{name} must have the dtype of the rows that it norms, {rows.dtype}, got {weight.dtype}")


def _rms_cost(rows: int, width: int, weighted: bool) -> Tally:
    return Tally(arithmetic=rows * ((3 + weighted) * width + 2), transcendental=rows)


def _layer_cost(rows: int, width: int, biased: bool) -> Tally:
    return Tally(arithmetic=rows * ((6 + biased) * width + 3), transcendental=rows)
