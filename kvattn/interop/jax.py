"""``jax.nn.dot_product_attention`` as a plain callable of the check's contract.

Where JAX makes other choices: its causal triangle and its window hang in the top left corner when T ≠ S; a hidden
score becomes a large negative number, so that a row which sees nothing is the mean of all values and NaN behind a mask
reaches the output; scores are float32 before the softmax, whatever came in; layout is ``[B, T, H, D]``.

JAX compiles a function for each shape, and a check has hundreds of them: it does so at XLA's lowest level of
optimisation here, in one piece and without the newer emitters, which takes a fifth as long and computes the same.

Source: documentation of ``jax.nn.dot_product_attention``, jax 0.7 to 0.10.
"""

from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.errors import MissingExtraError
from kvattn.testing.targets import Target

CONVENTIONS = frozenset({"causal-align", "empty-row", "masked-nan", "precision"})
"""Classes in which JAX has made another legal choice."""


def dot_product_attention(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    bias: NDArray[Any] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Run JAX's function on NumPy arrays.

    Parameters
    ----------
    q, k, v
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``.
    causal, scale, bias, mask
        JAX's ``is_causal``, ``scale``, ``bias`` and ``mask``.
    window
        ``local_window_size=(window - 1, 0)``, whose left bound leaves the query's own key out of the count.

    Returns
    -------
    out, lse
        ``[B, Hq, T, Dv]`` and ``[B, Hq, T]``; float32 unless JAX was told to use 64 bits.

    Raises
    ------
    MissingExtraError
        Where jax is not installed.

    Examples
    --------
    >>> sorted(CONVENTIONS)
    ['causal-align', 'empty-row', 'masked-nan', 'precision']
    """
    if find_spec("jax") is None:
        raise MissingExtraError("jax must be installed for this adapter, got no module jax")
    # JAX's layout is [B, time, H, D]
    moved = (np.ascontiguousarray(np.swapaxes(x, 1, 2)) for x in (q, k, v))
    sides = None if window is None else (window - 1, 0)
    out, lse = _compiled()(*moved, bias=bias, mask=mask, scale=scale, is_causal=causal, local_window_size=sides)
    return np.swapaxes(np.asarray(out), 1, 2), np.swapaxes(np.asarray(lse), 1, 2)


@cache
def _compiled() -> Any:
    """The whole function compiled at once: piece by piece, JAX compiles each of them for each new shape."""
    import jax

    whole = partial(jax.nn.dot_product_attention, return_residual=True)
    return jax.jit(
        whole,
        static_argnames=("is_causal",),
        compiler_options={
            "xla_backend_optimization_level": 0,
            "xla_llvm_disable_expensive_passes": True,
            "xla_cpu_use_fusion_emitters": False,
            "xla_cpu_parallel_codegen_split_count": 1,
        },
    )


def target() -> Target:
    """Return JAX's function as something to check, with its conventions declared.

    Raises
    ------
    MissingExtraError
        Where jax is not installed.

    Examples
    --------
    >>> from kvattn.testing.targets import ADAPTERS
    >>> ADAPTERS["jax.nn:dot_product_attention"]
    'kvattn.interop.jax'
    """
    if find_spec("jax") is None:
        raise MissingExtraError("jax must be installed for this adapter, got no module jax")
    return Target(
        name="jax.nn:dot_product_attention",
        function=dot_product_attention,
        features=frozenset({"causal", "window", "scale", "bias", "mask"}),
        setup="from kvattn.interop.jax import dot_product_attention as f",
        conventions=CONVENTIONS,
        slow=True,
    )
