"""DeepSeek's sparse attention: laws, by hand, and where it is the dense form to the bit.

The ordered fallback adds one key after the other: in CI its laws see nine tokens at most, under
``KVATTN_PROFILE=deep`` all lengths, and there laws on BLAS see twice as many examples in the profile's number.
"""

from collections.abc import Callable
from dataclasses import replace
import math
import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.masks import Causal, Document, Explicit, Prefix, Window
from kvattn.positions import Rotary
from kvattn.testing.closeness import conditioned_bound
from kvattn.testing.latent_by_hand import index_by_hand, latent_by_hand
from kvattn.testing.laws import LAWS, stepped
from kvattn.testing.strategies import Drawn
from kvattn.testing.zoo.indexed import indexed
from kvattn.variants.compressed.latent import Absorbed
from kvattn.variants.compressed.latent_projections import LatentProjections
from kvattn.variants.sparse.indexed import TOGETHER, Indexed, indexed_latent, top
from kvattn.variants.sparse.lightning_indexer import LightningIndexer


def example(dtype: Any = np.float64, keep: int = 4, length: int = 13, **features: Any) -> tuple[Indexed, Any]:
    """One layer of sizes that all differ, and 2 sequences."""
    rng = np.random.default_rng(11)

    def draw(*shape: int) -> Any:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(dtype)

    heads, nope, rope, value_width, rank, hidden, source, index_heads, width = 3, 5, 4, 7, 6, 10, 8, 2, 9
    w = LatentProjections(
        draw(hidden, rank),
        1 + draw(rank),
        draw(hidden, rope),
        draw(rank, heads * nope),
        draw(rank, heads * value_width),
        draw(source, heads * (nope + rope)),
        draw(heads * value_width, hidden),
        heads,
        draw(hidden, source),
        1 + draw(source),
    )
    indexer = LightningIndexer(
        draw(source, index_heads * width),
        draw(hidden, width),
        draw(hidden, index_heads),
        1 + draw(width),
        draw(width),
        index_heads,
        Rotary.of(6),
    )
    x = rng.standard_normal((2, length, hidden)).astype(dtype)
    plain = {"rotation": Rotary.of(rope, layout="adjacent"), **features}
    return Indexed(w, indexer, keep, **plain), x


def chosen_by_hand(layer: Indexed, x: Any, b: int) -> list[list[int]]:
    """The places that each query keeps: best score first, of equal ones the lowest place."""
    length, mask = x.shape[1], layer.mask
    scores = index_by_hand(layer.indexer, layer.projections, x[b].tolist(), list(range(length)), layer.indexer.rotation)
    kept = []
    for t in range(length):
        seen = [s for s in range(length) if mask is None or bool(mask(b, 0, np.array(t), np.array(s)))]
        kept.append(sorted(seen, key=lambda s, row=scores[t]: (-row[s], s))[: layer.keep])  # type: ignore[misc]
    return kept


def part_of(layer: Any, at: Any, n: int) -> Callable[[Any], Any]:
    """The definition's out, or its lse, as a function of x."""
    return lambda x: layer.definition(x, at)[n]


def apart(a: Any, b: Any) -> Any:
    """Distances, 0 between equal infinities."""
    with np.errstate(invalid="ignore"):
        return np.abs(np.where(a == b, 0, a - b))


class Short(Drawn):
    """No more than nine tokens, one beyond those whose choice is worked out together."""

    def integer(self, low: int, high: int, label: str) -> int:
        return super().integer(low, {"long": low, "length": min(high, TOGETHER + 1)}.get(label, high), label)


@pytest.mark.parametrize("arithmetic", ["blas", "ordered"])
@pytest.mark.parametrize("law", list(LAWS))
def test_every_law_holds(law: str, arithmetic: str) -> None:
    ordered, deep = arithmetic == "ordered", os.environ.get("KVATTN_PROFILE") == "deep"
    drawn = Short if ordered and not deep else Drawn

    @settings(max_examples=settings().max_examples // (3 if ordered else 1 if deep else 2))
    @given(st.data())
    def holds(data: Any) -> None:
        LAWS[law](indexed(drawn(data.draw)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVATTN_ARITHMETIC", arithmetic)
        holds()


@pytest.mark.by_hand("variants/sparse/indexed")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "features",
    [
        {},
        {"keep": 1},
        {"keep": 20},
        {"mask": Causal() & Window(6), "softcap": 2.0},
        {"rotation": None, "scale": 0.3},
        {"sinks": [0.5, -1.0, 3.0]},
        {"mask": Causal() & ~Window(1)},  # the first token sees nothing
    ],
)
def test_definition_and_step_are_what_is_computed_by_hand(features: dict[str, Any], dtype: Any) -> None:
    layer, x = example(dtype, **features)
    w, at = layer.projections, np.arange(13)
    defined, (found, _) = layer.definition(x, at), stepped(layer, x, (3, 4, 12))
    picked = [chosen_by_hand(layer, x, b) for b in range(2)]
    table = np.array([[[[s in row for s in range(13)] for row in kept]] for kept in picked])  # [B, 1, T, S]
    fixed = Absorbed(w, Explicit(table), layer.rotation, (), layer.scale, layer.softcap, layer.sinks)
    for b in range(2):
        kept = picked[b]

        def sees(h: int, t: int, s: int, kept: list[list[int]] = kept) -> bool:
            return s in kept[t]

        by_hand = latent_by_hand(
            w,
            x[b].tolist(),
            at.tolist(),
            sees,
            rotation=layer.rotation,
            scale=layer.scale,
            softcap=layer.softcap,
            sinks=None if layer.sinks is None else list(layer.sinks),
        )
        for n, wanted in enumerate(by_hand):
            bound = conditioned_bound(part_of(fixed, at, n), x, depth=250)[b]  # of the choice made, a smooth function
            for result in (defined, found):
                assert (apart(result[n][b], np.array(wanted)) <= bound).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("arithmetic", ["blas", "ordered"])
def test_with_no_more_keys_than_it_may_keep_it_is_the_dense_form_to_the_bit(
    dtype: Any, arithmetic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVATTN_ARITHMETIC", arithmetic)
    sinks = np.array([0.5, -1.0, 3.0])
    for length, batch in ((13, 2), (260, 1)):
        layer, x = example(dtype, keep=length, length=length, sinks=sinks, softcap=9.0)
        x = x[:batch]
        dense = Absorbed(layer.projections, Causal(), layer.rotation, softcap=9.0, sinks=sinks)
        wanted, _ = stepped(dense, x, ())
        found, _ = stepped(layer, x, (length // 2, length - 1))
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
        one_fewer, _ = stepped(replace(layer, keep=length - 1), x, ())
        assert np.array_equal(one_fewer.out[:, :-1], wanted.out[:, :-1])
        assert not np.array_equal(one_fewer.out[:, -1], wanted.out[:, -1])


def test_under_a_window_no_wider_than_it_may_keep_it_is_the_dense_form_within_roundings() -> None:
    layer, x = example(keep=5, mask=Causal() & Window(5))
    dense = Absorbed(layer.projections, layer.mask, layer.rotation)
    np.testing.assert_allclose(stepped(layer, x, ())[0].out, stepped(dense, x, ())[0].out, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_choice_across_blocks_does_not_depend_on_the_cut_or_the_page(dtype: Any) -> None:
    layer, x = example(dtype, keep=258, length=270)
    whole, _ = stepped(layer, x, ())
    for page, cuts in ((256, (255, 256, 257)), (7, (1, 100, 269))):
        found, _ = stepped(replace(layer, page=page), x, cuts)
        assert all(np.array_equal(a, b) for a, b in zip(found, whole, strict=True))


def test_of_equal_scores_the_lowest_position_wins() -> None:
    layer, x = example(keep=3)
    indexer = replace(layer.indexer, norm_weight=np.zeros(9), rotation=None)  # all index keys are the bias
    tied = replace(layer, indexer=indexer)
    first = Absorbed(layer.projections, Causal() & Prefix(3), layer.rotation)
    wanted, _ = stepped(first, x, ())
    for cuts in ((), (2, 5, 9)):
        assert np.array_equal(stepped(tied, x, cuts)[0].out, wanted.out)
    np.testing.assert_allclose(tied.definition(x, np.arange(13)).out, wanted.out, rtol=1e-11, atol=1e-12)


@given(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0, -math.inf, math.inf]), max_size=9), st.integers(1, 10))
def test_top_takes_the_largest_and_of_equal_ones_the_first(scores: list[float], keep: int) -> None:
    wanted = sorted(range(len(scores)), key=lambda s: (-scores[s], s))[:keep]
    assert top(np.array(scores, np.float64), keep).tolist() == wanted


def test_a_score_that_is_no_number_comes_last() -> None:
    assert top(np.array([np.nan, -np.inf, 1.0, np.nan]), 3).tolist() == [2, 1, 0]


def test_a_key_that_is_no_number_matters_only_to_queries_that_must_keep_it() -> None:
    layer, x = example(keep=4)
    poisoned = x.copy()
    poisoned[:, 2] = np.nan
    without = replace(layer, mask=Causal() & ~(Prefix(3) & ~Prefix(2)))  # slot 2 hidden
    clean, _ = stepped(without, x, ())
    for cuts in ((), (1, 2, 5)):
        found, _ = stepped(layer, poisoned, cuts)
        assert np.isnan(found.out[:, 2:4]).all()
        assert np.array_equal(found.out[:, :2], clean.out[:, :2])
        assert np.array_equal(found.out[:, 4:], clean.out[:, 4:])


def test_packed_documents_pick_among_their_own_keys() -> None:
    layer, x = example(mask=Causal() & Document([0] * 4 + [1] * 9), rotation=None)
    layer = replace(layer, indexer=replace(layer.indexer, rotation=None))
    together, _ = stepped(layer, x, ())
    alone, _ = stepped(replace(layer, mask=Causal()), x[:, 4:], ())
    np.testing.assert_allclose(together.out[:, 4:], alone.out, rtol=1e-12, atol=1e-13)


def test_moving_all_positions_changes_the_definition_by_roundings_only() -> None:
    layer, x = example()
    near, far = (layer.definition(x, np.arange(13) + shift) for shift in (0, 100))
    np.testing.assert_allclose(far.out, near.out, rtol=1e-11, atol=1e-12)


def test_rows_in_any_order_are_picked_by_position() -> None:
    layer, x = example()
    order = np.random.default_rng(0).permutation(13)
    plain, moved = layer.definition(x, np.arange(13)), layer.definition(x[:, order], order)
    np.testing.assert_allclose(moved.out, plain.out[:, order], rtol=1e-11, atol=1e-12)


def test_a_step_is_charged_for_what_it_picks_and_for_the_picking() -> None:
    layer, x = example(keep=4)
    _, cache = layer.step(layer.start(2), x[:, :12])
    with counting() as tally:
        layer.step(cache, x[:, 12:])
    assert tally.pairs_computed == tally.pairs_visible == 2 * 3 * 4
    assert tally.kv_read == 2 * (4 * (6 + 4) + 13 * 9) * 8
    weights = 10 * 6 + 10 * 4 + 10 * 8 + 8 * 27 + 3 * (5 * 6 + 6 * 7) + 21 * 10 + 8 * 18 + 10 * 9 + 10 * 2
    assert tally.weights_read == weights * 8
    assert tally.matmul == 2 * 2 * (weights + 13 * 2 * 9 + 3 * 4 * (10 + 6))
    with counting() as tally:
        layer.step(layer.start(), x[:1])
    assert tally.pairs_visible == 3 * (1 + 2 + 3 + 10 * 4)


def test_a_block_that_nobody_may_see_is_not_scored() -> None:
    layer, x = example(keep=3, length=520, mask=Causal() & Window(5))
    _, cache = layer.step(layer.start(2), x[:, :519])
    with counting() as tally:
        layer.step(cache, x[:, 519:])
    assert tally.kv_read == 2 * (3 * 10 + (520 - 512) * 9) * 8
    assert tally.tally == layer.cost(past=519, new=1, batch=2)


def test_deepseek_v32_keeps_704_numbers_a_token() -> None:
    assert indexed_latent(512 + 64, 128, np.float32).nbytes == 4 * 704
    layer, _ = example()
    assert layer.start().schema.nbytes == 8 * (6 + 4 + 9)


@pytest.mark.parametrize("name", ["query", "key", "weight", "norm_weight", "norm_bias", "eps", "rotation"])
def test_every_weight_of_the_indexer_matters(name: str) -> None:
    layer, x = example(length=40)
    held = getattr(layer.indexer, name)
    changed: Any = {"eps": 30.0, "rotation": Rotary.of(6, layout="adjacent")}.get(name)
    if changed is None:
        changed = held * np.linspace(-1.5, 1.5, held.size).reshape(held.shape)
    other = replace(layer, indexer=replace(layer.indexer, **{name: changed}))
    for a, b in (
        (layer.definition(x, np.arange(40)), other.definition(x, np.arange(40))),
        (stepped(layer, x, (4,))[0], stepped(other, x, (4,))[0]),
    ):
        assert np.abs(a.out - b.out).max() > 1e-2


@pytest.mark.parametrize(
    "features",
    [
        {"keep": 5},
        {"mask": None},
        {"mask": Causal() & Window(3)},
        {"rotation": None},
        {"scale": 1.0},
        {"softcap": 0.5},
        {"sinks": np.zeros(3)},
    ],
)
def test_every_feature_matters(features: dict[str, Any]) -> None:
    layer, x = example()
    other = replace(layer, **features)
    for a, b in (
        (layer.definition(x, np.arange(13)), other.definition(x, np.arange(13))),
        (stepped(layer, x, ())[0], stepped(other, x, ())[0]),
    ):
        assert np.abs(a.out - b.out).max() > 1e-3


def test_float32_stays_float32() -> None:
    layer, x = example(np.float32, scale=np.float64(0.3), softcap=np.float64(3.0), sinks=np.zeros(3))
    for result in (stepped(layer, x, ())[0], layer.definition(x, np.arange(13))):
        assert result.out.dtype == result.lse.dtype == np.float32


@pytest.mark.parametrize(
    ("features", "error", "words"),
    [
        ({"keep": 0}, ArgumentError, "keep must be an integer >= 1, got 0"),
        ({"keep": True}, ArgumentError, "keep must be an integer >= 1, got True"),
        ({"rotation": Rotary.of(6)}, ShapeError, "rotation must turn features of 4 in key_rope, got 6 features"),
        ({"sinks": np.zeros(2)}, ShapeError, r"sinks must have shape \[3\], got \(2,\)"),
        ({"scale": "big"}, ArgumentError, "scale must be a finite number, got 'big'"),
        ({"softcap": 0.0}, ArgumentError, "softcap must be a finite number above 0, got 0.0"),
    ],
)
def test_a_bad_feature_is_refused(features: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        example(**features)


def test_an_indexer_for_other_weights_is_refused() -> None:
    layer, _ = example()
    indexer = replace(layer.indexer, query=np.ones((10, 18)))
    with pytest.raises(ShapeError, match="indexer must read M=10 and query latents of 8, got 10 and 10"):
        replace(layer, indexer=indexer)
    small = example(np.float32)[0].indexer
    with pytest.raises(DtypeError, match="indexer must have the dtype of projections, float64, got float32"):
        replace(layer, indexer=small)


def test_bad_hidden_states_are_refused() -> None:
    layer, x = example()
    with pytest.raises(ShapeError, match=r"x must have shape \[B, T, M\] with B=1, M=10, got \(2, 13, 10\)"):
        layer.step(layer.start(), x)
    with pytest.raises(DtypeError, match="x must have the dtype of the weights, float64, got float32"):
        layer.definition(x.astype(np.float32), np.arange(13))
