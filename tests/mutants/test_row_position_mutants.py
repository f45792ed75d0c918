"""Schemes on rows that a layer's laws must reject: positions of the call, moving centres, signs, costs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from kvattn.counting import Tally
from kvattn.positions.multimodal import Multimodal
from kvattn.positions.polar import Polar
from kvattn.positions.temperature import Temperature
from kvattn.positions.xpos import XPos
from kvattn.testing.choices import Recorded
from kvattn.testing.laws import LAWS, Case, LawError
from kvattn.testing.zoo.positions_on_rows import multimodal, polar, temperature, xpos

SEEDS = range(25)


@dataclass(frozen=True)
class Wrapped:
    """A scheme whose verbs do what it does; mutants change one."""

    inner: Any

    def widened(self, width: int) -> int:
        wide: int = self.inner.widened(width) if hasattr(self.inner, "widened") else width
        return wide

    def queries(self, q: Any, positions: Any) -> Any:
        return self.inner.queries(q, positions)

    def keys(self, k: Any, positions: Any) -> Any:
        return self.inner.keys(k, positions)

    def queries_cost(self, **sizes: int) -> Tally:
        tally: Tally = self.inner.queries_cost(**sizes)
        return tally

    def keys_cost(self, **sizes: int) -> Tally:
        tally: Tally = self.inner.keys_cost(**sizes)
        return tally


class OfTheCall(Wrapped):
    """Queries count from the first token of the call."""

    def queries(self, q: Any, positions: Any) -> Any:
        return self.inner.queries(q, positions - positions.min() if positions.size else positions)


class KeysOfTheCall(Wrapped):
    """Keys count from the first token of the call."""

    def keys(self, k: Any, positions: Any) -> Any:
        return self.inner.keys(k, positions - positions.min() if positions.size else positions)


class LengthOfTheCall(Wrapped):
    """Every query takes the factor of the last one."""

    def queries(self, q: Any, positions: Any) -> Any:
        return self.inner.queries(q, np.full_like(positions, positions.max()) if positions.size else positions)


class Centred(Wrapped):
    """xPos around the middle of the call, as x-transformers and torchscale have it."""

    def around(self, positions: Any) -> XPos:
        middle = int(positions.max() + 1) // 2 if positions.size else 0
        inner: XPos = self.inner
        return replace(inner, origin=middle, period=4.0)

    def queries(self, q: Any, positions: Any) -> Any:
        return self.around(positions).queries(q, positions)

    def keys(self, k: Any, positions: Any) -> Any:
        return self.around(positions).keys(k, positions)


class KeysFadeToo(Wrapped):
    """ζ with the same sign on keys: a score depends on the sum of positions."""

    def keys(self, k: Any, positions: Any) -> Any:
        return self.inner.queries(k, positions)


class UnfadedKeys(Wrapped):
    """Keys left as they are."""

    def keys(self, k: Any, positions: Any) -> Any:
        return k

    def keys_cost(self, **sizes: int) -> Tally:
        return Tally()


class RoundedTogether(Wrapped):
    """A token in company is rounded otherwise."""

    def queries(self, q: Any, positions: Any) -> Any:
        found = self.inner.queries(q, positions)
        return np.nextafter(found, np.inf, dtype=found.dtype) if positions.shape[-1] > 1 else found


class FreeQueries(Wrapped):
    def queries_cost(self, **sizes: int) -> Tally:
        return Tally()


class QueriesOfKeyHeads(Wrapped):
    """Counts a single head."""

    def queries_cost(self, **sizes: int) -> Tally:
        return super().queries_cost(**{**sizes, "heads": 1})


class FreeTable(Wrapped):
    def keys_cost(self, **sizes: int) -> Tally:
        return replace(super().keys_cost(**sizes), tables_read=0)


def spoiled(case: Case, kind: type, mutant: type[Wrapped]) -> Case:
    def spoil(layer: Any) -> Any:
        parts = tuple(mutant(part) if isinstance(part, kind) else part for part in layer.query_key)
        return replace(layer, query_key=parts)

    layer = spoil(case.variant)
    return replace(case, variant=layer, twin=spoil(case.twin), alone=lambda _: layer)


def rejects(law: str, draw: Callable[[Recorded], Case], kind: type, mutant: type[Wrapped]) -> bool:
    for seed in SEEDS:
        try:
            LAWS[law](spoiled(draw(Recorded(seed=seed)), kind, mutant))
        except LawError:
            return True
    return False


MUTANTS: list[tuple[str, Callable[[Any], Case], type, type[Wrapped]]] = [
    ("decode_is_recompute", temperature, Temperature, OfTheCall),
    ("decode_is_recompute", temperature, Temperature, LengthOfTheCall),
    ("decode_is_recompute", temperature, Temperature, RoundedTogether),
    ("cost_is_count", temperature, Temperature, FreeQueries),
    ("cost_is_count", temperature, Temperature, QueriesOfKeyHeads),
    ("decode_is_recompute", xpos, XPos, Centred),
    ("decode_is_recompute", xpos, XPos, KeysOfTheCall),
    ("positions_are_relative", xpos, XPos, KeysFadeToo),
    ("positions_are_relative", xpos, XPos, UnfadedKeys),
    ("cost_is_count", xpos, XPos, FreeQueries),
    ("decode_is_recompute", polar, Polar, OfTheCall),
    ("decode_is_recompute", polar, Polar, KeysOfTheCall),
    ("decode_is_recompute", polar, Polar, LengthOfTheCall),
    ("cost_is_count", polar, Polar, QueriesOfKeyHeads),
    ("decode_is_recompute", multimodal, Multimodal, OfTheCall),
    ("decode_is_recompute", multimodal, Multimodal, KeysOfTheCall),
    ("cost_is_count", multimodal, Multimodal, FreeTable),
    ("cost_is_count", multimodal, Multimodal, QueriesOfKeyHeads),
]


@pytest.mark.parametrize(("law", "draw", "kind", "mutant"), MUTANTS)
def test_a_broken_scheme_is_rejected(law: str, draw: Any, kind: type, mutant: type[Wrapped]) -> None:
    assert rejects(law, draw, kind, mutant)


@pytest.mark.parametrize(
    ("draw", "kind"), [(temperature, Temperature), (xpos, XPos), (polar, Polar), (multimodal, Multimodal)]
)
@pytest.mark.parametrize("law", sorted({law for law, *_ in MUTANTS}))
def test_the_unchanged_scheme_keeps_the_law_on_the_same_cases(law: str, draw: Any, kind: type) -> None:
    assert not rejects(law, draw, kind, Wrapped)
