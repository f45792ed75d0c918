"""PaTH attention: between a key and a query lie the reflections of every token on the way.

    s_ij = scale · k_jᵀ (Π_{t = j+1..i} H_t) q_i,      H_t = I - β_t w_t w_tᵀ,      w = softmax over j ≤ i

    w_t = W_w x_t / ‖W_w x_t‖,      β_t = 2 σ(W_β x_t + b_β)

With β = 2 a token reflects, with β = 0 it lets pass; the product runs H_{j+1} … H_i, so a query walks back from
its own place and meets H_i first.  No other position is needed, and none is offered: the mask is causal.

Shapes: ``x [B, T, M]``; w ``[B, Hkv, T, D]`` and β ``[B, Hkv, T, 1]`` belong to key/value heads and are shared by the
query heads of a group.
Cached per token: key, value, w and β as they are made, ``Hkv · (2 D + Dv + 1)`` numbers; nothing cached is ever
rewritten.  Cost: ``2 (D + Dv)`` FLOPs per computed pair as in grouped attention, and ``4 D + 1`` to walk on by a key.

Source: Yang et al. 2025 (2505.16381), the definition of PaTH attention and the parameterisation of H.
Where libraries differ: engines rewrite every cached key at each step, k_j ← H_t k_j, which no rollback can take
back without the token's w and β.  flash-linear-attention's layer is this one with ``use_low_rank_w`` and
``use_w_shortconv`` off; they make w by a low rank and by a short convolution over time.  It divides w by
‖w‖ with an ε under the root; here a w of zeros stays 0, and its token lets pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import NamedTuple

import numpy as np

from kvattn import ops
from kvattn.arguments import optional_real
from kvattn.arrays import positions as read_positions
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.paged import Paged
from kvattn.caches.rows import Field, Schema
from kvattn.core import scored
from kvattn.core.accounting import Shape
from kvattn.core.scored import scored_cost
from kvattn.core.weights import Softmax, check_kept, kept
from kvattn.counting import Tally, charge
from kvattn.masks.causal import Causal
from kvattn.typing import Array, Attended, Place, Positions
from kvattn.variants.dense.projections import Projections, check_hidden, split


class PathRow(NamedTuple):
    """A token's key, value, direction w and strength β, each ``[B, Hkv, T, width]``."""

    k: Array
    v: Array
    direction: Array
    strength: Array


@dataclass(frozen=True)
class Walk:
    """Products of keys with queries that walk back to them, for ``scoring`` of `kvattn.core.scored.attend`.

    Notes of a block hold the directions of all key/value heads and then their strengths, ``[Hkv · (D + 1), 256]``.

    Examples
    --------
    >>> from kvattn.caches.blocks import blocks_of
    >>> one = np.ones((1, 2, 1))
    >>> (block,) = blocks_of(one, one, np.arange(2))
    >>> at = np.ones((1, 8, 1), np.int64)
    >>> turned = block._replace(notes=np.full((2, 256), [[1.0], [2.0]]))  # w = 1, β = 2: each token turns round
    >>> Walk()(np.ones((1, 8, 1)), [turned], Place(0, None, None, at, None))[0][0, 0, :2]
    array([-1.,  1.])
    """

    def __call__(self, rows: Array, blocks: Sequence[KeyBlock], place: Place, /) -> list[Array]:
        """Walk down from the last slot; a query sets out where its own position is reached."""
        heads, _, width = rows.shape
        walker = rows.copy()
        found = [np.zeros((*rows.shape[:2], BLOCK), rows.dtype) for _ in blocks]
        for scores, block in zip(reversed(found), reversed(blocks), strict=True):
            if block.notes is None:
                continue
            directions = block.notes[: heads * width].reshape(heads, width, BLOCK)
            strengths = block.notes[heads * width :].reshape(heads, 1, BLOCK)
            columns = range(BLOCK) if block.held is None else np.flatnonzero(block.held)
            for j in reversed(columns):
                out = place.q_positions >= block.positions[j]
                scores[:, :, j] = (walker * block.k[:, None, :, j]).sum(axis=-1)
                w = directions[:, None, :, j]
                along = (walker * w).sum(axis=-1, keepdims=True) * strengths[:, :, j, None]
                walker = np.where(out, walker - along * w, walker)
        return found

    def cost(self, *, pairs: int, width: int) -> Tally:
        """A product with w, one with β, and a subtraction of so much of w, per pair.

        >>> Walk().cost(pairs=10, width=2)
        Tally(arithmetic=90)
        """
        return Tally(arithmetic=(4 * width + 1) * pairs)


@dataclass(frozen=True, eq=False)
class Path:
    """A PaTH attention layer.

    Parameters
    ----------
    projections
        The four matrices and the head counts.
    direction, strength
        W_w ``[M, Hkv·D]`` and W_β ``[M, Hkv]``, copied.
    strength_bias
        b_β ``[Hkv]``, copied, or None.
    scale
        As in `kvattn.attend`.
    page
        Tokens per cache page; invisible in the result.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        A matrix that does not fit the projections.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> layer = Path(Projections(one, one, one, one, heads=1, kv_heads=1), direction=one, strength=one)
    >>> x = np.array([[[1.0], [3.0]]])
    >>> attended, cache = layer.step(layer.start(), x)
    >>> bool(np.allclose(attended.out, layer.definition(x, np.arange(2)).out)), cache.length
    (True, 2)
    """

    projections: Projections
    direction: Array
    strength: Array
    strength_bias: Array | None = None
    scale: float | None = None
    page: int = BLOCK

    def __post_init__(self) -> None:
        w = self.projections
        object.__setattr__(self, "scale", optional_real("scale", self.scale))
        for name, columns in (("direction", w.kv_heads * w.width), ("strength", w.kv_heads)):
            held = kept(name, getattr(self, name), "M N")
            check_kept(name, held, f"{w.hidden} {columns}", w.dtype)
            object.__setattr__(self, name, held)
        if self.strength_bias is not None:
            bias = kept("strength_bias", self.strength_bias, "Hkv")
            check_kept("strength_bias", bias, f"{w.kv_heads}", w.dtype)
            object.__setattr__(self, "strength_bias", bias)

    def definition(self, x: Array, positions: Positions) -> Attended:
        """The paper's equation on the whole sequence, with matrices: all keys are turned on by one token at a time.

        Parameters
        ----------
        x
            ``[B, T, M]``.
        positions
            ``[T]`` or ``[B, T]``; only their order matters.

        Examples
        --------
        >>> one = np.ones((1, 1))
        >>> layer = Path(Projections(one, one, one, one, heads=1, kv_heads=1), direction=one, strength=one)
        >>> layer.definition(np.array([[[1.0]]]), np.arange(1)).out
        array([[[1.]]])
        """
        w = self.projections
        x = check_hidden("x", x, None, w.hidden, w.dtype)
        batch, length, _ = x.shape
        at = read_positions("positions", positions, batch, length)
        q = np.einsum("btm,mhd->bhtd", x, w.query.reshape(w.hidden, w.heads, w.width))
        group = w.heads // w.kv_heads
        shapes = (w.key, w.width), (w.value, w.value_width), (self.direction, w.width), (self.strength, 1)
        k, v, direction, strength = (
            np.repeat(np.einsum("btm,mhd->bhtd", x, part.reshape(w.hidden, w.kv_heads, width)), group, axis=1)
            for part, width in shapes
        )
        length_of = np.sqrt((direction**2).sum(axis=-1, keepdims=True))
        direction = np.divide(direction, length_of, out=np.zeros_like(direction), where=length_of != 0)
        if self.strength_bias is not None:
            strength = strength + np.repeat(self.strength_bias, group)[:, None, None]
        with np.errstate(over="ignore"):
            strength = 2.0 / (1.0 + np.exp(-strength))
        outer = np.einsum("bhtd,bhte->bhtde", direction, direction)
        turns = np.eye(w.width, dtype=x.dtype) - strength[..., None] * outer  # H_t, [B, Hq, T, D, D]
        scores = np.full((batch, w.heads, length, length), -np.inf, x.dtype)
        through = np.zeros_like(k)  # k_jᵀ H_{j+1} … H_i for the query at hand
        for i in range(length):
            through[:, :, :i] = np.einsum("bhjd,bhde->bhje", through[:, :, :i], turns[:, :, i])
            through[:, :, i] = k[:, :, i]
            scores[:, :, i, : i + 1] = np.einsum("bhjd,bhd->bhj", through[:, :, : i + 1], q[:, :, i])
        scale = 1.0 / math.sqrt(w.width) if self.scale is None else self.scale
        mixed, lse = np.zeros((batch, w.heads, length, w.value_width), x.dtype), np.zeros(scores.shape[:3], x.dtype)
        for b in range(batch):
            seen = np.broadcast_to(at[b][:, None] >= at[b][None, :], scores[b].shape)
            place = Place(b, np.arange(w.heads)[:, None, None], q[b], at[b][None, :, None], at[b][None, None, :])
            weights, lse[b] = Softmax().definition(scores[b] * scale, seen, place)
            mixed[b] = np.einsum("hts,hsd->htd", weights, v[b])
        out = np.einsum("bhtd,hdm->btm", mixed, w.output.reshape(w.heads, w.value_width, w.hidden))
        return Attended(out, lse)

    def start(self, batch: int = 1) -> Paged[PathRow]:
        """The empty cache for ``batch`` sequences.

        >>> one = np.ones((1, 1))
        >>> Path(Projections(one, one, one, one, heads=1, kv_heads=1), one, one).start(2)
        Paged(PathRow, page=256, lengths=(0, 0))
        """
        return Paged.start(self._schema(), batch, self.page)

    def step(self, cache: Paged[PathRow], x: Array) -> tuple[Attended, Paged[PathRow]]:
        """Attend with any number of new tokens, and remember them.

        Parameters
        ----------
        cache
            What `start` or an earlier step returned; it stays valid.
        x
            ``[B, T, M]``, T >= 0.

        Examples
        --------
        >>> one = np.ones((1, 1))
        >>> layer = Path(Projections(one, one, one, one, heads=1, kv_heads=1), one, one)
        >>> layer.step(layer.start(), np.array([[[1.0]]]))[0].out
        array([[[1.]]])
        """
        w = self.projections
        x = check_hidden("x", x, cache.batch, w.hidden, w.dtype)
        at = cache.coming(x.shape[1])
        q, direction = w.queries(x), split(ops.contract(x, self.direction, weights=True), w.kv_heads)
        raised = ops.contract(x, self.strength, weights=True)
        raised = raised if self.strength_bias is None else raised + self.strength_bias
        strength = split(2.0 * ops.sigmoid(raised), w.kv_heads)
        charge(self._made_cost(strength.size))
        cache = cache.append(PathRow(w.keys(x), w.values(x), _unit(direction), strength), positions=at)
        blocks = [self._blocks(cache, b) for b in range(cache.batch)]
        mixed, lse = scored.attend(
            q,
            at,
            blocks,
            value_width=w.value_width,
            weighing=Softmax(),
            scoring=Walk(),
            mask=Causal(),
            scale=self.scale,
        )
        return Attended(w.outputs(mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> one = np.ones((1, 1))
        >>> layer = Path(Projections(one, one, one, one, heads=1, kv_heads=1), one, one)
        >>> layer.cost(past=9, new=1).pairs_computed
        10
        """
        w = self.projections
        rows = batch * new
        total = w.cost(rows, "query", "key", "value", "output")
        for matrix in (self.direction, self.strength):
            total += ops.contract_cost(rows, matrix.shape, matrix.itemsize)
        made = rows * w.kv_heads
        total += self._made_cost(made) + Tally(arithmetic=2 * made, transcendental=made)
        total += self._schema().append_cost(past=past, new=new, batch=batch, page=self.page)
        itemsize = w.dtype.itemsize
        shape = Shape(w.heads, w.kv_heads, w.width, w.value_width, itemsize, past, new, batch)
        notes = w.kv_heads * (w.width + 1) * itemsize
        return total + scored_cost(shape, Softmax(), Causal(), scoring=Walk(), notes=notes)

    def _made_cost(self, made: int) -> Tally:
        """Directions of length 1: a square, an addition and a division per number, a root each; strengths doubled."""
        biased = self.strength_bias is not None
        return Tally(arithmetic=made * (3 * self.projections.width + 1 + biased), transcendental=made)

    def _schema(self) -> Schema[PathRow]:
        w = self.projections
        fields = ("k", w.width, True), ("v", w.value_width, False), ("direction", w.width, True), ("strength", 1, True)
        return Schema(PathRow, tuple(Field(name, w.kv_heads, width, w.dtype, keys) for name, width, keys in fields))

    def _blocks(self, cache: Paged[PathRow], sequence: int) -> list[KeyBlock]:
        """Keys and values with directions and strengths as notes."""
        found = []
        for block in cache.raw_blocks(sequence):
            k, v, direction, strength = block.arrays
            notes = np.concatenate([direction.reshape(-1, BLOCK), strength.reshape(-1, BLOCK)])
            found.append(KeyBlock(block.start, k, v, block.positions, block.held, notes=notes))
        return found


def _unit(vectors: Array) -> Array:
    """Vectors of length 1 along the last axis; a vector of zeros stays."""
    whole = np.ascontiguousarray(vectors)
    length = np.sqrt((whole * whole).sum(axis=-1, keepdims=True))
    return whole / np.where(length == 0.0, 1.0, length).astype(whole.dtype, copy=False)
