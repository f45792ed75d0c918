"""What streaming attention over a plain cache costs, in closed form.

For T new tokens behind P cached ones, at positions that are slots: which (row tile, key block)
meetings take place follows from the mask's block answers, and everything else from their number::

    pairs     = Σ_meetings rows · keys
    matmul    = 2 · pairs · (D + Dv)
    exp       = pairs  (+ pairs for a softcap) + one per row and span of four blocks
    KV read   = keys of every block met at least once · Hkv · (D + Dv) · itemsize

It equals what `kvattn.core.streaming` counts while it runs, in exact integers, which is a law.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer
from kvattn.caches.blocks import BLOCK
from kvattn.core.pipeline import mods_cost
from kvattn.core.tiles import SPAN, row_step
from kvattn.counting import Tally
from kvattn.typing import Answer, Mask, Mod, Span


@dataclass(frozen=True)
class Shape:
    """The sizes of one call, in the letters of `kvattn.axes`.

    Attributes
    ----------
    heads, kv_heads, width, value_width
        Hq, Hkv, D, Dv.
    itemsize
        Bytes per number.
    past, new
        Keys that were there, and tokens that came: T = new, S = past + new.
    batch
        Sequences, alike.
    source
        S where the keys are not those of the queries' own sequence, as in cross-attention.
    inside
        Whether values are part of the keys' numbers, as in latent attention, so that a row is read once.

    Raises
    ------
    ArgumentError
        A size below 1; ``past``, ``new`` or ``source`` below 0.

    Examples
    --------
    >>> Shape(heads=8, kv_heads=2, width=64, value_width=64, itemsize=4, past=99, new=1).keys
    100
    """

    heads: int
    kv_heads: int
    width: int
    value_width: int
    itemsize: int
    past: int
    new: int
    batch: int = 1
    source: int | None = None
    inside: bool = False

    def __post_init__(self) -> None:
        for name in ("heads", "kv_heads", "width", "value_width", "itemsize", "batch"):
            integer(name, getattr(self, name), 1)
        for name in ("past", "new"):
            integer(name, getattr(self, name), 0)

    @property
    def keys(self) -> int:
        """S.

        >>> Shape(1, 1, 4, 4, 8, past=5, new=1).keys
        6
        """
        return self.past + self.new if self.source is None else self.source


def attend_cost(
    shape: Shape,
    mask: Mask | None = None,
    *,
    softcap: bool = False,
    sinks: bool = False,
    forgotten: tuple[int, int] = (0, 0),
    mods: Sequence[Mod] = (),
    notes: int = 0,
) -> Tally:
    """The cost of `kvattn.core.streaming.attend` for the last tokens of a sequence.

    Parameters
    ----------
    shape
        The sizes.
    mask
        As given to ``attend``; where it is looked at, its visible pairs are summed.
    softcap, sinks
        Whether there are any.
    forgotten
        Slots ``start .. stop - 1`` that the cache no longer holds.
    mods
        As given to ``attend``; those that state a cost are counted.
    notes
        Bytes of the notes that are read with each key.

    Examples
    --------
    >>> from kvattn.masks import Causal
    >>> attend_cost(Shape(2, 1, 4, 4, 8, past=0, new=3), Causal()).pairs_visible  # 2 heads, 1 + 2 + 3 pairs
    12
    """
    group = shape.heads // shape.kv_heads
    total = sum((_sequence(shape, group, mask, b, softcap, forgotten, notes) for b in range(shape.batch)), Tally())
    total += mods_cost(mods, pairs=total.pairs_computed, width=shape.width)
    rows = shape.batch * shape.heads * shape.new
    ends = rows * sinks
    return total + Tally(
        arithmetic=rows * (shape.width + shape.value_width) + ends * (2 + shape.value_width),
        transcendental=rows + 2 * ends,
    )


def _sequence(
    shape: Shape, group: int, mask: Mask | None, b: int, softcap: bool, forgotten: tuple[int, int], notes: int
) -> Tally:
    """Meetings of one sequence, over all its key/value heads."""
    wide = shape.width + shape.value_width
    read = shape.width if shape.inside else wide
    total = Tally()
    met: dict[int, int] = {}
    step = row_step(group)
    for first in range(0, group * shape.new, step):
        row = np.arange(first, min(first + step, group * shape.new))
        q = shape.past + row // group
        spans: set[int] = set()
        for start in range(0, shape.keys, BLOCK):
            slots = np.arange(start, min(start + BLOCK, shape.keys))
            keys = slots[(slots < forgotten[0]) | (slots >= forgotten[1])]
            if not keys.size:
                continue
            answer = Answer.ALL
            if mask is not None:
                answer = mask.block(b, Span(int(q[0]), int(q[-1])), Span(int(keys[0]), int(keys[-1])))
            if answer is Answer.NONE:
                continue
            met[start] = keys.size
            pairs = shape.kv_heads * row.size * keys.size
            visible = pairs
            if answer is Answer.LOOK and mask is not None:
                heads = np.arange(shape.kv_heads)[:, None, None] * group + (row % group)[None, :, None]
                seen = mask(b, heads, q[None, :, None], keys[None, None, :])
                visible = int(np.count_nonzero(np.broadcast_to(seen, (shape.kv_heads, row.size, keys.size))))
            visits = shape.kv_heads * row.size
            spanned = 0 if start // SPAN in spans else visits
            spans.add(start // SPAN)
            total += Tally(
                matmul=2 * pairs * wide,
                arithmetic=pairs * (5 if softcap else 3) + (spanned + visits) * (1 + shape.value_width),
                transcendental=pairs * (2 if softcap else 1) + spanned,
                pairs_computed=pairs,
                pairs_visible=visible,
            )
    return total + Tally(kv_read=sum(met.values()) * (shape.kv_heads * read * shape.itemsize + notes))
