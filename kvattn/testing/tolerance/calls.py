"""One attention call, read once and handed out in blocks of rows.

Shapes: ``q [B, Hq, T, D]``, ``k [B, Hkv, S, D]``, ``v [B, Hkv, S, Dv]``; a block has `ROWS` rows of one head, fewer
where ``rows · S`` would be above `BLOCK` numbers, so that nothing of the size ``T · S`` is ever held at once.
Small heads may go together: NumPy takes as long to begin as to work on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvattn.arguments import optional_real
from kvattn.errors import ShapeError
from kvattn.typing import Array

BLOCK, ROWS = 1 << 17, 64
"""Numbers in a block of scores, and rows."""


class Rows(NamedTuple):
    """Some rows of one head, and what they read; of N heads, everything has N in front.

    Attributes
    ----------
    place
        Where they stand in ``[B, Hq, T]``; of N heads, two arrays and a slice.
    q, k, v
        ``[R, D]``, ``[S, D]``, ``[S, Dv]``; keys and values that no row of the head sees are 0.
    seen
        ``[R, S]``.
    bias
        ``[R, S]``, 0 where there is none.
    sink
        A logit ``[1, 1]``, or None.
    """

    place: tuple[Any, Any, slice]
    q: Array
    k: Array
    v: Array
    seen: NDArray[np.bool_]
    bias: Array | None
    sink: Array | None

    def apart(self) -> Iterator["Rows"]:
        """Yield the rows of each head by itself.

        >>> x = np.ones((1, 2, 3, 4))
        >>> [rows.q.shape for rows in next(Call(x, x, x).blocks(heads=2)).apart()]
        [(3, 4), (3, 4)]
        """
        for n, (b, h) in enumerate(zip(*self.place[:2], strict=True)):
            arrays: list[Any] = [None if x is None else x[n] for x in self[1:]]
            yield Rows((int(b), int(h), self.place[2]), *arrays)


@dataclass(frozen=True, eq=False)
class Call:
    """The arguments of one attention call, in float64.

    Attributes
    ----------
    q, k, v
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``; any numbers that NumPy reads.
    scale, softcap, sinks
        As in `kvattn.attend`.
    bias, visible
        Broadcast to ``[B, Hq, T, S]``.

    Raises
    ------
    ShapeError
        Where sizes do not fit.
    ArgumentError
        Where scale or softcap is not a number.

    Examples
    --------
    >>> x = np.ones((2, 4, 3, 8))
    >>> [rows.place for rows in Call(x, x[:, :2], x[:, :2]).blocks()][-1]
    (1, 3, slice(0, 3, 1))
    """

    q: Any
    k: Any
    v: Any
    scale: float | None = None
    softcap: float | None = None
    bias: Any = None
    visible: Any = None
    sinks: Any = None

    def __post_init__(self) -> None:
        for name in ("q", "k", "v"):
            object.__setattr__(self, name, np.asarray(getattr(self, name)).astype(np.float64))
            if getattr(self, name).ndim != 4:
                raise ShapeError(f"{name} must have 4 axes, got shape {getattr(self, name).shape}")
        q, k, v = self.q.shape, self.k.shape, self.v.shape
        if q[0] != k[0] or q[3] != k[3] or not k[1] or q[1] % k[1]:
            raise ShapeError(f"k must fit q of shape {q}, got shape {k}")
        if v[:3] != k[:3]:
            raise ShapeError(f"v must fit k of shape {k}, got shape {v}")
        object.__setattr__(self, "softcap", optional_real("softcap", self.softcap, above=0.0))
        scale = optional_real("scale", self.scale)
        object.__setattr__(self, "scale", 1.0 / math.sqrt(max(q[3], 1)) if scale is None else scale)
        for name, shape in (("bias", self.pairs), ("visible", self.pairs), ("sinks", (q[1],))):
            given = getattr(self, name)
            if given is not None:
                given = np.asarray(given)
                try:
                    given = np.broadcast_to(given.astype(np.bool_ if name == "visible" else np.float64), shape)
                except ValueError:
                    raise ShapeError(f"{name} must broadcast to {shape}, got shape {given.shape}") from None
                object.__setattr__(self, name, given)

    @property
    def pairs(self) -> tuple[int, int, int, int]:
        """``(B, Hq, T, S)``.

        >>> Call(np.ones((1, 4, 3, 8)), np.ones((1, 2, 5, 8)), np.ones((1, 2, 5, 7))).pairs
        (1, 4, 3, 5)
        """
        return (*self.q.shape[:3], self.k.shape[2])

    def blocks(self, take: int = 1 << 62, heads: int = 1) -> Iterator[Rows]:
        """Yield the rows, some at a time.

        Parameters
        ----------
        take
            How many rows of each head at most, spread evenly; all, unless given.
        heads
            How many heads at most go together, if they have no more than `BLOCK` products of weights and values.

        Yields
        ------
        Rows
            Every row once.

        Examples
        --------
        >>> x = np.ones((1, 1, 100, 8))
        >>> [len(rows.q) for rows in Call(x, x, x).blocks(take=8)]
        [8]
        """
        batch, _, length, count = self.pairs
        step = max(1, -(-length // take))
        size = step * max(1, min(BLOCK // max(count, 1), ROWS))
        each = max(1, min(heads, BLOCK // max(1, length * count * self.v.shape[3])))
        if each > 1 and 0 < length <= size:
            of_batch, of_heads = np.divmod(np.arange(batch * self.pairs[1]), self.pairs[1])
            for first in range(0, len(of_heads), each):
                some = slice(first, first + each)
                yield self._rows((of_batch[some], of_heads[some], slice(0, length, step)))
            return
        for b, h in np.ndindex(self.pairs[:2]):
            for first in range(0, length, size):
                yield self._rows((b, h, slice(first, min(first + size, length), step)))

    def group(self, h: Any) -> Any:
        """Return the key/value head of a query head, or of several.

        >>> Call(np.ones((1, 4, 3, 8)), np.ones((1, 2, 5, 8)), np.ones((1, 2, 5, 7))).group(3)
        1
        """
        return h * self.k.shape[1] // self.q.shape[1]

    def _rows(self, place: tuple[Any, Any, slice]) -> Rows:
        b, h, _ = place
        q = self.q[place]
        shape = (*q.shape[:-1], self.pairs[3])
        seen: NDArray[np.bool_] = (
            np.ones(shape, np.bool_) if self.visible is None else np.array(self.visible[place], np.bool_)
        )
        bias = None if self.bias is None else np.array(self.bias[place])
        if bias is not None:
            seen = np.logical_and(seen, bias != -np.inf)
            bias = np.where(seen, bias, 0.0)
        anybody = np.asarray(seen.any(axis=-2))[..., None]
        k, v = (np.where(anybody, x[b, self.group(h)], 0.0) for x in (self.k, self.v))  # what nobody sees may be NaN
        return Rows(place, q, k, v, seen, bias, None if self.sinks is None else self.sinks[h][..., None, None])
