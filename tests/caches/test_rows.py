"""Rows have named fields of fixed size; what does not fit is refused by name."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from kvattn.caches.rows import Field, KeyValue, Schema, key_value, latent
from kvattn.counting import Tally
from kvattn.errors import ArgumentError, DtypeError, ShapeError

SCHEMA = key_value(2, 3, 4)


def rows(batch: int = 1, new: int = 5) -> KeyValue:
    return KeyValue(np.zeros((batch, 2, new, 3)), np.zeros((batch, 2, new, 4)))


@pytest.mark.parametrize("dtype", [object, np.complex128, np.bool_, "U3"])
def test_a_field_is_floating_or_integer(dtype: Any) -> None:
    with pytest.raises(DtypeError, match="dtype of field k must be floating or integer, got "):
        Field("k", 1, 1, dtype)


@pytest.mark.parametrize(("heads", "width", "name"), [(0, 1, "heads"), (1, 0, "width"), (True, 1, "heads")])
def test_a_field_has_at_least_one_head_and_column(heads: int, width: int, name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name} of field k must be an integer >= 1"):
        Field("k", heads, width)


def test_fields_carry_the_names_of_the_row() -> None:
    class Codes(NamedTuple):
        codes: Any
        scales: Any

    fields = (Field("codes", 2, 8, np.int8, keys=True), Field("scales", 2, 1, np.float32))
    assert Schema(Codes, fields).nbytes == 2 * 8 * 1 + 2 * 1 * 4
    with pytest.raises(ArgumentError, match=r"fields must be named as the entries of the row, \('codes', 'scales'\)"):
        Schema(Codes, fields[::-1])
    with pytest.raises(ArgumentError, match="fields must be named"):
        Schema(tuple, fields)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            (np.zeros((2, 5, 3)), np.zeros((1, 2, 5, 4))),
            r"k must have shape \[B=1, heads=2, T, width=3\], got \(2, 5, 3\)",
        ),
        ((np.zeros((1, 3, 5, 3)), np.zeros((1, 2, 5, 4))), r"k must have shape .*, got \(1, 3, 5, 3\)"),
        ((np.zeros((1, 2, 5, 3)), np.zeros((1, 2, 6, 4))), r"v must have shape \[B=1, heads=2, T=5, width=4\], got"),
        ((np.zeros((1, 2, 5, 3)), np.zeros((1, 2, 5, 3))), r"v must have shape .* got \(1, 2, 5, 3\)"),
        ((np.zeros((2, 2, 5, 3)), np.zeros((2, 2, 5, 4))), r"k must have shape \[B=1"),
        ((np.zeros((1, 2, 5, 3)),), r"rows must have 2 entries \(k, v\), got 1"),
    ],
)
def test_rows_of_another_shape_are_refused(wrong: Any, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        SCHEMA.check(wrong, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, object])
def test_rows_of_another_dtype_are_refused_not_cast(dtype: Any) -> None:
    k, v = rows()
    with pytest.raises(DtypeError, match=f"v must have dtype float64, got {np.dtype(dtype)}"):
        SCHEMA.check((k, v.astype(dtype)), 1)


def test_no_tokens_are_rows_too() -> None:
    assert SCHEMA.check(rows(new=0), 1)[1] == 0


@pytest.mark.parametrize(
    ("past", "new", "pages"), [(0, 0, 0), (0, 1, 1), (0, 4, 1), (0, 5, 2), (3, 1, 0), (4, 1, 1), (3, 6, 2)]
)
def test_the_cost_of_an_append_is_what_it_writes_and_the_pages_it_opens(past: int, new: int, pages: int) -> None:
    token = 2 * (3 + 4) * 8
    opened = 3 * pages * 4 * token
    assert SCHEMA.append_cost(past=past, new=new, batch=3, page=4) == Tally(
        kv_written=3 * new * token, cache_live=opened, cache_peak=opened
    )


def test_keys_are_stored_with_time_last() -> None:
    assert [f.layout(16) for f in SCHEMA.fields] == [(2, 3, 16), (2, 16, 4)]
    assert latent(5).fields[0].layout(16) == (1, 16, 5)
