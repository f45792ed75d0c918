"""Cases of `kvattn.masks.block_diffusion`: decoding under `kvattn.masks.block_wise`, cut at borders of blocks."""

from dataclasses import replace

import numpy as np

from kvattn.masks import BlockDiffusion, BlockWise, Causal
from kvattn.positions import Rotary
from kvattn.testing.choices import Choices
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, page_of, projections_of, sinks_of
from kvattn.typing import Array, Attended
from kvattn.variants.dense.grouped import Grouped


def block_diffusion(choices: Choices) -> Case:
    """Two-sided blocks, causal over blocks, cut at their borders; both halves of a training pass agree.

    >>> from kvattn.testing.choices import Recorded
    >>> block_diffusion(Recorded()).variant.mask
    BlockWise(1, Causal())
    """
    dtype = dtype_of(choices)
    turned = choices.integer(0, 1, "rotary") == 1
    w = projections_of(choices, dtype, rotary=turned)
    size = choices.integer(1, 6, "block")
    layer = Grouped(
        w,
        BlockWise(size, Causal()),
        query_key=(Rotary.of(w.width),) if turned else (),
        sinks=sinks_of(choices, w.heads, dtype),
        page=page_of(choices),
    )
    batch, length = choices.integer(1, 3, "B"), length_of(choices)
    case = case_of(choices, layer, batch, length, w.hidden, dtype)

    def half(x: Array, clean: int) -> Attended:
        """One half of a training pass whose noisy copy is the text itself."""
        tokens = x.shape[1]
        trained = replace(layer, mask=BlockDiffusion(size, max(tokens, 1)))
        found = trained.definition(np.concatenate([x, x], axis=1), np.arange(2 * tokens))
        part = slice(clean * tokens, (clean + 1) * tokens)
        return Attended(found.out[:, part], found.lse[:, :, part])

    # rotation would stand both copies of a token at different angles
    forms = {} if turned else {"noisy half": lambda x: half(x, 0), "clean half": lambda x: half(x, 1)}
    return replace(case, cuts=tuple(cut - cut % size for cut in case.cuts), forms=forms)
