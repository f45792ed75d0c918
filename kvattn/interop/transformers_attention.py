"""transformers' attention functions as plain callables of the check's contract.

A model's attention layer hands projected, rotated states to one of these: its own eager function, or one of the
interface's (``"sdpa"``, ``"flex_attention"``).  What it hands over is a module that names the group size, a mask that
covers causality, padding and windows, and the scale; so ``causal`` and ``window`` become masks here, made as the
library makes them: boolean for sdpa, ``finfo.min`` where nothing may be seen for the eager functions.

Where they make other choices: a row that sees nothing is the mean of its values (``finfo.min`` everywhere), softmax is
float32 in the eager functions, NaN behind a mask reaches the output; sdpa leaves out sinks.

Source: transformers 5.23, ``modeling_llama``, ``modeling_gemma2``, ``modeling_gpt_oss``,
``integrations.sdpa_attention``.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.errors import MissingExtraError
from kvattn.testing.targets import Target
from kvattn.typing import Visible

CONVENTIONS = frozenset({"empty-row", "masked-nan", "precision"})
"""Classes in which transformers has made another legal choice."""

Given = NDArray[Any]


def eager(
    q: Given,
    k: Given,
    v: Given,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    bias: Given | None = None,
    mask: Visible | None = None,
) -> NDArray[Any]:
    """Run Llama's eager attention, which most models copy.

    Parameters
    ----------
    q, k, v
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``.
    causal, window, scale, bias, mask
        As in `kvattn.testing.targets`; the bias is added to the mask.

    Returns
    -------
    array
        ``[B, Hq, T, Dv]``.

    Raises
    ------
    MissingExtraError
        Where transformers is not installed.

    Examples
    --------
    >>> sorted(CONVENTIONS)
    ['empty-row', 'masked-nan', 'precision']
    """
    added = _added(q, k, causal, window, mask, bias)
    return _run(
        "transformers.models.llama.modeling_llama:eager_attention_forward", q, k, v, added, scaling=_scale(q, scale)
    )


def eager_softcap(
    q: Given,
    k: Given,
    v: Given,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    mask: Visible | None = None,
) -> NDArray[Any]:
    """Run Gemma 2's eager attention, which caps its scores.

    Parameters, return value and errors are those of `eager`.

    Examples
    --------
    >>> EAGER_SOFTCAP.features == EAGER.features - {"bias"} | {"softcap"}
    True
    """
    added = _added(q, k, causal, window, mask, None)
    name = "transformers.models.gemma2.modeling_gemma2:eager_attention_forward"
    return _run(name, q, k, v, added, scaling=_scale(q, scale), softcap=softcap)


def eager_sinks(
    q: Given,
    k: Given,
    v: Given,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    sinks: Given | None = None,
    mask: Visible | None = None,
) -> NDArray[Any]:
    """Run GPT-OSS's eager attention, which has a sink in each head; none is a sink of -inf.

    Parameters, return value and errors are those of `eager`.

    Examples
    --------
    >>> EAGER_SINKS.features == EAGER.features - {"bias"} | {"sinks"}
    True
    """
    added = _added(q, k, causal, window, mask, None)
    name = "transformers.models.gpt_oss.modeling_gpt_oss:eager_attention_forward"
    logits = np.full(q.shape[1], -np.inf, q.dtype) if sinks is None else np.asarray(sinks)
    return _run(name, q, k, v, added, logits, scaling=_scale(q, scale))


def sdpa(
    q: Given,
    k: Given,
    v: Given,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    mask: Visible | None = None,
) -> NDArray[Any]:
    """Run the interface's ``"sdpa"``.

    Parameters, return value and errors are those of `eager`.

    Examples
    --------
    >>> sorted(SDPA.features)
    ['causal', 'mask', 'scale', 'window']
    """
    shown = _shown(q, k, causal, window, mask)
    name = "transformers.integrations.sdpa_attention:sdpa_attention_forward"
    return _run(name, q, k, v, shown, scaling=_scale(q, scale), is_causal=False)


def _scale(q: Given, scale: float | None) -> float:
    return float(q.shape[-1] ** -0.5) if scale is None else scale


def _shown(q: Given, k: Given, causal: bool, window: int | None, mask: Visible | None) -> Visible | None:
    """Who sees whom, as the library's mask functions say it: ``[B, 1 or Hq, T, S]``."""
    if not causal and window is None and mask is None:
        return None
    queries, keys = q.shape[2], k.shape[2]
    behind = (np.arange(queries) + keys - queries)[:, None] - np.arange(keys)
    keep = np.ones((q.shape[0], 1, queries, keys), np.bool_)
    if causal:
        keep &= behind >= 0
    if window is not None:
        keep &= behind < window
    return keep if mask is None else keep & np.asarray(mask)


def _added(
    q: Given, k: Given, causal: bool, window: int | None, mask: Visible | None, bias: Given | None
) -> NDArray[Any] | None:
    """The same as numbers that are added, ``finfo.min`` for what is hidden."""
    shown = _shown(q, k, causal, window, mask)
    if shown is None:
        return None if bias is None else np.asarray(bias)
    low = _lowest(q.dtype)
    return np.where(shown, q.dtype.type(0) if bias is None else np.asarray(bias), low).astype(q.dtype)


def _lowest(dtype: Any) -> Any:
    """The lowest number of a type; NumPy does not know that of bfloat16, whose largest significand is 255 / 128."""
    return -(255 / 128) * 2.0**127 if dtype.name == "bfloat16" else np.finfo(dtype).min


def _run(
    name: str, q: Given, k: Given, v: Given, mask: Given | None, sinks: Given | None = None, **options: Any
) -> NDArray[Any]:
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtraError(f"{package} must be installed for this adapter, got no module {package}")
    import torch

    from kvattn.interop.torch import array, tensor

    module, _, function = name.partition(":")
    attend: Callable[..., Any] = getattr(import_module(module), function)

    layer = torch.nn.Module()
    layer.num_key_value_groups = q.shape[1] // k.shape[1]
    layer.is_causal = False
    layer.eval()
    if sinks is not None:
        layer.sinks = tensor(sinks)
    with torch.no_grad():
        out, _ = attend(layer, *map(tensor, (q, k, v)), None if mask is None else tensor(mask), **options)
    return np.swapaxes(array(out, q.dtype), 1, 2)


_PLAIN = frozenset({"causal", "window", "scale", "mask"})
_target = partial(Target, conventions=CONVENTIONS)


def _setup(name: str) -> str:
    return f"from kvattn.interop.transformers_attention import {name} as f"


EAGER = _target("kvattn.interop.transformers_attention:EAGER", eager, _PLAIN | {"bias"}, _setup("eager"))
"""Llama's eager attention, to be checked."""

EAGER_SOFTCAP = _target(
    "kvattn.interop.transformers_attention:EAGER_SOFTCAP", eager_softcap, _PLAIN | {"softcap"}, _setup("eager_softcap")
)
"""Gemma 2's eager attention, to be checked."""

EAGER_SINKS = _target(
    "kvattn.interop.transformers_attention:EAGER_SINKS", eager_sinks, _PLAIN | {"sinks"}, _setup("eager_sinks")
)
"""GPT-OSS's eager attention, to be checked."""

SDPA = _target("kvattn.interop.transformers_attention:SDPA", sdpa, _PLAIN, _setup("sdpa"))
"""The interface's sdpa, to be checked."""
