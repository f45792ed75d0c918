"""Cases of `kvattn.variants.sparse.longformer` and of `kvattn.masks.global_tokens`."""

from dataclasses import replace

from kvattn.masks import Causal, Chunked, Window
from kvattn.masks.combine import Everything
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, page_of, projections_of
from kvattn.typing import Mask
from kvattn.variants.sparse.longformer import Longformer


def longformer(choices: Choices) -> Case:
    """A window and global tokens: as a decoder, cut anywhere, or as an encoder, in one step.

    >>> from kvattn.testing.choices import Recorded
    >>> longformer(Recorded()).variant.mask
    Causal() & (Window(1) | KeysAt([0]) | QueriesAt([0]))
    """
    dtype = dtype_of(choices)
    w = projections_of(choices, dtype)
    tokens = sorted({choices.integer(0, 9, "token") for _ in range(choices.integer(1, 3, "tokens"))})
    wide = choices.integer(1, 6, "window")
    windows: tuple[Mask, ...] = (Window(wide), Chunked(wide), Window(wide, ahead=wide - 1))
    window = pick(choices, windows, "kind")
    encoder = choices.integer(0, 3, "encoder") == 3
    query, key, value = (
        numbers(choices, m.shape, dtype, "weights", m.shape[0] ** -0.5) for m in (w.query, w.key, w.value)
    )
    layer = Longformer(
        w,
        query,
        key,
        value,
        tokens=tokens,
        window=window,
        order=Everything() if encoder else Causal(),
        page=page_of(choices),
    )
    batch, length = choices.integer(1, 3, "B"), length_of(choices)
    case = case_of(choices, layer, batch, length, w.hidden, dtype)
    return replace(case, cuts=tuple(0 for _ in case.cuts)) if encoder else case
