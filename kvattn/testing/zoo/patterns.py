"""Cases of fixed patterns: `kvattn.masks.per_head`, `kvattn.masks.strided`, `kvattn.masks.columns`,
`kvattn.masks.chosen`, `kvattn.masks.neighbourhood`, `kvattn.masks.block_wise`, `kvattn.masks.prefix`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from kvattn.masks import (
    BlockWise,
    Causal,
    Chosen,
    Chunked,
    Columns,
    KeysAt,
    Neighbourhood,
    PerHead,
    Prefix,
    QueriesAt,
    Sink,
    Strided,
    Window,
)
from kvattn.positions import Rotary
from kvattn.testing.choices import Choices, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, page_of, projections_of, sinks_of
from kvattn.typing import Mask
from kvattn.variants.dense.grouped import Grouped


def patterns(choices: Choices) -> Case:
    """A fixed sparse pattern, cut where no earlier query looks ahead.

    >>> from kvattn.testing.choices import Recorded
    >>> patterns(Recorded()).variant.mask
    PerHead((Window(2),))
    """
    dtype = dtype_of(choices)
    turned = choices.integer(0, 1, "rotary") == 1
    w = projections_of(choices, dtype, rotary=turned)
    batch, length = choices.integer(1, 3, "B"), length_of(choices)
    make = pick(choices, _PATTERNS, "pattern")
    mask, border = make(_Row(choices, w.heads, length))
    layer = Grouped(
        w,
        mask,
        query_key=(Rotary.of(w.width),) if turned else (),
        sinks=sinks_of(choices, w.heads, dtype),
        page=page_of(choices),
    )
    case = case_of(choices, layer, batch, length, w.hidden, dtype)
    return replace(case, cuts=tuple(sorted(map(border, case.cuts))), relative=make is _strided)


Border = Callable[[int], int]
"""From any cut to a legal one before it."""


class _Row(NamedTuple):
    """What a pattern is made for."""

    choices: Choices
    heads: int
    length: int


def _anywhere(cut: int) -> int:
    return cut


def _nowhere(_: int) -> int:
    return 0


def _heads(one: Mask, other: Mask, heads: int) -> PerHead:
    return PerHead([(one, other)[h % 2] for h in range(heads)])


def _strided(row: _Row) -> tuple[Mask, Border]:
    stride = row.choices.integer(1, 6, "stride")
    return _heads(Window(stride + 1), Strided(stride), row.heads), _anywhere


def _fixed(row: _Row) -> tuple[Mask, Border]:
    period = row.choices.integer(1, 6, "period")
    count = row.choices.integer(1, period, "columns")
    return _heads(Causal() & Chunked(period), Causal() & Columns(period, period - count, count), row.heads), _anywhere


def _duo(row: _Row) -> tuple[Mask, Border]:
    streaming = Causal() & (Sink(row.choices.integer(0, 3, "sink")) | Window(row.choices.integer(1, 6, "window")))
    return _heads(streaming, Causal(), row.heads), _anywhere


def _vertical(row: _Row) -> tuple[Mask, Border]:
    stride = row.choices.integer(1, 4, "stride")
    step = max(1, stride // row.heads)
    columns = PerHead([Columns(stride, (stride - 1 - h * step) % stride) for h in range(row.heads)])
    blocks = BlockWise(row.choices.integer(1, 4, "block"), Window(row.choices.integer(1, 3, "local")) | columns)
    return Causal() & blocks, _anywhere


def _prefix(row: _Row) -> tuple[Mask, Border]:
    count = row.choices.integer(0, 9, "prefix")
    return Causal() | Prefix(count), lambda cut: cut if cut >= count else 0


def _table(row: _Row, rows: int) -> Chosen:
    seed = row.choices.integer(0, 2**16, "table")
    return Chosen(np.random.default_rng(seed).integers(-1, rows, (row.heads, rows, 2)))


def _random_causal(row: _Row) -> tuple[Mask, Border]:
    size = row.choices.integer(1, 4, "block")
    rows = 2 * row.length // size + 1  # a law appends as many tokens again
    return Causal() & BlockWise(size, Window(2) | _table(row, rows)), _anywhere


def _big_bird(row: _Row) -> tuple[Mask, Border]:
    size = row.choices.integer(1, 4, "block")
    ends = [0, max(row.length - 1, 0) // size]
    rows = row.length // size + 1
    inside = Window(2, ahead=1) | KeysAt(ends) | QueriesAt(ends) | _table(row, rows)
    return BlockWise(size, inside), _nowhere


def _neighbourhood(row: _Row) -> tuple[Mask, Border]:
    rows = 2 if row.length and row.length % 2 == 0 and row.choices.integer(0, 1, "rows") else 1
    grid = [rows, max(row.length, 1) // rows]
    wide = 2 * row.choices.integer(0, (grid[1] - 1) // 2, "window") + 1
    return Neighbourhood(grid, [1, wide]), _nowhere


_PATTERNS = (_strided, _fixed, _duo, _vertical, _prefix, _random_causal, _big_bird, _neighbourhood)
