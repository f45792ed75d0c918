"""The only counted arithmetic, in an order that does not depend on the cut.

Every function works row by row: what comes out for a token does not depend, to the last bit, on
how many tokens came with it, on their values or on its place among them.  `contract` gets that
from `kvattn.blas`; the others are elementwise, or add along the last axis of a contiguous array.
While a `kvattn.counting` block is open each reports its FLOPs; `contract` also reports bytes.
"""

import math

import numpy as np

from kvattn.blas import ROWS, tile_product
from kvattn.counting import Tally, charge
from kvattn.errors import DtypeError, ShapeError
from kvattn.typing import Array


def contract(a: Array, b: Array, *, weights: bool = False) -> Array:
    """Matrix product whose rows do not feel their neighbours.

    Parameters
    ----------
    a
        ``[..., M, K]``; the rows.
    b
        ``[..., K, N]``, of the same dtype; its leading axes broadcast against those of ``a``.
    weights
        Whether ``b`` is a weight: its bytes then count as read once, and the rows in and out as activations.

    Returns
    -------
    array
        ``[..., M, N]``.

    Raises
    ------
    ShapeError
        When the inner sizes differ, or the leading axes do not broadcast.
    DtypeError
        When the dtypes differ.

    Examples
    --------
    >>> contract(np.arange(6.0).reshape(3, 2), np.ones((2, 1)))
    array([[1.],
           [5.],
           [9.]])
    """
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ShapeError(f"b must have shape [..., K, N] for a of shape [..., M, K], got {b.shape} for {a.shape}")
    if a.dtype != b.dtype:
        raise DtypeError(f"b must have the dtype of a, {a.dtype}, got {b.dtype}")
    try:
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ShapeError(f"b must have leading axes that broadcast against a of {a.shape}, got {b.shape}") from None
    rows, depth, columns = a.shape[-2], a.shape[-1], b.shape[-1]
    if b.ndim == 2:
        out = _tiled(a.reshape(math.prod(a.shape[:-1]), depth), b).reshape(*lead, rows, columns)
    else:
        out = _tiled(np.broadcast_to(a, (*lead, rows, depth)), b)
    work = Tally(matmul=2 * math.prod(lead) * rows * depth * columns)
    if weights:
        work += Tally(weights_read=b.nbytes, activations=a.nbytes + out.nbytes)
    charge(work)
    return out


def contract_cost(rows: int, matrix: tuple[int, ...], itemsize: int) -> Tally:
    """What `contract` counts for so many rows and a weight of this shape, in closed form.

    >>> contract_cost(3, (2, 5), 8)
    Tally(matmul=60, weights_read=80, activations=168)
    """
    depth, columns = matrix
    return Tally(
        matmul=2 * rows * depth * columns,
        weights_read=depth * columns * itemsize,
        activations=rows * (depth + columns) * itemsize,
    )


def _tiled(a: Array, b: Array) -> Array:
    """Pad rows and columns to eights, multiply, crop."""
    rows, columns = a.shape[-2], b.shape[-1]
    tiles = -(-rows // ROWS)
    wide = -(-columns // ROWS) * ROWS
    padded = np.zeros((*a.shape[:-2], tiles * ROWS, a.shape[-1]), a.dtype)
    padded[..., :rows, :] = a
    if wide != columns or not b.flags.c_contiguous:
        whole = np.zeros((*b.shape[:-1], wide), b.dtype)
        whole[..., :columns] = b
        b = whole
    stacked = padded.reshape(*a.shape[:-2], tiles, ROWS, a.shape[-1])
    product = tile_product(stacked, b[..., None, :, :])
    return product.reshape(*product.shape[:-3], tiles * ROWS, wide)[..., :rows, :columns]


def exp(x: Array) -> Array:
    """Elementwise exponential.

    >>> exp(np.zeros(2))
    array([1., 1.])
    """
    charge(Tally(transcendental=x.size))
    return np.asarray(np.exp(np.asarray(x, order="C")))


def log(x: Array) -> Array:
    """Elementwise natural logarithm.

    >>> log(np.ones(2))
    array([0., 0.])
    """
    charge(Tally(transcendental=x.size))
    return np.asarray(np.log(np.asarray(x, order="C")))


def tanh(x: Array) -> Array:
    """Elementwise hyperbolic tangent.

    >>> tanh(np.zeros(2))
    array([0., 0.])
    """
    charge(Tally(transcendental=x.size))
    return np.asarray(np.tanh(np.asarray(x, order="C")))


def sigmoid(x: Array) -> Array:
    """Elementwise ``1 / (1 + exp(-x))``, without overflow for any x.

    >>> sigmoid(np.array([0.0, -1e4]))
    array([0.5, 0. ])
    """
    charge(Tally(transcendental=x.size, arithmetic=2 * x.size))
    small = np.exp(-np.abs(np.asarray(x, order="C")))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small))


def silu(x: Array) -> Array:
    """Elementwise ``x · sigmoid(x)``.

    >>> silu(np.array([0.0, -1e4]))
    array([ 0., -0.])
    """
    charge(Tally(arithmetic=x.size))
    return np.asarray(x * sigmoid(x))


def softplus(x: Array) -> Array:
    """Elementwise ``log(1 + exp(x))``, without overflow for any x.

    >>> softplus(np.array([1e4]))
    array([10000.])
    """
    charge(Tally(transcendental=2 * x.size, arithmetic=2 * x.size))
    return np.asarray(np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(np.asarray(x, order="C")))))


def rms_norm(x: Array, weight: Array | None = None, eps: float = 1e-6) -> Array:
    """Divide each row by its root mean square, ``x / sqrt(mean(x²) + eps) · weight``.

    Source: Zhang & Sennrich 2019 (1910.07467) eq. 4.

    >>> rms_norm(np.array([[3.0, 4.0]]), eps=0.0) * math.sqrt(12.5)
    array([[3., 4.]])
    """
    x = np.ascontiguousarray(x)
    width = x.shape[-1]
    rows = x.size // max(width, 1)
    charge(Tally(arithmetic=3 * x.size + 2 * rows + (0 if weight is None else x.size), transcendental=rows))
    normed: Array = x / np.sqrt((x * x).sum(-1, keepdims=True) / width + eps)
    return normed if weight is None else normed * weight


def layer_norm(x: Array, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-6) -> Array:
    """Centre each row and divide it by its standard deviation, then scale and shift.

    Source: Ba et al. 2016 (1607.06450) eq. 3.

    >>> layer_norm(np.array([[1.0, 3.0]]), eps=0.0)
    array([[-1.,  1.]])
    """
    x = np.ascontiguousarray(x)
    width = x.shape[-1]
    rows = x.size // max(width, 1)
    extra = (weight is not None) + (bias is not None)
    charge(Tally(arithmetic=5 * x.size + 3 * rows + extra * x.size, transcendental=rows))
    centred = x - x.sum(-1, keepdims=True) / width
    normed: Array = centred / np.sqrt((centred * centred).sum(-1, keepdims=True) / width + eps)
    if weight is not None:
        normed = normed * weight
    return normed if bias is None else normed + bias
