"""Paged keys and values: which page and slot ``block_table`` leads to, and where the last page ends.

Method: each slot of the pool holds a unit vector of its own, so that an output row lists the slots that were
read.  A reading says which slots it would read.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.diagnosis.recipe import DRAWN, FLAT, PAGE, RANDOM, TABLE, Recipe, Sizes

_BY_SLOT = "v = np.zeros((*v.shape[:3], v.shape[0] * 4)) + np.eye(v.shape[0] * 4).reshape(-1, 1, 4, v.shape[0] * 4)"
"""Every slot of the pool has a unit vector of its own, whether a sequence holds it or not."""

_TWICE = "k, v = (np.concatenate([x, -x], 2) for x in (k, v))"
"""Pages with room for twice as many keys."""

_LENGTHS = ("np.array([{S}, 5, 4])[:{B}]", "np.array([8, 3, 9])[:{B}]")
_SIZES = Sizes(3, 4, 2, 1, 11, 4, 4)

Slots = list[tuple[int, int]]


def _straight(n: int, page: Callable[[int], int], slot: Callable[[int], int] = lambda s: s % PAGE) -> Slots:
    return [(page(s), slot(s)) for s in range(n)]


READINGS: Mapping[str, Callable[[NDArray[Any], int, int], Slots]] = MappingProxyType(
    {
        "the table": lambda table, b, n: _straight(n, lambda s: int(table[b, s // PAGE])),
        "pages in a row, whatever the table says": lambda table, b, n: _straight(
            n, lambda s: b * table.shape[1] + s // PAGE
        ),
        "pages in a row from 0 for every sequence": lambda table, b, n: _straight(n, lambda s: s // PAGE),
        "the table of sequence 0 for all": lambda table, b, n: _straight(n, lambda s: int(table[0, s // PAGE])),
        "pages in a row from the table's first": lambda table, b, n: _straight(
            n, lambda s: int(table[b, 0]) + s // PAGE
        ),
        "the page before at each page's first slot": lambda table, b, n: _straight(
            n, lambda s: int(table[b, (s - 1) // PAGE if s else 0])
        ),
        "the page after at each page's last slot": lambda table, b, n: _straight(
            n, lambda s: int(table[b, min((s + 1) // PAGE, table.shape[1] - 1)])
        ),
        "pages in their physical order": lambda table, b, n: _straight(n, lambda s: int(np.sort(table[b])[s // PAGE])),
        "pages two by two as one slab": lambda table, b, n: _straight(
            n, lambda s: int(table[b, s // PAGE // 2 * 2]) + s // PAGE % 2
        ),
        "the last page in full": lambda table, b, n: _straight(
            -(-n // PAGE) * PAGE, lambda s: int(table[b, s // PAGE])
        ),
        "one page more, in full": lambda table, b, n: _straight(
            min(n // PAGE + 1, table.shape[1]) * PAGE, lambda s: int(table[b, s // PAGE])
        ),
        "one key more": lambda table, b, n: _straight(
            min(n + 1, table.shape[1] * PAGE), lambda s: int(table[b, s // PAGE])
        ),
        "one key less": lambda table, b, n: _straight(n - 1, lambda s: int(table[b, s // PAGE])),
        "whole pages only": lambda table, b, n: _straight(n // PAGE * PAGE, lambda s: int(table[b, s // PAGE])),
        "the first slot of each page": lambda table, b, n: _straight(
            n, lambda s: int(table[b, s // PAGE]), lambda s: 0
        ),
        "slots in reverse": lambda table, b, n: _straight(
            n, lambda s: int(table[b, s // PAGE]), lambda s: PAGE - 1 - s % PAGE
        ),
        "every page of the table": lambda table, b, n: _straight(
            table.shape[1] * PAGE, lambda s: int(table[b, s // PAGE])
        ),
    }
)
"""Pages and slots that are read for a sequence of n keys; the contract's first."""


def read_pages(lab: Lab) -> None:
    """Fit where the keys of a paged call are read.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(formulas={"page": "table[maximum(s - 1, 0) // P]"}))
    >>> read_pages(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["reads"]
    ('paged-table', "the page before at each page's first slot")
    """
    cases = [
        replace(case, edits=(_BY_SLOT,))
        for text in _LENGTHS
        for case in lab.each(_SIZES, FLAT, RANDOM, lengths=text, block_table=TABLE)
    ]
    read = [lab.see(case).out[:, 0, 0] for case in cases]  # [B, N · P]
    for n, name in enumerate(READINGS):
        if all(_agrees(case, name, out) for case, out in zip(cases, read, strict=True)):
            if n:
                _report(lab, cases, read, name)
            else:
                _read_larger(lab)
            return
    _report(lab, cases, read, "")


def _read_larger(lab: Lab) -> None:
    """Give pages twice as large to a target that reads the contract's pages."""
    case = lab.case(_SIZES, DRAWN, RANDOM, lengths="np.array([19, 13, 8])[:{B}]", block_table=TABLE)
    case = replace(case, edits=(_TWICE,))
    try:
        far = lab.distance(case)
    except Refused as refused:
        lab.notes.append(f"Pages of {2 * PAGE} keys are refused where pages of {PAGE} are taken: {refused}")
        return
    if far > 10 * lab.sharp:
        lab.set_aside("block_table")
        detail = f"Pages of {PAGE} keys are read as block_table says, pages of {2 * PAGE} are not: the size of a page"
        parameters = {"argument": "block_table", "page": 2 * PAGE, "right_at": PAGE}
        lab.add("paged-table", parameters, f"{detail} is that of axis 2 of k.", case)


def _wanted(case: Recipe, name: str) -> NDArray[np.float64]:
    """Weights of the pool's slots that a reading gives, ``[B, N · P]``."""
    built = case.build()
    lengths = built.options["lengths"]
    rows = np.zeros((len(lengths), built.v.shape[-1]))
    for b, n in enumerate(lengths):
        slots = READINGS[name](built.options["block_table"], b, int(n))
        for page, slot in slots:
            rows[b, (page * PAGE + slot) % rows.shape[1]] += 1 / len(slots)
    return rows


def _agrees(case: Recipe, name: str, out: NDArray[np.float64]) -> bool:
    return bool(np.allclose(out, _wanted(case, name), rtol=0, atol=1e-3))


def _report(lab: Lab, cases: list[Recipe], read: list[NDArray[np.float64]], name: str) -> None:
    lab.set_aside("block_table")
    first = next(iter(READINGS))
    case, out = next((c, r) for c, r in zip(cases, read, strict=True) if not _agrees(c, first, r))
    shown = case if lab.shapes.block(case.sizes.D, case.build().v.shape[-1]) is None else replace(case, edits=())
    if name:
        detail = f"A paged call reads {name}, expected the pages that block_table names, up to lengths."
        lab.add("paged-table", {"argument": "block_table", "reads": name}, detail, shown)
        return
    wanted = _wanted(case, first)
    b = int(np.argmax(np.abs(out - wanted).max(-1)))
    slots, due = (
        [f"{s // PAGE}:{s % PAGE}" for s in np.flatnonzero(~(np.abs(row) <= 1e-6))] for row in (out[b], wanted[b])
    )
    detail = f"Sequence {b} of a paged call reads the slots (page:slot) {', '.join(slots[:8]) or 'none'}"
    detail += f"{', …' if len(slots) > 8 else ''}, expected {', '.join(due[:8])}{', …' if len(due) > 8 else ''}."
    lab.add("paged-table", {"argument": "block_table", "reads": "other", "slots": slots[:12]}, detail, shown)
