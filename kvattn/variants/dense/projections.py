"""The four matrices of an attention layer: queries, keys and values out of x, and x out of the mix.

    q = x W_q,   k = x W_k,   v = x W_v,   y = concat_h(o_h) W_o

Shapes: ``x [B, T, M]``; ``W_q [M, Hq·D]``, ``W_k [M, Hkv·D]``, ``W_v [M, Hkv·Dv]``, ``W_o [Hq·Dv, M]``;
heads come out as ``[B, heads, T, dim]``.  Head ``h`` owns columns ``h·D .. (h+1)·D - 1``.

Cost: ``2·B·T·M·(Hq·D + Hkv·D + Hkv·Dv + Hq·Dv)`` FLOPs, each matrix read once per call.

Source: Vaswani et al. 2017 (1706.03762) §3.2.2.
Where libraries differ: torch stores ``W`` transposed, ``[out, in]``; GPT-2 fuses [q; k; v] into one
matrix, GPT-NeoX and BLOOM interleave it head by head, Falcon group by group.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn import ops
from kvattn.arguments import integer
from kvattn.axes import sizes
from kvattn.counting import Tally
from kvattn.errors import DtypeError, ShapeError
from kvattn.one_liners import check_heads
from kvattn.typing import Array


def split(flat: Array, heads: int) -> Array:
    """Heads out of columns: ``[B, T, H·D]`` to ``[B, H, T, D]``.

    >>> split(np.arange(4.0).reshape(1, 1, 4), heads=2)[0, :, 0]
    array([[0., 1.],
           [2., 3.]])
    """
    return flat.reshape(*flat.shape[:2], heads, flat.shape[2] // heads).swapaxes(1, 2)


def join(heads: Array) -> Array:
    """Columns out of heads: ``[B, H, T, D]`` to ``[B, T, H·D]``.

    >>> join(split(np.arange(4.0).reshape(1, 1, 4), heads=2))
    array([[[0., 1., 2., 3.]]])
    """
    batch, count, length, width = heads.shape
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(batch, length, count * width)


def check_hidden(name: str, x: Any, batch: int | None, width: int, dtype: np.dtype[Any]) -> Array:
    """Refuse hidden states of another shape or dtype than the weights'.

    >>> check_hidden("x", np.zeros((1, 2, 3)), 1, 4, np.dtype(float))
    Traceback (most recent call last):
    kvattn.errors.ShapeError: x must have shape [B, T, M] with B=1, M=4, got (1, 2, 3)
    """
    array = np.asarray(x)
    fits = array.ndim == 3 and array.shape[2] == width and batch in (None, array.shape[0])
    if not fits:
        known = f"M={width}" if batch is None else f"B={batch}, M={width}"
        raise ShapeError(f"{name} must have shape [B, T, M] with {known}, got {array.shape}")
    if array.dtype != dtype:
        raise DtypeError(f"{name} must have the dtype of the weights, {dtype}, got {array.dtype}")
    return array


@dataclass(frozen=True, eq=False)
class Projections:
    """Weights of one layer, read-only, and the head counts that give their columns meaning.

    Parameters
    ----------
    query, key, value, output
        ``[M, Hq·D]``, ``[Me, Hkv·D]``, ``[Me, Hkv·Dv]``, ``[Hq·Dv, M]``; Me is M except in cross-attention.
    heads, kv_heads
        Hq and Hkv; Hq is a multiple of Hkv.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        When they do not fit each other.

    Examples
    --------
    >>> weights = Projections(np.ones((3, 8)), np.ones((3, 2)), np.ones((3, 2)), np.ones((8, 3)), heads=4, kv_heads=1)
    >>> weights.queries(np.ones((1, 5, 3))).shape, weights.keys(np.ones((1, 5, 3))).shape
    ((1, 4, 5, 2), (1, 1, 5, 2))
    """

    query: Array
    key: Array
    value: Array
    output: Array
    heads: int
    kv_heads: int

    def __post_init__(self) -> None:
        for name in ("heads", "kv_heads"):
            object.__setattr__(self, name, integer(name, getattr(self, name), 1))
        check_heads(self.heads, self.kv_heads)
        first = np.asarray(self.query).dtype
        for name in ("query", "key", "value", "output"):
            held = np.array(getattr(self, name))
            if held.dtype not in (np.dtype(np.float64), np.dtype(np.float32)) or held.dtype != first:
                raise DtypeError(f"{name} must be float64 or float32 like query, got {held.dtype}")
            held.flags.writeable = False
            object.__setattr__(self, name, held)
        if self.query.ndim != 2 or self.query.shape[1] == 0 or self.query.shape[1] % self.heads:
            raise ShapeError(f"query must have shape [M, Hq·D] with Hq={self.heads}, got {self.query.shape}")
        width = self.query.shape[1] // self.heads
        if self.value.ndim != 2 or self.value.shape[1] == 0 or self.value.shape[1] % self.kv_heads:
            raise ShapeError(f"value must have shape [M, Hkv·Dv] with Hkv={self.kv_heads}, got {self.value.shape}")
        value_width = self.value.shape[1] // self.kv_heads
        sizes(
            ("value", self.value, f"Me {self.value.shape[1]}"),
            ("key", self.key, f"Me {self.kv_heads * width}"),
            ("query", self.query, f"M {self.heads * width}"),
            ("output", self.output, f"{self.heads * value_width} M"),
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the weights and of everything computed with them.

        >>> Projections(*(np.ones((1, 1), np.float32),) * 4, heads=1, kv_heads=1).dtype
        dtype('float32')
        """
        return self.query.dtype

    @property
    def hidden(self) -> int:
        """M.

        >>> Projections(*(np.ones((1, 1)),) * 4, heads=1, kv_heads=1).hidden
        1
        """
        return int(self.query.shape[0])

    @property
    def width(self) -> int:
        """D.

        >>> Projections(*(np.ones((1, 1)),) * 4, heads=1, kv_heads=1).width
        1
        """
        return int(self.query.shape[1] // self.heads)

    @property
    def value_width(self) -> int:
        """Dv.

        >>> Projections(*(np.ones((1, 1)),) * 4, heads=1, kv_heads=1).value_width
        1
        """
        return int(self.value.shape[1] // self.kv_heads)

    def queries(self, x: Array) -> Array:
        """``[B, Hq, T, D]`` from ``x [B, T, M]``.

        >>> Projections(*(np.full((1, 1), 2.0),) * 4, heads=1, kv_heads=1).queries(np.ones((1, 1, 1)))
        array([[[[2.]]]])
        """
        return split(ops.contract(x, self.query, weights=True), self.heads)

    def keys(self, x: Array) -> Array:
        """``[B, Hkv, T, D]`` from ``x [B, T, Me]``.

        >>> Projections(*(np.full((1, 1), 2.0),) * 4, heads=1, kv_heads=1).keys(np.ones((1, 1, 1)))
        array([[[[2.]]]])
        """
        return split(ops.contract(x, self.key, weights=True), self.kv_heads)

    def values(self, x: Array) -> Array:
        """``[B, Hkv, T, Dv]`` from ``x [B, T, Me]``.

        >>> Projections(*(np.full((1, 1), 2.0),) * 4, heads=1, kv_heads=1).values(np.ones((1, 1, 1)))
        array([[[[2.]]]])
        """
        return split(ops.contract(x, self.value, weights=True), self.kv_heads)

    def outputs(self, mixed: Array) -> Array:
        """``[B, T, M]`` from mixed values ``[B, Hq, T, Dv]``.

        >>> Projections(*(np.full((1, 1), 2.0),) * 4, heads=1, kv_heads=1).outputs(np.ones((1, 1, 1, 1)))
        array([[[2.]]])
        """
        return ops.contract(join(mixed), self.output, weights=True)

    def cost(self, rows: int, *names: str) -> Tally:
        """What applying the named matrices to ``rows`` tokens counts, in closed form.

        >>> Projections(*(np.ones((1, 1)),) * 4, heads=1, kv_heads=1).cost(3, "query", "output")
        Tally(matmul=12, weights_read=16, activations=96)
        """
        chosen = [getattr(self, name) for name in names]
        return sum((ops.contract_cost(rows, matrix.shape, matrix.itemsize) for matrix in chosen), Tally())
