"""Full blocks are found by their chained hashes, and believed only after their tokens were compared."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import Paged, Snapshots
from kvattn.caches.prefix_hash import PrefixBlocks, strong
from kvattn.caches.prefix_keys import Usage, encoded
from kvattn.counting import Tally, counting
from kvattn.errors import ArgumentError
from kvattn.masks import Causal
from kvattn.positions import Rotary
from kvattn.typing import Array
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from tests.caches.prefixes import (
    ORIGIN,
    OTHERS,
    WEAK,
    PlainList,
    Tokens,
    cache_of,
    complaints,
    decoded,
    one_key,
    origins_that_meet,
    wrong_rows,
)
from tests.caches.prefixes import rows as rows_of

PLENTY = 1 << 30
TOKENS = st.lists(st.integers(0, 2) | st.sampled_from([b"0", b"1"]), max_size=9).map(tuple)


def store(block: int = 2, digest: Callable[[bytes], bytes] = strong) -> PrefixBlocks[Paged[Any]]:
    return PrefixBlocks.start(block=block, budget=PLENTY, digest=digest)


@pytest.mark.by_hand("caches/prefix_hash")
@pytest.mark.no_peer("caches/prefix_hash", "block stores of engines hold pool indices of an accelerator")
@pytest.mark.law("caches/prefix_hash", "the longest beginning in full blocks, as a plain list finds it", "integers")
@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from([ORIGIN, OTHERS[1]]), TOKENS, st.booleans()), max_size=14))
def test_it_finds_what_a_plain_list_finds(block: int, steps: list[tuple[Any, Tokens, bool]]) -> None:
    known, witness = store(block), PlainList(block)
    for origin, tokens, keep in steps:
        if keep and tokens:
            known = known.remember(origin, tokens, cache_of(origin, tokens))
            witness.known.append((origin, tokens))
        found, known = known.longest(origin, tokens)
        assert found.length == witness.longest(origin, tokens)
        assert not wrong_rows(found, origin, tokens)
    assert known.usage.collisions == 0
    assert len(known) == len({(o, t[:n]) for o, t in witness.known for n in range(block, len(t) + 1, block)})


@pytest.mark.parametrize("block", [1, 2, 3])
def test_many_prompts_of_many_origins(block: int) -> None:
    assert complaints(store(block), block) == set()


def test_the_chain_by_hand() -> None:
    asked: list[bytes] = []

    def told(payload: bytes) -> bytes:
        asked.append(payload)
        return b"key %d" % len(asked)

    store(2, told).longest(OTHERS[4], (7, b"x", 9, 9, 9))
    parts = ["m 1", None, "float64", None, 2]
    assert asked == [encoded([b"", *parts, 2, 7, b"x"]), encoded([b"key 1", *parts, 4, 9, 9])]


@pytest.mark.law("caches/prefix_hash", "prompts that differ in any part of their origin never share", "integers")
@pytest.mark.parametrize("digest", [strong, *WEAK])
def test_origins_never_meet(digest: Callable[[bytes], bytes]) -> None:
    assert origins_that_meet(lambda: store(2, digest)) == []


@pytest.mark.law("caches/prefix_hash", "a hash that collides costs hits, never rows", "bits")
@pytest.mark.parametrize("digest", WEAK)
def test_collisions_are_harmless(digest: Callable[[bytes], bytes]) -> None:
    assert complaints(store(2, digest), 2, collides=True) == set()


@given(st.sampled_from(WEAK), st.lists(st.tuples(TOKENS, st.booleans()), max_size=14))
def test_collisions_are_harmless_and_counted(
    digest: Callable[[bytes], bytes], steps: list[tuple[Tokens, bool]]
) -> None:
    weak, good = store(1, digest), store(1)
    for tokens, keep in steps:
        if keep and tokens:
            cache = cache_of(ORIGIN, tokens)
            weak, good = weak.remember(ORIGIN, tokens, cache), good.remember(ORIGIN, tokens, cache)
        found, weak = weak.longest(ORIGIN, tokens)
        best, good = good.longest(ORIGIN, tokens)
        assert not wrong_rows(found, ORIGIN, tokens)
        assert found.length <= best.length
        assert found.length == best.length or weak.usage.collisions or len(weak) < len(good)


def test_a_collision_is_seen_and_counted() -> None:
    known = store(2, one_key).remember(ORIGIN, (1, 2), cache_of(ORIGIN, (1, 2)))
    found, known = known.longest(ORIGIN, (2, 1))
    assert found == (None, 0)
    assert known.usage == Usage(asked=2, collisions=1)
    assert known.longest(ORIGIN, (1, 2))[0].length == 2


def layer() -> Grouped:
    rng = np.random.default_rng(4)
    shapes = ((6, 8), (6, 4), (6, 3), (6, 6))
    query, key, value, output = (rng.normal(size=shape) for shape in shapes)
    return Grouped(Projections(query, key, value, output, heads=2, kv_heads=1), Causal(), (Rotary.of(4),), page=4)


def embedded(tokens: Tokens) -> Array:
    table = np.random.default_rng(5).normal(size=(9, 6))
    return np.asarray([table[int(t)] for t in tokens])[None]


@pytest.mark.law("caches/prefix_hash", "decoding from a reused prefix equals decoding from scratch", "bits")
@pytest.mark.parametrize(("count", "reused"), [(1, 0), (3, 0), (4, 4), (5, 4), (11, 8)])
def test_decoding_from_a_reused_prefix_is_decoding_from_scratch(count: int, reused: int) -> None:
    attention = layer()
    first = tuple(np.random.default_rng(count).integers(0, 9, 12).tolist())
    second = (*first[:count], (first[count] + 1) % 9, 3, 1, 4)
    _, cache = attention.step(attention.start(), embedded(first))
    found, _ = store(4).remember(ORIGIN, first, cache).longest(ORIGIN, second)
    assert found.length == reused
    warm, warm_cache = attention.step(found.cache or attention.start(), embedded(second)[:, reused:])
    cold, cold_cache = attention.step(attention.start(), embedded(second))
    assert np.array_equal(warm.out, cold.out[:, reused:])
    assert np.array_equal(warm_cache.rows().k, cold_cache.rows().k)


@pytest.mark.law("caches/prefix_hash", "nothing is copied, not even by whoever goes on", "integers")
def test_nothing_is_copied() -> None:
    tokens = (1, 2, 1, 2, 1, 2)
    cache = cache_of(ORIGIN, tokens, page=2)
    with counting() as tally:
        found, known = store(4).remember(ORIGIN, tokens, cache).longest(ORIGIN, tokens)
    assert tally.tally == Tally()
    assert known.usage == Usage(asked=6, found=4, shared=2 * 32)
    with counting() as tally:
        decoded(ORIGIN, (1, 2, 1, 2, 9), found)
    assert tally.tally.kv_copied == 0


def test_a_known_block_keeps_its_pages() -> None:
    known = store().remember(ORIGIN, (1, 2, 3, 4), cache_of(ORIGIN, (1, 2, 3, 4)))
    size = known.nbytes
    again = known.remember(ORIGIN, (1, 2, 3, 4), cache_of(ORIGIN, (1, 2, 3, 4)))
    assert again.footprint() == known.footprint()
    found, _ = known.longest(ORIGIN, (1, 2, 9, 9))
    grown = known.remember(ORIGIN, (1, 2, 9, 9), decoded(ORIGIN, (1, 2, 9, 9), found))
    assert grown.nbytes == size + 32  # one page more, one shared


@pytest.mark.law("caches/prefix_hash", "what was used longest ago goes, later blocks before earlier ones", "integers")
def test_the_least_recently_used_goes_from_its_end() -> None:
    prompts = [(n, n, n, n) for n in range(1, 4)]  # 2 blocks, 2 pages of 32 bytes each
    known: PrefixBlocks[Any] = PrefixBlocks.start(block=2, budget=5 * 32)
    for prompt in prompts[:2]:
        known = known.remember(ORIGIN, prompt, cache_of(ORIGIN, prompt))
    _, known = known.longest(ORIGIN, prompts[0])
    known = known.remember(ORIGIN, prompts[2], cache_of(ORIGIN, prompts[2]))
    assert [known.longest(ORIGIN, p)[0].length for p in prompts] == [4, 2, 4]
    assert known.nbytes == 160


@given(st.lists(TOKENS.filter(bool), max_size=12), st.integers(0, 400))
def test_the_budget_holds_and_what_is_held_stays(prompts: list[Tokens], budget: int) -> None:
    known: PrefixBlocks[Any] = PrefixBlocks.start(block=2, budget=budget)
    held: list[tuple[Tokens, Any]] = []
    for prompt in prompts:
        found, known = known.longest(ORIGIN, prompt)
        assert not wrong_rows(found, ORIGIN, prompt)
        cache = decoded(ORIGIN, prompt, found)
        held.append((prompt, cache))
        known = known.remember(ORIGIN, prompt, cache)
        assert known.nbytes == sum(known.footprint().values()) <= budget
    for prompt, cache in held:  # whatever went, who holds a cache holds its rows
        assert np.array_equal(cache.rows().latent, rows_of(ORIGIN, prompt))


@pytest.mark.law("caches/prefix_hash", "eviction frees bytes when nobody else holds them, and never before", "integers")
def test_bytes_go_when_the_last_holder_goes() -> None:
    with counting() as tally:
        mine = cache_of(ORIGIN, (1, 1))
        known: PrefixBlocks[Any] = PrefixBlocks.start(block=2, budget=32)
        known = known.remember(ORIGIN, (1, 1), mine).remember(ORIGIN, (2, 2), cache_of(ORIGIN, (2, 2)))
        assert tally.tally.cache_live == 64  # the evicted one is still mine
        assert np.array_equal(mine.rows().latent, rows_of(ORIGIN, (1, 1)))
        del mine
        assert tally.tally.cache_live == 32
        del known
        assert tally.tally.cache_live == 0


def test_an_old_store_stays_as_it_was() -> None:
    versions = [store()]
    prompts: list[Tokens] = [(1, 2, 3, 4), (1, 2, 5, 6), (7, 8), (1, 2, 3, 4, 5, 6)]
    for prompt in prompts:
        versions.append(versions[-1].remember(ORIGIN, prompt, cache_of(ORIGIN, prompt)))
    for n, (before, after) in enumerate(pairwise(versions)):
        assert len(before) < len(after)
        witness = PlainList(2, [(ORIGIN, p) for p in prompts[:n]])
        for prompt in prompts:
            assert before.longest(ORIGIN, prompt)[0].length == witness.longest(ORIGIN, prompt)


class State(NamedTuple):
    s: Array


def test_a_recurrent_state_is_found_only_where_it_was_kept() -> None:
    tokens = (1, 2, 3, 4, 5, 6)
    known: PrefixBlocks[Any] = PrefixBlocks.start(block=2, budget=PLENTY)
    cache = Snapshots.start(State(np.zeros((1, 1)))).append([State(np.full((1, 1), 10.0))], tokens=4)
    known = known.remember(ORIGIN, tokens[:4], cache)
    assert len(known) == 1
    assert known.longest(ORIGIN, tokens)[0].length == 4
    assert known.longest(ORIGIN, tokens[:3])[0].length == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"block": 0, "budget": 1}, "block must be an integer >= 1, got 0"),
        ({"block": 2, "budget": -1}, "budget must be an integer >= 0, got -1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError) as said:
        PrefixBlocks.start(**arguments)
    assert str(said.value) == words
