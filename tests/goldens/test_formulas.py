"""Loops over numbers of any kind: against kvattn's own attention, and each of their arguments matters."""

import math
from typing import Any

import numpy as np
import pytest

from kvattn import attend
from kvattn.goldens import formulas
from kvattn.goldens.formulas import attention
from kvattn.goldens.numbers import Decimals
from kvattn.goldens.recipe import drawn, flat, read

N = Decimals(40)
Q, K, V = drawn("q", 1, 4, 3, 6), drawn("k", 1, 2, 5, 6), drawn("v", 1, 2, 5, 7)


def rounded(values: Any) -> np.ndarray[Any, Any]:
    leaves = [x if isinstance(x, float) else x.rounded() for x in flat(values)]
    return np.array(leaves).reshape(np.array(values, object).shape)


def ran(**arguments: Any) -> dict[str, Any]:
    return {
        name: rounded(values) for name, values in attention(N, *(read(N, x) for x in (Q, K, V)), **arguments).items()
    }


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({}, {}),
        ({"scale": N(0.5)}, {"scale": 0.5}),
        ({"softcap": N(1.5)}, {"softcap": 1.5}),
        ({"sinks": [N(0.5), -math.inf, N(2), N(0)]}, {"sinks": [0.5, -np.inf, 2.0, 0.0]}),
        ({"see": lambda b, h, t, s: s <= t + 2}, {"mask": np.tril(np.ones((3, 5), np.bool_), 2)}),
        ({"bend": lambda x, b, h, t, s: x + s - t}, {"bias": np.arange(5.0) - np.arange(3.0)[:, None]}),
    ],
)
def test_loops_are_kvattns_attention(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    found, wanted = ran(**mine), attend(Q, K, V, **theirs)
    assert np.abs(found["out"] - wanted.out).max() < 1e-14
    assert np.abs(found["lse"] - wanted.lse).max() < 1e-14
    if mine:
        assert np.abs(found["out"] - ran()["out"]).max() > 1e-3


def test_rows_that_see_nothing() -> None:
    found = ran(see=lambda b, h, t, s: t > 0)
    assert (found["out"][:, :, 0] == 0).all()
    assert (found["lse"][:, :, 0] == -np.inf).all()
    emptied = ran(bend=lambda x, b, h, t, s: x if t else -math.inf)
    assert np.array_equal(found["out"], emptied["out"])


def test_heads_are_read_as_told() -> None:
    assert np.array_equal(ran(reads=lambda h: h // 2)["out"], ran()["out"])
    assert not np.array_equal(ran(reads=lambda h: h % 2)["out"], ran()["out"])


def test_small_pieces() -> None:
    assert formulas.dot(N, [N(2), N(3)], [N(5), N(7)]).rounded() == 31.0
    assert rounded(formulas.product(N, [[N(1), N(2)]], [[N(3), N(4)], [N(5), N(6)]])).tolist() == [[13.0, 16.0]]
    assert formulas.sigmoid(N, N(1)).rounded() == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-15)
    assert formulas.capped(N, N(3), N(2)).rounded() == pytest.approx(2 * math.tanh(1.5), rel=1e-15)
    assert formulas.reciprocal_root(N, 9).rounded() == 1 / 3
    assert formulas.softmax(N, [])[1] == -math.inf
    assert formulas.mixed(N, [], [], 2) == [0.0, 0.0]
