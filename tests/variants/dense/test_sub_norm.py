"""The norm of a whole mix against loops over balls, through the definition and through steps."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvattn.errors import KvattnError
from kvattn.testing.balls import agree
from kvattn.testing.heads_by_hand import Heads, Row, cut, drawn, drawn_projections, layer_by_hand, rms
from kvattn.testing.laws import stepped
from kvattn.typing import Attended
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.sub_norm import SubNorm

T, HEADS, DV = 5, 4, 3
EPS = 0.25
"""Large enough that its place shows."""


def layer(dtype: Any = np.float64) -> Grouped:
    weight = (1 + 0.5 * drawn(HEADS * DV, seed=5)).astype(dtype)
    return Grouped(drawn_projections(HEADS, 2, value_width=DV, dtype=dtype), finish=(SubNorm(weight, EPS),), page=2)


def by_hand(layer: Grouped, x: Any) -> Any:
    norm: Any = layer.finish[0]

    def finish(_: int, row: Row, mixed: Heads) -> Heads:
        return cut(rms([a for head in mixed for a in head], norm.weight, norm.eps), len(mixed))

    return layer_by_hand(layer.projections, x, finish=finish)


def gap(found: Attended, some: Grouped, x: Any) -> float:
    """How far the result lies from the loops, in units of their own error bound: agreement is at most 1."""
    out, lse = by_hand(some, x)
    return max(agree(found.out, out), agree(found.lse, lse))


@pytest.mark.by_hand("variants/dense/sub_norm")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_definition_and_steps_equal_by_hand(dtype: Any) -> None:
    some, x = layer(dtype), drawn(2, T, 6, seed=9, dtype=dtype)
    assert gap(some.definition(x, np.arange(T)), some, x) <= 1
    for cuts in ((), (1, 2, 3), (0, 4)):
        assert gap(stepped(some, x, cuts)[0], some, x) <= 1


class EachHead(SubNorm):
    """Mutant: a mean square for each head."""

    def finish(self, mixed: Any, x: Any, positions: Any) -> Any:
        weight = self.weight.reshape(1, HEADS, 1, DV)
        return mixed / np.sqrt((mixed * mixed).mean(-1, keepdims=True) + self.eps) * weight


class Interleaved(SubNorm):
    """Mutant: weights read feature by feature, heads innermost."""

    def finish(self, mixed: Any, x: Any, positions: Any) -> Any:
        return replace(SubNorm(self.weight.reshape(DV, HEADS).T.ravel(), self.eps)).finish(mixed, x, positions)


MUTANTS: dict[str, Callable[[SubNorm], Any]] = {
    "each head by itself": lambda norm: EachHead(norm.weight, norm.eps),
    "heads innermost": lambda norm: Interleaved(norm.weight, norm.eps),
    "another epsilon": lambda norm: replace(norm, eps=EPS / 2),
    "weights stored less one": lambda norm: replace(norm, weight=norm.weight + 1),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_another_norm_is_rejected(name: str) -> None:
    some, x = layer(), drawn(2, T, 6, seed=9)
    wrong = replace(some, finish=(MUTANTS[name](some.finish[0]),))  # type: ignore[arg-type]
    assert gap(wrong.definition(x, np.arange(T)), some, x) > 1e3
    assert gap(stepped(wrong, x, (2,))[0], some, x) > 1e3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SubNorm(np.ones((2, 2))), "weight must be a non-empty array of rank 1, got shape (2, 2)"),
        (lambda: SubNorm(np.ones(2, int)), "weight must be float64 or float32, got int64"),
        (lambda: SubNorm(np.ones(2), eps=-1.0), "eps must be a finite number >= 0, got -1.0"),
        (
            lambda: SubNorm(np.ones(3)).finish(np.ones((1, 2, 1, 2)), np.ones(1), np.ones(1, int)),
            "weight must have shape [Hq·Dv] = (4,), got (3,)",
        ),
        (
            lambda: SubNorm(np.ones(4, "f4")).finish(np.ones((1, 2, 1, 2)), np.ones(1), np.ones(1, int)),
            "weight must have the dtype of the mix, float64, got float32",
        ),
    ],
)
def test_a_norm_that_does_not_fit_is_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(KvattnError) as raised:
        make()
    assert str(raised.value) == words
