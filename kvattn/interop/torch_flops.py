"""torch's counters of FLOPs, ``torch.utils.flop_counter``, as something to check.

``FORMULA`` is what torch takes for one call of its tiled kernels, ``sdpa_flop``; ``COUNTED`` is what its
``FlopCounterMode`` sees of ``scaled_dot_product_attention`` on a CPU, whose tensors have shapes and no numbers.

Where torch makes other choices: pairs behind a causal mask are counted ("We aren't accounting for causal attention
here", says the formula).  The kernel that a CPU takes has no formula, so that ``COUNTED`` is 0 (torch 2.13).

Source: torch 2.13, ``torch/utils/flop_counter.py``.
"""

from importlib.util import find_spec
from typing import Any

from kvattn.errors import MissingExtraError
from kvattn.testing.counter_targets import CounterTarget, counter_target_of


def formula(
    *,
    batch: int,
    query_heads: int,
    kv_heads: int,
    queries: int,
    keys: int,
    width: int,
    value_width: int,
    causal: bool = False,
) -> int:
    """Return what ``torch.utils.flop_counter.sdpa_flop`` counts for one call.

    Parameters
    ----------
    batch, query_heads, kv_heads, queries, keys, width, value_width
        B, Hq, Hkv, T, S, D, Dv.
    causal
        torch's ``is_causal``.

    Raises
    ------
    MissingExtraError
        Where torch is not installed.

    Examples
    --------
    >>> FORMULA.counts
    'flops'
    """
    _needed()
    from torch.utils.flop_counter import sdpa_flop

    shapes = ((batch, heads, length, wide) for heads, length, wide in
              ((query_heads, queries, width), (kv_heads, keys, width), (kv_heads, keys, value_width)))  # fmt: skip
    return int(sdpa_flop(*shapes, 0.0, causal))


def counted(
    *, batch: int, query_heads: int, kv_heads: int, queries: int, keys: int, width: int, causal: bool = False
) -> int:
    """Return what torch's ``FlopCounterMode`` counts while its attention runs on CPU tensors.

    Parameters
    ----------
    batch, query_heads, kv_heads, queries, keys, width
        B, Hq, Hkv, T, S, D = Dv.
    causal
        torch's ``is_causal``.

    Raises
    ------
    MissingExtraError
        Where torch is not installed.

    Examples
    --------
    >>> sorted(COUNTED.features)
    ['batch', 'causal', 'keys', 'kv_heads', 'queries', 'query_heads', 'width']
    """
    _needed()
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    attend: Any = torch.nn.functional.scaled_dot_product_attention
    with FakeTensorMode(), torch.no_grad():
        q, k, v = (torch.empty(batch, heads, length, width) for heads, length in
                   ((query_heads, queries), (kv_heads, keys), (kv_heads, keys)))  # fmt: skip
        with FlopCounterMode(display=False) as mode:
            attend(q, k, v, is_causal=causal, enable_gqa=query_heads != kv_heads)
    return int(mode.get_total_flops())


def _needed() -> None:
    if find_spec("torch") is None:
        raise MissingExtraError("torch must be installed for this adapter, got no module torch")


def _target(function: Any) -> CounterTarget:
    name = function.__name__
    setup = f"from kvattn.interop.torch_flops import {name} as f"
    return counter_target_of(function, f"kvattn.interop.torch_flops:{name.upper()}", setup)


FORMULA = _target(formula)
"""torch's formula, to be checked."""

COUNTED = _target(counted)
"""What torch counts while it runs on a CPU, to be checked."""
