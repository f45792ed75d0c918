"""The longest known prefix is found to the token, by reference, and never another one's rows."""

from itertools import pairwise
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import Layered, Paged, SinkWindow, Snapshots, latent
from kvattn.caches.prefix_keys import Usage
from kvattn.caches.prefix_trie import PrefixTrie
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
    PlainList,
    Tokens,
    cache_of,
    complaints,
    decoded,
    origins_that_meet,
    wrong_rows,
)
from tests.caches.prefixes import rows as rows_of

PLENTY = 1 << 30
TOKENS = st.lists(st.integers(0, 2) | st.sampled_from([b"0", b"1"]), max_size=9).map(tuple)


def trie() -> PrefixTrie[Paged[Any]]:
    return PrefixTrie.start(budget=PLENTY)


@pytest.mark.by_hand("caches/prefix_trie")
@pytest.mark.no_peer("caches/prefix_trie", "radix caches of engines hold pool indices of an accelerator")
@pytest.mark.law("caches/prefix_trie", "the longest shared beginning, as a plain list of prompts finds it", "integers")
@given(st.lists(st.tuples(st.sampled_from([ORIGIN, OTHERS[1]]), TOKENS, st.booleans()), max_size=14))
def test_it_finds_what_a_plain_list_finds(steps: list[tuple[Any, Tokens, bool]]) -> None:
    known, witness = trie(), PlainList()
    for origin, tokens, keep in steps:
        if keep and tokens:
            known = known.remember(origin, tokens, cache_of(origin, tokens))
            witness.known.append((origin, tokens))
        found, known = known.longest(origin, tokens)
        assert found.length == witness.longest(origin, tokens)
        assert not wrong_rows(found, origin, tokens)
    assert len(known) == len(set(witness.known))
    unused = known
    for origin, tokens in set(witness.known):
        assert unused.longest(origin, tokens)[0].length == len(tokens)
    assert len(known.forget(ORIGIN)) == len({t for o, t in witness.known if o != ORIGIN})


def test_many_prompts_of_many_origins() -> None:
    assert complaints(trie(), 1) == set()


@pytest.mark.law("caches/prefix_trie", "prompts that differ in any part of their origin never share", "integers")
def test_origins_never_meet() -> None:
    assert origins_that_meet(trie) == []


def test_what_stands_for_an_image_keeps_images_apart() -> None:
    one, two = (5, b"one image", 6), (5, b"another image", 6)
    known = trie().remember(ORIGIN, one, cache_of(ORIGIN, one))
    assert known.longest(ORIGIN, two)[0].length == 1
    assert known.longest(ORIGIN, one)[0].length == 3


def layer() -> Grouped:
    rng = np.random.default_rng(4)
    shapes = ((6, 8), (6, 4), (6, 3), (6, 6))
    query, key, value, output = (rng.normal(size=shape) for shape in shapes)
    return Grouped(Projections(query, key, value, output, heads=2, kv_heads=1), Causal(), (Rotary.of(4),), page=4)


def embedded(tokens: Tokens) -> Array:
    table = np.random.default_rng(5).normal(size=(9, 6))
    return np.asarray([table[int(t)] for t in tokens])[None]


@pytest.mark.law("caches/prefix_trie", "decoding from a reused prefix equals decoding from scratch", "bits")
@pytest.mark.parametrize("count", [1, 3, 4, 5, 11])
def test_decoding_from_a_reused_prefix_is_decoding_from_scratch(count: int) -> None:
    attention = layer()
    first = tuple(np.random.default_rng(count).integers(0, 9, 12).tolist())
    second = (*first[:count], (first[count] + 1) % 9, 3, 1, 4)
    _, cache = attention.step(attention.start(), embedded(first))
    found, _ = trie().remember(ORIGIN, first, cache).longest(ORIGIN, second)
    assert found.length == count
    assert found.cache is not None
    warm, warm_cache = attention.step(found.cache, embedded(second)[:, count:])
    cold, cold_cache = attention.step(attention.start(), embedded(second))
    assert np.array_equal(warm.out, cold.out[:, count:])
    assert np.array_equal(warm_cache.rows().k, cold_cache.rows().k)
    again, _ = attention.step(attention.start(), embedded(first))
    stepped, _ = attention.step(cache.truncate(5), embedded(first)[:, 5:])
    assert np.array_equal(stepped.out, again.out[:, 5:])  # whoever was remembered is as it was


@pytest.mark.law("caches/prefix_trie", "remembering and finding copy no row", "integers")
def test_nothing_is_copied() -> None:
    tokens = (1, 2, 1, 2, 1)
    cache = cache_of(ORIGIN, tokens, page=4)
    with counting() as tally:
        found, known = trie().remember(ORIGIN, tokens, cache).longest(ORIGIN, tokens[:3])
    assert tally.tally == Tally()
    assert found.cache is not None
    assert set(found.cache.pages(0)) <= set(cache.pages(0))
    assert known.usage == Usage(asked=3, found=3, shared=64)
    with counting() as tally:
        decoded(ORIGIN, (1, 2, 1, 9), found, page=4)
    assert tally.tally.kv_copied == 3 * 16  # the one page that is shared half


@pytest.mark.law("caches/prefix_trie", "what was used longest ago goes, until the pages fit the budget", "integers")
def test_the_least_recently_used_goes() -> None:
    prompts = [(n, n, n) for n in range(1, 5)]  # 2 pages of 32 bytes each
    known: PrefixTrie[Any] = PrefixTrie.start(budget=3 * 64)
    for prompt in prompts[:3]:
        known = known.remember(ORIGIN, prompt, cache_of(ORIGIN, prompt))
    _, known = known.longest(ORIGIN, prompts[0])
    known = known.remember(ORIGIN, prompts[3], cache_of(ORIGIN, prompts[3]))
    assert [known.longest(ORIGIN, p)[0].length for p in prompts] == [3, 0, 3, 3]
    assert known.nbytes == 192


@given(st.lists(TOKENS.filter(bool), max_size=12), st.integers(0, 400))
def test_the_budget_holds_and_shared_pages_count_once(prompts: list[Tokens], budget: int) -> None:
    known: PrefixTrie[Any] = PrefixTrie.start(budget=budget)
    held: list[tuple[Tokens, Any]] = []
    for prompt in prompts:
        found, known = known.longest(ORIGIN, prompt)
        cache = decoded(ORIGIN, prompt, found)
        held.append((prompt, cache))
        older = known
        known = known.remember(ORIGIN, prompt, cache)
        assert known.nbytes <= budget
        assert known.nbytes == sum(known.footprint().values())
        if cache.nbytes <= budget:
            assert known.longest(ORIGIN, prompt)[0].length == len(prompt)
        else:
            assert known is older
    for prompt, cache in held:  # whatever went, who holds a cache holds its rows
        assert np.array_equal(cache.rows().latent, rows_of(ORIGIN, prompt))


@pytest.mark.law("caches/prefix_trie", "eviction frees bytes when nobody else holds them, and never before", "integers")
def test_bytes_go_when_the_last_holder_goes() -> None:
    with counting() as tally:
        known: PrefixTrie[Any] = PrefixTrie.start(budget=64)
        mine = cache_of(ORIGIN, (1, 1, 1))
        known = known.remember(ORIGIN, (1, 1, 1), mine)
        known = known.remember(ORIGIN, (2, 2, 2), cache_of(ORIGIN, (2, 2, 2)))
        assert len(known) == 1
        assert tally.tally.cache_live == 128  # the evicted one is still mine
        assert np.array_equal(mine.rows().latent, rows_of(ORIGIN, (1, 1, 1)))
        del mine
        assert tally.tally.cache_live == 64
        del known
        assert tally.tally.cache_live == 0


def test_an_old_trie_stays_as_it_was() -> None:
    versions = [trie()]
    prompts: list[Tokens] = [(1, 2, 3), (1, 2), (1, 2, 3, 4), (1, 5), (2,)]
    for prompt in prompts:
        versions.append(versions[-1].remember(ORIGIN, prompt, cache_of(ORIGIN, prompt)))
    versions[-1].forget(ORIGIN)
    for n, (before, after) in enumerate(pairwise(versions)):
        assert (len(before), len(after)) == (n, n + 1)
        witness = PlainList(1, [(ORIGIN, p) for p in prompts[:n]])
        for prompt in prompts:
            assert before.longest(ORIGIN, prompt)[0].length == witness.longest(ORIGIN, prompt)


class State(NamedTuple):
    s: Array


def recurrent(tokens: Tokens) -> Snapshots[State]:
    """A state that is the sum of its tokens, without any way back."""
    cache = Snapshots.start(State(np.zeros((1, 1))))
    return cache.append([State(np.full((1, 1), float(sum(map(int, tokens)))))], tokens=len(tokens))


def test_a_recurrent_state_is_found_only_where_it_was_kept() -> None:
    known: PrefixTrie[Any] = PrefixTrie.start(budget=PLENTY)
    for tokens in ((1, 2), (1, 2, 3, 4)):
        known = known.remember(ORIGIN, tokens, recurrent(tokens))
    for asked, length in [((1, 2, 3, 4, 5), 4), ((1, 2, 3, 9), 2), ((1, 9), 0), ((1, 2), 2)]:
        found, _ = known.longest(ORIGIN, asked)
        assert found.length == length
        assert found.cache is None or found.cache.state.s[0, 0] == sum(asked[:length])


def test_all_layers_are_found_at_one_length() -> None:
    """TensorRT-LLM #2983: a layer whose window has moved on has no early prefix to share."""
    tokens = (1, 2, 3, 4, 5, 6)
    ring = SinkWindow.start(latent(2), sinks=0, window=2, page=1)
    for t in range(6):
        ring = ring.append([rows_of(ORIGIN, tokens)[:, :, t : t + 1]])
    stack = Layered((cache_of(ORIGIN, tokens), ring))
    known: PrefixTrie[Any] = PrefixTrie.start(budget=PLENTY)
    known = known.remember(ORIGIN, tokens, stack)
    assert known.longest(ORIGIN, (1, 2, 9))[0] == (None, 0)
    found, _ = known.longest(ORIGIN, (*tokens, 7))
    assert found.length == 6
    assert found.cache is not None
    assert found.cache.footprint() == stack.footprint()


def test_a_very_deep_tree_is_no_recursion() -> None:
    tokens = tuple(1 for _ in range(1500))
    cache = Paged.start(latent(1)).append([np.ones((1, 1, 1500, 1))])
    known: PrefixTrie[Any] = PrefixTrie.start(budget=cache.nbytes)
    for n in range(1, 1500, 8):
        known = known.remember(ORIGIN, tokens[:n], cache.truncate(n))
    assert known.longest(ORIGIN, tokens)[0].length == 1497
    other = Paged.start(latent(1)).append([np.ones((1, 1, 1500, 1))])
    assert len(known.remember(ORIGIN, (2,) * 1500, other)) == 1


@pytest.mark.parametrize("budget", [-1, 1.5, True])
def test_a_bad_budget_is_refused(budget: Any) -> None:
    with pytest.raises(ArgumentError, match="budget must be an integer >= 0"):
        PrefixTrie.start(budget=budget)
