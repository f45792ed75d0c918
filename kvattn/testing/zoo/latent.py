"""Cases of `kvattn.variants.compressed.latent`: both forms, under a mask and up to five more features."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from numpy.typing import DTypeLike

from kvattn.positions import Alibi, Rotary
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case, stepped
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, sinks_of
from kvattn.typing import Array
from kvattn.variants.compressed.latent import Absorbed, Expanded
from kvattn.variants.compressed.latent_projections import LatentProjections


def weights_of(choices: Choices, dtype: DTypeLike, *, least_rank: int = 1, least_hidden: int = 1) -> LatentProjections:
    """Weights with sizes that differ, queries straight or through a low rank.

    >>> from kvattn.testing.choices import Recorded
    >>> weights_of(Recorded(), float).heads
    1
    """
    heads, nope, rope = choices.integer(1, 4, "Hq"), choices.integer(1, 6, "Dn"), 2 * choices.integer(1, 3, "Dr/2")
    value_width = choices.integer(1, 7, "Dv")
    rank, hidden = choices.integer(least_rank, 9, "r"), choices.integer(least_hidden, 11, "M")
    low_rank = choices.integer(0, 1, "low rank") == 1
    source = choices.integer(3, 5, "rq") if low_rank else hidden

    return LatentProjections(
        matrix_of(choices, hidden, rank, dtype),
        norm_of(choices, rank, dtype),
        matrix_of(choices, hidden, rope, dtype),
        matrix_of(choices, rank, heads * nope, dtype),
        matrix_of(choices, rank, heads * value_width, dtype),
        matrix_of(choices, source, heads * (nope + rope), dtype),
        matrix_of(choices, heads * value_width, hidden, dtype),
        heads,
        matrix_of(choices, hidden, source, dtype) if low_rank else None,
        norm_of(choices, source, dtype) if low_rank else None,
    )


def matrix_of(choices: Choices, rows: int, columns: int, dtype: DTypeLike) -> Array:
    """A matrix that keeps the size of what it multiplies.

    >>> from kvattn.testing.choices import Recorded
    >>> matrix_of(Recorded(), 2, 3, float).shape
    (2, 3)
    """
    return numbers(choices, (rows, columns), dtype, "weights", rows**-0.5)


def norm_of(choices: Choices, width: int, dtype: DTypeLike) -> Array:
    """The weights of a norm, around 1.

    >>> from kvattn.testing.choices import Recorded
    >>> norm_of(Recorded(), 3, float).shape
    (3,)
    """
    return 1 + numbers(choices, (width,), dtype, "norm", 0.3)


def expanded(choices: Choices) -> Case:
    """Latent attention that caches keys and values.

    >>> from kvattn.testing.choices import Recorded
    >>> expanded(Recorded()).variant.mask
    Causal()
    """
    return _case(choices, Expanded)


def absorbed(choices: Choices) -> Case:
    """Latent attention that caches latents.

    >>> from kvattn.testing.choices import Recorded
    >>> absorbed(Recorded()).variant.mask
    Causal()
    """
    return _case(choices, Absorbed)


def _case(choices: Choices, form: Callable[..., Any]) -> Case:
    dtype = dtype_of(choices)
    w = weights_of(choices, dtype)
    turned = choices.integer(0, 2, "rotary")
    layer = form(
        w,
        mask_of(choices),
        rotation=Rotary.of(w.rope_width, layout="half" if turned == 1 else "adjacent") if turned else None,
        mods=(Alibi.of(w.heads),) if choices.integer(0, 1, "alibi") else (),
        scale=pick(choices, (None, 0.7), "scale"),
        softcap=pick(choices, (None, 1.5), "softcap"),
        sinks=sinks_of(choices, w.heads, dtype),
        page=page_of(choices),
    )
    case = case_of(choices, layer, choices.integer(1, 3, "B"), length_of(choices), w.hidden, dtype)
    other = Absorbed if form is Expanded else Expanded
    twin = other(**{name: getattr(layer, name) for name in layer.__dataclass_fields__})
    return replace(case, forms={other.__name__: lambda x: stepped(twin, x, ())[0]})
