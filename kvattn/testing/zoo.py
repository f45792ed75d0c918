"""Small examples of every variant, drawn from choices: sizes that differ, at least two features at once.

One function per variant file, listed in `ZOO` by the file's name.  Lengths stay near the borders
that matter (windows, pages, blocks of 256 once in a while); sizes differ from each other wherever
the variant lets them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from kvattn.masks import Causal, Chunked, Prefix, Sink, Window
from kvattn.positions import Alibi, Rotary
from kvattn.testing.choices import Choices, Recorded, numbers, pick
from kvattn.testing.laws import Case
from kvattn.typing import Array, Mask
from kvattn.variants.dense.cross import Cross
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from kvattn.variants.sparse.sinks import KeptSinks, ReindexedSinks

PAGES = (256, 1, 2, 3, 7, 64)
"""Page sizes; the first is the one without copies."""


def dtype_of(choices: Choices) -> DTypeLike:
    """float64 or float32.

    >>> dtype_of(Recorded())
    <class 'numpy.float64'>
    """
    return pick(choices, (np.float64, np.float32), "dtype")


def length_of(choices: Choices, least: int = 0) -> int:
    """Mostly short, sometimes around a block.

    >>> length_of(Recorded([0, 5]))
    5
    """
    if choices.integer(0, 15, "long") == 15:
        return choices.integer(253, 260, "length")
    return choices.integer(least, 24, "length")


def cuts_of(choices: Choices, length: int) -> tuple[int, ...]:
    """Where to cut: up to four places, repeated ones included.

    >>> cuts_of(Recorded([2, 3, 1]), 5)
    (1, 3)
    """
    count = choices.integer(0, 4, "cuts")
    return tuple(sorted(choices.integer(0, length, "cut") for _ in range(count)))


def projections_of(choices: Choices, dtype: DTypeLike, rotary: bool = False, source: int | None = None) -> Projections:
    """Weights with M, Hq·D, Hkv·D, Hkv·Dv that differ.

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

    >>> hidden_of(Recorded(), 1, 2, 3, np.float32).shape
    (1, 2, 3)
    """
    return numbers(choices, (batch, length, hidden), dtype, "x", pick(choices, (1.0, 3.0), "spread"))


def grouped(choices: Choices) -> Case:
    """Grouped-query attention under a mask and up to three more features.

    >>> grouped(Recorded()).variant.mask
    Causal()
    """
    dtype = dtype_of(choices)
    turned = choices.integer(0, 1, "rotary") == 1
    weights = projections_of(choices, dtype, rotary=turned)
    width = choices.integer(1, 9, "window")
    masks: tuple[Mask, ...] = (
        Causal(),
        Causal() & Window(width),
        Causal() & (Window(width) | Sink(2)),
        Causal() & Chunked(width),
        Causal() & ~Window(1) | Causal() & Prefix(1),
    )
    mask = pick(choices, masks, "mask")
    batch, length, page = choices.integer(1, 3, "B"), length_of(choices), pick(choices, PAGES, "page")
    layer = Grouped(
        weights,
        mask,
        rotation=Rotary.of(weights.width, layout=pick(choices, ("half", "adjacent"), "layout")) if turned else None,
        mods=(Alibi.of(weights.heads),) if choices.integer(0, 1, "alibi") else (),
        softcap=pick(choices, (None, 1.5), "softcap"),
        sinks=numbers(choices, (weights.heads,), dtype, "sinks") if choices.integer(0, 1, "sinks") else None,
        page=page,
    )
    return case_of(choices, layer, batch, length, weights.hidden, dtype)


def cross(choices: Choices) -> Case:
    """Cross-attention over a memory of another width and length.

    >>> cross(Recorded()).variant.memory.shape
    (1, 1, 1)
    """
    dtype = dtype_of(choices)
    rows = choices.integer(1, 7, "Me")
    weights = projections_of(choices, dtype, source=rows)
    batch, source = choices.integer(1, 3, "B"), choices.integer(1, 20, "S")
    memory = numbers(choices, (batch, source, rows), dtype, "memory")
    page = pick(choices, PAGES, "page")
    layer = Cross(weights, memory, softcap=pick(choices, (None, 2.0), "softcap"), page=page)
    length = length_of(choices)
    case = case_of(choices, layer, batch, length, weights.hidden, dtype)
    return replace(case, alone=lambda b: replace(layer, memory=memory[b : b + 1]))


def kept_sinks(choices: Choices) -> Case:
    """Sinks and window at the positions where they were written.

    >>> kept_sinks(Recorded()).variant.window
    1
    """
    return _sinks(choices, KeptSinks)


def reindexed_sinks(choices: Choices) -> Case:
    """Sinks and window with positions counted inside the cache.

    >>> reindexed_sinks(Recorded()).variant.window
    1
    """
    return _sinks(choices, ReindexedSinks)


def _sinks(choices: Choices, kind: Callable[..., Any]) -> Case:
    dtype = dtype_of(choices)
    turned = choices.integer(0, 1, "rotary") == 1
    weights = projections_of(choices, dtype, rotary=turned)
    rollback = choices.integer(0, 5, "rollback")
    layer = kind(
        weights,
        sinks=choices.integer(0, 4, "sinks"),
        window=choices.integer(1, 9, "window"),
        rotation=Rotary.of(weights.width) if turned else None,
        rollback=rollback,
        page=pick(choices, PAGES, "page"),
    )
    batch, length = choices.integer(1, 3, "B"), length_of(choices)
    return replace(case_of(choices, layer, batch, length, weights.hidden, dtype), rollback=rollback)


def case_of(choices: Choices, layer: Any, batch: int, length: int, hidden: int, dtype: DTypeLike) -> Case:
    """A case for a layer that knows no batch, with hidden states and cuts.

    >>> case_of(Recorded(), None, 1, 2, 3, np.float64).x.shape
    (1, 2, 3)
    """
    x = hidden_of(choices, batch, length, hidden, dtype)
    page = getattr(layer, "page", None)
    twin = None if page is None else replace(layer, page=PAGES[(PAGES.index(page) + 1) % len(PAGES)])
    # roundings: four products of at most 11 terms or a few dozen columns, a softmax over `length` keys
    return Case(layer, x, cuts_of(choices, length), lambda _: layer, twin, None, depth=100 + 4 * length)


ZOO: Mapping[str, Callable[[Choices], Case]] = {
    "grouped": grouped,
    "cross": cross,
    "kept_sinks": kept_sinks,
    "reindexed_sinks": reindexed_sinks,
}
"""A case generator for every variant, by name."""


def smallest(name: str) -> Case:
    """The simplest case of a variant that has three tokens in two sequences.

    >>> smallest("grouped").x.shape[:2]
    (2, 3)
    """
    case = ZOO[name](Recorded())
    layer, x = case.variant, np.arange(1.0, 7.0).reshape(2, 3, 1) / 7
    if isinstance(layer, Cross):
        layer = replace(layer, memory=np.ones((2, 4, 1)))
        return replace(case, variant=layer, x=x, alone=lambda b: replace(layer, memory=layer.memory[b : b + 1]))
    return replace(case, x=x, cuts=(1,))
