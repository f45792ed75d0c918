"""Prefixes found by kvattn's trie and by mlx-lm's, over the same prompts.

mlx-lm gives out one token less than it knows where a longer prompt begins with all that was asked for, so that one is
left to compute; kvattn gives out all, and who asks leaves one out.  A cache that cannot be trimmed is found by its
whole tokens alone, and mlx-lm does not find one of a single token: `PromptTrie.search` asks for ``last_index > 0``.
"""

from typing import Any

import numpy as np
import pytest

from kvattn.caches import Paged, key_value
from kvattn.caches.prefix_trie import PrefixTrie
from tests.caches.prefixes import ORIGIN, OTHERS, PROMPTS, Tokens, rows

SCHEMA = key_value(1, 2, dtype=np.float32)


def small(tokens: Tokens, model: int) -> Any:
    """Rows that float32 holds, ``[1, 1, T, 2]``."""
    return (rows((ORIGIN, *OTHERS)[model], tokens) % 4096).astype(np.float32)


@pytest.mark.peer("caches/prefix_trie", "mlx_lm LRUPromptCache", "equal, but for the token that it leaves out")
def test_mlx_lm_finds_the_same_prefixes() -> None:
    mx = pytest.importorskip("mlx.core", reason="prompt caches are compared with mlx-lm")
    theirs = pytest.importorskip("mlx_lm.models.cache", reason="prompt caches are compared with mlx-lm")
    if not hasattr(theirs, "LRUPromptCache"):
        pytest.skip("this mlx-lm keeps its prompt cache in its server")
    other = theirs.LRUPromptCache(max_size=10_000)
    ours: PrefixTrie[Any] = PrefixTrie.start(budget=1 << 30)
    for n, prompt in enumerate(PROMPTS):
        if n % 4 == 0:
            model, x = n % 3, small(prompt, n % 3)
            cache = theirs.KVCache()
            cache.update_and_fetch(mx.array(x), mx.array(-x))
            other.insert_cache(f"model {model}", list(prompt), [cache])
            ours = ours.remember((ORIGIN, *OTHERS)[model], prompt, Paged.start(SCHEMA, page=2).append([x, -x]))
    hits = 0
    for prompt in PROMPTS:
        for model in range(3):
            found, rest = other.fetch_nearest_cache(f"model {model}", list(prompt))
            mine, ours = ours.longest((ORIGIN, *OTHERS)[model], prompt)
            length = len(prompt) - len(rest)
            assert length == mine.length or (length == mine.length - 1 == len(prompt) - 1)
            hits += length > 0
            if length:
                assert mine.cache is not None
                assert found[0].offset == length
                got = np.array(found[0].keys)[:, :, :length]
                assert np.array_equal(got, mine.cache.rows(0, length).k)
                assert np.array_equal(got, small(prompt, model)[:, :, :length])
    assert hits > 100


def test_mlx_lm_does_not_find_a_single_token() -> None:
    """Of a cache that cannot be trimmed: a hit that is lost, no wrong row."""
    theirs = pytest.importorskip("mlx_lm.models.cache", reason="prompt caches are compared with mlx-lm")
    if not hasattr(theirs, "PromptTrie"):
        pytest.skip("this mlx-lm keeps its prompt cache in its server")
    trie = theirs.PromptTrie()
    trie.add("model", [1], "one")
    trie.add("model", [2, 3], "two")
    assert trie.search("model", [1, 5]).shorter is None
    assert trie.search("model", [2, 3, 5]).shorter == [2, 3]
    known: PrefixTrie[Any] = PrefixTrie.start(budget=1 << 30)
    known = known.remember(ORIGIN, [1], Paged.start(SCHEMA).append([small((1,), 0)] * 2))
    assert known.longest(ORIGIN, [1, 5])[0].length == 1
