"""torch's ``flex_attention`` as a plain callable of the check's contract.

Everything but the scale is said in two functions: ``score_mod`` caps a score and adds a bias, ``mask_mod`` says who
sees whom.  The adapter writes them, with query t at position ``S - T + t``, so what a check finds is how torch applies
them.  Run uncompiled: the arithmetic of torch's reference path, on a CPU.

Where torch makes other choices: a score that ``mask_mod`` hides is -inf before the product with the values, so NaN in a
hidden value reaches the output; keys and values of length 0 are refused.

Source: torch 2.13, ``torch.nn.attention.flex_attention``; Dong et al. 2024 (2412.05496).
"""

from importlib.util import find_spec
from typing import Any
import warnings

import numpy as np
from numpy.typing import NDArray

from kvattn.errors import MissingExtraError
from kvattn.interop.torch import array, tensor
from kvattn.testing.targets import Target

CONVENTIONS = frozenset({"masked-nan", "empty-row"})
"""Classes in which torch has made another legal choice."""


def flex_attention(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    bias: NDArray[Any] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Run torch's function on NumPy arrays, in their dtype, ml_dtypes' bfloat16 too.

    Parameters
    ----------
    q, k, v
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``; ``enable_gqa`` is set where Hq and Hkv differ.
    causal, window, mask
        Parts of one ``mask_mod``.
    softcap, bias
        Parts of one ``score_mod``, which torch calls on scaled scores.
    scale
        torch's ``scale``.

    Returns
    -------
    out, lse
        ``[B, Hq, T, Dv]`` and ``[B, Hq, T]``, natural logarithms.

    Raises
    ------
    MissingExtraError
        Where torch is not installed.

    Examples
    --------
    >>> sorted(CONVENTIONS)
    ['empty-row', 'masked-nan']
    """
    if find_spec("torch") is None:
        raise MissingExtraError("torch must be installed for this adapter, got no module torch")
    import torch
    from torch.nn.attention.flex_attention import create_block_mask
    from torch.nn.attention.flex_attention import flex_attention as attend

    batch, heads, queries, _ = q.shape
    keys = k.shape[2]

    shape = (batch, heads, queries, keys)
    added, shown = (
        None if x is None else tensor(np.ascontiguousarray(np.broadcast_to(np.asarray(x), shape))) for x in (bias, mask)
    )

    def score_mod(score: Any, b: Any, h: Any, t: Any, s: Any) -> Any:
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        return score if added is None else score + added[b, h, t, s]

    def mask_mod(b: Any, h: Any, t: Any, s: Any) -> Any:
        behind = keys - queries + t - s
        seen = behind >= 0 if causal else behind == behind  # noqa: PLR0124 - True, of the right shape
        if window is not None:
            seen &= behind < window
        return seen if shown is None else seen & shown[b, h, t, s]

    masked = causal or window is not None or shown is not None
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled is what we want
        out, lse = attend(
            *map(tensor, (q, k, v)),
            score_mod=score_mod if softcap is not None or added is not None else None,
            block_mask=create_block_mask(mask_mod, *shape, device="cpu") if masked else None,
            scale=scale,
            enable_gqa=heads != k.shape[1],
            return_lse=True,
        )
    return array(out, q.dtype), array(lse, q.dtype)


def target() -> Target:
    """Return torch's function as something to check, with its conventions declared.

    Raises
    ------
    MissingExtraError
        Where torch is not installed.

    Examples
    --------
    >>> from kvattn.testing.targets import ADAPTERS
    >>> ADAPTERS["torch.nn.attention.flex_attention:flex_attention"]
    'kvattn.interop.torch_flex'
    """
    if find_spec("torch") is None:
        raise MissingExtraError("torch must be installed for this adapter, got no module torch")
    return Target(
        name="torch.nn.attention.flex_attention:flex_attention",
        function=flex_attention,
        features=frozenset({"causal", "window", "scale", "softcap", "bias", "mask"}),
        setup="from kvattn.interop.torch_flex import flex_attention as f",
        conventions=CONVENTIONS,
        slow=False,
    )
