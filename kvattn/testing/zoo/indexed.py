"""Cases of `kvattn.variants.sparse.indexed`: M and Di above 3, so that index scores do not all tie."""

from kvattn.positions import Rotary
from kvattn.testing.choices import Choices, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.latent import matrix_of, norm_of, weights_of
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, sinks_of
from kvattn.variants.sparse.indexed import Indexed
from kvattn.variants.sparse.lightning_indexer import LightningIndexer


def indexed(choices: Choices) -> Case:
    """Sparse attention under a mask and up to four more features.

    >>> from kvattn.testing.choices import Recorded
    >>> indexed(Recorded()).variant.keep
    1
    """
    dtype = dtype_of(choices)
    w = weights_of(choices, dtype, least_rank=2, least_hidden=4)
    heads, width = choices.integer(1, 5, "Hi"), choices.integer(4, 10, "Di")
    source = w.query.shape[0]
    turned = choices.integer(0, 1, "rotary") == 1
    indexer = LightningIndexer(
        matrix_of(choices, source, heads * width, dtype),
        matrix_of(choices, w.hidden, width, dtype),
        matrix_of(choices, w.hidden, heads, dtype),
        norm_of(choices, width, dtype),
        norm_of(choices, width, dtype) - 1,
        heads,
        Rotary.of(4) if turned else None,
    )
    layer = Indexed(
        w,
        indexer,
        keep=choices.integer(1, 9, "keep"),
        mask=mask_of(choices),
        rotation=Rotary.of(w.rope_width, layout="adjacent") if turned else None,
        softcap=pick(choices, (None, 1.5), "softcap"),
        sinks=sinks_of(choices, w.heads, dtype),
        page=page_of(choices),
    )
    return case_of(choices, layer, choices.integer(1, 3, "B"), length_of(choices), w.hidden, dtype)
