"""The lightning indexer of DeepSeek sparse attention: a small, cheap guess of which keys matter to a query.

    I_ts = Σ_j w_tj · relu(q_tj · k_s),   q_tj = R_t(a_t W_iq)_j,   k_s = R_s(LayerNorm(x_s W_ik))
    w_t = x_t W_iw / sqrt(Hi · Di)

Shapes: Hi index heads share one index key of Di features; ``W_iq [M or rq, Hi·Di]`` reads what the
attention's own queries are made of, ``W_ik [M, Di]``, ``W_iw [M, Hi]``.  The leading features of q and k turn.
Cached per token: one index key, Di numbers (128 in DeepSeek-V3.2).
Cost: per (query, key) pair ``2·Hi·Di`` FLOPs of products and 3·Hi of relu, weighting and adding up.

Exactness: scores come from products of 8 rows with blocks of 256 keys aligned to slot 0, and heads
are added in order, so a score does not depend on the cut.  An index score below zero is possible:
weights have signs.  Many scores tie at exactly 0, where every head's product is negative.

Source: DeepSeek-V3.2 (2512.02556) §2.1 eq. 1; norm, turning and weights as in the code released with it.
Where libraries differ: the indexer turns halves while the attention turns adjacent pairs (the first
release had this wrong); the released code turns q and k by a Hadamard matrix before rounding to FP8,
which changes no exact product and is left out; the norm of the key is a LayerNorm with bias.
"""

from dataclasses import dataclass
import math

import numpy as np

from kvattn import ops
from kvattn.arguments import integer, real
from kvattn.axes import sizes
from kvattn.blas import ROWS, tile_product
from kvattn.caches.blocks import BLOCK
from kvattn.counting import Tally, charge
from kvattn.errors import DtypeError, ShapeError
from kvattn.positions.rotary import Rotary
from kvattn.typing import Array, Positions
from kvattn.variants.compressed.latent_rows import turned, turned_cost
from kvattn.variants.dense.projections import split


@dataclass(frozen=True, eq=False)
class LightningIndexer:
    """Weights of an indexer, read-only.

    Parameters
    ----------
    query, key, weight
        W_iq ``[M or rq, Hi·Di]``, W_ik ``[M, Di]``, W_iw ``[M, Hi]``.
    norm_weight, norm_bias
        Of the key's LayerNorm, ``[Di]``.
    heads
        Hi.
    rotation
        Turns features of queries and keys, or None.
    eps
        Under the root of the norm.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        When they do not fit each other.

    Examples
    --------
    >>> indexer = LightningIndexer(np.ones((3, 4)), np.ones((3, 2)), np.ones((3, 2)), np.ones(2), np.zeros(2), heads=2)
    >>> indexer.width
    2
    """

    query: Array
    key: Array
    weight: Array
    norm_weight: Array
    norm_bias: Array
    heads: int
    rotation: Rotary | None = None
    eps: float = 1e-6

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", integer("heads", self.heads, 1))
        object.__setattr__(self, "eps", real("eps", self.eps, least=0.0))
        for name in ("query", "key", "weight", "norm_weight", "norm_bias"):
            held = np.array(getattr(self, name))
            if held.dtype not in (np.dtype(np.float64), np.dtype(np.float32)) or held.dtype != self.query.dtype:
                raise DtypeError(f"{name} must be float64 or float32 like query, got {held.dtype}")
            if held.size == 0:
                raise ShapeError(f"{name} must not be empty, got {held.shape}")
            held.flags.writeable = False
            object.__setattr__(self, name, held)
        sizes(
            ("key", self.key, "M Di"),
            ("query", self.query, f"Me {self.heads * self.width}"),
            ("weight", self.weight, f"M {self.heads}"),
            ("norm_weight", self.norm_weight, "Di"),
            ("norm_bias", self.norm_bias, "Di"),
        )
        if self.rotation is not None and self.rotation.width > self.width:
            raise ShapeError(
                f"rotation must turn features of {self.width} in an index key, got {self.rotation.width} features"
            )

    @property
    def width(self) -> int:
        """Di.

        >>> one = np.ones((1, 1))
        >>> LightningIndexer(one, one, one, np.ones(1), np.ones(1), heads=1).width
        1
        """
        return int(self.key.shape[-1])

    def keys(self, x: Array, positions: Positions) -> Array:
        """Index keys ``[B, 1, T, Di]`` of new tokens ``x [B, T, M]`` at positions ``[B, T]``.

        >>> one = np.ones((1, 1))
        >>> indexer = LightningIndexer(one, one, one, np.ones(1), np.full(1, 7.0), heads=1)
        >>> indexer.keys(np.ones((1, 1, 1)), np.zeros((1, 1), int))
        array([[[[7.]]]])
        """
        k = ops.contract(x, self.key, weights=True)
        return turned(self.rotation, ops.layer_norm(k, self.norm_weight, self.norm_bias, self.eps), positions)[:, None]

    def queries(self, a: Array, positions: Positions) -> Array:
        """Index queries ``[B, Hi, T, Di]`` of ``a [B, T, rq]``, or of ``x`` without a low-rank path.

        >>> one = np.ones((1, 1))
        >>> indexer = LightningIndexer(3 * one, one, one, np.ones(1), np.ones(1), heads=1)
        >>> indexer.queries(np.ones((1, 1, 1)), np.zeros((1, 1), int))
        array([[[[3.]]]])
        """
        q = split(ops.contract(a, self.query, weights=True), self.heads)
        return turned(self.rotation, q, positions[:, None, :])

    def weights(self, x: Array) -> Array:
        """How much each head counts, w ``[B, T, Hi]`` from ``x [B, T, M]``.

        >>> wide = np.ones((1, 4))
        >>> indexer = LightningIndexer(wide, wide, np.ones((1, 1)), np.ones(4), np.ones(4), heads=1)
        >>> indexer.weights(np.ones((1, 1, 1)))
        array([[[0.5]]])
        """
        raw = ops.contract(x, self.weight, weights=True)
        charge(Tally(arithmetic=raw.size))
        scaled: Array = raw * (1.0 / math.sqrt(self.heads * self.width))
        return scaled

    def cost(self, tokens: int) -> Tally:
        """What `keys`, `queries` and `weights` count for new tokens, in closed form.

        >>> one = np.ones((1, 1))
        >>> LightningIndexer(one, one, one, np.ones(1), np.ones(1), heads=1).cost(3).matmul
        18
        """
        item = self.query.itemsize
        products = (ops.contract_cost(tokens, m.shape, item) for m in (self.query, self.key, self.weight))
        turning = turned_cost(self.rotation, tokens, 1) + turned_cost(self.rotation, tokens, self.heads)
        norm = Tally(arithmetic=tokens * (7 * self.width + 3), transcendental=tokens)
        return sum(products, turning + norm + Tally(arithmetic=tokens * self.heads))

    def definition(self, x: Array, a: Array, positions: Positions) -> Array:
        """Index scores ``[B, T, T]`` of a whole sequence, query by key, as the paper writes them.

        >>> one = np.ones((1, 1))
        >>> indexer = LightningIndexer(one, one, one, np.ones(1), np.full(1, 7.0), heads=1)
        >>> indexer.definition(np.ones((1, 1, 1)), np.ones((1, 1, 1)), np.zeros((1, 1), int))
        array([[[7.]]])
        """
        k = np.einsum("btm,md->btd", x, self.key)
        k = (k - k.mean(-1, keepdims=True)) / np.sqrt(k.var(-1, keepdims=True) + self.eps)
        k = k * self.norm_weight + self.norm_bias
        q = np.einsum("btm,mhd->bthd", a, self.query.reshape(-1, self.heads, self.width))
        if self.rotation is not None:
            q, k = self.rotation.rotate(q, positions[:, :, None]), self.rotation.rotate(k, positions)
        likeness = np.maximum(np.einsum("bthd,bsd->bths", q, k), 0)
        w = np.einsum("btm,mh->bth", x, self.weight) * self.heads**-0.5 * self.width**-0.5
        scores: Array = np.einsum("bth,bths->bts", w, likeness)
        return scores


def block_scores(queries: Array, weights: Array, keys: Array) -> Array:
    """Index scores of some queries against one block, in an order that does not depend on the cut.

    Parameters
    ----------
    queries, weights
        ``[Hi, T, Di]`` and ``[T, Hi]``.
    keys
        ``[Di, 256]``; columns without a key are zero.

    Returns
    -------
    array
        ``[T, 256]``.

    Examples
    --------
    >>> keys = np.zeros((1, 256))
    >>> keys[0, :3] = [1, -1, 2]
    >>> block_scores(np.ones((1, 1, 1)), np.full((1, 1), 0.5), keys)[0, :4]
    array([0.5, 0. , 1. , 0. ])
    """
    heads, length, width = queries.shape
    rows = np.zeros((-(-heads * length // ROWS) * ROWS, width), queries.dtype)
    rows[: heads * length] = queries.reshape(-1, width)
    with np.errstate(invalid="ignore", over="ignore"):
        found = tile_product(rows.reshape(-1, ROWS, width), keys).reshape(-1, BLOCK)[: heads * length]
        likeness = np.maximum(found, 0).reshape(heads, length, BLOCK)
        total = np.zeros((length, BLOCK), queries.dtype)
        for head in range(heads):
            total += weights[:, head, None] * likeness[head]
    return total


def block_scores_cost(heads: int, width: int, pairs: int) -> Tally:
    """What scoring so many (query, key) pairs takes.

    >>> block_scores_cost(heads=2, width=4, pairs=10)
    Tally(matmul=160, arithmetic=60)
    """
    return Tally(matmul=2 * heads * width * pairs, arithmetic=3 * heads * pairs)
