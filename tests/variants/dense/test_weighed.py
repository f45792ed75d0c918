"""The layer that takes its weights from a value: features together, bits of hidden columns, its fields."""

from collections.abc import Callable
from dataclasses import replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.core.weights import Softmax, Weighing
from kvattn.counting import Tally, counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.masks import Causal, Chunked, Prefix, Sink, Window
from kvattn.positions import Alibi, Polar, Rotary
from kvattn.testing.balls import Ball
from kvattn.testing.laws import stepped
from kvattn.testing.weighed_by_hand import NOWHERE, Asked, by_hand, gap, small, softmax
from kvattn.typing import Array, Positions
from kvattn.variants.dense.contextual_positions import ContextualPositions
from kvattn.variants.dense.entmax import Entmax15, Sparsemax
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.relative_values import RelativeValues
from kvattn.variants.dense.relu import Relu, SquaredRelu
from kvattn.variants.dense.sigmoid import Sigmoid
from kvattn.variants.dense.softpick import Softpick
from kvattn.variants.dense.stick_breaking import StickBreaking
from kvattn.variants.dense.talking_heads import TalkingHeads
from kvattn.variants.dense.weighed import Weighed

W, X = small()


def drawn(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).normal(size=shape)


WEIGHINGS: dict[str, Weighing] = {
    "softmax": Softmax(),
    "sigmoid": Sigmoid(-1.5),
    "relu": Relu(3),
    "squared relu": SquaredRelu(3),
    "softpick": Softpick(),
    "sparsemax": Sparsemax(),
    "entmax15": Entmax15(),
    "stick-breaking": StickBreaking(),
    "talking heads": TalkingHeads(drawn(4, 4), drawn(4, 4)),
    "contextual positions": ContextualPositions(drawn(7, 4)),
}


def shares(asked: Asked) -> tuple[list[list[Ball]], list[Ball]]:
    rows = [softmax(scores) for scores in asked.scores]
    return [weights for weights, _ in rows], [lse for _, lse in rows]


@pytest.mark.by_hand("variants/dense/weighed")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_softmax_held_whole_equals_by_hand(dtype: Any) -> None:
    w, x = small(dtype=dtype)
    layer = Weighed(w, mask=Causal() & (Sink(1) | Window(2)), scale=1.5, softcap=0.75, page=2)
    wanted = by_hand(w, x, shares, sees=lambda i, j: j <= i and (j == 0 or i - j < 2), scale=1.5, softcap=0.75)
    assert gap(layer.definition(x, np.arange(6)), wanted) <= 1
    for cuts in ((), (1, 2, 3, 4, 5), (2, 2, 5)):
        assert gap(stepped(layer, x, cuts)[0], wanted) <= 1


class Doubled:
    """A finish that sees the mix, the input and the positions."""

    def finish(self, mixed: Array, x: Array, positions: Positions) -> Array:
        return mixed * 2 + x[:, None, :, :1] + positions[:, None, :, None].astype(x.dtype)

    def finish_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        return Tally(arithmetic=tokens)


FEATURES: dict[str, Any] = {
    "query_key": (Rotary.of(4), Rotary.of(4, base=100.0)),
    "mods": (Alibi.of(4),),
    "mask": Causal() & Chunked(3),
    "scale": 0.3,
    "softcap": 0.7,
    "finish": (Doubled(),),
}


@pytest.mark.parametrize("query_key", [FEATURES["query_key"], (Rotary.of(4), Polar.of(4, 2))])
def test_every_feature_means_what_it_means_in_grouped_attention(query_key: Any) -> None:
    """Polar widens the rows; the scale stays that of the projection unless given."""
    features = FEATURES | {"query_key": query_key, "scale": None}
    this, that = Weighed(W, page=2, **features), Grouped(W, page=2, **features)
    for found, wanted in (
        (this.definition(X, np.arange(6)), that.definition(X, np.arange(6))),
        (stepped(this, X, (1, 4))[0], stepped(that, X, (1, 4))[0]),
    ):
        assert np.allclose(found.out, wanted.out, rtol=1e-13, atol=1e-13)
        assert np.allclose(found.lse, wanted.lse, rtol=1e-13, atol=1e-13)


FULL = Weighed(W, Sigmoid(0.5), beside=(RelativeValues(drawn(5, 3)),), page=2, **FEATURES)
CHANGES: dict[str, Any] = {
    "projections": small(4, 1)[0],
    "weighing": Softmax(),
    "mask": Window(3),
    "beside": (),
    "query_key": (Rotary.of(4, base=100.0), Rotary.of(4)),
    "finish": (),
    "mods": (),
    "scale": 1.25,
    "softcap": 0.5,
    "page": 3,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_matters_but_the_page_and_the_order_of_turns(name: str) -> None:
    other = replace(FULL, **{name: CHANGES[name]})
    if name == "query_key":
        other = replace(FULL, query_key=FULL.query_key[:1])
    same_definition = np.array_equal(FULL.definition(X, np.arange(6)).out, other.definition(X, np.arange(6)).out)
    same_steps = np.array_equal(stepped(FULL, X, (2,))[0].out, stepped(other, X, (2,))[0].out)
    assert same_definition == same_steps == (name == "page")


def test_every_field_is_changed() -> None:
    assert set(CHANGES) == set(Weighed.__dataclass_fields__)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", WEIGHINGS)
def test_hidden_columns_change_no_bit(name: str, dtype: Any) -> None:
    """A block of nothing in front, between or behind, and NaN in it."""
    weighing = WEIGHINGS[name]
    if name in ("talking heads", "contextual positions"):
        cast = {n: getattr(weighing, n).astype(dtype) for n in ("logits", "weights", "table") if hasattr(weighing, n)}
        weighing = replace(weighing, **cast)  # type: ignore[type-var]
    scores, seen = drawn(4, 3, 512).astype(dtype), drawn(4, 3, 512) > -0.5
    seen[1, 2] = False
    place = NOWHERE._replace(queries=drawn(4, 3, 4).astype(dtype))
    hidden = np.full((4, 3, 256), np.nan, dtype)
    with np.errstate(invalid="ignore", under="ignore", divide="ignore"):
        plain = weighing.weigh(scores, seen, place)
        for cut in (0, 256, 512):
            spread = np.concatenate([scores[..., :cut], hidden, scores[..., cut:]], axis=-1)
            shown = np.concatenate([seen[..., :cut], np.zeros(hidden.shape, np.bool_), seen[..., cut:]], axis=-1)
            found = weighing.weigh(spread, shown, place)
            kept = np.concatenate([found.weights[..., :cut], found.weights[..., cut + 256 :]], axis=-1)
            assert kept.tobytes() == plain.weights.tobytes()
            assert not found.weights[..., cut : cut + 256].any()
            assert found.lse.tobytes() == plain.lse.tobytes()
    assert plain.weights.dtype == plain.lse.dtype == dtype
    if name != "talking heads":  # there the other heads' keys are mixed in
        assert not plain.weights[~seen].any()


@pytest.mark.parametrize("name", WEIGHINGS)
def test_each_row_is_weighed_by_itself(name: str) -> None:
    scores, seen = drawn(4, 3, 256), drawn(4, 3, 256) > -0.5
    queries = drawn(4, 3, 4)
    with np.errstate(under="ignore"):
        whole = WEIGHINGS[name].weigh(scores, seen, NOWHERE._replace(queries=queries)).weights
        for row in range(3):
            one = (
                scores[:, row : row + 1],
                seen[:, row : row + 1],
                NOWHERE._replace(queries=queries[:, row : row + 1]),
            )
            assert WEIGHINGS[name].weigh(*one).weights.tobytes() == whole[:, row : row + 1].tobytes()


@pytest.mark.parametrize("name", WEIGHINGS)
def test_a_row_that_sees_no_key_is_0(name: str) -> None:
    nobody = Causal() & ~Window(3)
    layer = Weighed(W, WEIGHINGS[name], nobody)
    for found in (layer.definition(X, np.arange(6)), stepped(layer, X, (1,))[0]):
        assert not found.out[:, :3].any()
        assert (found.out[:, 4:] != 0).any()
        assert np.isneginf(found.lse[:, :, :3]).all() or np.isnan(found.lse).all()


@pytest.mark.parametrize("name", WEIGHINGS)
def test_work_adds_over_pairs_and_rows(name: str) -> None:
    cost: Callable[..., Tally] = WEIGHINGS[name].cost
    assert cost(pairs=7, rows=2, width=4) + cost(pairs=5, rows=3, width=4) == cost(pairs=12, rows=5, width=4)


def test_a_step_of_no_tokens_gives_no_rows() -> None:
    for cache in (FULL.start(2), stepped(FULL, X, ())[1]):
        found, after = FULL.step(cache, np.zeros((2, 0, 5)))
        assert found.out.shape == (2, 0, 5)
        assert found.lse.shape == (2, 4, 0)
        assert after.lengths == cache.lengths
    assert FULL.definition(np.zeros((2, 0, 5)), np.arange(0)).out.shape == (2, 0, 5)


def test_a_step_that_an_earlier_token_would_have_seen_is_refused() -> None:
    layer = Weighed(W, Sigmoid(), Causal() | Prefix(4))
    assert np.allclose(stepped(layer, X, (4,))[0].out, layer.definition(X, np.arange(6)).out, rtol=1e-13, atol=1e-13)
    _, cache = stepped(layer, X[:, :2], ())
    with pytest.raises(PositionError, match=r"^x must begin where no earlier token sees further, but "):
        layer.step(cache, X[:, 2:])


def test_it_caches_what_grouped_attention_does() -> None:
    with counting() as tally:
        _, cache = stepped(FULL, X[:1], (1, 4))
    assert cache.nbytes == tally.kv_written == 6 * 2 * (4 + 3) * 8


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "weighing": (
        lambda: Weighed(W, "softmax"),  # type: ignore[arg-type]
        ArgumentError,
        r"^weighing must be a value that makes weights of scores, got 'softmax'$",
    ),
    "weighing, a class": (
        lambda: Weighed(W, Softmax),  # type: ignore[arg-type]
        ArgumentError,
        r"^weighing must be a value that makes weights of scores, got <class ",
    ),
    "scale": (lambda: Weighed(W, scale=math.nan), ArgumentError, r"^scale must be a finite number, got nan$"),
    "mask": (
        lambda: Weighed(W, mask=3),  # type: ignore[arg-type]
        ArgumentError,
        r"^mask must be a mask of kvattn.masks or None, got 3$",
    ),
    "rank": (
        lambda: FULL.step(FULL.start(), np.ones((2, 5))),
        ShapeError,
        r"^x must have shape \[B, T, M\] with B=1, M=5, got \(2, 5\)$",
    ),
    "dtype": (
        lambda: FULL.definition(X.astype("f4"), np.arange(6)),
        DtypeError,
        r"^x must have the dtype of the weights, float64, got float32$",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name: str) -> None:
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()
