from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.variants.compressed.latent_projections import LatentProjections

HEADS, NOPE, ROPE, VALUE, RANK, HIDDEN, SOURCE = 3, 5, 4, 7, 6, 10, 8
SHAPES = {
    "kv_down": (HIDDEN, RANK),
    "kv_norm": (RANK,),
    "key_rope": (HIDDEN, ROPE),
    "key_up": (RANK, HEADS * NOPE),
    "value_up": (RANK, HEADS * VALUE),
    "query": (SOURCE, HEADS * (NOPE + ROPE)),
    "output": (HEADS * VALUE, HIDDEN),
    "query_down": (HIDDEN, SOURCE),
    "query_norm": (SOURCE,),
}


def weights(**changed: Any) -> LatentProjections:
    rng = np.random.default_rng(3)
    drawn = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    return LatentProjections(**{**drawn, "heads": HEADS, **changed})


def test_sizes_are_read_off_the_weights() -> None:
    w = weights()
    assert (w.heads, w.nope_width, w.rope_width, w.value_width) == (HEADS, NOPE, ROPE, VALUE)
    assert (w.rank, w.hidden, w.width) == (RANK, HIDDEN, NOPE + ROPE)
    assert w.dtype == np.float64


def test_absorbing_moves_a_matrix_from_the_keys_to_the_queries() -> None:
    w, rng = weights(), np.random.default_rng(0)
    q, c = rng.standard_normal((2, HEADS, 3, NOPE)), rng.standard_normal((2, 4, RANK))
    k, v = w.expand(c)
    for h in range(HEADS):
        up = w.key_up[:, h * NOPE : (h + 1) * NOPE]
        np.testing.assert_allclose(k[:, h], c @ up, rtol=1e-12)
        np.testing.assert_allclose(w.absorb(q)[:, h] @ c.swapaxes(1, 2), q[:, h] @ (c @ up).swapaxes(1, 2), rtol=1e-9)
        down = w.value_up[:, h * VALUE : (h + 1) * VALUE]
        np.testing.assert_allclose(v[:, h], c @ down, rtol=1e-12)
        mixed = np.repeat(c[:, None], HEADS, axis=1)
        np.testing.assert_allclose(w.release(mixed)[:, h], c @ down, rtol=1e-12)


def test_the_unrotated_part_of_a_query_stands_before_the_rotated_one() -> None:
    w, a = weights(), np.random.default_rng(0).standard_normal((2, 3, SOURCE))
    nope, rope = w.queries(a)
    every = (a @ w.query).reshape(2, 3, HEADS, NOPE + ROPE)
    np.testing.assert_allclose(nope, every[..., :NOPE].swapaxes(1, 2), rtol=1e-12)
    np.testing.assert_allclose(rope, every[..., NOPE:].swapaxes(1, 2), rtol=1e-12)


def test_latents_are_normed() -> None:
    w = weights(kv_norm=np.ones(RANK), query_norm=np.ones(SOURCE), eps=0.0)
    x = np.random.default_rng(0).standard_normal((2, 3, HIDDEN))
    for rows in (w.latents(x), w.query_latents(x)):
        np.testing.assert_allclose(np.square(rows).mean(-1), 1.0, rtol=1e-12)
    plain = weights(query_down=None, query_norm=None, query=np.ones((HIDDEN, HEADS * (NOPE + ROPE))))
    assert plain.query_latents(x) is x


@pytest.mark.parametrize("length", [1, 3, 8, 9])
def test_every_head_goes_through_its_matrix_as_if_a_token_were_alone(length: int) -> None:
    w, rng = weights(), np.random.default_rng(0)
    q = rng.standard_normal((2, HEADS, 20, NOPE))
    assert np.array_equal(w.absorb(q)[:, :, :length], w.absorb(q[:, :, :length]))


@pytest.mark.parametrize("verb", ["latents", "rope_keys", "query_latents", "queries", "expand", "absorb", "release"])
def test_the_closed_form_is_what_is_counted(verb: str) -> None:
    w = weights()
    rows = {"queries": (2, 3, SOURCE), "expand": (2, 3, RANK), "absorb": (2, HEADS, 3, NOPE)}
    shape = rows.get(verb, (2, HEADS, 3, RANK) if verb == "release" else (2, 3, HIDDEN))
    with counting() as tally:
        getattr(w, verb)(np.ones(shape))
    assert tally.tally == w.cost(6, verb)


def test_a_float32_layer_stays_float32() -> None:
    w = weights(**{name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}, eps=np.float64(1e-5))
    x = np.ones((1, 2, HIDDEN), np.float32)
    assert w.latents(x).dtype == w.query_latents(x).dtype == w.dtype == np.float32


def test_weights_are_copied_and_read_only() -> None:
    mine = np.ones(SHAPES["kv_down"])
    w = weights(kv_down=mine)
    mine[:] = 2
    assert (w.kv_down == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        w.kv_down[0, 0] = 3


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"heads": 0}, ArgumentError, "heads must be an integer >= 1, got 0"),
        ({"heads": True}, ArgumentError, "heads must be an integer >= 1, got True"),
        ({"eps": -1.0}, ArgumentError, "eps must be a finite number >= 0, got -1.0"),
        ({"eps": None}, ArgumentError, "eps must be a finite number >= 0, got None"),
        ({"query_norm": None}, ArgumentError, "query_down and query_norm must be given together, got only one"),
        ({"key_up": np.ones((RANK, 7))}, ShapeError, r"key_up must have shape \[r, Hq·Dn\] with Hq=3, got \(6, 7\)"),
        ({"value_up": np.ones(RANK)}, ShapeError, r"value_up must have shape \[r, Hq·Dv\] with Hq=3, got \(6,\)"),
        ({"kv_down": np.ones(4)}, ShapeError, r"kv_down must have shape \[M, r\], got \(4,\)"),
        ({"kv_norm": np.ones(5)}, ShapeError, r"kv_norm must have shape \[r\] with r=6, got \(5,\)"),
        ({"key_rope": np.ones((9, 4))}, ShapeError, r"key_rope must have shape \[M, Dr\] with M=10, got \(9, 4\)"),
        ({"key_up": np.ones((5, 15))}, ShapeError, r"key_up must have shape \[r, 15\] with r=6, got \(5, 15\)"),
        ({"query": np.ones((8, 15))}, ShapeError, r"query must have shape \[rq, 27\] with rq=8, got \(8, 15\)"),
        ({"output": np.ones((21, 9))}, ShapeError, r"output must have shape \[21, M\] with M=10, got \(21, 9\)"),
        ({"query_norm": np.ones(9)}, ShapeError, r"query_norm must have shape \[rq\] with rq=8, got \(9,\)"),
        ({"key_rope": np.ones((10, 0))}, ShapeError, r"key_rope must not be empty, got \(10, 0\)"),
        ({"query": np.ones((8, 27), np.float32)}, DtypeError, "query must be float64 or float32 like kv_down, got"),
        ({"kv_down": np.ones((10, 6), int)}, DtypeError, "kv_down must be float64 or float32 like kv_down, got int64"),
    ],
)
def test_weights_that_do_not_fit_are_refused(changed: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        weights(**changed)
