"""Pieces that the cases of several variants are made of: dtypes, lengths, cuts, masks, weights, hidden states.

Lengths stay near the borders that matter (windows, pages, blocks of 256 once in a while); sizes
differ from each other wherever a variant lets them.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from kvattn.masks import Both, Causal, Chunked, Prefix, Sink, Window
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.typing import Array, Mask
from kvattn.variants.dense.projections import Projections

PAGES = (256, 1, 2, 3, 7, 64)
"""Page sizes; the first is the one without copies."""


def dtype_of(choices: Choices) -> DTypeLike:
    """float64 or float32.

    >>> from kvattn.testing.choices import Recorded
    >>> dtype_of(Recorded())
    <class 'numpy.float64'>
    """
    return pick(choices, (np.float64, np.float32), "dtype")


def length_of(choices: Choices, least: int = 0) -> int:
    """Mostly short, sometimes around a block.

    >>> from kvattn.testing.choices import Recorded
    >>> length_of(Recorded([0, 5]))
    5
    """
    if choices.integer(0, 15, "long") == 15:
        return choices.integer(253, 260, "length")
    return choices.integer(least, 24, "length")


def cuts_of(choices: Choices, length: int) -> tuple[int, ...]:
    """Where to cut: up to four places, repeated ones included.

    >>> from kvattn.testing.choices import Recorded
    >>> cuts_of(Recorded([2, 3, 1]), 5)
    (1, 3)
    """
    count = choices.integer(0, 4, "cuts")
    return tuple(sorted(choices.integer(0, length, "cut") for _ in range(count)))


def projections_of(choices: Choices, dtype: DTypeLike, rotary: bool = False, source: int | None = None) -> Projections:
    """Weights with M, Hq·D, Hkv·D, Hkv·Dv that differ.

    >>> from kvattn.testing.choices import Recorded
    >>> projections_of(Recorded(), np.float64).heads
    1
    """
    kv_heads = choices.integer(1, 3, "Hkv")
    heads = kv_heads * choices.integer(1, 3, "G")
    width = 2 * choices.integer(1, 5, "D/2") if rotary else choices.integer(1, 9, "D")
    value_width = choices.integer(1, 9, "Dv")
    hidden = choices.integer(1, 11, "M")
    rows = hidden if source is None else source
    shapes = (hidden, heads * width), (rows, kv_heads * width), (rows, kv_heads * value_width)
    query, key, value = (numbers(choices, shape, dtype, "weights", shape[0] ** -0.5) for shape in shapes)
    output = numbers(choices, (heads * value_width, hidden), dtype, "weights", (heads * value_width) ** -0.5)
    return Projections(query, key, value, output, heads, kv_heads)


def hidden_of(choices: Choices, batch: int, length: int, hidden: int, dtype: DTypeLike) -> Array:
    """Hidden states ``[B, T, M]``, of a size that makes some scores large.

    >>> from kvattn.testing.choices import Recorded
    >>> hidden_of(Recorded(), 1, 2, 3, np.float32).shape
    (1, 2, 3)
    """
    return numbers(choices, (batch, length, hidden), dtype, "x", pick(choices, (1.0, 3.0), "spread"))


def mask_of(choices: Choices) -> Mask:
    """A causal mask, mostly joined with another.

    >>> from kvattn.testing.choices import Recorded
    >>> mask_of(Recorded())
    Causal()
    """
    width = choices.integer(1, 9, "window")
    masks: tuple[Mask, ...] = (
        Causal(),
        Causal() & Window(width),
        Causal() & (Window(width) | Sink(2)),
        Causal() & Chunked(width),
        Causal() & ~Window(1) | Causal() & Prefix(1),
    )
    return pick(choices, masks, "mask")


def is_relative(mask: Mask | None) -> bool:
    """Whether a mask asks for differences of positions only.

    >>> is_relative(Causal() & Window(3)), is_relative(Causal() & Sink(3))
    (True, False)
    """
    if isinstance(mask, Both):
        return is_relative(mask.left) and is_relative(mask.right)
    return mask is None or isinstance(mask, (Causal, Window))


def page_of(choices: Choices) -> int:
    """A page size.

    >>> from kvattn.testing.choices import Recorded
    >>> page_of(Recorded())
    256
    """
    return pick(choices, PAGES, "page")


def sinks_of(choices: Choices, heads: int, dtype: DTypeLike) -> Array | None:
    """A sink for each query head, or none.

    >>> from kvattn.testing.choices import Recorded
    >>> sinks_of(Recorded(), 2, float) is None
    True
    """
    return numbers(choices, (heads,), dtype, "sinks") if choices.integer(0, 1, "sinks") else None


def case_of(choices: Choices, layer: Any, batch: int, length: int, hidden: int, dtype: DTypeLike) -> Case:
    """A case for a layer that knows no batch, with hidden states and cuts.

    >>> from kvattn.testing.choices import Recorded
    >>> case_of(Recorded(), None, 1, 2, 3, np.float64).x.shape
    (1, 2, 3)
    """
    x = hidden_of(choices, batch, length, hidden, dtype)
    page = getattr(layer, "page", None)
    twin = None if page is None else replace(layer, page=PAGES[(PAGES.index(page) + 1) % len(PAGES)])
    # roundings: four products of at most 11 terms or a few dozen columns, a softmax over `length` keys
    cuts, relative = cuts_of(choices, length), is_relative(getattr(layer, "mask", None))
    return Case(layer, x, cuts, lambda _: layer, twin, None, depth=100 + 4 * length, relative=relative)
