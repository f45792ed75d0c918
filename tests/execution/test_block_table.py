"""Block tables: the same rows wherever they lie, and nothing else is ever read."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.execution import BlockTable, Question
from kvattn.masks import Causal, Document, Window
from kvattn.positions.alibi import Alibi
from kvattn.typing import Array
from tests.execution.questions import distance_by_hand

HKV, D, DV = 2, 5, 3
PIPELINES: list[dict[str, Any]] = [
    {},
    {"mask": Causal()},
    {"mask": Window(3), "sinks": np.array([0.5, -1.0, 2.0, 0.0]), "softcap": 3.0},
    {"mask": Causal(), "mods": (Alibi.of(4),), "scale": 0.3},
]


def store(rows: list[tuple[Array, Array]], page: int, seed: int) -> BlockTable:
    """Blocks in random places of a pool with some to spare, full of NaN where nobody wrote."""
    random = np.random.default_rng(seed)
    counts = [-(-k.shape[1] // page) for k, _ in rows]
    total, columns = sum(counts) + 3, max(counts) + 1
    keys, values = np.full((total, page, HKV, D), np.nan), np.full((total, page, HKV, DV), np.nan)
    free, table = list(random.permutation(total)), np.full((len(rows), columns), -1)
    for b, (k, v) in enumerate(rows):
        for slot in range(k.shape[1]):
            if slot % page == 0:
                table[b, slot // page] = free.pop()
            place = table[b, slot // page], slot % page
            keys[place], values[place] = k[:, slot], v[:, slot]
    return BlockTable(keys, values, table, [k.shape[1] for k, _ in rows])


@st.composite
def held(draw: st.DrawFn) -> tuple[Array, list[tuple[Array, Array]], int]:
    """Queries, rows of sequences of different lengths, and a page around those lengths."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    page = draw(st.sampled_from([1, 2, 3, 4, max(lengths), max(lengths) + 1]))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    rows: list[tuple[Array, Array]] = [
        (random.normal(size=(HKV, n, D)), random.normal(size=(HKV, n, DV))) for n in lengths
    ]
    q: Array = random.normal(size=(len(lengths), 4, draw(st.integers(1, min(lengths))), D))
    return q, rows, page


@pytest.mark.by_hand("execution/block_table")
@pytest.mark.law("execution/block_table", "physical places do not show", "bits")
@given(held(), st.integers(0, 99), st.integers(0, 99), st.sampled_from(PIPELINES))
def test_where_blocks_lie_does_not_show(
    case: tuple[Array, list[tuple[Array, Array]], int], seed: int, other: int, pipeline: dict[str, Any]
) -> None:
    """To the bit: two placements, another page size, and each sequence alone as plain arrays."""
    q, rows, page = case
    found, again = store(rows, page, seed).attend(q, **pipeline), store(rows, page + 1, other).attend(q, **pipeline)
    assert np.array_equal(found.out, again.out)
    assert np.array_equal(found.lse, again.lse)
    for b, (k, v) in enumerate(rows):
        alone = Question(q[b : b + 1], k[None], v[None], **pipeline)
        wanted = alone.attend()
        assert np.array_equal(found.out[b], wanted.out[0])
        assert np.array_equal(found.lse[b], wanted.lse[0])
        assert distance_by_hand(wanted, alone) <= 1


def test_sequences_may_share_blocks_and_masks_know_whom_they_ask() -> None:
    random = np.random.default_rng(1)
    pool = random.normal(size=(3, 2, 1, 2))
    table = BlockTable(pool, pool, [[2, 0], [2, 1]], [4, 4])
    mask = Document([[0, 0, 0, 0], [0, 0, 1, 1]])
    found = table.attend(np.ones((2, 1, 1, 2)), mask=mask)
    for b in range(2):
        k, v = table.rows(b)
        first = 0 if b == 0 else 2
        wanted = Question(np.ones((1, 1, 1, 2)), k[None, :, first:], v[None, :, first:]).attend()
        assert np.allclose(found.out[b], wanted.out[0], rtol=1e-14)
        assert np.allclose(found.lse[b], wanted.lse[0], rtol=1e-14)


def test_the_table_is_read_as_far_as_it_is_used() -> None:
    pool = np.zeros((4, 2, 1, 3))
    table = BlockTable(pool, pool, [[3, 1, -1], [0, -1, -7]], [3, 2])
    with counting() as tally:
        table.attend(np.zeros((2, 2, 1, 3)))
    assert tally.tables_read == 8 * (2 + 1)
    assert tally.kv_read == (3 + 2) * (3 + 3) * 8
    assert repr(table) == "BlockTable(blocks=4, page=2, lengths=(3, 2))"


@pytest.mark.parametrize("length", [3, 4, 5])
def test_one_block_more_begins_behind_a_full_one(length: int) -> None:
    """Around a page of 4: ``length // 4 + 1`` blocks, or the last one read in full, would meet NaN or raise."""
    pool = np.full((2, 4, 1, 1), np.nan)
    flat = np.arange(float(length))
    pool.reshape(-1)[:length] = flat
    table = BlockTable(pool, pool, [[0, 1 if length > 4 else -1]], [length])
    assert table.attend(np.zeros((1, 1, 1, 1))).out.item() == pytest.approx(flat.mean())


POOL = np.zeros((3, 2, 1, 4))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((POOL, POOL, [[3]], [1]), PositionError, r"^table\[0, 0\] must name a block in 0 \.\. 2, got 3$"),
        ((POOL, POOL, [[0, -1]], [3]), PositionError, r"^table\[0, 1\] must name a block in 0 \.\. 2, got -1$"),
        ((POOL, POOL, [[0]], [3]), ArgumentError, r"^lengths\[0\] must be an integer in 0 \.\. 2, got 3$"),
        ((POOL, POOL, [[0]], [-1]), ArgumentError, r"^lengths\[0\] must be an integer in 0 \.\. 2, got -1$"),
        ((POOL, POOL, [[0.0]], [1]), ArgumentError, "^table must hold integers, got dtype float64$"),
        ((POOL, POOL, [[0]], [True]), ArgumentError, "^lengths must hold integers, got dtype bool$"),
        (
            (POOL, POOL[:2], [[0]], [1]),
            ShapeError,
            r"^values must have shape \[N, page, Hkv, Dv\] with N=3, page=2, Hkv=1, got",
        ),
        ((POOL, POOL, [[0]], [1, 1]), ShapeError, r"^lengths must have shape \[B\] with B=1, got \(2,\)$"),
        ((POOL[:, :0], POOL[:, :0], [[0]], [0]), ArgumentError, "^page must be an integer >= 1, got 0$"),
        ((POOL > 0, POOL, [[0]], [1]), DtypeError, "^keys must be an array of real numbers, got dtype bool$"),
    ],
)
def test_a_bad_table_is_named(arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        BlockTable(*arguments)


@pytest.mark.parametrize(
    ("q", "pipeline", "error", "words"),
    [
        (np.zeros((2, 1, 1, 4)), {}, ShapeError, r"^q must have shape \[1, Hq, T, D\] with D=4, got \(2, 1, 1, 4\)$"),
        (
            np.zeros((1, 1, 4, 4)),
            {},
            ArgumentError,
            "^q must have at most as many tokens as the shortest sequence, 3, got 4$",
        ),
        (
            np.zeros((1, 1, 1, 4)),
            {"mask": Causal},
            ArgumentError,
            r"^mask must be a mask of kvattn\.masks or None, got",
        ),
        (np.zeros((1, 1, 1, 4)), {"sinks": [0, 0]}, ShapeError, r"^sinks must have shape \[1\], got \(2,\)$"),
        (np.zeros((1, 1, 1, 4)), {"softcap": -1}, ArgumentError, "^softcap must be a finite number above 0, got -1$"),
    ],
)
def test_a_bad_query_is_named(q: Any, pipeline: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        BlockTable(POOL, POOL, [[2, 0]], [3]).attend(q, **pipeline)
