from collections.abc import Callable
from dataclasses import replace
import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches.rows import key_value, latent
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.masks import Causal, Document, Prefix, Sink, Window
from kvattn.positions import Alibi, Rotary
from kvattn.testing.choices import Recorded
from kvattn.testing.closeness import conditioned_bound
from kvattn.testing.latent_by_hand import latent_by_hand
from kvattn.testing.laws import LAWS, stepped
from kvattn.testing.strategies import Drawn
from kvattn.testing.zoo.latent import absorbed, expanded
from kvattn.variants.compressed.latent import Absorbed, Expanded
from kvattn.variants.compressed.latent_projections import LatentProjections

DEEP = os.environ.get("KVATTN_PROFILE") == "deep"
SHARE = {"blas": 1 if DEEP else 2, "ordered": 3 if DEEP else 6}
"""Of the profile's number of examples, a law tries one part in so many."""

FORMS = (Expanded, Absorbed)
CASES = {Expanded: expanded, Absorbed: absorbed}


def roundings(w: LatentProjections, keys: int) -> int:
    """Longest path: two projections and a norm on each side, score, softmax and mix over the keys, two projections."""
    source = 0 if w.query_down is None else 2 * w.query_down.shape[1]
    rows = w.rank + w.rope_width + w.nope_width
    return w.hidden + source + 4 * w.rank + rows + 4 * keys + w.heads * w.value_width + 40


def part_of(layer: Any, at: Any, n: int) -> Callable[[Any], Any]:
    """The definition's out, or its lse, as a function of x."""
    return lambda x: layer.definition(x, at)[n]


def apart(a: Any, b: Any) -> Any:
    """Distances, 0 between equal infinities."""
    with np.errstate(invalid="ignore"):
        return np.abs(np.where(a == b, 0, a - b))


def example(form: Callable[..., Any], dtype: Any = np.float64, **features: Any) -> tuple[Any, Any]:
    """One layer of sizes that all differ, and 2 sequences of 11 tokens."""
    rng = np.random.default_rng(7)

    def draw(*shape: int) -> Any:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(dtype)

    heads, nope, rope, value_width, rank, hidden, source = 3, 5, 4, 7, 6, 10, 8
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
    plain = {"rotation": Rotary.of(rope, layout="adjacent"), "mask": Causal(), **features}
    x = rng.standard_normal((2, 11, hidden)).astype(dtype)
    return form(w, **plain), x


@pytest.mark.parametrize("arithmetic", ["blas", "ordered"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("law", list(LAWS))
def test_every_law_holds(law: str, form: Any, arithmetic: str) -> None:
    @settings(max_examples=settings().max_examples // SHARE[arithmetic])
    @given(st.data())
    def holds(data: Any) -> None:
        LAWS[law](CASES[form](Drawn(data.draw)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVATTN_ARITHMETIC", arithmetic)
        holds()


@pytest.mark.by_hand("variants/compressed/latent")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "features",
    [
        {},
        {"mask": Causal() & Window(4), "softcap": 2.0},
        {"rotation": None, "scale": 0.3},
        {"rotation": Rotary.of(4, magnitude=1.2), "sinks": [0.5, -1.0, 3.0]},
        {"mask": Causal() & ~Window(1)},  # the first token sees nothing
    ],
)
def test_definition_and_step_are_what_is_computed_by_hand(form: Any, features: dict[str, Any], dtype: Any) -> None:
    layer, x = example(form, dtype, **features)
    at = np.arange(11)
    defined, (found, _) = layer.definition(x, at), stepped(layer, x, (3, 4))
    for b in range(2):

        def sees(h: int, t: int, s: int, b: int = b) -> bool:
            return bool(layer.mask(b, h, np.int64(t), np.int64(s)))

        by_hand = latent_by_hand(
            layer.projections,
            x[b].tolist(),
            at.tolist(),
            sees,
            rotation=layer.rotation,
            scale=layer.scale,
            softcap=layer.softcap,
            sinks=layer.sinks,
        )
        for n, wanted in enumerate(by_hand):
            bound = conditioned_bound(part_of(layer, at, n), x, roundings(layer.projections, 11))[b]
            for result in (defined, found):
                assert (apart(result[n][b], np.array(wanted)) <= bound).all()
            assert bound.max() < 2e5 * np.finfo(dtype).eps


@given(st.data())
def test_the_two_forms_agree_within_the_bound(data: Any) -> None:
    made = Recorded(seed=data.draw(st.integers(0, 2**32)))
    left = expanded(made)
    right = absorbed(Recorded(made.made))
    at = np.arange(left.x.shape[1])
    a, b = stepped(left.variant, left.x, ())[0], stepped(right.variant, right.x, ())[0]
    for n in range(2):
        depth = roundings(left.variant.projections, len(at))
        bound = conditioned_bound(part_of(left.variant, at, n), left.x, depth)
        assert (apart(a[n], b[n]) <= bound).all()


def test_the_forms_share_their_definition_and_differ_in_what_they_keep() -> None:
    (left, x), (right, _) = example(Expanded), example(Absorbed)
    for a, b in zip(left.definition(x, np.arange(11)), right.definition(x, np.arange(11)), strict=True):
        assert np.array_equal(a, b)
    assert left.start().schema.nbytes == 8 * 3 * (5 + 4 + 7)
    assert right.start().schema.nbytes == 8 * (6 + 4)


def test_deepseek_v3_keeps_576_numbers_a_token_in_place_of_40960() -> None:
    assert latent(512 + 64, np.float32).nbytes == 4 * 576
    assert key_value(128, 128 + 64, 128, np.float32).nbytes == 4 * 40960


def test_a_decoding_step_reads_a_latent_row_once_and_computes_more() -> None:
    bills = {}
    for form in FORMS:
        layer, x = example(form)
        _, cache = layer.step(layer.start(2), x[:, :10])
        with counting() as tally:
            layer.step(cache, x[:, 10:])
        bills[form] = tally.tally
        assert tally.pairs_computed == tally.pairs_visible == 2 * 3 * 11
    assert bills[Absorbed].kv_read == 2 * 11 * (6 + 4) * 8
    assert bills[Expanded].kv_read == 2 * 11 * 3 * (5 + 4 + 7) * 8
    attending = {form: 2 * 2 * 3 * 11 * wide for form, wide in ((Expanded, 9 + 7), (Absorbed, 10 + 6))}
    weights = {Expanded: 6 * 3 * (5 + 7), Absorbed: 3 * (5 * 6 + 6 * 7)}
    both = 10 * 6 + 10 * 4 + 10 * 8 + 8 * 27 + 21 * 10
    for form in FORMS:
        assert bills[form].matmul == attending[form] + 2 * 2 * (both + weights[form])


@pytest.mark.parametrize("form", FORMS)
def test_values_behind_the_mask_cannot_matter_even_if_they_are_not_numbers(form: Any) -> None:
    layer, x = example(form, mask=Causal() & ~Sink(2) | Causal() & Window(1))
    poisoned = x.copy()
    poisoned[:, :2] = np.nan
    for cuts in ((), (1, 2, 5)):
        clean, _ = stepped(layer, x, cuts)
        found, _ = stepped(layer, poisoned, cuts)
        assert np.isnan(found.out[:, :2]).all()
        assert np.array_equal(found.out[:, 2:], clean.out[:, 2:])
        assert np.array_equal(found.lse[..., 2:], clean.lse[..., 2:])


@pytest.mark.parametrize("form", FORMS)
def test_packed_documents_do_not_see_each_other(form: Any) -> None:
    layer, x = example(form, mask=Causal() & Document([0] * 4 + [1] * 7), rotation=None)
    together, _ = stepped(layer, x, ())
    alone, _ = stepped(replace(layer, mask=Causal()), x[:, 4:], ())
    np.testing.assert_allclose(together.out[:, 4:], alone.out, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_moving_all_positions_changes_the_definition_by_roundings_only(form: Any) -> None:
    layer, x = example(form)
    near, far = (layer.definition(x, np.arange(11) + shift) for shift in (0, 100))
    np.testing.assert_allclose(far.out, near.out, rtol=1e-11, atol=1e-12)


ARRAYS = (
    "kv_down",
    "kv_norm",
    "key_rope",
    "key_up",
    "value_up",
    "query",
    "output",
    "query_down",
    "query_norm",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*ARRAYS, "eps"])
def test_every_weight_matters(form: Any, name: str) -> None:
    layer, x = example(form)
    held = getattr(layer.projections, name)
    changed = 0.5 if name == "eps" else held * np.linspace(0.5, 1.5, held.size).reshape(held.shape)
    other = replace(layer, projections=replace(layer.projections, **{name: changed}))
    for a, b in (
        (layer.definition(x, np.arange(11)), other.definition(x, np.arange(11))),
        (stepped(layer, x, (4,))[0], stepped(other, x, (4,))[0]),
    ):
        assert np.abs(a.out - b.out).max() > 1e-3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "features",
    [
        {"mask": None},
        {"mask": Causal() & Window(3)},
        {"rotation": None},
        {"rotation": Rotary.of(4, layout="half")},
        {"mods": (Alibi.of(3),)},
        {"scale": 1.0},
        {"softcap": 0.5},
        {"sinks": np.zeros(3)},
    ],
)
def test_every_feature_matters(form: Any, features: dict[str, Any]) -> None:
    layer, x = example(form)
    other = replace(layer, **features)
    for a, b in (
        (layer.definition(x, np.arange(11)), other.definition(x, np.arange(11))),
        (stepped(layer, x, ())[0], stepped(other, x, ())[0]),
    ):
        assert np.abs(a.out - b.out).max() > 1e-3
    given_by_hand, default = replace(layer, scale=1 / 3.0), layer  # 3 = sqrt(Dn + Dr)
    assert np.array_equal(stepped(given_by_hand, x, ())[0].out, stepped(default, x, ())[0].out)


@pytest.mark.parametrize("form", FORMS)
def test_numpy_scalars_do_not_promote_float32(form: Any) -> None:
    layer, x = example(form, np.float32, scale=np.float64(0.3), softcap=np.float64(3.0), sinks=np.zeros(3))
    for result in (stepped(layer, x, ())[0], layer.definition(x, np.arange(11))):
        assert result.out.dtype == result.lse.dtype == np.float32


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("features", "error", "words"),
    [
        ({"rotation": Rotary.of(6)}, ShapeError, "rotation must turn features of 4 in key_rope, got 6 features"),
        ({"sinks": np.zeros(2)}, ShapeError, r"sinks must have shape \[3\], got \(2,\)"),
        ({"scale": "big"}, ArgumentError, "scale must be a finite number, got 'big'"),
        ({"softcap": 0.0}, ArgumentError, "softcap must be a finite number above 0, got 0.0"),
    ],
)
def test_a_bad_feature_is_refused(form: Any, features: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        example(form, **features)


@pytest.mark.parametrize("form", FORMS)
def test_bad_hidden_states_are_refused(form: Any) -> None:
    layer, x = example(form)
    with pytest.raises(ShapeError, match=r"x must have shape \[B, T, M\] with B=1, M=10, got \(2, 11, 10\)"):
        layer.step(layer.start(), x)
    with pytest.raises(ShapeError, match=r"x must have shape \[B, T, M\] with M=10, got \(2, 11, 9\)"):
        layer.definition(x[..., 1:], np.arange(11))
    with pytest.raises(DtypeError, match="x must have the dtype of the weights, float64, got float32"):
        layer.step(layer.start(2), x.astype(np.float32))
    with pytest.raises(ShapeError, match=r"positions must have shape \[11\] or \[2, 11\], got \(10,\)"):
        layer.definition(x, np.arange(10))


@pytest.mark.parametrize("form", FORMS)
def test_a_prefix_comes_in_one_step(form: Any) -> None:
    layer, x = example(form, mask=Causal() | Prefix(3))
    _, cache = layer.step(layer.start(len(x)), x[:, :2])
    with pytest.raises(PositionError, match="must come in one step, got a step that begins at 2"):
        layer.step(cache, x[:, 2:])
    assert layer.step(layer.start(len(x)), x)[1].length == x.shape[1]
