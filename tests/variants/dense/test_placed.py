"""Pairs placed in several ways: the layer's fields by hand, what it caches and counts, and what it refuses."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.masks import Causal, Padding, Window
from kvattn.positions import Alibi, Rotary
from kvattn.testing.choices import Recorded
from kvattn.testing.heads_by_hand import drawn_projections
from kvattn.testing.laws import LAWS, LawError, stepped
from kvattn.testing.zoo.placed import placed
from kvattn.typing import Array
from kvattn.variants.dense.dual_chunk import dual_chunk
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.placed import Cycle, Floor, Placed, Way
from kvattn.variants.dense.query_key_norm import HeadRmsNorm
from kvattn.variants.dense.self_extend import self_extend
from tests.variants.dense.placed import Example, T

W, ROTARY = drawn_projections(4, 2), Rotary.of(4, base=100.0)
SINKS = np.array([0.5, -1.0, 2.0, 0.0])
PLAIN = Placed(W, ROTARY, self_extend(group=2, window=3), page=2)


def far(i: int, j: int) -> int:
    return i - j if i - j < 3 else i // 2 + 2 - j // 2


def chunked(i: int, j: int) -> int:
    if i // 3 == j // 3:
        return i - j
    return (min(3 + i % 3, 4) if i // 3 - j // 3 == 1 else 4) - j % 3


EXAMPLES = {
    "two ways": Example(PLAIN, far),
    "three ways": Example(replace(PLAIN, ways=dual_chunk(chunk=3, farthest=4)), chunked),
    "adjacent": Example(replace(PLAIN, rotary=Rotary.of(2, layout="adjacent", start=1)), far),
    "sinks": Example(replace(PLAIN, sinks=SINKS), far),
    "scale": Example(replace(PLAIN, scale=0.75), far),
    "a window beside": Example(replace(PLAIN, mask=Window(5)), far, window=5),
    "no mask beside": Example(replace(PLAIN, mask=None), far),
    "float32": Example(
        Placed(drawn_projections(3, 3, dtype=np.float32), ROTARY, dual_chunk(chunk=3, farthest=4)), chunked
    ),
}


@pytest.mark.by_hand("variants/dense/placed")
@pytest.mark.no_peer("variants/dense/placed", "the common form of two schemes is ours; see self_extend and dual_chunk")
@pytest.mark.parametrize("name", EXAMPLES)
def test_definition_and_steps_equal_by_hand(name: str) -> None:
    example = EXAMPLES[name]
    assert example.gap(example.layer.definition(example.x, np.arange(T))) <= 1
    for cuts in ((), (1, 1, 6), tuple(range(1, T))):
        found, _ = stepped(example.layer, example.x, cuts)
        assert found.out.dtype == example.x.dtype
        assert example.gap(found) <= 1


def test_one_plain_way_is_grouped_attention_within_a_join_of_one_part() -> None:
    """Bound: dividing by exp(0) and adding 0 changes at most a rounding."""
    x = EXAMPLES["two ways"].x
    found, _ = stepped(replace(PLAIN, ways=(Way(Causal(), Floor(), Floor()),)), x, (4,))
    wanted, _ = stepped(Grouped(W, query_key=(ROTARY,)), x, (4,))
    assert np.abs(found.out - wanted.out).max() < 1e-14


def test_keys_are_cached_unturned() -> None:
    x = EXAMPLES["two ways"].x
    _, cache = stepped(PLAIN, x, (2, 5))
    assert np.array_equal(cache.rows().k, W.keys(x))


def test_sequences_of_different_lengths_and_masks_of_their_own() -> None:
    x = EXAMPLES["two ways"].x
    layer = replace(PLAIN, mask=Padding(starts=[0, 2]))
    found, cache = stepped(layer, x, (2, 5))
    assert np.abs(found.out - layer.definition(x, np.arange(T)).out).max() < 1e-12
    after, _ = layer.step(cache.truncate([4, 9]), x[:, 9:])
    for b, length in enumerate((4, 9)):
        whole = np.concatenate([x[:, :length], x[:, 9:]], axis=1)
        wanted = layer.definition(whole, np.arange(length + 2))
        assert np.abs(after.out[b] - wanted.out[b, length:]).max() < 1e-12


@dataclass(frozen=True)
class Doubled:
    """A finish."""

    def finish(self, mixed: Array, x: Array, positions: Any) -> Any:
        return 2 * mixed


CHANGES: dict[str, Any] = {
    "projections": drawn_projections(4, 1),
    "rotary": Rotary.of(4, base=50.0),
    "ways": dual_chunk(chunk=3, farthest=4),
    "mask": Window(2),
    "query_key": (HeadRmsNorm(np.array([0.5, 1.0, 2.0, 1.5]), np.array([1.0, 3.0, 0.25, 0.5])),),
    "finish": (Doubled(),),
    "mods": (Alibi.of(4),),
    "scale": 1.25,
    "softcap": 0.5,
    "sinks": SINKS,
    "page": 3,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_matters_but_the_page(name: str) -> None:
    x = EXAMPLES["two ways"].x
    other: Placed = replace(PLAIN, **{name: CHANGES[name]})
    definitions = [layer.definition(x, np.arange(T)).out for layer in (PLAIN, other)]
    steps = [stepped(layer, x, (2,))[0].out for layer in (PLAIN, other)]
    same = [np.array_equal(one, two) for one, two in (definitions, steps)]
    assert same == [name == "page"] * 2
    assert np.abs(definitions[1] - steps[1]).max() < 1e-12
    assert set(CHANGES) == {field.name for field in fields(Placed)}


def test_sinks_in_every_part_would_be_counted_twice() -> None:
    """Mutant: a sink belongs to one part of a softmax."""
    example = EXAMPLES["sinks"]
    assert example.gap(stepped(replace(example.layer, sinks=SINKS + np.log(2)), example.x, ())[0]) > 1e6


class FirstWayOnly(Placed):
    """Mutant: keys are turned as the first way places them."""

    def _placed(self, own: Any, way: Way, b: int, block: Any, at: Any) -> Any:
        return super()._placed(own, self.ways[0], b, block, at)


class KeysAsTheyAre(Placed):
    """Mutant: keys are not turned."""

    def _placed(self, own: Any, way: Way, b: int, block: Any, at: Any) -> Any:
        return block


class ByRow(Placed):
    """Mutant: places count from the first token of the step."""

    def step(self, cache: Any, x: Array) -> Any:
        return super().step(self.start(len(x)), x)[0], super().step(cache, x)[1]


class Cheaper(Placed):
    """Mutant: the bill of the first way alone."""

    def cost(self, **sizes: int) -> Any:
        return replace(self, ways=self.ways[:1]).cost(**sizes) if len(self.ways) > 1 else super().cost(**sizes)


@pytest.mark.parametrize(
    ("law", "kind"),
    [
        ("step_is_definition", FirstWayOnly),
        ("step_is_definition", KeysAsTheyAre),
        ("decode_is_recompute", ByRow),
        ("cost_is_count", Cheaper),
    ],
)
def test_laws_reject_broken_layers(law: str, kind: type[Placed]) -> None:
    def broken(seed: int) -> bool:
        case = placed(Recorded(seed=seed))
        held = {field.name: getattr(case.variant, field.name) for field in fields(Placed)}
        LAWS[law](case)
        try:
            LAWS[law](replace(case, variant=kind(**held)))
        except LawError:
            return True
        return False

    assert any(broken(seed) for seed in range(20))


def test_places() -> None:
    at = np.arange(7)
    assert Floor()(at).tolist() == at.tolist()
    assert Floor(3, 10)(at).tolist() == [10, 10, 10, 11, 11, 11, 12]
    assert Cycle(3)(at).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert Cycle(4, 4, 5)(at).tolist() == [4, 5, 5, 5, 4, 5, 5]


X = np.ones((1, 2, 6))
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no way": (
        lambda: replace(PLAIN, ways=()),
        ArgumentError,
        r"^ways must be a non-empty sequence of Way, got \(\)$",
    ),
    "one way": (
        lambda: replace(PLAIN, ways=PLAIN.ways[0]),  # type: ignore[arg-type]
        ArgumentError,
        r"^ways must be a non-empty sequence of Way, got \[",
    ),
    "no rotation": (
        lambda: replace(PLAIN, rotary=None),  # type: ignore[arg-type]
        ArgumentError,
        r"^rotary must be a Rotary, got None$",
    ),
    "a way without a mask": (
        lambda: replace(PLAIN, ways=(Way(3, Floor(), Floor()),)),  # type: ignore[arg-type]
        ArgumentError,
        r"^mask must be a mask of kvattn.masks or None, got 3$",
    ),
    "a way for everything": (
        lambda: replace(PLAIN, ways=(Way(None, Floor(), Floor()),)),  # type: ignore[arg-type]
        ArgumentError,
        r"^mask of a way must say which pairs are its own, got None$",
    ),
    "no group": (lambda: Floor(0), ArgumentError, r"^group must be an integer >= 1, got 0$"),
    "an offset below 0": (lambda: Floor(2, -1), ArgumentError, r"^offset must be an integer >= 0, got -1$"),
    "no size": (lambda: Cycle(0), ArgumentError, r"^size must be an integer >= 1, got 0$"),
    "a cycle's offset": (lambda: Cycle(2, 0.5), ArgumentError, r"^offset must be an integer >= 0, got 0\.5$"),  # type: ignore[arg-type]
    "a negative limit": (lambda: Cycle(2, 0, -1), ArgumentError, r"^most must be an integer >= 0, got -1$"),
    "rank": (
        lambda: PLAIN.step(PLAIN.start(), np.ones((2, 6))),
        ShapeError,
        r"^x must have shape \[B, T, M\] with B=1, M=6, got \(2, 6\)$",
    ),
    "dtype": (
        lambda: PLAIN.definition(X.astype(np.float32), np.arange(2)),
        DtypeError,
        r"^x must have the dtype of the weights, float64, got float32$",
    ),
    "a rotation too wide": (
        lambda: replace(PLAIN, rotary=Rotary.of(6)).step(PLAIN.start(), X),
        ShapeError,
        r"^x must have room for 6 features from start=0 on, got 4 features$",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name: str) -> None:
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()


def test_no_tokens_give_no_rows() -> None:
    found, cache = PLAIN.step(PLAIN.start(2), np.zeros((2, 0, 6)))
    assert found.out.shape == (2, 0, 6)
    assert cache.lengths == (0, 0)
    assert PLAIN.definition(np.zeros((2, 0, 6)), np.arange(0)).lse.shape == (2, 4, 0)
