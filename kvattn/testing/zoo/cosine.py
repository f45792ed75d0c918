"""Cases of `kvattn.variants.dense.cosine` in a grouped layer."""

import numpy as np

from kvattn.positions import Rotary
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, projections_of
from kvattn.variants.dense.cosine import Cosine
from kvattn.variants.dense.grouped import Grouped


def cosine(choices: Choices) -> Case:
    """Unit queries and keys with one temperature or one for each head, turned or not.

    >>> from kvattn.testing.choices import Recorded
    >>> cosine(Recorded()).variant.scale
    10.0
    """
    dtype = dtype_of(choices)
    w = projections_of(choices, dtype, rotary=True)
    learned = choices.integer(0, 1, "learned") == 1
    eps = pick(choices, (1e-12, 0.5), "eps")
    # stored around ln 10, as Swin V2 begins
    unit = Cosine.learned(np.asarray(numbers(choices, (w.heads,), dtype, "stored") + 2), eps=eps)
    turn = (Rotary.of(w.width),) if choices.integer(0, 1, "rotary") else ()
    query_key = (unit if learned else Cosine(eps=eps), *turn)
    scale = 1.0 if learned else 10.0
    layer = Grouped(w, mask_of(choices), query_key, scale=scale, page=page_of(choices))
    return case_of(choices, layer, choices.integer(1, 3, "B"), length_of(choices), w.hidden, dtype)
