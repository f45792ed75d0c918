"""``mlx.core.fast.scaled_dot_product_attention`` as a plain callable of the check's contract.

Where MLX makes other choices: one ``mask`` argument takes ``"causal"``, booleans or numbers, so they exclude each
other; everything is float32, as MLX has no wider attention; a row that sees nothing is not zero.  Its causal triangle
ends in the bottom right corner, as ours does.

Source: documentation of ``mlx.core.fast.scaled_dot_product_attention``, mlx 0.32.
"""

from importlib.util import find_spec
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.errors import ArgumentError, MissingExtraError
from kvattn.testing.targets import Target

CONVENTIONS = frozenset({"empty-row", "masked-nan", "precision"})
"""Classes in which MLX has made another legal choice."""


def scaled_dot_product_attention(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    *,
    causal: bool = False,
    scale: float | None = None,
    sinks: NDArray[Any] | None = None,
    bias: NDArray[Any] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Run MLX's function on NumPy arrays, float64 as float32.

    Parameters
    ----------
    q, k, v
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``.
    causal, bias, mask
        MLX's ``mask``, as ``"causal"``, as numbers to add and as booleans, True = may see.
    scale
        MLX's ``scale``, which it always asks for; ``1/sqrt(D)`` if None.
    sinks
        ``[Hq]``.

    Returns
    -------
    array
        ``[B, Hq, T, Dv]``, float32, or float16 for float16.

    Raises
    ------
    ArgumentError
        Where more than one of causal, bias and mask is given.
    MissingExtraError
        Where mlx is not installed.

    Examples
    --------
    >>> one = np.ones((1, 1, 2, 4))
    >>> scaled_dot_product_attention(one, one, one, causal=True, mask=np.ones((2, 2), bool))
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: MLX takes one of causal, bias and mask, got causal and mask
    """
    given = [n for n, on in (("causal", causal), ("bias", bias is not None), ("mask", mask is not None)) if on]
    if len(given) > 1:
        raise ArgumentError(f"MLX takes one of causal, bias and mask, got {' and '.join(given)}")
    if find_spec("mlx") is None:
        raise MissingExtraError("mlx must be installed for this adapter, got no module mlx")
    import mlx.core as mx

    kind = np.float16 if q.dtype == np.float16 else np.float32

    def moved(x: NDArray[Any]) -> Any:
        return mx.array(np.ascontiguousarray(x, np.bool_ if x.dtype == np.bool_ else kind))

    with mx.stream(mx.cpu):
        out = mx.fast.scaled_dot_product_attention(
            *map(moved, (q, k, v)),
            scale=1.0 / math.sqrt(q.shape[-1]) if scale is None else scale,
            mask="causal" if causal else next((moved(np.asarray(x)) for x in (bias, mask) if x is not None), None),
            sinks=None if sinks is None else moved(np.asarray(sinks)),
        )
        return np.array(out)


def target() -> Target:
    """Return MLX's function as something to check, with its conventions declared.

    Raises
    ------
    MissingExtraError
        Where mlx is not installed.

    Examples
    --------
    >>> sorted(CONVENTIONS)
    ['empty-row', 'masked-nan', 'precision']
    """
    if find_spec("mlx") is None:
        raise MissingExtraError("mlx must be installed for this adapter, got no module mlx")
    return Target(
        name="mlx.core.fast:scaled_dot_product_attention",
        function=scaled_dot_product_attention,
        features=frozenset({"causal", "scale", "bias", "mask", "sinks"}),
        setup="from kvattn.interop.mlx import scaled_dot_product_attention as f",
        conventions=CONVENTIONS,
        exclusive=frozenset(map(frozenset, (("causal", "bias"), ("causal", "mask"), ("bias", "mask")))),
    )
