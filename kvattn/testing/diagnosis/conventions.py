"""Other legal choices: what is a fault in a function that does not declare it, and a convention in one that does.

A function declares what it documents, by class: ``attend.conventions = {"causal-align"}``.  Only the choices below
become conventions by that; a triangle that is one key late stays a fault.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

_Parameters = Mapping[str, Any]

_SLOPES = ("2 ** (-8 (h + 1) / H) for every H", "MPT's")

LEGAL: Mapping[str, tuple[str, Callable[[_Parameters], bool]]] = MappingProxyType(
    {
        "causal-align": (
            "the triangle in the top left corner, as torch's is_causal and flash-attention before 2.1 have it",
            lambda p: p.get("anchor") == "top_left" and not p.get("shift") and "elsewhere" not in p,
        ),
        "window-off-by-one": (
            "W keys beside the query's own, as flash-attention's (left, right) and axlearn count them",
            lambda p: p.get("extra") == 1,
        ),
        "empty-row": (
            "NaN as torch before 2.5, the mean of v as wherever a mask is a large negative number",
            lambda p: p.get("out") in {"nan", "mean of v"} or "lse" in p,
        ),
        "lse-merge": ("a base-2 or base-10 lse, as flashinfer's kernels return it", lambda p: p.get("base") in {2, 10}),
        "mask-polarity": (
            "True hides, as torch.nn.MultiheadAttention's key_padding_mask has it",
            lambda p: p.get("true_means") == "blocked",
        ),
        "masked-nan": ("0 * NaN is NaN, as in torch", lambda p: p.get("poison") == "nan"),
        "alibi-slopes": (
            "slopes of another table, or another constant in each row, which softmax cannot see",
            lambda p: p.get("slopes") in _SLOPES or "row_constant" in p,
        ),
        "sink": (
            "an lse without the sinks; a logit of 0 in every denominator, as softmax_one has it",
            lambda p: p.get("logit") == 0.0 if p.get("always") else p.get("in_lse") is False,
        ),
        "gqa-map": ("as many key/value heads as query heads", lambda p: p.get("supported") is False),
        "precision": ("another number format on the way", lambda p: p.get("stage") != "range of exp"),
    }
)
"""For each class, whose choice it is, and whether the parameters of a finding are that choice."""


def whose(fault_class: str, parameters: _Parameters) -> str:
    """Say whose convention a finding is; the empty string where it is nobody's.

    Examples
    --------
    >>> whose("window-off-by-one", {"extra": 1})
    "W keys beside the query's own, as flash-attention's (left, right) and axlearn count them"
    >>> whose("window-off-by-one", {"extra": 2})
    ''
    """
    words, legal = LEGAL.get(fault_class, ("", lambda p: False))
    return words if legal(parameters) else ""
