"""transformers' attention interface: after `register`, ``attn_implementation="kvattn"`` means `kvattn.attend`.

A model projects, norms, rotates and caches as before; what it hands to its attention function is then said in
kvattn's words and computed by `kvattn.attend`,

    scaling → softcap → position_bias and what a float mask adds → mask → s_aux (sinks) → softmax → mix

Shapes: ``query [B, Hq, T, D]``, ``key [B, Hkv, S, D]``, ``value [B, Hkv, S, Dv]``, not yet repeated: query head h reads
head ``h // (Hq / Hkv)``.  The mask is the one that the ``sdpa`` name would get, boolean ``[B, 1, T, S]``, True = may
see, but always built: never left out for a flag to say "causal".

Cached per token: what the model's own cache holds.  float16 and bfloat16 become float64 exactly; results are rounded
once, to the dtype of ``query``.  There is no gradient: a backward pass that comes by raises.

Source: transformers 5.23, ``modeling_utils.AttentionInterface`` and ``masking_utils.AttentionMaskInterface``.

Where libraries differ: a row that sees no key is 0 here and under ``sdpa``; under ``eager``, whose mask is the most
negative finite number, it is the mean of all values.  Most ``eager`` functions take the softmax in float32 whatever the
model's dtype.  ``sdpa`` drops ``s_aux`` without a word, raises for ``softcap``, and takes a module that does not say
``is_causal`` for causal where the mask is None; ``eager`` then shows every key.
"""

from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from kvattn.arguments import real
from kvattn.arrays import anything, compute_dtype
from kvattn.errors import ArgumentError, DtypeError, MissingExtraError, ShapeError
from kvattn.masks import Causal, Window
from kvattn.one_liners import attend

NAME = "kvattn"
"""What to give as ``attn_implementation``."""

NOT_OURS = frozenset(
    {
        "cache_position",
        "deterministic",
        "num_items_in_batch",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)
"""Keywords that models pass on and that change nothing between query and output."""


def register(*, dtype: DTypeLike = np.float64) -> None:
    """Make ``attn_implementation="kvattn"`` known to transformers, for models made before and after.

    Calling it again replaces what was registered, and with that the dtype, for every model.

    Parameters
    ----------
    dtype
        To compute in, float64 or float32.

    Raises
    ------
    DtypeError
        Where ``dtype`` is another one.
    MissingExtraError
        Where torch or transformers is not installed.

    Examples
    --------
    >>> register(dtype="float16")
    Traceback (most recent call last):
    kvattn.errors.DtypeError: dtype must be float64 or float32, got 'float16'
    """
    wanted = compute_dtype(dtype)
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtraError(f"{package} must be installed for this adapter, got no module {package}")
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    def whole_mask(*args: Any, **options: Any) -> Any:
        return sdpa_mask(*args, **options | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})

    AttentionInterface.register(NAME, partial(attention_forward, dtype=wanted))
    AttentionMaskInterface.register(NAME, whole_mask)


def attention_forward(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    dtype: DTypeLike = np.float64,
    **keywords: Any,
) -> tuple[Any, None]:
    """Attention as transformers calls it, tensors in and out; this is what `register` registers.

    Parameters
    ----------
    module, query, key, value, attention_mask
        As in `in_our_words`, of torch.
    dtype
        To compute in, float64 or float32.
    **keywords
        Those of `in_our_words`.

    Returns
    -------
    tuple
        A tensor ``[B, T, Hq, Dv]`` of the dtype and on the device of ``query``, and None for the weights.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        One sentence, before any arithmetic; and ArgumentError where a backward pass comes by.

    Examples
    --------
    >>> attention_forward(None, None, None, None, None, indices=[0])
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: indices must be left out, kvattn does not know what it changes, got list
    """
    words = in_our_words(module, query, key, value, attention_mask, **keywords)
    out = attend(query, key, value, dtype=dtype, **words).out.swapaxes(1, 2)
    import torch

    given = torch.from_numpy(np.ascontiguousarray(out)).to(device=query.device, dtype=query.dtype)
    inputs = [x for x in (query, key, value, keywords.get("position_bias"), keywords.get("s_aux")) if x is not None]
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        given = _forward_only().apply(given, *inputs)
    return given, None


def in_our_words(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Any = None,
    position_bias: Any = None,
    **others: Any,
) -> dict[str, Any]:
    """What transformers asks of an attention function, as the keywords of `kvattn.attend`.

    Parameters
    ----------
    module
        The layer; its ``is_causal`` and ``training`` are read.
    query, key, value
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``.
    attention_mask
        Broadcasts to ``[B, Hq, T, S]``; boolean, True = may see, or added to the scores, where -inf and the most
        negative number of its dtype hide a key.  It has the last word: ``is_causal`` and ``sliding_window`` are
        read only where it is None.
    scaling, softcap, position_bias
        ``scale``, ``softcap`` and ``bias``; None for 1/√D, no cap, no bias.
    dropout
        Without effect unless the layer is training, and refused then.
    is_causal
        None asks the layer.
    sliding_window
        W keys, self included.
    s_aux
        ``[Hq]``: sinks.
    **others
        What models pass on to every layer (`NOT_OURS`) is left unread, and so is None or False under any name.

    Returns
    -------
    dict
        ``mask``, ``bias``, ``scale``, ``softcap``, ``sinks``.

    Raises
    ------
    ArgumentError
        A keyword that may change the result in a way unknown here (``output_attentions``, ``cu_seq_lens_q``, ``cache``,
        ``indices``, …); dropout in training; no mask where its place in time is in doubt.
    ShapeError, DtypeError
        Arrays of another rank; a mask that is neither boolean nor floating.

    Examples
    --------
    >>> q = np.ones((1, 2, 3, 4))
    >>> words = in_our_words(None, q, q, q, np.array([0.0, 0.5, -np.inf]), scaling=0.25, sliding_window=None)
    >>> words["mask"], words["bias"], words["scale"]
    (array([ True,  True, False]), array([0. , 0.5, 0. ]), 0.25)
    >>> in_our_words(None, q, q, q, None, is_causal=True, sliding_window=2)["mask"]
    Window(2)
    """
    for name, other in others.items():
        if name not in NOT_OURS and other is not None and other is not False:
            came = other if isinstance(other, bool | int | float | str) else type(other).__name__
            raise ArgumentError(f"{name} must be left out, kvattn does not know what it changes, got {came}")
    for name, array in (("query", query), ("key", key), ("value", value)):
        if len(array.shape) != 4:
            raise ShapeError(f"{name} must have shape [B, heads, time, dim], got {tuple(array.shape)}")
    if getattr(module, "training", False) and real("dropout", dropout):
        raise ArgumentError(f"dropout must be 0 while training, kvattn draws nothing at random, got {dropout!r}")
    mask, added = _split(attention_mask)
    if attention_mask is None:
        causal = getattr(module, "is_causal", None) if is_causal is None else is_causal
        mask = _unsaid(causal, sliding_window, query.shape[2], key.shape[2])
    bias = [anything("position_bias", x) for x in (position_bias, added) if x is not None]
    return {
        "mask": mask,
        "bias": sum(bias) if bias else None,
        "scale": scaling,
        "softcap": softcap,
        "sinks": s_aux,
    }


def _split(attention_mask: Any) -> tuple[Any, Any]:
    """Which pairs the mask shows, and what it adds to them."""
    if attention_mask is None:
        return None, None
    array = anything("attention_mask", attention_mask)
    if array.dtype == np.bool_:
        return array, None
    if array.dtype.kind != "f":
        raise DtypeError(f"attention_mask must be boolean or floating, got dtype {array.dtype}")
    if type(attention_mask).__module__.startswith("torch"):
        import torch

        least = torch.finfo(attention_mask.dtype).min
    else:
        least = float(np.finfo(array.dtype).min)
    keep = ~(array <= least)  # so that NaN stays, to be seen
    return keep, np.where(keep, array, 0.0) if array[keep].any() else None


def _unsaid(causal: bool | None, window: int | None, queries: int, keys: int) -> Any:
    """Who sees whom where the model built no mask."""
    if queries == 1 and (window is None or window >= keys):
        return None  # the newest token sees all that came before
    if causal is None:
        raise ArgumentError("attention_mask must be given where neither the layer nor is_causal says, got None")
    if not causal:
        if window is not None and window < keys:
            raise ArgumentError(f"attention_mask must say who sees whom in a two-sided window of {window}, got None")
        return None
    if queries not in (1, keys):
        raise ArgumentError(f"attention_mask must be given for {queries} queries and {keys} keys, got None")
    return Causal() if window is None else Window(window)


@cache
def _forward_only() -> Any:
    """Give its first argument on, and refuse gradients for the others."""
    import torch

    class ForwardOnly(torch.autograd.Function):  # type: ignore[misc,no-any-unimported,unused-ignore]
        @staticmethod
        def forward(_: Any, given: Any, *__: Any) -> Any:
            return given.view_as(given)

        @staticmethod
        def backward(_: Any, *__: Any) -> Any:
            raise ArgumentError(f"attn_implementation must be another one where gradients are wanted, got {NAME!r}")

    return ForwardOnly
