"""Paged keys and values: which page and slot ``block_table`` leads to, and where the last page ends.

Method: each value is a unit vector of its sequence and position, so that an output row lists the slots that
were read; slots that hold nothing are NaN.  A reading says which slots it would read.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.recipe import FLAT, PAGE, TABLE, Recipe, Sizes

_BY_SLOT = "np.zeros(({B}, {Hkv}, {S}, {Dv})) + np.eye({B} * {S}, {Dv}).reshape({B}, 1, {S}, {Dv})"
_LENGTHS = ("np.array([{S}, 5, 4])[:{B}]", "np.array([8, 3, 9])[:{B}]")
_SIZES = Sizes(3, 4, 2, 1, 11, 4, 33)

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
    cases = [lab.case(_SIZES, FLAT, _BY_SLOT, lengths=text, block_table=TABLE) for text in _LENGTHS]
    read = [lab.see(case).out[:, 0, 0] for case in cases]  # [B, B · S]
    for n, name in enumerate(READINGS):
        if all(_agrees(case, name, out) for case, out in zip(cases, read, strict=True)):
            if n:
                _report(lab, cases, read, name)
            return
    _report(lab, cases, read, "")


def _wanted(case: Recipe, name: str) -> list[NDArray[np.float64] | None]:
    """Rows of weights that a reading gives; None where it reads a slot that holds nothing."""
    built = case.build()
    table, lengths = built.options["block_table"], built.options["lengths"]
    owners = {
        (int(page), s % PAGE): (b, s) for b, row in enumerate(table) for s, page in enumerate(np.repeat(row, PAGE))
    }
    rows: list[NDArray[np.float64] | None] = []
    for b, n in enumerate(lengths):
        slots = READINGS[name](table, b, int(n))
        held = [owners.get(slot) for slot in slots]
        row = np.zeros(case.sizes.B * case.sizes.S)
        full = bool(slots)
        for owner in held:
            if owner is None or owner[1] >= lengths[owner[0]]:
                full = False
                break
            row[owner[0] * case.sizes.S + owner[1]] += 1 / len(slots)
        rows.append(row if full else None)
    return rows


def _agrees(case: Recipe, name: str, out: NDArray[np.float64]) -> bool:
    return all(
        bool(np.isnan(got).any()) if want is None else bool(np.allclose(got[: want.size], want, rtol=0, atol=1e-3))
        for got, want in zip(out, _wanted(case, name), strict=True)
    )


def _report(lab: Lab, cases: list[Recipe], read: list[NDArray[np.float64]], name: str) -> None:
    lab.set_aside("block_table")
    first = next(iter(READINGS))
    case, out = next((c, r) for c, r in zip(cases, read, strict=True) if not _agrees(c, first, r))
    if name:
        detail = f"A paged call reads {name}, expected the pages that block_table names, up to lengths."
        lab.add("paged-table", {"argument": "block_table", "reads": name}, detail, case)
        return
    wanted = _wanted(case, first)
    b = next(n for n, w in enumerate(wanted) if w is None or not np.allclose(out[n][: w.size], w, rtol=0, atol=1e-3))
    size = case.sizes.S
    slots = (
        ["NaN"]
        if np.isnan(out[b]).any()
        else [f"{s % size} of sequence {s // size}" for s in np.flatnonzero(out[b] > 1e-6)]
    )
    n = int(case.build().options["lengths"][b])
    detail = (
        f"A paged call of {n} keys reads {', '.join(slots[:6]) or 'nothing'}, expected keys 0-{n - 1} of sequence {b}."
    )
    lab.add("paged-table", {"argument": "block_table", "reads": "other", "slots": slots[:12]}, detail, case)
