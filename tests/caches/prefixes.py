"""What tests of prefix reuse share: rows that give away whose they are, and a plain list as witness."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import product
from typing import Any

import numpy as np

from kvattn.caches import Paged, latent
from kvattn.caches.prefix_keys import Origin, encoded
from kvattn.typing import Array

SCHEMA = latent(2)
ORIGIN = Origin(model="m 1", adapter=None, dtype=np.float64, salt=None, start=0)
OTHERS = (
    replace(ORIGIN, model="m 2"),
    replace(ORIGIN, adapter="x"),
    replace(ORIGIN, dtype=np.float32),
    replace(ORIGIN, salt="x"),
    replace(ORIGIN, start=2),
)
"""Each differs from ORIGIN, and from each other, in one part; adapter and salt have the same text."""

PROMPTS = [p for n in (1, 2, 3, 4, 5, 6) for p in product((1, 2), repeat=n) if sum(p) % 3 != 1]
"""Prompts over two tokens, many of them beginnings of others, and many equal blocks behind different ones."""

Tokens = tuple[int | bytes, ...]


def one_key(payload: bytes) -> bytes:
    return b""


def one_bit(payload: bytes) -> bytes:
    return bytes([sha256(payload).digest()[0] & 1])


def last_byte(payload: bytes) -> bytes:
    return payload[-1:]


def length_only(payload: bytes) -> bytes:
    return bytes([len(payload) % 7])


WEAK: list[Callable[[bytes], bytes]] = [one_key, one_bit, last_byte, length_only]
"""Hashes that collide."""


def rows(origin: Origin, tokens: Tokens) -> Array:
    """Rows ``[1, 1, T, 2]``, each a function of the origin and of all tokens up to it, as keys of a model are."""
    found = np.zeros((1, 1, len(tokens), 2))
    for t in range(len(tokens)):
        told = sha256(encoded([*origin.parts, *tokens[: t + 1]])).digest()
        found[0, 0, t] = [int.from_bytes(told[:6], "big"), int.from_bytes(told[6:12], "big")]
    return found


def cache_of(origin: Origin, tokens: Tokens, page: int = 2) -> Paged[Any]:
    return Paged.start(SCHEMA, page=page).append([rows(origin, tokens)])


def decoded(origin: Origin, tokens: Tokens, found: Any, page: int = 2) -> Paged[Any]:
    """The cache of all tokens, begun with what was found."""
    begun = Paged.start(SCHEMA, page=page) if found.cache is None else found.cache
    return begun.append([rows(origin, tokens)[:, :, found.length :]])


@dataclass
class PlainList:
    """Every (origin, tokens) that was remembered; nothing is ever evicted."""

    block: int = 1
    known: list[tuple[Origin, Tokens]] = field(default_factory=list)

    def longest(self, origin: Origin, tokens: Tokens) -> int:
        best = 0
        for other, prompt in self.known:
            if other != origin:
                continue
            shared = 0
            while shared < min(len(prompt), len(tokens)) and prompt[shared] == tokens[shared]:
                shared += 1
            best = max(best, shared // self.block * self.block)
        return best


def wrong_rows(found: Any, origin: Origin, tokens: Tokens) -> bool:
    """Whether what was found holds anything but the rows of the first tokens asked for."""
    if found.cache is None:
        return bool(found.length)
    if found.length > len(tokens) or tuple(found.cache.lengths) != (found.length,):
        return True
    return not np.array_equal(found.cache.rows().latent, rows(origin, tokens[: found.length]))


def complaints(
    store: Any, block: int, *, collides: bool = False, origins: Sequence[Origin] = (ORIGIN, *OTHERS)
) -> set[str]:
    """Remember many prompts, ask for many, and say what is wrong; a store whose hash collides may find less."""
    witness, said = PlainList(block), set()
    asked: list[tuple[Origin, Tokens]] = [(origin, prompt) for prompt in PROMPTS for origin in origins]
    for n, (origin, prompt) in enumerate(asked):
        if n % 5 < 2:
            store = store.remember(origin, prompt, cache_of(origin, prompt))
            witness.known.append((origin, prompt))
    for origin, prompt in asked:
        found, store = store.longest(origin, prompt)
        length = witness.longest(origin, prompt)
        if wrong_rows(found, origin, prompt):
            said.add("rows of other tokens")
        if found.length > length:
            said.add("longer than known")
        if found.length < length and not collides:
            said.add("shorter than known")
    return said


def origins_that_meet(start: Callable[[], Any], length: int = 4) -> list[Origin]:
    """Origins whose rows are found when others ask for the same tokens."""
    tokens = (1, 2) * (length // 2)
    met = []
    for kept, asking in product((ORIGIN, *OTHERS), repeat=2):
        found, _ = start().remember(kept, tokens, cache_of(kept, tokens)).longest(asking, tokens)
        if (found.length > 0) != (kept == asking):
            met.append(asking)
    return met
