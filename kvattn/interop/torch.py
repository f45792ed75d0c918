"""torch's ``scaled_dot_product_attention`` as a plain callable of the check's contract.

Where torch makes other choices: ``is_causal`` ties the triangle to the top-left corner, so that with
T < S the first query sees key 0 alone (`torch.nn.attention.bias.causal_lower_right` is the other
one); ``attn_mask`` and ``is_causal`` exclude each other; NaN in a value that nobody may see reaches the
output, since its weight of 0 is multiplied with it.

Source: torch 2.13 documentation of ``torch.nn.functional.scaled_dot_product_attention``.
"""

from importlib.util import find_spec
from typing import Any
import warnings

import numpy as np
from numpy.typing import NDArray

from kvattn.errors import ArgumentError, MissingExtraError
from kvattn.testing.targets import Target

CONVENTIONS = frozenset({"causal-align", "empty-row", "masked-nan"})
"""Classes in which torch has made another legal choice."""


def scaled_dot_product_attention(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    *,
    causal: bool = False,
    scale: float | None = None,
    bias: NDArray[Any] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Run torch's function on NumPy arrays, in their dtype.

    Parameters
    ----------
    q, k, v
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``; ``enable_gqa`` is set where Hq and Hkv differ.
    causal
        torch's ``is_causal``.
    scale
        torch's ``scale``.
    bias, mask
        torch's ``attn_mask``, as numbers to add and as booleans, True = may see.

    Returns
    -------
    array
        ``[B, Hq, T, Dv]``.

    Raises
    ------
    ArgumentError
        Where more than one of causal, bias and mask is given, as torch takes one of them.
    MissingExtraError
        Where torch is not installed.

    Examples
    --------
    >>> one = np.ones((1, 1, 2, 4))
    >>> scaled_dot_product_attention(one, one, one, causal=True, mask=np.ones((2, 2), bool))
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: torch takes one of causal, bias and mask, got causal and mask
    """
    given = [n for n, on in (("causal", causal), ("bias", bias is not None), ("mask", mask is not None)) if on]
    if len(given) > 1:
        raise ArgumentError(f"torch takes one of causal, bias and mask, got {' and '.join(given)}")
    _needed()
    import torch

    attend: Any = torch.nn.functional.scaled_dot_product_attention
    more = next((tensor(np.asarray(x)) for x in (bias, mask) if x is not None), None)
    with torch.no_grad():
        out = attend(
            tensor(q), tensor(k), tensor(v), more, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
    return array(out, q.dtype)


def tensor(x: NDArray[Any]) -> Any:
    """Give an array to torch, on the CPU and without a copy where torch can read it as it lies.

    Parameters
    ----------
    x
        Of any type that torch has; bfloat16 is ml_dtypes', which torch does not know by itself.

    Returns
    -------
    torch.Tensor
        In the type of the array.

    Raises
    ------
    MissingExtraError
        Where torch is not installed.

    Examples
    --------
    >>> array(tensor(np.eye(2)), np.dtype(float))  # doctest: +SKIP
    array([[1., 0.],
           [0., 1.]])
    """
    _needed()
    import torch

    forward = x if all(step >= 0 for step in x.strides) else np.ascontiguousarray(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of arrays that may not be written
        if x.dtype.name == "bfloat16":
            return torch.from_numpy(forward.view(np.uint16)).view(torch.bfloat16)
        return torch.from_numpy(forward)


def array(x: Any, dtype: Any) -> NDArray[Any]:
    """Read a tensor; ``dtype`` is that of the inputs, whose bfloat16 it takes where torch's is meant.

    Examples
    --------
    >>> array(tensor(np.eye(2)), np.dtype(float))  # doctest: +SKIP
    array([[1., 0.],
           [0., 1.]])
    """
    import torch

    if x.dtype == torch.bfloat16:
        return np.asarray(x.contiguous().view(torch.uint16).numpy()).view(dtype)
    return np.asarray(x.numpy())


def math(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    *,
    causal: bool = False,
    scale: float | None = None,
    bias: NDArray[Any] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Run torch's function with its plain kernel, `scaled_dot_product_attention` with ``SDPBackend.MATH``.

    Parameters, return value and errors are those of `scaled_dot_product_attention`.

    Examples
    --------
    >>> MATH.name
    'kvattn.interop.torch:MATH'
    """
    with _only("MATH"):
        return scaled_dot_product_attention(q, k, v, causal=causal, scale=scale, bias=bias, mask=mask)


def flash(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    *,
    causal: bool = False,
    scale: float | None = None,
    bias: NDArray[Any] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Run torch's function with its tiled kernel for CPUs, `scaled_dot_product_attention` with ``FLASH_ATTENTION``.

    Parameters, return value and errors are those of `scaled_dot_product_attention`; where the kernel takes no such
    sizes, torch raises.

    Examples
    --------
    >>> FLASH.name
    'kvattn.interop.torch:FLASH'
    """
    with _only("FLASH_ATTENTION"):
        return scaled_dot_product_attention(q, k, v, causal=causal, scale=scale, bias=bias, mask=mask)


def _needed() -> None:
    if find_spec("torch") is None:
        raise MissingExtraError("torch must be installed for this adapter, got no module torch")


def _only(backend: str) -> Any:
    """No other kernel than this one."""
    _needed()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel([getattr(SDPBackend, backend)])


_FEATURES = frozenset({"causal", "scale", "bias", "mask"})
_EXCLUSIVE = frozenset(map(frozenset, (("causal", "bias"), ("causal", "mask"), ("bias", "mask"))))

MATH = Target(
    name="kvattn.interop.torch:MATH",
    function=math,
    features=_FEATURES,
    setup="from kvattn.interop.torch import math as f",
    conventions=CONVENTIONS,
    exclusive=_EXCLUSIVE,
)
"""torch's plain kernel, to be checked."""

FLASH = Target(
    name="kvattn.interop.torch:FLASH",
    function=flash,
    features=_FEATURES,
    setup="from kvattn.interop.torch import flash as f",
    conventions=CONVENTIONS,
    exclusive=_EXCLUSIVE,
)
"""torch's tiled kernel for CPUs, to be checked."""


def target() -> Target:
    """Return torch's function as something to check, with its conventions declared.

    Raises
    ------
    MissingExtraError
        Where torch is not installed.

    Examples
    --------
    >>> sorted(CONVENTIONS)
    ['causal-align', 'empty-row', 'masked-nan']
    """
    _needed()
    return Target(
        name="torch.nn.functional:scaled_dot_product_attention",
        function=scaled_dot_product_attention,
        features=_FEATURES,
        setup="from kvattn.interop.torch import scaled_dot_product_attention as f",
        conventions=CONVENTIONS,
        exclusive=_EXCLUSIVE,
    )
