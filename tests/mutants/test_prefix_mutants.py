"""Wrong prefix stores that the checks of tests/caches must reject; the right ones pass the same checks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kvattn.caches import Paged
from kvattn.caches import prefix_trie as trie_module
from kvattn.caches.prefix_hash import PrefixBlocks, strong
from kvattn.caches.prefix_keys import Found, Origin, encoded, read_tokens
from kvattn.caches.prefix_trie import PrefixTrie
from tests.caches.prefixes import ORIGIN, PlainList, cache_of, complaints, last_byte, one_key, wrong_rows

PLENTY = 1 << 30


class HashWithoutParent(PrefixBlocks[Any]):
    """A block's key is of its own tokens: equal blocks behind different ones meet."""

    __slots__ = ()

    def _payload(self, parent: bytes, origin: Origin, first: int, tokens: Any) -> bytes:
        return super()._payload(b"", origin, first, tokens)


class HashWithoutAdapter(PrefixBlocks[Any]):
    """vLLM #3264."""

    __slots__ = ()

    def _payload(self, parent: bytes, origin: Origin, first: int, tokens: Any) -> bytes:
        return super()._payload(parent, replace(origin, adapter=None), first, tokens)


class HashWithoutSalt(PrefixBlocks[Any]):
    """A tenant finds the prompts of another."""

    __slots__ = ()

    def _payload(self, parent: bytes, origin: Origin, first: int, tokens: Any) -> bytes:
        return super()._payload(parent, replace(origin, salt=None), first, tokens)


class HashWithoutPosition(PrefixBlocks[Any]):
    """Rotated keys of one place are found for another."""

    __slots__ = ()

    def _payload(self, parent: bytes, origin: Origin, first: int, tokens: Any) -> bytes:
        return encoded((parent, *origin.parts[:-1], *tokens))


class HashWithoutTags(PrefixBlocks[Any]):
    """vLLM #44701: an adapter X and a salt X are the same extra key."""

    __slots__ = ()

    def _payload(self, parent: bytes, origin: Origin, first: int, tokens: Any) -> bytes:
        extra = [part for part in (origin.adapter, origin.salt) if part is not None]
        return encoded((parent, origin.model, str(origin.dtype), *extra, origin.start + first, *tokens))


HASHES = [HashWithoutParent, HashWithoutAdapter, HashWithoutSalt, HashWithoutPosition, HashWithoutTags]


class Believing(PrefixBlocks[Any]):
    """The token check left out: what has the hash is taken (openvino.genai #3722)."""

    __slots__ = ()

    def _is(self, known: Any, origin: Origin, tokens: Any, end: int, before: Any) -> bool:
        return True


class ChecksTheBlockOnly(PrefixBlocks[Any]):
    """The tokens of the block are compared, those before it are not."""

    __slots__ = ()

    def _is(self, known: Any, origin: Origin, tokens: Any, end: int, before: Any) -> bool:
        part = slice(end - self.block, end)
        return (known.origin, known.length) == (origin, end) and bool(known.tokens[part] == tokens[part])


class SharesAPartOfABlock(PrefixBlocks[Any]):
    """The last block, not full, has a key as well."""

    __slots__ = ()

    def _chain(self, origin: Origin, tokens: Any) -> Any:
        last = b""
        for end, last in super()._chain(origin, tokens):
            yield end, last
        if rest := len(tokens) % self.block:
            yield len(tokens), self.digest(self._payload(last, origin, len(tokens) - rest, tokens[-rest:]))


def started(mutant: type[PrefixBlocks[Any]], digest: Callable[[bytes], bytes] = strong) -> PrefixBlocks[Any]:
    return mutant.start(block=2, budget=PLENTY, digest=digest)


def test_the_right_stores_pass() -> None:
    assert complaints(started(PrefixBlocks), 2) == set()
    assert complaints(started(PrefixBlocks, last_byte), 2, collides=True) == set()
    assert complaints(PrefixTrie.start(budget=PLENTY), 1) == set()


@pytest.mark.parametrize("mutant", HASHES)
def test_a_key_that_says_too_little_is_rejected(mutant: type[PrefixBlocks[Any]]) -> None:
    """The token check makes it a loss of hits; without the check it gives out rows of others."""
    said = complaints(started(mutant), 2)
    assert "shorter than known" in said
    assert "rows of other tokens" not in said
    believing = type("Both", (mutant,), {"__slots__": (), "_is": Believing._is})
    assert "rows of other tokens" in complaints(started(believing), 2)


@pytest.mark.parametrize("digest", [one_key, last_byte])
@pytest.mark.parametrize("mutant", [Believing, ChecksTheBlockOnly])
def test_a_store_that_believes_a_colliding_hash_is_rejected(
    mutant: type[PrefixBlocks[Any]], digest: Callable[[bytes], bytes]
) -> None:
    assert "rows of other tokens" in complaints(started(mutant, digest), 2, collides=True)


def test_a_part_of_a_block_that_is_shared_is_rejected() -> None:
    assert "longer than known" in complaints(started(SharesAPartOfABlock), 2)


class OneOriginForAll(PrefixTrie[Any]):
    """The tree is of tokens alone."""

    __slots__ = ()

    def remember(self, origin: Origin, tokens: Any, cache: Any) -> PrefixTrie[Any]:
        return super().remember(ORIGIN, tokens, cache)

    def longest(self, origin: Origin, tokens: Any) -> Any:
        return super().longest(ORIGIN, tokens)


class OneTooMany(PrefixTrie[Any]):
    """The token after the shared ones is given out, too."""

    __slots__ = ()

    def _cut(self, node: Any, tokens: Any, length: int) -> Any:
        for kept in trie_module._below(node):
            end = min(length + 1, len(kept.tokens), len(tokens))
            yield kept, Found(kept.cache.truncate(end), end)


class WholeEntries(PrefixTrie[Any]):
    """Only caches whose tokens all match are found, not beginnings of longer ones."""

    __slots__ = ()

    def _cut(self, node: Any, tokens: Any, length: int) -> Any:
        return (hit for hit in super()._cut(node, tokens, length) if len(hit[0].tokens) == length)


class ForgetsToCut(PrefixTrie[Any]):
    """The remembered cache is given out whole (mlx-lm #1502: the rest comes back)."""

    __slots__ = ()

    def _cut(self, node: Any, tokens: Any, length: int) -> Any:
        return ((kept, Found(kept.cache, length)) for kept, _ in super()._cut(node, tokens, length))


@pytest.mark.parametrize(
    ("mutant", "complaint"),
    [
        (OneOriginForAll, "rows of other tokens"),
        (OneTooMany, "rows of other tokens"),
        (WholeEntries, "shorter than known"),
        (ForgetsToCut, "rows of other tokens"),
    ],
)
def test_a_wrong_trie_is_rejected(mutant: type[PrefixTrie[Any]], complaint: str) -> None:
    assert complaint in complaints(mutant.start(budget=PLENTY), 1)


def test_a_tree_that_compares_the_first_token_of_an_edge_only_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens of what was found are compared once more, so that the fault costs hits and no rows."""
    monkeypatch.setattr(trie_module, "_common", lambda left, right: min(len(left), len(right)))
    said = complaints(PrefixTrie.start(budget=PLENTY), 1)
    assert "rows of other tokens" not in said
    assert "shorter than known" in said


class EvictsTheNewest(PrefixTrie[Any]):
    """What was used last goes first."""

    __slots__ = ()

    def remember(self, origin: Origin, tokens: Any, cache: Any) -> PrefixTrie[Any]:
        kept = super().remember(origin, tokens, cache)
        return self if len(kept) <= len(self) and len(self) else kept


def evictions(store: Any) -> set[str]:
    """Three prompts where two fit: what is wrong afterwards."""
    prompts = [(n, n, n, n) for n in (1, 2, 3)]
    for prompt in prompts[:2]:
        store = store.remember(ORIGIN, prompt, cache_of(ORIGIN, prompt))
    _, store = store.longest(ORIGIN, prompts[0])
    store = store.remember(ORIGIN, prompts[2], cache_of(ORIGIN, prompts[2]))
    wanted = [4, 0, 4]
    return {
        f"prompt {n}" for n, p in enumerate(prompts) if store.longest(ORIGIN, read_tokens(p))[0].length != wanted[n]
    }


class NeverTouches(PrefixTrie[Any]):
    """What was remembered first goes first, however often it is used."""

    __slots__ = ()

    def longest(self, origin: Origin, tokens: Any) -> Any:
        return super().longest(origin, tokens)[0], self


def test_wrong_orders_of_eviction_are_rejected() -> None:
    assert evictions(PrefixTrie.start(budget=128)) == set()
    assert evictions(PrefixBlocks.start(block=2, budget=128)) == set()
    assert evictions(NeverTouches.start(budget=128)) == {"prompt 0", "prompt 1"}
    assert evictions(EvictsTheNewest.start(budget=128)) == {"prompt 1", "prompt 2"}


class FreesForReal(PrefixTrie[Any]):
    """Eviction overwrites the pages of what goes, whoever holds them."""

    __slots__ = ()

    def remember(self, origin: Origin, tokens: Any, cache: Any) -> PrefixTrie[Any]:
        after = super().remember(origin, tokens, cache)
        kept = {id(entry) for _, entry in after._all()}
        for _, gone in self._all():
            if id(gone) not in kept:
                gone.cache.append([cache.rows().latent[:, :, :1]])  # room behind the end, taken ...
                for page in gone.cache._tables[0]:
                    page._writers[0][...] = float("nan")  # ... and the rows as well
        return after


@pytest.mark.parametrize(("store", "wrong"), [(PrefixTrie, False), (FreesForReal, True)])
def test_eviction_under_a_live_cache_is_rejected(store: type[PrefixTrie[Any]], wrong: bool) -> None:
    mine: Paged[Any] = cache_of(ORIGIN, (1, 1, 1))
    known = store.start(budget=64).remember(ORIGIN, (1, 1, 1), mine)
    known.remember(ORIGIN, (2, 2, 2), cache_of(ORIGIN, (2, 2, 2)))
    assert wrong_rows(Found(mine, 3), ORIGIN, (1, 1, 1)) == wrong


def test_the_witness_itself_is_right() -> None:
    witness = PlainList(2, [(ORIGIN, (1, 2, 3, 4, 5))])
    assert [witness.longest(ORIGIN, (1, 2, 3, 4, 5)[:n]) for n in range(6)] == [0, 0, 2, 2, 4, 4]


FAULT_CLASSES = {
    "prefix-key": [
        HashWithoutParent,
        HashWithoutAdapter,
        HashWithoutSalt,
        HashWithoutPosition,
        HashWithoutTags,
        Believing,
        ChecksTheBlockOnly,
        OneOriginForAll,
    ],
    "prefix-reuse": [SharesAPartOfABlock, OneTooMany, ForgetsToCut, FreesForReal],
}
"""The mutants above that belong to a class of `kvattn.testing.fault_classes`."""
