"""Sizes are brought to those that a function takes; a declaration that is none is refused in a sentence."""

from itertools import product
from typing import Any

import pytest

from kvattn.errors import ArgumentError
from kvattn.testing.diagnosis.recipe import Sizes
from kvattn.testing.shapes import ANY, Shapes, shapes_of

LIMITS = [
    ANY,
    Shapes(head_dims=(64,)),
    Shapes(head_dims=range(8, 257, 8), equal_head_dims=True),
    Shapes(head_dims=(192,), value_head_dims=(128,)),
    Shapes(batch_sizes=(1,), group_sizes=(1, 2, 4)),
    Shapes(query_lengths=(1,)),
    Shapes(key_lengths=range(16, 257, 16), equal_lengths=True),
    Shapes(query_lengths=range(32, 257, 32), key_lengths=range(64, 513, 64)),
    Shapes(equal_lengths=frozenset({"causal"})),
]
WANTED = [
    Sizes(*b, *heads, *lengths, *widths)
    for b, heads, lengths, widths in product(
        ((1,), (3,)), ((6, 2), (2, 2)), ((1, 7), (4, 9), (5, 5), (6, 4), (33, 33)), ((26, 19), (4, 4))
    )
]


@pytest.mark.parametrize("shapes", LIMITS, ids=Shapes.told)
def test_what_is_fitted_is_taken_and_stays_what_it_is(shapes: Shapes) -> None:
    for wanted, options in product(WANTED, ((), ("causal",))):
        fitted = shapes.fit(wanted, options)
        assert shapes.fit(fitted, options) == fitted
        assert shapes.takes(fitted, options)
        for limit, number in (
            (shapes.head_dims, fitted.D),
            (shapes.value_head_dims or shapes.head_dims, fitted.Dv),
            (shapes.batch_sizes, fitted.B),
            (shapes.group_sizes, fitted.Hq // fitted.Hkv),
            (shapes.query_lengths, fitted.T),
            (shapes.key_lengths, fitted.S),
        ):
            assert limit is None or number in limit
        assert fitted.Dv == fitted.D or not shapes.equal_head_dims
        if shapes.equal_lengths is True:
            assert fitted.T == fitted.S


@pytest.mark.parametrize("lengths", [(4, 9), (6, 4), (5, 5)])
def test_queries_stay_fewer_than_keys_or_more_or_as_many(lengths: tuple[int, int]) -> None:
    wanted = Sizes(T=lengths[0], S=lengths[1])
    for shapes in (Shapes(key_lengths=range(16, 129, 16)), Shapes(query_lengths=(16, 32), key_lengths=(16, 32))):
        fitted = shapes.fit(wanted)
        if (wanted.T > wanted.S) == (fitted.T > fitted.S):
            assert (wanted.T < wanted.S) == (fitted.T < fitted.S)
    assert Shapes(query_lengths=(16, 32), key_lengths=(16, 32)).fit(Sizes(T=4, S=9)) == Sizes(T=16, S=32)
    assert Shapes(query_lengths=(16, 32), key_lengths=(16, 32)).fit(Sizes(T=6, S=4)) == Sizes(T=32, S=16)


def test_beside_causal_alone_there_are_as_many_queries_as_keys() -> None:
    shapes = Shapes(equal_lengths=frozenset({"causal"}))
    assert shapes.fit(Sizes(T=4, S=9)).T == 4
    assert shapes.fit(Sizes(T=4, S=9), ("causal",)).T == 9


def test_columns_that_no_width_holds_are_given_in_blocks() -> None:
    shapes = Shapes(head_dims=(16, 32))
    wide = shapes.fit(Sizes(D=4, Dv=4), columns=100)
    assert (wide.D, wide.Dv) == (16, 100)
    assert shapes.block(wide.D, wide.Dv) == 32
    assert shapes.block(16, 32) is None
    assert Shapes(head_dims=(16, 32), equal_head_dims=True).block(16, 100) == 16


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("head_dims", 64, "head_dims of target must be a collection of integers >= 1, got 64"),
        ("head_dims", (), r"head_dims of target must be a collection of integers >= 1, got \(\)"),
        ("batch_sizes", (0,), r"batch_sizes of target must be a collection of integers >= 1, got \(0,\)"),
        ("key_lengths", (True,), "key_lengths of target must be a collection"),
        ("equal_head_dims", "yes", "equal_head_dims of target must be True or False, got 'yes'"),
        ("equal_lengths", {"casual"}, "equal_lengths of target must be True, False or a set of keywords, got"),
    ],
)
def test_what_is_no_declaration_is_refused(name: str, value: Any, message: str) -> None:
    def attend(q: Any, k: Any, v: Any) -> Any:
        return v

    setattr(attend, name, value)
    with pytest.raises(ArgumentError, match=message):
        shapes_of(attend)


def test_what_is_taken_is_said_in_words() -> None:
    shapes = Shapes(head_dims=range(8, 257, 8), equal_lengths=frozenset({"causal"}), equal_head_dims=True)
    assert shapes.told() == "head_dims 8, 16, …, 256; equal_head_dims; equal_lengths with causal"
