"""Cases of the schemes that act on rows of queries and keys, each in a grouped layer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from kvattn.positions import Rotary, geometric
from kvattn.positions.axial import centres, dealt, repeated
from kvattn.positions.multimodal import Multimodal, alternating, chunked, interleaved, mixed
from kvattn.positions.polar import Polar
from kvattn.positions.temperature import Curve, LogLength, Rising, Scalable, Stepped, Temperature
from kvattn.positions.xpos import XPos
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, projections_of
from kvattn.typing import Array, QueryKey
from kvattn.variants.dense.grouped import Grouped


def temperature(choices: Choices) -> Case:
    """Queries that grow with their position, in layers without rotation (NoPE) and behind one.

    >>> from kvattn.testing.choices import Recorded
    >>> temperature(Recorded()).variant.query_key
    (Temperature(curve=Stepped(strength=0.5, period=1, first=0)),)
    """
    dtype = dtype_of(choices)
    w = projections_of(choices, dtype, rotary=True)
    size = choices.integer(1, 9, "size")
    strengths = tuple(numbers(choices, (w.heads,), np.float64, "strengths").tolist())
    curves: tuple[Curve, ...] = (
        Stepped(0.5, size, first=choices.integer(0, 1, "first")),
        Rising(-0.25, size),
        LogLength(size + 1),
        Scalable(strengths),
    )
    tuned = Temperature(pick(choices, curves, "curve"))
    turn = Rotary.of(w.width, layout=pick(choices, ("half", "adjacent"), "layout"))
    orders: tuple[Sequence[QueryKey], ...] = ((tuned,), (turn, tuned), (tuned, turn))
    layer = Grouped(w, mask_of(choices), pick(choices, orders, "order"), page=page_of(choices))
    case = case_of(choices, layer, choices.integer(1, 3, "B"), length_of(choices), w.hidden, dtype)
    return replace(case, relative=False)


def xpos(choices: Choices) -> Case:
    """Pairs that turn and fade, all of them or the first few.

    >>> from kvattn.testing.choices import Recorded
    >>> xpos(Recorded()).variant.query_key[1].period
    512.0
    """
    dtype = dtype_of(choices)
    w = projections_of(choices, dtype, rotary=True)
    width = 2 * choices.integer(1, w.width // 2, "r/2")
    layout: Literal["half", "adjacent"] = pick(choices, ("half", "adjacent"), "layout")
    fading = XPos.of(width, layout, pick(choices, (512.0, 40.0), "period"), choices.integer(-3, 30, "origin"))
    turn = Rotary.of(width, layout=layout)
    query_key: Sequence[QueryKey] = pick(choices, ((turn, fading), (fading, turn)), "order")
    layer = Grouped(w, mask_of(choices), query_key, page=page_of(choices))
    return case_of(choices, layer, choices.integer(1, 3, "B"), length_of(choices), w.hidden, dtype)


def polar(choices: Choices) -> Case:
    """Rows that become arrows, twice as wide, with phases of each key head.

    >>> from kvattn.testing.choices import Recorded
    >>> polar(Recorded()).variant.start().schema.fields[0].width
    2
    """
    dtype = dtype_of(choices)
    w = projections_of(choices, dtype)
    frequencies = Polar.of(w.width, w.kv_heads, pick(choices, (10000.0, 50.0), "base")).frequencies
    scheme = Polar(frequencies, numbers(choices, (w.kv_heads, w.width), np.float64, "phases"))
    layer = Grouped(w, mask_of(choices), (scheme,), page=page_of(choices))
    return case_of(choices, layer, choices.integer(1, 3, "B"), length_of(choices), w.hidden, dtype)


def multimodal(choices: Choices) -> Case:
    """Tokens on a line, on grids or in the cells of one image, in one table.

    >>> from kvattn.testing.choices import Recorded
    >>> multimodal(Recorded()).variant.query_key[0].rotary.axes
    (0, 1, 2)
    """
    dtype = dtype_of(choices)
    w = projections_of(choices, dtype)
    share = choices.integer(1, 2, "pairs of an axis")
    d = 6 * share + choices.integer(0, 2, "passing")
    shapes = (w.hidden, w.heads * d), (w.hidden, w.kv_heads * d)
    query, key = (numbers(choices, shape, dtype, "weights", w.hidden**-0.5) for shape in shapes)
    w = replace(w, query=query, key=key)
    axes = chunked((share,) * 3), interleaved((share,) * 3), alternating((share,) * 3)
    layout: Literal["half", "adjacent"] = pick(choices, ("half", "adjacent"), "layout")
    orders = [Rotary(geometric(6 * share), layout, axes=each) for each in axes]
    rotary = pick(choices, (*orders, repeated(6 * share, 3, layout=layout), dealt(6 * share, 3, layout=layout)), "axes")
    batch, length = choices.integer(1, 3, "B"), length_of(choices)
    room = 2 * length + 8  # what is taken back may have been as long again
    layer = Grouped(w, mask_of(choices), (Multimodal(rotary, _table(choices, room)),), page=page_of(choices))
    return replace(case_of(choices, layer, batch, length, w.hidden, dtype), relative=False)


def _table(choices: Choices, room: int) -> Array:
    words = choices.integer(0, 5, "words")
    sizes = tuple(choices.integer(1, 3, side) for side in ("frames", "rows", "columns"))
    table: Array = mixed([words, sizes, room]).astype(np.float64)
    if choices.integer(0, 1, "centres"):
        table = np.concatenate([centres(*sizes), table], axis=1)
    return table[:, :room]
