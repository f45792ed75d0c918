"""Wrong norms, gates, pairs, tied rows and stacks that the laws must reject."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvattn.caches import Layered
from kvattn.caches.rows import KeyValue
from kvattn.counting import Tally
from kvattn.masks import Causal, Window
from kvattn.positions import Rotary
from kvattn.testing.heads_by_hand import drawn, drawn_projections
from kvattn.testing.laws import LAWS, Case, LawError
from kvattn.typing import Array, Positions
from kvattn.variants.compressed.tied import SharedProjection, SharedRow, Tied, TurnBack, tied
from kvattn.variants.dense.cosine import Cosine
from kvattn.variants.dense.differential import Differential
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.layers import Layers
from kvattn.variants.dense.memory_rows import MemoryRows
from kvattn.variants.dense.merged import Merged
from kvattn.variants.dense.output_gate import SigmoidGate
from kvattn.variants.dense.query_key_norm import HeadRmsNorm
from kvattn.variants.dense.value_residual import ValueResidual

T, M, D, DV = 9, 6, 4, 3
W = drawn_projections(4, 2)
SAME = tied(W.query, W.key, drawn(4 * D, M, seed=3), 4, 2)
TURN = Rotary.of(D)
MEMORY = drawn(2, 5, M, seed=8)


def paged(layer: Any, page: int) -> Any:
    if isinstance(layer, Layers | ValueResidual):
        held: Any = layer.layers
        return replace(layer, layers=tuple(replace(one, page=page) for one in held))
    return replace(layer, page=page)


def case(layer: Any) -> Case:
    def alone(b: int) -> Any:
        return replace(layer, memory=MEMORY[b : b + 1]) if isinstance(layer, Merged) else layer

    relative = not isinstance(layer, Merged | MemoryRows)
    return Case(layer, drawn(2, T, M, seed=9), (1, 4, 8), alone, paged(layer, 2), None, depth=300, relative=relative)


def rejected_by(layer: Any) -> set[str]:
    found = set()
    for name, law in LAWS.items():
        try:
            law(case(layer))
        except LawError:
            found.add(name)
    return found


def grouped(*query_key: Any, finish: Any = ()) -> Grouped:
    return Grouped(W, Causal() & Window(6), query_key, finish, page=3)


NORM = HeadRmsNorm(1 + drawn(D, seed=5) / 2, 1 + drawn(D, seed=6) / 2, 0.1)
GATE = SigmoidGate(drawn(M, 4, seed=4))
DIFFERENTIAL = Differential(drawn_projections(8, 4), 0.6, 0.2, eps=0.1, query_key=(TURN,), page=3)
PROJECTION = SharedProjection(SAME, NORM, rotation=TURN, page=3)
ROW = SharedRow(SAME, query_key=(NORM.__class__(eps=0.1), TURN), finish=(TurnBack(TURN),), page=3)
MERGED = Merged(W, MEMORY, query_key=(TURN,), page=3)
ROWS = MemoryRows(W, drawn(2, 3, D, seed=5), drawn(2, 3, DV, seed=6), page=3)
LAYERS = Layers((grouped(TURN), grouped(NORM)), M, 1 + drawn(2, M, seed=7) / 2)
RESIDUAL = ValueResidual(LAYERS.layers, ((0.5, 0.75),), LAYERS.norm)  # type: ignore[arg-type]

RIGHT: dict[str, Any] = {
    "norm": grouped(NORM, TURN),
    "cosine": replace(grouped(Cosine(eps=0.1)), scale=10.0),
    "gate": grouped(finish=(GATE,)),
    "differential": DIFFERENTIAL,
    "shared projection": PROJECTION,
    "shared row": ROW,
    "merged": MERGED,
    "memory rows": ROWS,
    "layers": LAYERS,
    "value residual": RESIDUAL,
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_ones_pass(name: str) -> None:
    assert rejected_by(RIGHT[name]) == set()


class OverTheChunk(HeadRmsNorm):
    """The mean square runs over all new tokens."""

    def keys(self, k: Array, positions: Positions) -> Array:
        mean = (k * k).sum((2, 3), keepdims=True) / max(1, k.shape[2] * k.shape[3])
        return np.asarray(k / np.sqrt(mean + self.eps) * self.key)


class OverTheBatch(HeadRmsNorm):
    """The mean square runs over all sequences."""

    def queries(self, q: Array, positions: Positions) -> Array:
        return np.asarray(q / np.sqrt((q * q).mean((0, 3), keepdims=True) + self.eps) * self.query)


class FromTheStep(HeadRmsNorm):
    """Norms differ by place in the step, as a buffer for the first token of a decode would."""

    def keys(self, k: Array, positions: Positions) -> Array:
        fade = 1 + 1e-9 * np.arange(k.shape[2])
        return super().keys(k, positions) * fade[:, None]


class Absolute(HeadRmsNorm):
    """Keys fade with their position."""

    def keys(self, k: Array, positions: Positions) -> Array:
        return np.asarray(super().keys(k, positions) / (1.0 + positions[..., None]))


class NotCounted(HeadRmsNorm):
    """The closed form forgets the weights."""

    def keys_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        return HeadRmsNorm().keys_cost(tokens=tokens, heads=heads, width=width)


class GateOfTheLast(SigmoidGate):
    """Every token of a step takes the gate of the last one."""

    def finish(self, mixed: Array, x: Array, positions: Positions) -> Array:
        return super().finish(mixed, np.repeat(x[:, -1:], x.shape[1], axis=1), positions)


class GateOfTheBatch(SigmoidGate):
    """All sequences take the gates of the first."""

    def finish(self, mixed: Array, x: Array, positions: Positions) -> Array:
        return super().finish(mixed, np.repeat(x[:1], len(x), axis=0), positions)


class HalvesStored(Differential):
    """Keys are stored pair by pair and read half by half."""

    def step(self, cache: Any, x: Array) -> Any:
        w = self.projections
        order = np.arange(w.key.shape[1]).reshape(2, -1, w.width).swapaxes(0, 1).ravel()
        return Differential(**(vars(self) | {"projections": replace(w, key=w.key[:, order])})).step(cache, x)


class ShrunkTwice(Differential):
    """1 - λ_init is applied to the output as well."""

    def step(self, cache: Any, x: Array) -> Any:
        attended, later = super().step(cache, x)
        return attended._replace(out=attended.out * (1 - self.initial_weight)), later


class TurnedFromZero(SharedProjection):
    """Keys are made again at each step with positions that count from the block."""

    def _block(self, raw: Any) -> Any:
        return super()._block(raw._replace(positions=raw.positions - raw.positions[0] + 1))


class WeightsCached(SharedProjection):
    """The key's weights go into the cache, and so into the value."""

    def step(self, cache: Any, x: Array) -> Any:
        attended, later = super().step(cache, x)
        rows = later.rows(cache.length, later.length).row
        return attended, cache.append(Tied(rows * (1 + drawn(D, seed=6) / 2)))


class NotTurnedBack(SharedRow):
    """The mix keeps the turn of its values when decoding."""

    def step(self, cache: Any, x: Array) -> Any:
        fields = vars(self) | ({"finish": ()} if cache.length else {})
        return SharedRow(**fields).step(cache, x)


class MemoryCropped(Merged):
    """Rolling back crops the memory with the decoded tokens."""

    def step(self, cache: Layered, x: Array) -> Any:
        own, memory = cache.parts
        whole = memory.memory
        if cache.lengths[0] == 1:
            memory = replace(memory, memory=whole.truncate(max(1, min(whole.lengths) - 1)))
        return super().step(Layered((own, memory)), x)


class MemoryOfTheFirst(Merged):
    """All sequences read the first one's memory."""

    def start(self, batch: int | None = None) -> Layered:
        own, memory = super().start(batch).parts
        return Layered((own, memory.select([0] * memory.batch)))


class RowsCached(MemoryRows):
    """The rows are appended to the cache at the first step, and count as tokens."""

    def step(self, cache: Any, x: Array) -> Any:
        if not cache.lengths[0]:
            w = self.projections
            rows = (np.repeat(part[None], cache.batch, axis=0) for part in (self.keys, self.values))
            cache = cache.append(KeyValue(*rows))
            return Grouped(w, self.mask, page=self.page).step(cache, x)
        return Grouped(self.projections, self.mask, page=self.page).step(cache, x)


class StaleLayer(Layers):
    """The second layer keeps its old cache."""

    def step(self, cache: Layered, x: Array) -> Any:
        attended, later = super().step(cache, x)
        first, second = later.parts
        fresh = second.truncate(second.length - 1).append(second.rows(0, 1)) if second.length > 1 else second
        return attended, Layered((first, fresh))


class ResidualOfTheLast(ValueResidual):
    """Values lean on the first layer's values of the last new token."""

    def step(self, cache: Layered, x: Array) -> Any:
        attended, later = super().step(cache, x)
        if x.shape[1] < 2:
            return attended, later
        again = super().step(cache, np.repeat(x[:, -1:], x.shape[1], axis=1))[0]
        return attended._replace(out=attended.out + 1e-3 * again.out), later


def of(kind: Any, layer: Any) -> Any:
    return kind(**{name: getattr(layer, name) for name in layer.__dataclass_fields__})


MUTANTS: dict[str, tuple[Callable[[], Any], str]] = {
    "normed over the chunk": (lambda: grouped(of(OverTheChunk, NORM), TURN), "decode_is_recompute"),
    "normed over the batch": (lambda: grouped(of(OverTheBatch, NORM), TURN), "batch_mates_are_invisible"),
    "normed by place in the step": (lambda: grouped(of(FromTheStep, NORM)), "decode_is_recompute"),
    "faded with the position": (lambda: grouped(of(Absolute, NORM)), "positions_are_relative"),
    "weights behind the rotation": (lambda: grouped(TURN, NORM), "positions_are_relative"),
    "a norm not counted": (lambda: grouped(of(NotCounted, NORM)), "cost_is_count"),
    "the last token's gate": (lambda: grouped(finish=(of(GateOfTheLast, GATE),)), "the_future_is_invisible"),
    "the first sequence's gate": (lambda: grouped(finish=(of(GateOfTheBatch, GATE),)), "batch_mates_are_invisible"),
    "halves for pairs": (lambda: of(HalvesStored, DIFFERENTIAL), "step_is_definition"),
    "shrunk twice": (lambda: of(ShrunkTwice, DIFFERENTIAL), "step_is_definition"),
    "turned one too far": (lambda: of(TurnedFromZero, PROJECTION), "step_is_definition"),
    "weights in the value": (lambda: of(WeightsCached, PROJECTION), "decode_is_recompute"),
    "turned back in prefill only": (lambda: of(NotTurnedBack, ROW), "decode_is_recompute"),
    "values stay turned": (lambda: replace(ROW, finish=()), "positions_are_relative"),
    "the memory shrinks": (lambda: of(MemoryCropped, MERGED), "decode_is_recompute"),
    "the first sequence's memory": (lambda: of(MemoryOfTheFirst, MERGED), "batch_mates_are_invisible"),
    "memory rows as tokens": (lambda: of(RowsCached, ROWS), "rollback_forgets"),
    "a layer's cache is stale": (lambda: of(StaleLayer, LAYERS), "decode_is_recompute"),
    "the last token's values": (lambda: of(ResidualOfTheLast, RESIDUAL), "the_future_is_invisible"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_ones_are_rejected(name: str) -> None:
    layer, law = MUTANTS[name]
    assert law in rejected_by(layer())
