"""Attention whose pairs take their rotary positions in one of several ways, in one softmax.

    s[i, j] = scale · R(a_w(i)) q_i · R(b_w(j)) k_j          w: the one way whose mask shows (i, j)

A `Way` says which pairs are its own, where it places a query and where a key.  Schemes that extend the context without
training are such ways: `kvattn.variants.dense.self_extend`, `kvattn.variants.dense.dual_chunk`.

Exactness: a pair's way depends on positions alone, so every way of cutting the sequence gives the same bits.
Each way is attended to by itself and the parts are joined by their log-sum-exps: one softmax, within a few
roundings.

Shapes: ``x [B, T, M]``, ``q [B, Hq, T, D]``, ``k [B, Hkv, S, D]``, ``v [B, Hkv, S, Dv]``.
Cached per token: an unturned key and a value for each key/value head, ``Hkv · (D + Dv)`` numbers.
Cost of T new tokens: that of grouped-query attention once for each way, over the blocks that the way sees; its queries
and these blocks' keys turn, ``6`` FLOPs per row and pair; and the join.

Source: Jin et al. 2024 (arXiv 2401.01325) §3 and An et al. 2024 (2402.17463) §2, of which this is the common form.
Where libraries differ: both released codes cache turned keys, Self-Extend two for each token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from kvattn.arguments import integer, shown
from kvattn.arrays import positions as read_positions
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.cache import C
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, key_value
from kvattn.core import streaming
from kvattn.core.accounting import Shape, attend_cost
from kvattn.core.definition import definition
from kvattn.core.merge import merge, merge_cost
from kvattn.core.pipeline import arguments_of, bends_of, check_mask, settle
from kvattn.counting import Tally
from kvattn.errors import ArgumentError
from kvattn.masks.causal import Causal
from kvattn.masks.combine import both
from kvattn.mods.softcap import softcap as softcap_scores
from kvattn.positions.rotary import Rotary
from kvattn.typing import Answer, Array, Attended, Finish, Mask, Mod, Place, Positions, QueryKey, Span
from kvattn.variants.dense._turned import turned
from kvattn.variants.dense.projections import Projections, check_hidden


class Places(Protocol):
    """Where a token stands in the eyes of one way."""

    def __call__(self, positions: Positions) -> Positions:
        """A place for each position, elementwise."""


@dataclass(frozen=True)
class Floor:
    """Every ``group`` neighbours at one place: ``position // group + offset``.

    >>> Floor(2, offset=5)(np.arange(4))
    array([5, 5, 6, 6])
    """

    group: int = 1
    offset: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", integer("group", self.group, 1))
        object.__setattr__(self, "offset", integer("offset", self.offset, 0))

    def __call__(self, positions: Positions) -> Positions:
        """The places."""
        return positions // self.group + self.offset


@dataclass(frozen=True)
class Cycle:
    """Counting anew in every chunk: ``min(position mod size + offset, most)``.

    >>> Cycle(3, offset=3, most=4)(np.arange(4))
    array([3, 4, 4, 3])
    """

    size: int
    offset: int = 0
    most: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", integer("size", self.size, 1))
        object.__setattr__(self, "offset", integer("offset", self.offset, 0))
        if self.most is not None:
            object.__setattr__(self, "most", integer("most", self.most, 0))

    def __call__(self, positions: Positions) -> Positions:
        """The places."""
        places = positions % self.size + self.offset
        return places if self.most is None else np.minimum(places, self.most)


class Way(NamedTuple):
    """Which pairs, and where their queries and keys are placed.

    Attributes
    ----------
    mask
        The pairs of this way; none of them may be another way's.
    queries, keys
        Places for rotation.
    """

    mask: Mask
    queries: Places
    keys: Places


@dataclass(frozen=True, eq=False)
class Placed:
    """A causal grouped-query attention layer with several ways of placing a pair.

    Parameters
    ----------
    projections
        The four matrices and the head counts.
    rotary
        Turns queries and keys to their places.
    ways
        At least one `Way`; a pair that none shows is not seen.
    mask
        Who may see whom beside that; later keys are never seen.
    query_key
        What is done to queries and keys before caching, in order: norms.
    finish, mods, scale, softcap, sinks, page
        As in `kvattn.variants.dense.grouped.Grouped`; mods see tokens' own positions.

    Raises
    ------
    ArgumentError
        When there is no way, or something else among them, or no rotation.

    Examples
    --------
    >>> from kvattn.variants.dense.self_extend import self_extend
    >>> some = np.ones((2, 2))
    >>> layer = Placed(Projections(some, some, some, some, 1, 1), Rotary.of(2), self_extend(group=2, window=2))
    >>> x = np.array([[[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 2.0]]])
    >>> attended, cache = layer.step(layer.start(), x)
    >>> bool(np.allclose(attended.out, layer.definition(x, np.arange(4)).out)), cache.length
    (True, 4)
    """

    projections: Projections
    rotary: Rotary
    ways: Sequence[Way]
    mask: Mask | None = Causal()  # noqa: RUF009 a frozen value
    query_key: Sequence[QueryKey] = ()
    finish: Sequence[Finish] = ()
    mods: Sequence[Mod] = ()
    scale: float | None = None
    softcap: float | None = None
    sinks: Array | None = None
    page: int = BLOCK

    def __post_init__(self) -> None:
        if not isinstance(self.ways, (tuple, list)) or not self.ways:
            raise ArgumentError(f"ways must be a non-empty sequence of Way, got {shown(self.ways)}")
        if not all(isinstance(way, Way) for way in self.ways):
            raise ArgumentError(f"ways must be a non-empty sequence of Way, got {shown(list(self.ways))}")
        for way in self.ways:
            check_mask(way.mask)
            if way.mask is None:
                raise ArgumentError("mask of a way must say which pairs are its own, got None")
        if not isinstance(self.rotary, Rotary):
            raise ArgumentError(f"rotary must be a Rotary, got {shown(self.rotary)}")
        object.__setattr__(self, "ways", tuple(self.ways))
        settle(self, self.projections.heads, self.projections.dtype)

    def definition(self, x: Array, positions: Positions) -> Attended:
        """The equation on the whole sequence: every pair's score in each way, and the one that counts chosen.

        Parameters
        ----------
        x
            ``[B, T, M]``.
        positions
            ``[T]`` or ``[B, T]``, from 0 on.

        Examples
        --------
        >>> some = np.ones((2, 2))
        >>> way = Way(Causal(), Floor(), Floor())
        >>> layer = Placed(Projections(some, some, some, some, 1, 1), Rotary.of(2), (way,))
        >>> layer.definition(np.array([[[1.0, 0.0]]]), np.arange(1)).out
        array([[[2., 2.]]])
        """
        w = self.projections
        x = check_hidden("x", x, None, w.hidden, w.dtype)
        batch, length, _ = x.shape
        at = read_positions("positions", positions, batch, length)[:, None, :]
        q = np.einsum("btm,mhd->bhtd", x, w.query.reshape(w.hidden, w.heads, w.width))
        k = np.einsum("btm,mhd->bhtd", x, w.key.reshape(w.hidden, w.kv_heads, w.width))
        v = np.einsum("btm,mhd->bhtd", x, w.value.reshape(w.hidden, w.kv_heads, w.value_width))
        for part in self.query_key:
            q, k = part.queries(q, at), part.keys(k, at)
        scale = 1.0 / np.sqrt(w.width).item() if self.scale is None else self.scale
        scores = []
        for way in self.ways:
            keys = np.repeat(self.rotary.rotate(k, way.keys(at)), w.heads // w.kv_heads, axis=1)
            found = np.einsum("bhtd,bhsd->bhts", self.rotary.rotate(q, way.queries(at)), keys) * scale
            scores.append(found if self.softcap is None else softcap_scores(found, self.softcap))

        def chosen(_: Array, place: Place) -> Array:
            """The scores of the way that shows a pair, which is then seen; -inf where none does."""
            out = np.full(scores[0][place.batch].shape, -np.inf, w.dtype)
            for way, found in zip(self.ways, scores, strict=True):
                own = way.mask(place.batch, place.heads, place.q_positions, place.k_positions)
                np.copyto(out, found[place.batch], where=own)
            return out

        seen = Causal() if self.mask is None else both(Causal(), self.mask)
        settings = arguments_of(self, mask=seen, mods=(chosen, *self.mods), softcap=None)
        mixed, lse = definition(q, k, v, q_positions=at[:, 0], k_positions=at[:, 0], **settings)
        for last in self.finish:
            mixed = last.finish(mixed, x, at[:, 0])
        out = np.einsum("bhtd,hdm->btm", mixed, w.output.reshape(w.heads, w.value_width, w.hidden))
        return Attended(out, lse)

    def start(self, batch: int = 1) -> Paged[KeyValue]:
        """The empty cache for ``batch`` sequences.

        >>> some, way = np.ones((2, 2)), Way(Causal(), Floor(), Floor())
        >>> Placed(Projections(some, some, some, some, 1, 1), Rotary.of(2), (way,)).start(2)
        Paged(KeyValue, page=256, lengths=(0, 0))
        """
        w = self.projections
        return Paged.start(key_value(w.kv_heads, w.width, w.value_width, w.dtype), batch, self.page)

    def step(self, cache: C, x: Array) -> tuple[Attended, C]:
        """Attend with any number of new tokens, and remember them unturned.

        Parameters
        ----------
        cache
            What `start` or an earlier step returned; it stays valid.
        x
            ``[B, T, M]``, T >= 0.

        Examples
        --------
        >>> some, way = np.ones((2, 2)), Way(Causal(), Floor(), Floor())
        >>> layer = Placed(Projections(some, some, some, some, 1, 1), Rotary.of(2), (way,))
        >>> layer.step(layer.start(), np.array([[[1.0, 0.0]]]))[0].out
        array([[[2., 2.]]])
        """
        w = self.projections
        x = check_hidden("x", x, cache.batch, w.hidden, w.dtype)
        at = cache.coming(x.shape[1])
        q, k, v = w.queries(x), w.keys(x), w.values(x)
        for part in self.query_key:
            q, k = part.queries(q, at[:, None, :]), part.keys(k, at[:, None, :])
        cache = cache.append(KeyValue(k, v), positions=at)
        held = [cache.blocks(b) for b in range(cache.batch)]
        parts = []
        for number, way in enumerate(self.ways):
            own = self._own(way)
            placed = self.rotary.rotate(q, way.queries(at)[:, None, :])
            blocks = [[self._placed(own, way, b, block, at[b]) for block in held[b]] for b in range(cache.batch)]
            settings = arguments_of(self, mask=own, sinks=self.sinks if number == 0 else None)
            parts.append(streaming.attend(placed, at, blocks, value_width=w.value_width, **settings))
        mixed, lse = merge(*parts)
        for last in self.finish:
            mixed = last.finish(mixed, x, at)
        return Attended(w.outputs(mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> some, way = np.ones((2, 2)), Way(Causal(), Floor(), Floor())
        >>> Placed(Projections(some, some, some, some, 1, 1), Rotary.of(2), (way,)).cost(past=9, new=1).pairs_visible
        10
        """
        w = self.projections
        rows, keys = batch * new, past + new
        total = w.cost(rows, "query", "key", "value", "output")
        for part in self.query_key:
            total += part.queries_cost(tokens=rows, heads=w.heads, width=w.width)
            total += part.keys_cost(tokens=rows, heads=w.kv_heads, width=w.width)
        for last in self.finish:
            total += last.finish_cost(tokens=rows, heads=w.heads, width=w.value_width)
        schema = key_value(w.kv_heads, w.width, w.value_width, w.dtype)
        total += schema.append_cost(past=past, new=new, batch=batch, page=self.page)
        shape = Shape(w.heads, w.kv_heads, w.width, w.value_width, w.dtype.itemsize, past, new, batch)
        for number, way in enumerate(self.ways):
            own = self._own(way)
            total += self.rotary.cost(rows=rows * w.heads, positions=rows)
            met = sum(
                min(BLOCK, keys - start)
                for b in range(batch)
                for start in range(0, keys if new else 0, BLOCK)
                if own.block(b, Span(past, keys - 1), Span(start, min(start + BLOCK, keys) - 1)) is not Answer.NONE
            )
            total += self.rotary.cost(rows=w.kv_heads * met, positions=met)
            bends = bends_of(self)
            total += attend_cost(shape, own, **bends | {"sinks": bends["sinks"] and number == 0})
        return total + merge_cost(rows * w.heads, parts=len(self.ways), width=w.value_width)

    def _own(self, way: Way) -> Mask:
        """The pairs of a way that are seen."""
        seen = both(Causal(), way.mask)
        return seen if self.mask is None else both(seen, self.mask)

    def _placed(self, own: Mask, way: Way, b: int, block: KeyBlock, at: Positions) -> KeyBlock:
        """The block with its keys at their places, or as it is where none of these queries sees it in this way."""
        if not at.size:
            return block
        low, high = int(block.positions.min()), int(block.positions.max())
        if own.block(b, Span(int(at.min()), int(at.max())), Span(low, high)) is Answer.NONE:
            return block
        return turned(block, self.rotary, way.keys(block.positions))
