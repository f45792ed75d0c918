"""Off-by-one softmax (softmax1): a softmax that can say "nothing", for there is a 1 more in its denominator.

    w_ij = e^s_ij / (1 + Σ_k e^s_ik)   over visible j, k

It is a sink with logit 0: `kvattn.variants.dense.grouped.Grouped` with zeros for ``sinks``, and so not a
variant of its own, with no arithmetic of its own; weights sum to less than 1.

Shapes, cache and cost: those of grouped attention with sinks.  lse includes the 1.

Source: Miller 2023, "Attention Is Off By One" (blog post), where it is called softmax1 and QuietAttention.
Where libraries differ: ``torch.nn.MultiheadAttention(add_zero_attn=True)`` and ``attn_add_zero_kv`` of x-transformers
add a key and a value of zeros, which is the same only while nothing bends the score of that key: a softcap
leaves 0 alone, a bias need not.
"""

from typing import Any

import numpy as np

from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections


def off_by_one(projections: Projections, **fields: Any) -> Grouped:
    """Grouped-query attention with the off-by-one softmax.

    Parameters
    ----------
    projections
        The four matrices and the head counts.
    fields
        Further fields of `kvattn.variants.dense.grouped.Grouped`, but not ``sinks``.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> layer = off_by_one(Projections(one, one, one, one, heads=1, kv_heads=1), scale=0.0)
    >>> layer.definition(np.array([[[1.0], [5.0]]]), np.arange(2)).out[0, :, 0]  # 1 / (1 + 1), (1 + 5) / (1 + 2)
    array([0.5, 2. ])
    """
    return Grouped(projections, sinks=np.zeros(projections.heads, projections.dtype), **fields)
