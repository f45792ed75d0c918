"""Self-Extend against each pair's distance in loops."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.masks import Causal, Window
from kvattn.positions import Rotary
from kvattn.testing.heads_by_hand import drawn_projections
from kvattn.testing.laws import stepped
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.placed import Floor, Placed, Way
from kvattn.variants.dense.self_extend import self_extend
from tests.variants.dense.placed import Distance, Example, T

ROTARY = Rotary.of(4, base=100.0)


def layer(group: int, window: int, **settings: Any) -> Placed:
    return Placed(drawn_projections(4, 2), ROTARY, self_extend(group=group, window=window), page=2, **settings)


def distance(group: int, window: int) -> Distance:
    return lambda i, j: i - j if i - j < window else i // group + window - window // group - j // group


SIZES = [(2, 4), (3, 4), (2, 3), (4, 1), (1, 5), (7, 100), (5, 2)]


@pytest.mark.by_hand("variants/dense/self_extend")
@pytest.mark.no_peer(
    "variants/dense/self_extend", "the authors' code patches transformers 4, and no package on the index holds it"
)
@pytest.mark.parametrize(("group", "window"), SIZES)
def test_definition_and_steps_equal_by_hand(group: int, window: int) -> None:
    example = Example(layer(group, window), distance(group, window))
    assert example.gap(example.layer.definition(example.x, np.arange(T))) <= 1
    for cuts in ((), (4,), tuple(range(1, T))):
        assert example.gap(stepped(example.layer, example.x, cuts)[0]) <= 1


MUTANTS: dict[str, tuple[Way, Way]] = {
    "window W + 1": self_extend(group=3, window=5),
    "another group": self_extend(group=2, window=4),
    "far queries not moved": (
        Way(Window(4), Floor(), Floor()),
        Way(Causal() & ~Window(4), Floor(3), Floor(3)),
    ),
    "moved by W": (Way(Window(4), Floor(), Floor()), Way(Causal() & ~Window(4), Floor(3, 4), Floor(3))),
    "keys not grouped": (Way(Window(4), Floor(), Floor()), Way(Causal() & ~Window(4), Floor(3, 3), Floor())),
    "near keys grouped": (Way(Window(4), Floor(3), Floor(3)), self_extend(group=3, window=4)[1]),
    "near and far exchanged": (
        Way(Causal() & ~Window(4), Floor(), Floor()),
        Way(Window(4), Floor(3, 3), Floor(3)),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_ways_are_rejected(name: str) -> None:
    example = Example(layer(3, 4), distance(3, 4))
    mutant = replace(example.layer, ways=MUTANTS[name])
    assert example.gap(stepped(mutant, example.x, (5,))[0]) > 1e6
    assert example.gap(mutant.definition(example.x, np.arange(T))) > 1e6


def test_a_far_key_is_never_nearer_than_the_window_and_at_most_one_place_farther_than_it_is() -> None:
    for group, window in SIZES:
        near, far = self_extend(group=group, window=window)
        at = np.arange(200)
        places = far.queries(at)[:, None] - far.keys(at)
        apart = at[:, None] - at
        assert (places[apart >= window] >= window).all()
        assert (places[apart >= window] <= apart[apart >= window] + 1).all()
        own = [way.mask(0, 0, at[:, None], at) for way in (near, far)]
        assert not (own[0] & own[1]).any()
        assert (own[0] | own[1])[apart >= 0].all()


@pytest.mark.law("variants/dense/self_extend", "one group of one, or a window over all, is plain rotation", "bound")
@pytest.mark.parametrize(("group", "window"), [(1, 3), (4, T), (4, 100)])
def test_where_nothing_is_grouped_it_is_plain_attention(group: int, window: int) -> None:
    """Bound: one softmax cut in two parts and joined, 100 roundings of numbers below 10."""
    example = Example(layer(group, window), distance(group, window))
    plain, _ = stepped(Grouped(drawn_projections(4, 2), query_key=(ROTARY,)), example.x, ())
    found, _ = stepped(example.layer, example.x, (3,))
    assert np.abs(found.out - plain.out).max() < 1e-12
    assert np.abs(found.lse - plain.lse).max() < 1e-12


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"group": 0, "window": 4}, r"^group must be an integer >= 1, got 0$"),
        ({"group": 2, "window": 0}, r"^window must be an integer >= 1, got 0$"),
        ({"group": 2.0, "window": 4}, r"^group must be an integer >= 1, got 2\.0$"),
    ],
    ids=range(3),
)
def test_a_bad_size_is_named(sizes: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        self_extend(**sizes)
