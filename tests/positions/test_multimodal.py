"""M-RoPE: which axis a pair follows, which coordinates a token has, and a layer that counts its tokens 0, 1, 2 …"""

import cmath
import math
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.positions.axial import centres, grid, repeated
from kvattn.positions.multimodal import Multimodal, alternating, chunked, interleaved, mixed
from kvattn.positions.rotary import Rotary, geometric
from kvattn.testing.balls import Ball, agree
from kvattn.testing.heads_by_hand import Bend, Heads, layer_by_hand
from kvattn.testing.laws import stepped
from kvattn.typing import Attended
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections

M, HEADS, KV_HEADS, D, DV = 5, 4, 2, 12, 3
BASE = 100.0

AXES = {
    "Qwen2-VL": chunked((2, 1, 3)),
    "Qwen3-VL": interleaved((2, 2, 2)),
    "Qwen3-VL, leftovers": interleaved((4, 1, 1)),
    "GLM-4.1V": chunked((1, 2, 3)),
    "ERNIE-4.5-VL": alternating((2, 2, 2)),
}
LAYOUT: dict[str, Any] = {name: "adjacent" if name[0] in "GE" else "half" for name in AXES}


def axis_of(name: str, pair: int) -> int:
    """The coordinate (0 time, 1 height, 2 width) that each of six pairs follows, written out."""
    return {
        "Qwen2-VL": (0, 0, 1, 2, 2, 2),
        "Qwen3-VL": (0, 1, 2, 0, 1, 2),
        "Qwen3-VL, leftovers": (0, 1, 2, 0, 0, 0),
        "GLM-4.1V": (0, 1, 1, 2, 2, 2),
        "ERNIE-4.5-VL": (1, 2, 1, 2, 0, 0),
    }[name][pair]


WHERE = [(0, 0, 0), (1, 1, 1), (2, 2, 2), (2, 2, 3), (2, 3, 2), (2, 3, 3), (4, 4, 4), (5, 5, 5)]
"""Two words, an image of 2 rows and 2 columns, two words."""

T = len(WHERE)
TABLE = mixed([2, (1, 2, 2), 2])


def drawn(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def rotary_of(name: str) -> Rotary:
    return Rotary(geometric(D, BASE), LAYOUT[name], axes=AXES[name])


def turned(name: str, row: list[Ball], places: tuple[float, ...]) -> list[Ball]:
    out, unit = list(row), row[0].unit
    for k in range(D // 2):
        a, b = (k, k + D // 2) if LAYOUT[name] == "half" else (2 * k, 2 * k + 1)
        angle = places[axis_of(name, k)] * math.exp(-math.log(BASE) * 2 * k / D)
        at = cmath.rect(1.0, angle)
        error = unit + 2.0**-53 * (8 + 16 * abs(angle))
        cosine, sine = Ball(at.real, error, unit), Ball(at.imag, error, unit)
        out[a], out[b] = row[a] * cosine - row[b] * sine, row[a] * sine + row[b] * cosine
    return out


def weights(dtype: Any = np.float64) -> Projections:
    shapes = (M, HEADS * D), (M, KV_HEADS * D), (M, KV_HEADS * DV), (HEADS * DV, M)
    query, key, value, output = (drawn(*shape, seed=n, dtype=dtype) * dtype(0.5) for n, shape in enumerate(shapes))
    return Projections(query, key, value, output, HEADS, KV_HEADS)


def gap(name: str, found: Attended, x: Any, where: list[tuple[float, ...]] = WHERE) -> float:  # type: ignore[assignment]
    def bend(i: int, heads: Heads) -> Heads:
        return [turned(name, head, where[i]) for head in heads]

    both: dict[str, Bend] = {"queries": bend, "keys": bend}
    out, lse = layer_by_hand(weights(x.dtype.type), x, **both)  # type: ignore[arg-type]
    return max(agree(found.out, out), agree(found.lse, lse))


def layer_of(name: str, dtype: Any = np.float64, table: Any = TABLE) -> Grouped:
    return Grouped(weights(dtype), query_key=(Multimodal(rotary_of(name), table),), page=3)


@pytest.mark.by_hand("positions/multimodal")
@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize("cuts", [None, (), tuple(range(1, T)), (4, 4)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_layer_equals_by_hand(name: str, cuts: tuple[int, ...] | None, dtype: Any) -> None:
    layer, x = layer_of(name, dtype), drawn(1, T, M, seed=9, dtype=dtype)
    found = layer.definition(x, np.arange(T)) if cuts is None else stepped(layer, x, cuts)[0]
    assert found.out.dtype == dtype
    assert gap(name, found, x) <= 1


MUTANTS: dict[str, Any] = {
    "time and height exchanged": lambda r: Multimodal(r, TABLE[[1, 0, 2]]),
    "one position for all": lambda r: Multimodal(r, np.stack([np.arange(T)] * 3)),
    "text after the image counts tokens": lambda r: Multimodal(r, np.where(np.arange(T) > 5, np.arange(T), TABLE)),
    "columns vary slowest": lambda r: Multimodal(r, TABLE[:, [0, 1, 2, 4, 3, 5, 6, 7]]),
    "other layout": lambda r: Multimodal(
        Rotary(r.frequencies, "adjacent" if r.layout == "half" else "half", axes=r.axes), TABLE
    ),
    "sections in turn": lambda r: Multimodal(Rotary(r.frequencies, r.layout, axes=r.axes[::-1]), TABLE),
}


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("name", AXES)
def test_another_place_is_rejected(name: str, mutant: str) -> None:
    x = drawn(1, T, M, seed=9)
    wrong = Grouped(weights(), query_key=(MUTANTS[mutant](rotary_of(name)),))
    assert gap(name, wrong.definition(x, np.arange(T)), x) > 2


def test_each_order_of_axes_is_told_from_the_others() -> None:
    x = drawn(1, T, M, seed=9)
    for name in AXES:
        for other in AXES:
            found = layer_of(other).definition(x, np.arange(T))
            assert (gap(name, found, x) <= 1) == (name == other)


@pytest.mark.law("positions/multimodal", "text alone is RoPE", "bits")
@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_text_alone_is_rope_to_the_bit(name: str, dtype: Any) -> None:
    x, at = drawn(2, 3, T, D, dtype=dtype), np.arange(T)[None, None]
    rope = Rotary(geometric(D, BASE), LAYOUT[name])
    for side in ("queries", "keys"):
        found = getattr(Multimodal(rotary_of(name), mixed([T])), side)(x, at)
        assert found.tobytes() == rope.rotate(x, at).tobytes()


@pytest.mark.law("positions/multimodal", "moving a whole conversation changes no score", "bound")
def test_moving_all_coordinates_alike_changes_nothing() -> None:
    x = drawn(1, T, M)
    here, there = (
        layer_of("Qwen3-VL", table=TABLE + by).definition(x, np.arange(T)).out for by in (0, np.array([[5], [7], [-3]]))
    )
    assert np.abs(here - there).max() < 1e-13


def test_sections_are_the_models() -> None:
    assert chunked((16, 24, 24)) == (0,) * 16 + (1,) * 24 + (2,) * 24
    qwen3 = interleaved((24, 20, 20))
    assert [qwen3.count(axis) for axis in range(3)] == [24, 20, 20]
    assert qwen3[:60] == (0, 1, 2) * 20
    assert qwen3[60:] == (0, 0, 0, 0)
    assert interleaved((11, 11, 10)) == (0, 1, 2) * 10 + (0, 1)
    ernie = alternating((22, 22, 20))
    assert ernie[:44] == (1, 2) * 22
    assert ernie[44:] == (0,) * 20


def test_text_and_grids_are_laid_out_one_behind_the_other() -> None:
    assert [tuple(column) for column in TABLE.T.tolist()] == WHERE
    video = mixed([1, (2, 1, 2), 0, (1, 3, 1)])
    assert video.T.tolist() == [[0, 0, 0], [1, 1, 1], [1, 1, 2], [2, 1, 1], [2, 1, 2], [3, 3, 3], [3, 4, 3], [3, 5, 3]]
    assert mixed([]).shape == (3, 0)


def test_a_vision_encoder_counts_its_patches() -> None:
    """Axial rotation of a grid through the same table; without a mask every patch sees every patch."""
    rotary: Any = repeated(D)
    table = 2 * np.pi * centres(2, 4)
    layer = Grouped(weights(), None, (Multimodal(rotary, table),))
    x, w = drawn(1, 8, M), weights()
    q, k = (rotary.rotate(rows, table[:, None, None]) for rows in (w.queries(x), w.keys(x)))
    plain = Grouped(w, None)
    whole = Multimodal(repeated(D), grid(2, 4)).queries(w.queries(x), np.arange(8)[None, None])
    assert np.array_equal(Multimodal(rotary, table).queries(w.queries(x), np.arange(8)[None, None]), q)
    assert np.array_equal(Multimodal(rotary, table).keys(w.keys(x), np.arange(8)[None, None]), k)
    assert not np.array_equal(whole, q)
    assert not np.allclose(layer.definition(x, np.arange(8)).out, plain.definition(x, np.arange(8)).out)


def test_the_table_is_read_once() -> None:
    table = TABLE.copy()
    scheme = Multimodal(rotary_of("Qwen2-VL"), table)
    table += 1
    assert (scheme.coordinates == TABLE).all()
    assert not scheme.coordinates.flags.writeable


@pytest.mark.law("positions/multimodal", "cost is count", "integers")
@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_the_cost_is_what_is_counted(tokens: int) -> None:
    scheme = Multimodal(rotary_of("Qwen2-VL"), TABLE)
    at = np.arange(tokens)[None, None].repeat(2, 0)
    for heads, side in ((HEADS, "queries"), (KV_HEADS, "keys")):
        with counting() as counted:
            getattr(scheme, side)(drawn(2, heads, tokens, D), at)
        assert counted.tally == getattr(scheme, f"{side}_cost")(tokens=2 * tokens, heads=heads, width=D)
        assert counted.tables_read == 2 * tokens * 3 * 8


ROTARY = rotary_of("Qwen2-VL")
ROWS = np.ones((2, 1, 3, D))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: chunked((2, -1)), ArgumentError, r"^sections\[1\] must be an integer >= 0, got -1$"),
        (
            lambda: interleaved((0, 2, 2)),
            ArgumentError,
            r"^sections must leave room to deal out axis 1, got \(0, 2, 2\)$",
        ),
        (
            lambda: alternating((2, 3, 1)),
            ArgumentError,
            r"^sections must be pairs of height, width \(as many\) and time",
        ),
        (lambda: alternating((2, 2)), ArgumentError, r"^sections must be pairs of height, width .*, got \(2, 2\)$"),
        (
            lambda: mixed([2, (1, 2)]),
            ArgumentError,
            r"^parts\[1\] must be \(frames, rows, columns\) or a number of tok",
        ),
        (lambda: mixed([-1]), ArgumentError, r"^parts\[0\] must be an integer >= 0, got -1$"),
        (lambda: mixed([(1, 0, 2)]), ArgumentError, r"^parts\[0\]\[1\] must be an integer >= 1, got 0$"),
        (lambda: Multimodal(Rotary.of(4), TABLE), ArgumentError, r"^rotary must be a Rotary with axes, got Rotary\("),
        (lambda: Multimodal(None, TABLE), ArgumentError, r"^rotary must be a Rotary with axes, got None$"),  # type: ignore[arg-type]
        (
            lambda: Multimodal(ROTARY, TABLE[:2]),
            ShapeError,
            r"^coordinates must have shape \[A, S\] with A >= 3, got \(2, 8\)$",
        ),
        (lambda: Multimodal(ROTARY, TABLE > 2), DtypeError, r"^coordinates must be numbers, got dtype bool$"),
        (
            lambda: Multimodal(ROTARY, np.where(TABLE > 2, np.nan, 0.0)),
            DtypeError,
            r"^coordinates must be finite numbers, got NaN or infinity$",
        ),
        (
            lambda: Multimodal(ROTARY, TABLE).queries(ROWS, np.array([0, 7, 8])),
            PositionError,
            r"^positions must be in 0 \.\. 7, which the coordinates cover, got 8$",
        ),
        (
            lambda: Multimodal(ROTARY, TABLE).keys(ROWS, np.array([0, -1, 1])),
            PositionError,
            r"^positions must be in 0 \.\. 7, which the coordinates cover, got -1$",
        ),
        (
            lambda: Multimodal(ROTARY, TABLE).queries(ROWS, np.arange(4)),
            ShapeError,
            r"^positions must broadcast to q.shape\[:-1\], which is \(2, 1, 3\), got \(4,\)$",
        ),
        (
            lambda: Multimodal(ROTARY, TABLE).queries(ROWS, np.array([0.0, 1.0, 2.0])),
            PositionError,
            r"^positions must be integers, got dtype float64$",
        ),
    ],
    ids=range(16),
)
def test_a_bad_argument_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
