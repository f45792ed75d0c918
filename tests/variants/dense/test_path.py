"""PaTH attention against the layer by hand: matrices of each token on the way, multiplied out pair by pair."""

from dataclasses import replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.core import scored
from kvattn.core.weights import Softmax
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.masks import Causal
from kvattn.testing.balls import Ball, agree, dot, given, total
from kvattn.testing.laws import stepped
from kvattn.testing.weighed_by_hand import sigmoid, small, softmax
from kvattn.typing import Array, Attended, Place
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.path import Path, Walk

W, X = small()
DIRECTION, STRENGTH = (np.random.default_rng([3, n]).normal(size=(5, columns)) for n, columns in enumerate((8, 2)))
LAYER = Path(W, DIRECTION, STRENGTH, page=2)
D, DV, GROUP = 4, 3, 2


def root(ball: Ball) -> Ball:
    return ball.through(math.sqrt, 0.5 / math.sqrt(ball.value))


def columns(matrix: Array) -> list[list[Ball]]:
    return [list(column) for column in zip(*given(matrix), strict=True)]


def by_hand(layer: Path, x: Array) -> tuple[Any, Any]:
    """H_{j+1} … H_i q_i from the right, with whole matrices ``I - β w wᵀ``."""
    w = layer.projections
    matrices = (w.query, w.key, w.value, layer.direction, layer.strength, w.output)
    wq, wk, wv, ww, wb, wo = (columns(matrix) for matrix in matrices)
    out, lse = [], []
    for sequence in given(x):
        turns: list[list[list[list[Ball]]]] = []
        for row in sequence:
            turns.append([])
            for g in range(w.kv_heads):
                straight = [dot(row, ww[g * D + d]) for d in range(D)]
                length = root(total([number * number for number in straight]))
                unit = [number / length for number in straight]
                raised = dot(row, wb[g])
                if layer.strength_bias is not None:
                    raised = raised + given(layer.strength_bias)[g]
                beta = sigmoid(raised) * 2.0
                turns[-1].append([[Ball(float(a == b)) - beta * unit[a] * unit[b] for b in range(D)] for a in range(D)])
        mixed: list[list[Ball]] = [[] for _ in sequence]
        logs: list[list[Ball]] = []
        for h in range(w.heads):
            g = h // GROUP
            logs.append([])
            for i, row in enumerate(sequence):
                query = [dot(row, wq[h * D + d]) for d in range(D)]
                scores: list[Ball] = []
                for j in range(i + 1):
                    walked = query
                    for t in range(i, j, -1):
                        walked = [dot(line, walked) for line in turns[t][g]]
                    key = [dot(sequence[j], wk[g * D + d]) for d in range(D)]
                    scores.append(dot(key, walked) * (0.5 if layer.scale is None else layer.scale))
                weights, top = softmax(scores)
                values = [[dot(sequence[j], wv[g * DV + d]) for d in range(DV)] for j in range(i + 1)]
                mixed[i] += [dot(weights, [value[d] for value in values]) for d in range(DV)]
                logs[h].append(top)
        out.append([[dot(row, column) for column in wo] for row in mixed])
        lse.append(logs)
    return out, lse


def gap(found: Attended, layer: Path, x: Array) -> float:
    out, lse = by_hand(layer, x)
    return max(agree(found.out, out), agree(found.lse, lse))


@pytest.mark.by_hand("variants/dense/path")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_definition_and_steps_equal_by_hand(dtype: Any) -> None:
    w, x = small(dtype=dtype)
    bias = np.array([0.5, -1.0], dtype)
    for strength_bias in (None, bias):
        layer = Path(w, DIRECTION.astype(dtype), STRENGTH.astype(dtype), strength_bias, page=2)
        assert gap(layer.definition(x, np.arange(6)), layer, x) <= 1
        for cuts in ((), (1, 2, 3, 4, 5), (2, 2, 5)):
            assert gap(stepped(layer, x, cuts)[0], layer, x) <= 1


class Wrong(Walk):
    """A walk with one thing wrong."""

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "name", name)

    def __call__(self, rows: Array, blocks: Any, place: Place, /) -> list[Array]:
        name = self.name  # type: ignore[attr-defined]
        (block,) = blocks
        heads, width, _ = block.k.shape
        scores = np.zeros((*rows.shape[:2], 256))
        for row in range(rows.shape[1]):
            i = int(place.q_positions[0, row, 0])
            for head in range(heads):
                w = block.notes[: heads * width].reshape(heads, width, 256)[head]
                beta = block.notes[heads * width :][head]
                for j in range(i + 1):
                    way = range(i, j, -1)
                    if name == "the key's own token too":
                        way = range(i, j - 1, -1)
                    if name == "not the query's own":
                        way = range(i - 1, j, -1)
                    if name == "from the key on":
                        way = range(j + 1, i + 1)
                    walker = rows[head, row]
                    for t in way:
                        turn = np.outer(w[:, t], w[:, t]) * beta[t] * (0.5 if name == "β without its 2" else 1.0)
                        walker = walker - turn @ walker
                    scores[head, row, j] = block.k[head, :, j] @ walker
        return [scores]


def walked(name: str) -> Attended:
    """One step of the layer, with another walk in it."""
    cache = LAYER.step(LAYER.start(2), X)[1]
    blocks = [LAYER._blocks(cache, b) for b in range(2)]
    at = np.arange(6)[None].repeat(2, 0)
    options: Any = {"value_width": DV, "weighing": Softmax(), "scoring": Wrong(name), "mask": Causal()}
    mixed, lse = scored.attend(W.queries(X), at, blocks, **options)
    return Attended(W.outputs(mixed), lse)


@pytest.mark.parametrize(
    ("name", "rejected"),
    [
        ("nothing", False),
        ("the key's own token too", True),
        ("not the query's own", True),
        ("from the key on", True),
        ("β without its 2", True),
    ],
)
def test_wrong_walks_are_rejected(name: str, rejected: bool) -> None:
    apart = gap(walked(name), LAYER, X)
    assert apart > 1e9 if rejected else apart <= 1


def test_no_strength_is_attention_without_positions() -> None:
    """β = 2 σ(-800) = 0: nobody turns anything."""
    layer = Path(W, DIRECTION, np.zeros((5, 2)), np.full(2, -800.0))
    plain = Grouped(W)
    for found, wanted in (
        (stepped(layer, X, (2,))[0], stepped(plain, X, (2,))[0]),
        (layer.definition(X, np.arange(6)), plain.definition(X, np.arange(6))),
    ):
        assert np.allclose(found.out, wanted.out, rtol=1e-13, atol=1e-13)
        assert np.allclose(found.lse, wanted.lse, rtol=1e-13, atol=1e-13)


def test_a_direction_of_zeros_lets_pass() -> None:
    layer = Path(W, np.zeros((5, 8)), STRENGTH)
    for found in (stepped(layer, X, (2,))[0], layer.definition(X, np.arange(6))):
        assert np.allclose(found.out, Grouped(W).definition(X, np.arange(6)).out, rtol=1e-13, atol=1e-13)


def test_two_reflections_at_the_same_mirror_are_none() -> None:
    """β = 2 and the same w for every token: a key an even number of tokens away is seen straight."""
    same = np.zeros((5, 8))
    same[4] = np.random.default_rng(0).normal(size=8)
    strong = np.zeros((5, 2))
    x = np.concatenate([X[..., :4], np.ones((2, 6, 1))], axis=-1)
    layer = Path(W, same, strong, np.full(2, 800.0))
    cache = layer.step(layer.start(2), x)[1]
    rows = np.zeros((2, 8, 4))
    rows[:, 0] = W.queries(x)[0, ::2, 5]
    at = np.full((1, 8, 1), 5)
    place = Place(0, np.arange(2)[:, None, None], None, at, at)
    (found,) = Walk()(rows, layer._blocks(cache, 0), place)
    keys = W.keys(x)[0]
    straight = np.einsum("hd,hjd->hj", rows[:, 0], keys)
    assert np.allclose(found[:, 0, [1, 3, 5]], straight[:, [1, 3, 5]], rtol=1e-12, atol=1e-13)
    assert not np.allclose(found[:, 0, [0, 2, 4]], straight[:, [0, 2, 4]], rtol=1e-3)


def test_a_token_caches_key_value_direction_and_strength() -> None:
    _, cache = stepped(LAYER, X[:1], (1, 4))
    assert cache.nbytes == 6 * 2 * (2 * D + DV + 1) * 8
    first = cache.rows(0, 3)
    later = stepped(LAYER, X[:1, :3], ())[1].rows()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, later, strict=True))  # nothing is rewritten
    assert np.allclose((first.direction**2).sum(-1), 1.0, rtol=1e-15)


def test_every_field_matters_but_the_page() -> None:
    changes: dict[str, Any] = {
        "projections": small(2, 2)[0],
        "direction": DIRECTION + 1,
        "strength": STRENGTH + 1,
        "strength_bias": np.ones(2),
        "scale": 1.5,
        "page": 3,
    }
    assert set(changes) == set(Path.__dataclass_fields__)
    for name, value in changes.items():
        other = replace(LAYER, **{name: value})
        same = np.array_equal(stepped(LAYER, X, (2,))[0].out, stepped(other, X, (2,))[0].out)
        assert same == (name == "page")


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "direction": ({"direction": np.ones((5, 4))}, ShapeError, r"^direction must have shape \[5, 8\], got \(5, 4\)$"),
    "strength": ({"strength": np.ones((5, 4))}, ShapeError, r"^strength must have shape \[5, 2\], got \(5, 4\)$"),
    "strength_bias": ({"strength_bias": np.ones(3)}, ShapeError, r"^strength_bias must have shape \[2\], got \(3,\)$"),
    "dtype": (
        {"strength": STRENGTH.astype("f4")},
        DtypeError,
        r"^strength must have the dtype of the projections, float64, got float32$",
    ),
    "scale": ({"scale": math.nan}, ArgumentError, r"^scale must be a finite number, got nan$"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name: str) -> None:
    fields, error, words = BAD[name]
    with pytest.raises(error, match=words):
        replace(LAYER, **fields)
