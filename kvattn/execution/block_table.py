"""Block tables: paged attention as engines have it, one pool of physical blocks and a table per sequence.

    key of slot s of sequence b  =  keys[table[b, s // page], s % page]

Rows are gathered through the table and attended to at positions ``0 .. length - 1``.  Which physical blocks a
sequence has, and what lies in blocks that it does not have or behind its end in the last one, does not show in
the result, to the bit: gathered rows are the same rows.  Two sequences may name the same block: a shared prefix.

Shapes: keys ``[N, page, Hkv, D]`` and values ``[N, page, Hkv, Dv]``, as vLLM and FlashAttention lay them out;
``table [B, columns]`` of block numbers, -1 where there is none; ``lengths [B]``; queries ``[B, Hq, T, D]`` are the
last T tokens of their sequences.
Cached per token: ``Hkv · (D + Dv)`` numbers, in whole blocks, and 1/page of a table entry.
Cost: attention's, and the table entries read, 8 bytes each.
Source: Kwon et al. 2023, PagedAttention (arXiv 2309.06180) §4.1, §4.3.

Where libraries differ: an entry past the end read as the last one (mistral.rs #552); pages read as one slab
(pypto #470); a window that trims the table moves slots but not positions (vLLM #2231).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.arguments import integer, optional_real
from kvattn.arrays import anything, floating
from kvattn.axes import sizes
from kvattn.caches.blocks import blocks_of
from kvattn.core import streaming
from kvattn.core.pipeline import check_mask
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, PositionError
from kvattn.one_liners import check_heads
from kvattn.typing import Array, Attended, Indices, Mask, Mod


@dataclass(frozen=True, eq=False, repr=False)
class BlockTable:
    """Physical blocks, and which of them each sequence has.

    Parameters
    ----------
    keys, values
        ``[N, page, Hkv, D]`` and ``[N, page, Hkv, Dv]``; not copied, as the pool is shared and large.
    table
        ``[B, columns]``, integers; -1 in places that are not used.
    lengths
        ``[B]``, tokens of each sequence.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        Arrays that do not fit, a length below 0 or beyond the table.
    PositionError
        A place that is used and names no block of the pool.

    Examples
    --------
    >>> pool = np.arange(6.0).reshape(3, 2, 1, 1)
    >>> table = BlockTable(pool, pool, [[2, 0]], [3])
    >>> table.rows(0)[0].ravel()
    array([4., 5., 0.])
    """

    keys: Array
    values: Array
    table: Indices | Sequence[Sequence[int]]
    lengths: Sequence[int] | Indices

    def __post_init__(self) -> None:
        dtype = np.float32 if getattr(self.keys, "dtype", None) == np.float32 else np.float64
        keys, values = floating("keys", self.keys, dtype), floating("values", self.values, dtype)
        given, ends = anything("table", self.table), anything("lengths", self.lengths)
        bound = sizes(
            ("keys", keys, "N page Hkv D"),
            ("values", values, "N page Hkv Dv"),
            ("table", given, "B columns"),
            ("lengths", ends, "B"),
        )
        for name, array in (("table", given), ("lengths", ends)):
            if array.dtype.kind not in "iu" and array.size:
                raise ArgumentError(f"{name} must hold integers, got dtype {array.dtype}")
        integer("page", bound["page"], 1)
        table = given.astype(np.int64)
        table.flags.writeable = False
        most = bound["columns"] * bound["page"]
        lengths = tuple(integer(f"lengths[{b}]", n, 0, most) for b, n in enumerate(ends.tolist()))
        for b, length in enumerate(lengths):
            used = table[b, : -(-length // bound["page"])]
            lost = (used < 0) | (used >= bound["N"])
            if lost.any():
                column = int(lost.argmax())
                raise PositionError(
                    f"table[{b}, {column}] must name a block in 0 .. {bound['N'] - 1}, got {used[column]}"
                )
        for name, value in (("keys", keys), ("values", values), ("table", table), ("lengths", lengths)):
            object.__setattr__(self, name, value)

    def rows(self, sequence: int) -> tuple[Array, Array]:
        """Keys ``[Hkv, length, D]`` and values ``[Hkv, length, Dv]`` of one sequence, gathered.

        >>> pool = np.arange(6.0).reshape(3, 2, 1, 1)
        >>> BlockTable(pool, pool, [[1, -1]], [2]).rows(0)[1].ravel()
        array([2., 3.])
        """
        b = integer("sequence", sequence, 0, len(self.lengths) - 1)
        length, page = self.lengths[b], self.keys.shape[1]
        used = np.asarray(self.table)[b, : -(-length // page)]
        keys, values = (
            pool[used].reshape(-1, *pool.shape[2:])[:length].swapaxes(0, 1) for pool in (self.keys, self.values)
        )
        return keys, values

    def attend(
        self,
        q: Array,
        *,
        mask: Mask | None = None,
        mods: Sequence[Mod] = (),
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Array | None = None,
    ) -> Attended:
        """Attend with the last tokens of each sequence.

        Parameters
        ----------
        q
            ``[B, Hq, T, D]``, of the pool's dtype; the last T tokens of their sequences, whose keys are there.
        mask, mods, scale, softcap, sinks
            As in `kvattn.execution.question.Question`.

        Raises
        ------
        ShapeError, DtypeError, ArgumentError
            One sentence that names the argument.

        Examples
        --------
        >>> pool = np.arange(6.0).reshape(3, 2, 1, 1)
        >>> table = BlockTable(pool, pool, [[2, 0], [1, -1]], [3, 1])
        >>> table.attend(np.zeros((2, 1, 1, 1))).out.ravel()
        array([3., 2.])
        """
        dtype = self.keys.dtype
        q = floating("q", q, dtype)
        bound = sizes(
            ("keys", self.keys, "N page Hkv D"),
            ("q", q, f"{len(self.lengths)} Hq T D"),
            ("values", self.values, "N page Hkv Dv"),
        )
        check_heads(bound["Hq"], bound["Hkv"])
        check_mask(mask)
        shortest = min((int(n) for n in self.lengths), default=0)
        if bound["T"] > shortest:
            raise ArgumentError(
                f"q must have at most as many tokens as the shortest sequence, {shortest}, got {bound['T']}"
            )
        if sinks is not None:
            sinks = floating("sinks", sinks, dtype)
            sizes(("sinks", sinks, str(bound["Hq"])))
        at = np.array(self.lengths, np.int64)[:, None] - bound["T"] + np.arange(bound["T"])
        blocks: list[Any] = []
        for b, length in enumerate(self.lengths):
            blocks.append(blocks_of(*self.rows(b), np.arange(length)))
            charge(Tally(tables_read=8 * -(-int(length) // bound["page"])))
        return streaming.attend(
            q,
            at,
            blocks,
            value_width=bound["Dv"],
            mask=mask,
            mods=tuple(mods),
            scale=optional_real("scale", scale),
            softcap=optional_real("softcap", softcap, above=0.0),
            sinks=sinks,
        )

    def __repr__(self) -> str:
        blocks, page = self.keys.shape[:2]
        return f"BlockTable(blocks={blocks}, page={page}, lengths={tuple(self.lengths)})"
