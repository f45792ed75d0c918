"""Rows give their names back, also from few bits, and say so when they cannot."""

from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.testing.conformance.rows import Name, Token, read, write


@pytest.mark.parametrize("token", [Token(0, 0, 0), Token(8191, 1023, 15), Token(5, 77, 3)])
@pytest.mark.parametrize("field", [0, 1])
def test_a_row_gives_its_name_back(token: Token, field: int) -> None:
    rows = write([token], heads=8, field=field)
    assert rows.shape == (8, 1, 64)
    assert [read(row)[0] for row in rows] == [Name(*token, head, field) for head in range(8)]
    assert read(0.8 * rows[7])[0] == Name(*token, 7, field)  # as a quantised cache would give it


def test_rows_are_read_however_they_lie_in_memory() -> None:
    rows = write([Token(n, n, 1) for n in range(3)], heads=1, field=1)[0]
    for lying in (
        np.asfortranarray(rows),
        np.repeat(rows, 2, axis=0)[::2],
        np.repeat(rows, 2, axis=1)[:, ::2],
        rows[::-1][::-1],
    ):
        assert read(lying) == read(rows)


def test_no_row_is_another() -> None:
    tokens = [Token(n, p, o) for n in range(4) for p in range(4) for o in range(4)]
    rows = np.concatenate([write(tokens, heads=4, field=field).reshape(-1, 64) for field in (0, 1)])
    assert len(np.unique(rows, axis=0)) == len(rows) == 512
    assert np.abs(rows.sum(-1)).max() == 0


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda row: 0 * row, "nothing"),
        (lambda row: np.nan * row, "a mangled row"),
        (lambda row: (row + np.roll(row, 1)) / 2, "a mangled row"),
        (lambda row: np.concatenate([row[:32], row[:32]]), "a mangled row"),
        (lambda row: -row, "a mangled row"),
        (lambda row: 2 * row, "a mangled row"),
    ],
    ids=["zero", "NaN", "shifted", "half", "negated", "doubled"],
)
def test_what_is_no_row_is_not_named(spoil: Any, said: str) -> None:
    assert read(spoil(write([Token(5, 2, 1)], heads=1, field=0)[0, 0])[None]) == [said]


def test_what_does_not_fit_its_bits_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"number must be 0 \.\. 8191, got 8192"):
        write([Token(8192, 0, 0)], heads=1, field=0)
