"""Wrong layers under fixed patterns that the laws must reject; the right ones keep every law on the same cases."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from kvattn.counting import Tally
from kvattn.masks import BlockDiffusion, BlockWise, Causal, Prefix, QueriesAt, Window
from kvattn.testing.laws import LAWS, Case, LawError
from kvattn.typing import Array, Attended, Mask
from kvattn.variants.dense import around
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from kvattn.variants.sparse import longformer as longformer_module
from kvattn.variants.sparse.longformer import Longformer

T, M, HEADS = 12, 5, 2


def drawn(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape) * 0.7


def weights() -> Projections:
    shapes = (M, HEADS * 4), (M, 4), (M, 3), (HEADS * 3, M)
    query, key, value, output = (drawn(*shape, seed=n) for n, shape in enumerate(shapes))
    return Projections(query, key, value, output, heads=HEADS, kv_heads=1)


def rejected_by(layer: Any, cuts: tuple[int, ...], **more: Any) -> set[str]:
    x = drawn(2, T, M, seed=9)
    found = set()
    for name, law in LAWS.items():
        try:
            law(Case(layer, x, cuts, lambda _: layer, replace(layer, page=2), None, depth=150, **more))
        except LawError:
            found.add(name)
    return found


# --- a layer that lets itself be cut where its mask looks ahead --------------------------------------------------

CUT: list[tuple[Mask, tuple[int, ...], tuple[int, ...]]] = [
    (Causal() | Prefix(5), (5, 9), (3, 9)),
    (BlockWise(4, Causal()), (4, 8), (4, 6)),
    (Window(3, ahead=1), (0,), (7,)),
]


@pytest.mark.parametrize(("mask", "legal", "illegal"), CUT, ids=repr)
def test_a_layer_that_may_be_cut_anywhere_is_rejected(
    mask: Mask, legal: tuple[int, ...], illegal: tuple[int, ...]
) -> None:
    layer = Grouped(weights(), mask, page=3)
    assert rejected_by(layer, legal) == set()
    with mock.patch.object(around, "check_cut", return_value=None):
        assert "decode_is_recompute" in rejected_by(layer, illegal)


# --- block diffusion ---------------------------------------------------------------------------------------------


def half(layer: Grouped, mask: Mask, clean: int) -> Callable[[Array], Attended]:
    def form(x: Array) -> Attended:
        tokens = x.shape[1]
        found = replace(layer, mask=mask).definition(np.concatenate([x, x], axis=1), np.arange(2 * tokens))
        part = slice(clean * tokens, (clean + 1) * tokens)
        return Attended(found.out[:, part], found.lse[:, :, part])

    return form


@pytest.mark.law("masks/block_diffusion", "both halves of a training pass equal decoding", "bound")
@pytest.mark.parametrize("clean", [0, 1])
def test_a_training_pass_of_other_blocks_is_rejected(clean: int) -> None:
    layer = Grouped(weights(), BlockWise(4, Causal()), page=3)
    right, wrong = BlockDiffusion(4, T), BlockDiffusion(3, T)
    assert rejected_by(layer, (4, 8), forms={"training": half(layer, right, clean)}) == set()
    assert rejected_by(layer, (4, 8), forms={"training": half(layer, wrong, clean)}) == {"forms_agree"}
    token_causal = replace(layer, mask=Causal() & BlockWise(4, Causal()))
    assert rejected_by(token_causal, (4, 8), forms={"training": half(layer, right, clean)}) == {"forms_agree"}


# --- Longformer --------------------------------------------------------------------------------------------------


def longformer(form: Callable[..., Longformer] = Longformer) -> Longformer:
    w = weights()
    over = [drawn(*matrix.shape, seed=20 + n) for n, matrix in enumerate((w.query, w.key, w.value))]
    return form(w, *over, tokens=[1, 6], window=Window(3), order=Causal(), page=3)


class RowNumbers(Longformer):
    """Global tokens are counted from the first token of the step."""

    def step(self, cache: Any, x: Array) -> Any:
        return super(RowNumbers, replace(self, tokens=[t + cache.length for t in self.tokens])).step(cache, x)


class Deaf(Longformer):
    """Local queries do not see global keys."""

    @property
    def _parts(self) -> tuple[Mask, Mask]:
        local, over = super()._parts
        return local & self.window, over  # type: ignore[operator]


class Hasty(Longformer):
    """Global queries are not causal."""

    @property
    def _parts(self) -> tuple[Mask, Mask]:
        return super()._parts[0], QueriesAt(self.tokens)


class FirstOfBatch(Longformer):
    """Every sequence reads the first one's cache."""

    def step(self, cache: Any, x: Array) -> Any:
        return super().step(cache.select([0] * cache.batch), x)


class Generous(Longformer):
    """Counts a global query for every token."""

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        listed = sum(past <= token < past + new for token in self.tokens)
        right = super().cost(past=past, new=new, batch=batch)
        return right + (self._over.cost(batch * (new - listed), "query") if listed else Tally())


class Narrow(Longformer):
    """Counts the bytes of local rows alone."""

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        written = self.projections
        row = written.kv_heads * (written.width + written.value_width) * written.dtype.itemsize
        return super().cost(past=past, new=new, batch=batch) + Tally(kv_written=-batch * new * row)


@pytest.mark.parametrize(
    ("form", "law"),
    [
        (RowNumbers, "decode_is_recompute"),
        (Deaf, "step_is_definition"),
        (Hasty, "the_future_is_invisible"),
        (FirstOfBatch, "batch_mates_are_invisible"),
        (Generous, "cost_is_count"),
        (Narrow, "cost_is_count"),
    ],
)
def test_a_wrong_longformer_is_rejected(form: Callable[..., Longformer], law: str) -> None:
    assert law in rejected_by(longformer(form), (2, 4, 8))


def test_the_right_longformer_passes() -> None:
    assert rejected_by(longformer(), (2, 4, 8)) == set()


def test_global_queries_that_read_local_rows_are_rejected() -> None:
    part = longformer_module._part
    with mock.patch.object(longformer_module, "_part", lambda block, half, heads: part(block, 0, heads)):
        assert "step_is_definition" in rejected_by(longformer(), (2, 4, 8))
