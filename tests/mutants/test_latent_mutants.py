"""Wrong latent layers that the laws must reject; the classes of fault are those that real engines had."""

from collections.abc import Callable
from dataclasses import dataclass, replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.caches.rows import Latent
from kvattn.core import streaming
from kvattn.counting import Tally
from kvattn.masks import Causal, Window
from kvattn.positions import Rotary
from kvattn.testing.laws import LAWS, Case, LawError
from kvattn.typing import Array, Attended, Positions
from kvattn.variants.compressed import latent as latent_module
from kvattn.variants.compressed.latent import Absorbed, Expanded
from kvattn.variants.compressed.latent_projections import LatentProjections
from kvattn.variants.compressed.latent_rows import latent_blocks, query_and_row

HEADS, NOPE, ROPE, VALUE, RANK, HIDDEN = 3, 5, 4, 7, 16, 10


def weights(kind: type[LatentProjections] = LatentProjections) -> LatentProjections:
    rng = np.random.default_rng(7)

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape) / math.sqrt(shape[0])

    return kind(
        draw(HIDDEN, RANK),
        1 + draw(RANK),
        draw(HIDDEN, ROPE),
        draw(RANK, HEADS * NOPE),
        draw(RANK, HEADS * VALUE),
        draw(HIDDEN, HEADS * (NOPE + ROPE)),
        draw(HEADS * VALUE, HIDDEN),
        HEADS,
    )


def case(layer: Any) -> Case:
    x = np.random.default_rng(3).standard_normal((2, 9, HIDDEN))
    return Case(layer, x, (1, 4, 8), lambda _: layer, replace(layer, page=2), None, depth=150)


def layer_of(form: Callable[..., Any], kind: type[LatentProjections] = LatentProjections) -> Any:
    return form(weights(kind), Causal() & Window(6), Rotary.of(ROPE, layout="adjacent"), page=3)


def rejected_by(layer: Any) -> set[str]:
    found = set()
    for name, law in LAWS.items():
        try:
            law(case(layer))
        except LawError:
            found.add(name)
    return found


@pytest.mark.parametrize("form", [Expanded, Absorbed])
def test_the_right_ones_pass(form: Callable[..., Any]) -> None:
    assert rejected_by(layer_of(form)) == set()


class ValuesOfTheNextHead(LatentProjections):
    """A mixed latent goes through W_uv of another head."""

    def release(self, mixed: Array) -> Array:
        return super().release(np.roll(mixed, 1, axis=1))

    def expand(self, c: Array) -> tuple[Array, Array]:
        k, v = super().expand(c)
        return k, np.roll(v, 1, axis=1)


class KeysOfTheNextHead(LatentProjections):
    """Queries are absorbed with W_uk of another head."""

    def absorb(self, q: Array) -> Array:
        return np.roll(super().absorb(np.roll(q, 1, axis=1)), -1, axis=1)

    def expand(self, c: Array) -> tuple[Array, Array]:
        k, v = super().expand(c)
        return np.roll(k, 1, axis=1), v


class NotNormed(LatentProjections):
    """The raw latent is cached and attended to: the norm was meant to come behind the cache, and did not."""

    def latents(self, x: Array) -> Array:
        raw: Array = x @ self.kv_down
        return raw


class NormedOverTheChunk(LatentProjections):
    """The mean square runs over all new tokens, not over a token's latent."""

    def latents(self, x: Array) -> Array:
        c = x @ self.kv_down
        normed: Array = (
            c / np.sqrt(np.square(c).sum((1, 2), keepdims=True) / max(1, c[0].size) + self.eps) * self.kv_norm
        )
        return normed


class NormWithoutWeight(LatentProjections):
    """The norm's weight is left out."""

    def latents(self, x: Array) -> Array:
        return super().latents(x) / self.kv_norm


class RopeBeforeNope(LatentProjections):
    """The rotated query features are taken from the front of each head."""

    def queries(self, a: Array) -> tuple[Array, Array]:
        both = np.concatenate(super().queries(a), axis=-1)
        return both[..., ROPE:], both[..., :ROPE]


class OneRopeKeyTwice(LatentProjections):
    """The shared rope key takes its first feature twice."""

    def rope_keys(self, x: Array) -> Array:
        return super().rope_keys(x)[..., [0, 0, 2, 3]]


@pytest.mark.parametrize("form", [Expanded, Absorbed])
@pytest.mark.parametrize(
    "kind",
    [
        ValuesOfTheNextHead,
        KeysOfTheNextHead,
        NotNormed,
        NormedOverTheChunk,
        NormWithoutWeight,
        RopeBeforeNope,
        OneRopeKeyTwice,
    ],
)
def test_wrong_projections_are_rejected(form: Callable[..., Any], kind: type[LatentProjections]) -> None:
    assert "step_is_definition" in rejected_by(layer_of(form, kind))


class LastBitOfTheCount(LatentProjections):
    """A stand-in for any arithmetic that feels how many tokens came: one last bit."""

    def absorb(self, q: Array) -> Array:
        moved: Array = super().absorb(q) * (1 + 2.0**-52 * (q.shape[2] % 2))
        return moved


def test_arithmetic_that_depends_on_the_cut_is_rejected() -> None:
    assert rejected_by(layer_of(Absorbed, LastBitOfTheCount)) == {"decode_is_recompute"}


@dataclass(frozen=True, eq=False)
class Attending(Absorbed):
    """Absorbed attention with its arithmetic in reach."""

    def step(self, cache: Any, x: Array) -> tuple[Attended, Any]:
        w = self.projections
        at = np.array(cache.lengths)[:, None] + np.arange(x.shape[1])
        q, row = self.rows(x, at)
        cache = cache.append(Latent(row))
        blocks = [latent_blocks(cache.raw_blocks(b), w.rank) for b in range(cache.batch)]
        mixed, lse = streaming.attend(q, at, blocks, value_width=w.rank, mask=self.mask, scale=self.factor())
        return Attended(w.outputs(w.release(mixed)), lse), cache

    def rows(self, x: Array, at: Positions) -> tuple[Array, Array]:
        return query_and_row(self.projections, self.rotation, x, x, at)

    def factor(self) -> float:
        return 1 / math.sqrt(self.projections.width)


def test_the_right_one_in_reach_passes() -> None:
    assert rejected_by(layer_of(Attending)) == set()


class ScaleOfTheLatent(Attending):
    """The scale is taken from the width of the stored row."""

    def factor(self) -> float:
        return 1 / math.sqrt(RANK + ROPE)


class ScaleOfTheUnrotatedPart(Attending):
    """The scale is taken from Dn alone."""

    def factor(self) -> float:
        return 1 / math.sqrt(NOPE)


class WithoutRope(Attending):
    """The rope part of the score is left out."""

    def rows(self, x: Array, at: Positions) -> tuple[Array, Array]:
        q, row = super().rows(x, at)
        return np.concatenate([q[..., :RANK], np.zeros_like(q[..., RANK:])], axis=-1), row


class TurnedFromTheChunk(Attending):
    """Rope keys are turned by their place among the new tokens."""

    def rows(self, x: Array, at: Positions) -> tuple[Array, Array]:
        q, _ = super().rows(x, at)
        return q, super().rows(x, at - at[:, :1])[1]


class TurnedTwice(Attending):
    """The rope key is turned again behind its cache (the model had folded it in, sglang #38666)."""

    def rows(self, x: Array, at: Positions) -> tuple[Array, Array]:
        return super().rows(x, at)[0], super().rows(x, 2 * at)[1]


class OtherPairs(Attending):
    """Halves are turned in place of adjacent pairs, in keys alone."""

    def rows(self, x: Array, at: Positions) -> tuple[Array, Array]:
        q, _ = super().rows(x, at)
        return q, query_and_row(self.projections, Rotary.of(ROPE, layout="half"), x, x, at)[1]


class RopeInFront(Attending):
    """The row is stored as [k_r ; c], and values are still its first r numbers."""

    def rows(self, x: Array, at: Positions) -> tuple[Array, Array]:
        q, row = super().rows(x, at)
        return np.roll(q, ROPE, axis=-1), np.roll(row, ROPE, axis=-1)


@pytest.mark.parametrize(
    "mutant",
    [ScaleOfTheLatent, ScaleOfTheUnrotatedPart, WithoutRope, TurnedFromTheChunk, TurnedTwice, OtherPairs, RopeInFront],
)
def test_wrong_absorption_is_rejected(mutant: Callable[..., Any]) -> None:
    found = rejected_by(layer_of(mutant))
    assert found & {"step_is_definition", "decode_is_recompute"}
    if mutant is not TurnedFromTheChunk:
        assert "step_is_definition" in found


class CountsRowsTwice(Absorbed):
    """The bill has the row once as key and once as value."""

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        right = super().cost(past=past, new=new, batch=batch)
        return replace(right, kv_read=right.kv_read // (RANK + ROPE) * (2 * RANK + ROPE))


class CountsExpansion(Absorbed):
    """The bill has W_uk and W_uv applied to every token, as the expanded form does."""

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        w, rows = self.projections, batch * new
        right = super().cost(past=past, new=new, batch=batch)
        moved = w.cost(rows, "absorb", "release")
        other = w.cost(rows, "expand")
        return replace(right, activations=right.activations - moved.activations + other.activations)


@pytest.mark.parametrize("mutant", [CountsRowsTwice, CountsExpansion])
def test_a_wrong_bill_is_rejected(mutant: Callable[..., Any]) -> None:
    assert rejected_by(layer_of(mutant)) == {"cost_is_count"}


def test_a_scale_that_is_not_listened_to_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    right = latent_module._pipeline
    layer = replace(layer_of(Absorbed), scale=1.5)
    assert rejected_by(layer) == set()
    x = case(layer).x
    defined = layer.definition(x, np.arange(9))
    monkeypatch.setattr(latent_module, "_pipeline", lambda layer: {**right(layer), "scale": 1 / 3})
    found, _ = layer.step(layer.start(2), x)
    assert np.abs(found.out - defined.out).max() > 1e-3


FAULT_CLASSES = {
    "mla-absorb": [
        ScaleOfTheLatent,
        ScaleOfTheUnrotatedPart,
        WithoutRope,
        TurnedTwice,
        RopeInFront,
        ValuesOfTheNextHead,
    ],
    "byte-count": [CountsRowsTwice],
    "flop-count": [CountsExpansion],
}
"""The mutants above that belong to a class of `kvattn.testing.fault_classes`."""
