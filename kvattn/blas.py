"""Products whose rows do not feel their neighbours, and the probe that says whether BLAS gives them.

A BLAS picks its kernel, and with it the order of additions, by the shape of the product: one row
goes another way than eight.  Here every product has exactly 8 rows, ``[8, K] · [K, N]``, padded
with zero rows where there are fewer, so that kernel and order depend on K and N alone.  What is
left to chance is whether a row's result depends on its place among the eight; `rows_are_independent`
tries that on the BLAS at hand, once per dtype, K and N.  Where it does, the product falls back to
adding one contracted index after the other: slower, and exact on any machine.

No product is large enough for BLAS to start threads of its own (`at_once` cuts columns): tiles are
shared out to threads by kvattn, and two such pools in one process wait for each other.

Larger tiles would need a probe of their own, and a choice that shows in the bits.  With AVX-512 kernels
they gain little or nothing; with AVX2 kernels 8 rows run at 0.55 to 0.65 of the rate of 64
(``docs/explain/exactness.md`` measures both).
"""

from functools import cache
import os

import numpy as np
from numpy.typing import DTypeLike

from kvattn.typing import Array

ROWS = 8
"""Rows of every product."""


UNTHREADED = 262_144
"""Multiply-adds up to which BLAS stays on the caller's thread."""


def tile_product(tiles: Array, matrix: Array, out: Array | None = None) -> Array:
    """Multiply stacked 8-row tiles with a matrix, each row as if it were alone.

    Parameters
    ----------
    tiles
        ``[..., 8, K]``, C-contiguous.
    matrix
        ``[..., K, N]``, broadcasting against the tiles' leading axes.
    out
        ``[..., 8, N]`` to write to.

    Returns
    -------
    array
        ``[..., 8, N]``.

    Examples
    --------
    >>> tile_product(np.ones((1, 8, 2)), np.full((2, 3), 0.5))[0, 0]
    array([1., 1., 1.])
    """
    depth, columns = tiles.shape[-1], matrix.shape[-1]
    if is_ordered(tiles.dtype, depth, columns):
        return ordered_product(tiles, matrix, out)
    wide = at_once(depth, columns)
    if wide == columns:
        return np.matmul(tiles, matrix, out=out)
    if out is None:
        lead = np.broadcast_shapes(tiles.shape[:-2], matrix.shape[:-2])
        out = np.empty((*lead, tiles.shape[-2], columns), tiles.dtype)
    for start in range(0, columns, wide):
        np.matmul(tiles, matrix[..., start : start + wide], out=out[..., start : start + wide])
    return out


def at_once(depth: int, columns: int) -> int:
    """How many columns one product takes, so that BLAS starts no threads for it.

    OpenBLAS does from ``8 · K · N`` above 262,144 on (``interface/gemm.c``).  Beyond K = 2,048 even
    16 columns are too many, and products stay whole.

    >>> at_once(128, 256), at_once(576, 256), at_once(256, 512), at_once(4096, 64)
    (256, 32, 128, 64)
    """
    fitting = UNTHREADED // (ROWS * max(depth, 1))
    return columns if fitting >= columns or fitting < 16 else 1 << (fitting.bit_length() - 1)


def ordered_product(tiles: Array, matrix: Array, out: Array | None = None) -> Array:
    """Multiply by adding one contracted index after the other: the fallback, exact on any machine.

    Arguments and result as in `tile_product`.

    >>> ordered_product(np.ones((1, 8, 2)), np.full((2, 3), 0.5))[0, 0]
    array([1., 1., 1.])
    """
    lead = np.broadcast_shapes(tiles.shape[:-2], matrix.shape[:-2])
    shape = (*lead, tiles.shape[-2], matrix.shape[-1])
    total = np.empty(shape, tiles.dtype) if out is None else out
    total[...] = 0.0
    term = np.empty_like(total)
    for k in range(tiles.shape[-1]):
        np.multiply(tiles[..., k : k + 1], matrix[..., k : k + 1, :], out=term)
        np.add(total, term, out=total)
    return total


def is_ordered(dtype: DTypeLike, depth: int, columns: int) -> bool:
    """Whether products of this shape take the ordered fallback.

    They do where the probe fails, and everywhere while the environment has ``KVATTN_ARITHMETIC=ordered``.

    >>> is_ordered(np.float64, 64, 256) == (forced() or not rows_are_independent("d", 64, 256))
    True
    """
    return forced() or not _passes(np.dtype(dtype).char, depth, columns)


def _passes(code: str, depth: int, columns: int) -> bool:
    """Whether the probe passes for every product that these columns are cut into."""
    wide = at_once(depth, columns)
    rest = columns % wide if wide else 0
    return rows_are_independent(code, depth, wide) and (not rest or rows_are_independent(code, depth, rest))


def forced() -> bool:
    """Whether the environment asks for the ordered fallback everywhere (``KVATTN_ARITHMETIC=ordered``).

    >>> isinstance(forced(), bool)
    True
    """
    return os.environ.get("KVATTN_ARITHMETIC") == "ordered"


@cache
def rows_are_independent(code: str, depth: int, columns: int) -> bool:
    """Try on this BLAS whether a row of an 8-row product keeps its bits in every place and company.

    Parameters
    ----------
    code
        dtype character, ``"d"`` or ``"f"``.
    depth, columns
        K and N of the product.

    Examples
    --------
    >>> rows_are_independent("d", 0, 8)
    True
    """
    if depth == 0 or columns == 0:
        return True
    dtype = np.dtype(code)
    rows = np.sin(np.arange(1.0, ROWS * depth + 1)).reshape(ROWS, depth).astype(dtype)
    matrix = np.cos(np.arange(1.0, depth * columns + 1) * 1.7).reshape(depth, columns).astype(dtype)
    together = rows @ matrix
    stacked = np.empty((2 * ROWS, ROWS, depth), dtype)
    for place in range(ROWS):
        stacked[place] = np.roll(rows, place, axis=0)
        alone = stacked[ROWS + place]
        alone[...] = np.inf if place % 2 else 0.0
        alone[place] = rows[place]
    with np.errstate(invalid="ignore"):
        found = np.matmul(stacked, matrix)
    return all(
        np.array_equal(found[place], np.roll(together, place, axis=0))
        and np.array_equal(found[ROWS + place, place], together[place])
        for place in range(ROWS)
    )


def probe_report() -> dict[str, object]:
    """What `kvattn doctor` prints: for a grid of shapes, which products take the fallback.

    >>> sorted(probe_report())
    ['float32', 'float64', 'forced', 'rows']
    """
    report: dict[str, object] = {"rows": ROWS, "forced": forced()}
    for name in ("float64", "float32"):
        shapes = [(k, n) for k in (8, 16, 64, 80, 128, 256, 576) for n in (8, 64, 128, 256, 512)]
        failed = [[k, n] for k, n in shapes if not _passes(np.dtype(name).char, k, n)]
        report[name] = {"shapes tried": len(shapes), "ordered fallback for": failed}
    return report
