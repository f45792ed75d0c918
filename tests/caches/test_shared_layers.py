"""Layers without rows of their own read what their owner holds; hybrids go together or not at all."""

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import ChunkedLocal, Layered, Paged, Ring, SharedLayers, latent, live_bytes
from kvattn.core import streaming
from kvattn.core.definition import definition
from kvattn.errors import ArgumentError, RollbackError, ShapeError
from kvattn.masks import Causal, Window
from kvattn.positions.rotary import Rotary
from kvattn.typing import Array, Positions
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from tests.caches.numbered import SCHEMA, rows

READS = (0, 1, 1, 0)
MASKS = (Causal(), Causal() & Window(5), Causal() & Window(5), Causal())
HIDDEN = 6


def layer(number: int) -> Grouped:
    """A layer of its own weights; a reader's keys and values are never asked for."""
    draw = np.random.default_rng(number)
    q, k, v, o = (draw.normal(size=shape) / HIDDEN for shape in ((HIDDEN, 8), (HIDDEN, 4), (HIDDEN, 6), (12, HIDDEN)))
    return Grouped(Projections(q, k, v, o, heads=4, kv_heads=2), MASKS[number], query_key=(Rotary.of(2),))


LAYERS = [layer(n) for n in range(4)]


def start(batch: int) -> SharedLayers:
    ring = Ring.start(LAYERS[1].start().schema, window=5, rollback=6, batch=batch, page=2)
    return SharedLayers(Layered((LAYERS[0].start(batch), ring)), READS)


def step(cache: SharedLayers, x: Array, positions: Callable[[Any, Any, int], Positions]) -> tuple[Array, SharedLayers]:
    """One step of the stack: owners append, readers look at what their owner has now."""
    later: dict[int, Any] = {}
    for number, part in enumerate(READS):
        held = cache.layer(number)
        if cache.owns(number):
            (out, _), later[part] = LAYERS[number].step(held, x)
        else:
            one, now = LAYERS[number], later[part]
            at = positions(held, now, x.shape[1])
            q = one.query_key[0].queries(one.projections.queries(x), at[:, None, :])
            blocks = [now.blocks(b) for b in range(now.batch)]
            mixed, _ = streaming.attend(q, at, blocks, value_width=3, mask=one.mask)
            out = one.projections.outputs(mixed)
        x = x + out
    return x, cache.later([later[n] for n in sorted(later)])


def as_it_began(held: Any, now: Any, new: int) -> Positions:
    """The positions of new tokens behind the cache as it was when the step began."""
    found: Positions = held.coming(new)
    return found


def already_advanced(held: Any, now: Any, new: int) -> Positions:
    """The fault of mlx-lm #1702: the owner's cache has gone on."""
    found: Positions = now.coming(new)
    return found


def on_whole_matrices(x: Array) -> Array:
    """The stack on whole matrices: readers take the owner's keys and values."""
    at = np.broadcast_to(np.arange(x.shape[1]), x.shape[:2])
    rows_of: dict[int, tuple[Array, Array]] = {}
    for number, part in enumerate(READS):
        one = LAYERS[number]
        turn, w = one.query_key[0], one.projections
        if part not in rows_of:
            rows_of[part] = turn.keys(w.keys(x), at[:, None, :]), w.values(x)
        k, v = rows_of[part]
        q = turn.queries(w.queries(x), at[:, None, :])
        mixed, _ = definition(q, k, v, q_positions=at, k_positions=at, mask=one.mask)
        x = x + w.outputs(mixed)
    return x


def agrees(positions: Callable[[Any, Any, int], Positions], cuts: list[tuple[int, int]]) -> None:
    cache, draw = start(2), np.random.default_rng(9)
    held, found = np.zeros((2, 0, HIDDEN)), np.zeros((2, 0, HIDDEN))
    whole = start(2)
    for new, back in cuts:
        x = draw.normal(size=(2, new, HIDDEN))
        n = max(0, held.shape[1] - back)
        cache, held, found = cache.truncate(n), held[:, :n], found[:, :n]
        out, cache = step(cache, x, positions)
        held, found = np.concatenate([held, x], 1), np.concatenate([found, out], 1)
    once, _ = step(whole, held, positions)
    assert np.array_equal(once, found)
    # four layers of numbers of about one, summed in another order: some hundred roundings of 1e-16
    assert np.abs(found - on_whole_matrices(held)).max(initial=0.0) < 1e-12


CUTS = st.lists(st.tuples(st.sampled_from([1, 2, 5, 6]), st.integers(0, 2)), min_size=1, max_size=6)


@pytest.mark.law("caches/shared_layers", "decode equals recompute, with readers and rollbacks", "bits")
@given(cuts=CUTS)
def test_a_stack_with_readers_decodes_what_it_recomputes(cuts: list[tuple[int, int]]) -> None:
    agrees(as_it_began, cuts)


def test_positions_behind_the_owners_new_end_are_rejected() -> None:
    with pytest.raises(AssertionError):
        agrees(already_advanced, [(3, 0), (2, 0)])


@pytest.mark.law("caches/shared_layers", "readers cost no byte", "integers")
def test_readers_cost_no_byte() -> None:
    parts = Paged.start(SCHEMA, page=4), Ring.start(SCHEMA, window=5, page=4)
    alone = Layered(parts).append([rows([list(range(9))])] * 2)
    shared = SharedLayers(Layered(parts), READS).append([rows([list(range(9))])] * 2)
    assert shared.nbytes == alone.nbytes == live_bytes(shared, shared.select([0, 0]))
    assert shared.saved == shared.nbytes
    assert SharedLayers(alone, (0, 1)).saved == 0
    assert SharedLayers(alone, (0, 0, 0, 1)).saved == 2 * alone.parts[0].nbytes


@given(
    verbs=st.lists(
        st.tuples(st.sampled_from(["append", "truncate", "select"]), st.integers(0, 5), st.integers(0, 5)), max_size=9
    )
)
def test_whatever_is_done_readers_see_what_owners_hold(verbs: list[tuple[str, int, int]]) -> None:
    cache = SharedLayers(Layered((Paged.start(SCHEMA, 2, 3), Paged.start(SCHEMA, 2, 2))), READS)
    tokens: list[list[list[int]]] = [[[], []], [[], []]]
    fresh = 0
    for verb, one, two in verbs:
        before, copies = cache, [[list(row) for row in part] for part in tokens]
        if verb == "append":
            new = []
            for part in tokens:
                new.append([list(range(fresh + b * one, fresh + (b + 1) * one)) for b in range(2)])
                fresh += 2 * one
                for row, more in zip(part, new[-1], strict=True):
                    row.extend(more)
            cache = cache.append([rows(each) for each in new])
        elif verb == "truncate":
            lengths = [max(0, cache.lengths[0] - one), max(0, cache.lengths[1] - two)]
            cache = cache.truncate(lengths)
            tokens = [[row[:n] for row, n in zip(part, lengths, strict=True)] for part in tokens]
        else:
            cache = cache.select([one % 2, two % 2])
            tokens = [[list(part[one % 2]), list(part[two % 2])] for part in tokens]
        for value, model in ((cache, tokens), (before, copies)):
            for number, part_number in enumerate(READS):
                for b, row in enumerate(model[part_number]):
                    assert value.layer(number).rows(sequence=b).v[0, 0, :, 0].tolist() == [-0.25 - t for t in row]


@pytest.mark.law("caches/layered", "hybrid parts go forward and back together, or not at all", "bits")
def test_hybrid_parts_go_together_or_not_at_all() -> None:
    cache = Layered(
        (
            Paged.start(SCHEMA, page=2),
            Ring.start(SCHEMA, window=3, rollback=2, page=2),
            ChunkedLocal.start(SCHEMA, size=4, rollback=2, page=2),
        )
    )
    for n in range(10):
        cache = cache.append([rows([[n]])] * 3)
    assert [len(part.blocks(0)[0].held.nonzero()[0]) for part in cache.parts] == [10, 5, 6]
    back = cache.truncate(8)
    assert back.lengths == (8,)
    assert back.append([rows([[8]])] * 3).lengths == (9,)
    with pytest.raises(RollbackError, match="length of sequence 0 must be at least 7, or 0, got 6"):
        cache.truncate(6)  # the pages could; the ring cannot, so none does
    assert {part.lengths for part in cache.parts} == {(10,)}
    with pytest.raises(ShapeError, match="v must have shape"):
        cache.append([rows([[1]]), rows([[1]]), [rows([[1]]).k, rows([[1, 2]]).v]])
    with pytest.raises(ArgumentError, match="rows must be of the same number of tokens for every part"):
        cache.append([rows([[1]]), rows([[1, 2]]), rows([[1]])])
    assert {part.lengths for part in cache.parts} == {(10,)}
    assert cache.append([rows([[10]])] * 3).lengths == (11,)


@pytest.mark.parametrize(
    ("reads", "words"),
    [
        ((0, 2), r"reads must name each of 2 parts, the first time in the order 0, 1, …, got \(0, 2\)"),
        ((0, 0), "reads must name each of 2 parts"),
        ((1, 0), "reads must name each of 2 parts"),
        ((0, -1), r"reads\[1\] must be an integer >= 0, got -1"),
        ((), "reads must be a non-empty sequence of integers"),
    ],
)
def test_bad_reads_are_refused(reads: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        SharedLayers(Layered((Paged.start(SCHEMA), Paged.start(latent(2)))), reads)


def test_bad_arguments_are_refused() -> None:
    cache = SharedLayers(Layered((Paged.start(SCHEMA), Paged.start(SCHEMA))), READS)
    with pytest.raises(ArgumentError, match=r"number must be an integer in 0 \.\. 3, got 4"):
        cache.layer(4)
    with pytest.raises(ArgumentError, match="rows must be given for each of 2 parts, got 4"):
        cache.append([rows([[1]])] * 4)
    with pytest.raises(ArgumentError, match="parts must be one for each of 2 owners, got 1"):
        cache.later([cache.layer(0)])
    with pytest.raises(ArgumentError, match="parts must be caches of the same tokens"):
        cache.later([cache.layer(0), cache.layer(1).append(rows([[1]]))])
    assert cache.branch() is cache
    assert (cache.length, cache.batch) == (0, 1)
