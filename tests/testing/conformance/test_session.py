"""Right caches pass every step, and each wrong one is told its name.

CI drives each right cache through 15 runs of the machine, ``KVATTN_PROFILE=deep`` through 300.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import os
from typing import Any

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
import numpy as np
import pytest

from kvattn.caches.rows import key_value
from kvattn.caches.sink_window import SinkWindow
from kvattn.caches.static import Static
from kvattn.errors import ArgumentError
from kvattn.testing.cache_checking import check_cache
from kvattn.testing.conformance import (
    FAULTS,
    CacheAdapter,
    CacheFault,
    Capabilities,
    PagedAdapter,
    Part,
    Seen,
    Session,
)
from kvattn.testing.machines import CacheMachine
from kvattn.typing import Array
from tests.caches.driven import failures

SCHEMA = key_value(2, 64, dtype="float32")


@dataclass(frozen=True)
class SinkWindowAdapter(PagedAdapter):
    """kvattn's window with sinks: the rows that it remembers, and where they are."""

    sinks: int = 0
    window: int = 4
    back: int = 0

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(parts=(Part(self.window, self.sinks),), rollback=self.back)

    def start(self, batch: int) -> Any:
        return SinkWindow.start(
            SCHEMA, sinks=self.sinks, window=self.window, rollback=self.back, batch=batch, page=self.page
        )

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        cache = cache.append((k, v))
        rows = [np.concatenate(field) for field in zip(*(cache.rows(b) for b in range(cache.batch)), strict=True)]
        at = cache.remembered(0).astype(float)
        return cache, [Seen(rows[0], rows[1], at, length=cache.length)]


class SourceAdapter(PagedAdapter):
    """kvattn's cross-attention cache: the first append is the source."""

    capabilities = Capabilities(parts=(Part(source=True),))

    def start(self, batch: int) -> Any:
        return None

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        cache = (Static.start(SCHEMA, (k, v), page=self.page) if cache is None else cache).advance(k.shape[2])
        rows = cache.rows()
        return cache, [Seen(rows.k, rows.v, length=cache.length)]

    def branch(self, cache: Any) -> Any:
        return cache


@dataclass
class Arrays:
    """What the wrong caches below are made of."""

    k: Array
    v: Array


class InPlace:
    """The least right cache that changes in place; the wrong ones differ by a line."""

    capabilities = Capabilities()

    def start(self, batch: int) -> Any:
        return Arrays(*(np.zeros((batch, 2, 0, 64), np.float32) for _ in "kv"))

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        cache.k, cache.v = np.concatenate([cache.k, k], 2), np.concatenate([cache.v, v], 2)
        return cache, [Seen(cache.k, cache.v, length=cache.k.shape[2])]

    def rollback(self, cache: Any, tokens: int) -> Any:
        if not 0 <= tokens <= cache.k.shape[2]:
            raise ValueError("tokens")
        return self.cut(cache, cache.k.shape[2] - tokens)

    def cut(self, cache: Any, length: int) -> Any:
        cache.k, cache.v = cache.k[:, :, :length].copy(), cache.v[:, :, :length].copy()
        return cache

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        cache.k, cache.v = cache.k[list(indices)], cache.v[list(indices)]
        return cache

    def branch(self, cache: Any) -> Any:
        return Arrays(cache.k.copy(), cache.v.copy())


RIGHT: dict[str, CacheAdapter] = {
    "paged": PagedAdapter(3),
    "window": SinkWindowAdapter(page=2),
    "window that goes back": SinkWindowAdapter(page=3, window=3, back=4),
    "sinks": SinkWindowAdapter(page=1, sinks=2),
    "source": SourceAdapter(),
    "in place": InPlace(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_caches_pass(name: str) -> None:
    class Machine(CacheMachine):
        adapter: CacheAdapter = RIGHT[name]

    runs = 300 if os.environ.get("KVATTN_PROFILE") == "deep" else 15
    run_state_machine_as_test(Machine, settings=settings(max_examples=runs, stateful_step_count=15))


class CropOffByOne(InPlace):
    def cut(self, cache: Any, length: int) -> Any:
        return super().cut(cache, length + 1)


class CropOfLengthOnly(InPlace):
    """The length goes back, the rows do not, and the next append comes behind them (mlx-lm ConcatenateKVCache)."""

    def start(self, batch: int) -> Any:
        cache = super().start(batch)
        cache.gone = 0
        return cache

    def rollback(self, cache: Any, tokens: int) -> Any:
        if not 0 <= tokens <= cache.k.shape[2]:
            raise ValueError("tokens")
        cache.gone = tokens
        return cache

    def branch(self, cache: Any) -> Any:
        twin = super().branch(cache)
        twin.gone = cache.gone
        return twin

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        cache, (seen,) = super().append(cache, k, v)
        return cache, [seen._replace(length=cache.k.shape[2] - cache.gone)]


class CropWithoutOverwriting(CropOfLengthOnly):
    """The rows that were taken back are not written again: the new ones are dropped."""

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        skip = min(cache.gone, k.shape[2])
        kept = cache.k.shape[2] - cache.gone + skip
        cache, _ = super().append(cache, k[:, :, skip:], v[:, :, skip:])
        length = kept + k.shape[2] - skip
        cache.gone = cache.k.shape[2] - length
        return cache, [Seen(cache.k[:, :, :length], cache.v[:, :, :length], length=length)]


class NoReorder(InPlace):
    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        cache.k, cache.v = cache.k[np.sort(indices)], cache.v[np.sort(indices)]
        return cache


class ReorderTwice(InPlace):
    capabilities = Capabilities(resize=False)

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        if len(indices) != len(cache.k):
            raise ValueError("indices")
        return super().select(super().select(cache, indices), indices)


class ReorderOfKeysOnly(InPlace):
    capabilities = Capabilities(resize=False)

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        if len(indices) != len(cache.k):
            raise ValueError("indices")
        cache.k = cache.k[list(indices)]
        return cache


class Static8(InPlace):
    """Eight slots, and the ninth token goes to the first one."""

    capabilities = Capabilities(capacity=8, rollback=0)

    def start(self, batch: int) -> Any:
        cache = Arrays(*(np.zeros((batch, 2, 8, 64), np.float32) for _ in "kv"))
        cache.length = 0  # type: ignore[attr-defined]
        return cache

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        slots = np.arange(cache.length, cache.length + k.shape[2]) % 8
        cache.k[:, :, slots], cache.v[:, :, slots] = k, v
        cache.length += k.shape[2]
        return cache, [Seen(cache.k, cache.v, np.arange(8), length=cache.length)]

    def rollback(self, cache: Any, tokens: int) -> Any:
        raise ValueError("tokens")

    def branch(self, cache: Any) -> Any:
        twin = super().branch(cache)
        twin.length = cache.length
        return twin


class Aliasing(Static8):
    """A branch shares the memory (Static8 itself does not)."""

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        if cache.length + k.shape[2] > 8:
            raise ValueError("full")
        return super().append(cache, k, v)

    def branch(self, cache: Any) -> Any:
        twin = Arrays(cache.k, cache.v)
        twin.length = cache.length  # type: ignore[attr-defined]
        return twin


class Damaged(Aliasing):
    """What is refused is counted all the same (transformers StaticLayer)."""

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        if cache.length + k.shape[2] > 8:
            cache.length += k.shape[2]
            raise ValueError("full")
        return super().append(cache, k, v)

    def branch(self, cache: Any) -> Any:
        return Static8.branch(self, cache)


class KeepsW(InPlace):
    """A window of 4 that keeps 4 rows, also where several queries came at once and need 3 + T."""

    capabilities = Capabilities(parts=(Part(window=4),), rollback=0)

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        cache, _ = super().append(cache, k, v)
        cache.k, cache.v = cache.k[:, :, -4:], cache.v[:, :, -4:]
        return cache, [Seen(cache.k, cache.v)]

    def rollback(self, cache: Any, tokens: int) -> Any:
        raise ValueError("tokens")


class WrongRing(KeepsW):
    """A ring whose rows are taken to be in order after the wrap."""

    capabilities = Capabilities(parts=(Part(window=4),), rollback=0, many=False)

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        if k.shape[2] > 1:
            raise ValueError("one at a time")
        if k.shape[2] and cache.k.shape[2] == 4:
            cache.at = (getattr(cache, "at", -1) + 1) % 4
            cache.k[:, :, cache.at], cache.v[:, :, cache.at] = k[:, :, 0], v[:, :, 0]
        else:
            cache.k, cache.v = np.concatenate([cache.k, k], 2), np.concatenate([cache.v, v], 2)
        return cache, [Seen(cache.k, cache.v)]

    def branch(self, cache: Any) -> Any:
        twin = super().branch(cache)
        twin.at = getattr(cache, "at", -1)
        return twin


class ShortMask(KeepsW):
    """The mask is made for the window, the rows are all that are there."""

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        cache, (seen,) = InPlace.append(self, cache, k, v)
        length = cache.k.shape[2]
        return cache, [seen._replace(positions=np.arange(max(0, length - k.shape[2] - 3), length))]


class HeadsSwapped(InPlace):
    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        return super().append(cache, k, v[:, ::-1])


class Blind(KeepsW):
    """A mask that shows one key too many."""

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        cache, (seen,) = InPlace.append(self, cache, k, v)
        places = np.arange(cache.k.shape[2])
        distance = places[places.size - k.shape[2] :, None] - places
        return cache, [seen._replace(visible=(distance >= 0) & (distance <= 4))]


WRONG: dict[Callable[[], CacheAdapter], tuple[str, str]] = {
    CropOffByOne: ("resurrected row", "start 1, append 3, rollback 1"),
    CropOfLengthOnly: ("resurrected row", "start 1, append 3, rollback 1"),
    CropWithoutOverwriting: ("stale after rollback", "start 1, append 3, rollback 1"),
    NoReorder: ("wrong owner", "start 2, append 1, select 1 0"),
    ReorderTwice: ("wrong owner", "start 3, append 1, select 1 2 0"),
    ReorderOfKeysOnly: ("wrong owner", "start 2, append 1, select 1 0"),
    Static8: ("silent overflow", "start 1, append 8, append 1"),
    Aliasing: ("alias after branch", "start 1, append 2, branch, append 3"),
    Damaged: ("changed by a refusal", "start 1, append 5, append 4"),
    KeepsW: ("lost row", "start 1, append 3, append 3"),
    WrongRing: ("wrong order", "start 1, append 1, append 1, append 1, append 1, append 1"),
    ShortMask: ("rows do not fit the mask", "start 1, append 6, append 1"),
    HeadsSwapped: ("mangled row", "start 1, append 1"),
    Blind: ("row out of sight", "start 1, append 5"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_cache_is_named(wrong: Callable[[], CacheAdapter]) -> None:
    kind, script = WRONG[wrong]
    before, _, last = script.rpartition(", ")
    session = Session(wrong())
    with pytest.raises(CacheFault) as found:
        session.follow(script)
    assert found.value.kind == kind
    assert str(found.value).startswith(f"{kind}: ")
    verb, *words = last.split()
    assert session.log[-1].startswith(verb), f"{before} must pass"
    assert words


@pytest.mark.parametrize("wrong", WRONG)
def test_the_machine_finds_it(wrong: Callable[[], CacheAdapter]) -> None:
    class Machine(CacheMachine):
        adapter = wrong()

    (found,) = failures(Machine, 15)
    assert isinstance(found, CacheFault)


@pytest.mark.parametrize(("copies", "window"), [(1, None), (3, None), (1, 4), (3, 4)])
def test_rows_in_front_of_the_oldest_are_out_of_sight(copies: int, window: int | None) -> None:
    """Mutant of the session: where a cache told neither places nor a length, rows in front were not looked at."""

    class Leading(InPlace):
        capabilities = Capabilities(parts=(Part(window=window),))

        def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
            cache, (seen,) = super().append(cache, k, v)
            keys, values = (np.concatenate([x[:, :, :1]] * copies + [x], 2) for x in (seen.keys, seen.values))
            return cache, [Seen(keys, values)]

    with pytest.raises(CacheFault) as found:
        Session(Leading()).follow("start 1, append 2")
    assert found.value.kind == "row out of sight"
    held = 2 + copies
    assert f"{held} keys of sequence 0, head 0 came back for 2 tokens, in front token 0" in str(found.value)


@pytest.mark.parametrize(
    ("window", "front"), [(None, np.zeros((1, 2, 2, 64), np.float32)), (2, None)], ids=["zeros", "beyond the window"]
)
def test_rows_in_front_that_nothing_sees_are_no_fault(window: int | None, front: Array | None) -> None:
    class Padded(InPlace):
        capabilities = Capabilities(parts=(Part(window=window),))

        def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
            cache, (seen,) = super().append(cache, k, v)
            if seen.length == 2:
                return cache, [Seen(seen.keys, seen.values)]
            rows = (seen.keys, seen.values)
            keys, values = (np.concatenate([x[:, :, :1] if front is None else front, x], 2) for x in rows)
            return cache, [Seen(keys, values)]

    session = Session(Padded())
    line = session.start(1)
    assert session.append(line, 2)
    assert session.append(line, 2)


def test_every_name_of_a_fault_is_met() -> None:
    met = {kind for kind, _ in WRONG.values()} | {"wrong length", "refused"}  # these two below
    assert met == set(FAULTS)


def test_a_wrong_length_and_a_refusal_are_named() -> None:
    class Miscounting(InPlace):
        def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
            cache, (seen,) = super().append(cache, k, v)
            return cache, [seen._replace(length=7)]

    with pytest.raises(CacheFault, match=r"^wrong length: the cache holds 2 tokens and says 7$"):
        Session(Miscounting()).follow("start 1, append 2")

    class Refusing(InPlace):
        def cut(self, cache: Any, length: int) -> Any:
            raise RuntimeError("not today")

    with pytest.raises(CacheFault, match=r"^refused: rollback\(0, 1\) was refused: RuntimeError\('not today'\)$"):
        Session(Refusing()).follow("start 1, append 2, rollback 1")


def test_what_is_not_declared_may_be_refused() -> None:
    class Forward(InPlace):
        capabilities = Capabilities(rollback=0, select=False, resize=False)

        def select(self, cache: Any, indices: Sequence[int]) -> Any:
            raise RuntimeError("never")

        def cut(self, cache: Any, length: int) -> Any:
            raise RuntimeError("never")

    session = Session(Forward())
    line = session.start(2)
    assert session.append(line, 2)
    assert not session.rollback(line, 1)
    assert not session.select(line, [1, 0])
    assert session.append(line, 1)
    assert line.length == 3


def test_a_cache_that_a_refusal_ends_is_not_used_again() -> None:
    class Fragile(Damaged):
        capabilities = Capabilities(capacity=8, rollback=0, recovers=False)

    session = Session(Fragile())
    line = session.start(1)
    assert not session.append(line, 9)
    with pytest.raises(ArgumentError, match="append must be of a cache that is still in use"):
        session.append(line, 1)


def test_parts_that_are_not_declared_are_refused() -> None:
    class Two(InPlace):
        capabilities = Capabilities(parts=(Part(), Part()))

    with pytest.raises(CacheFault, match="append must return 2 parts as declared, got 1"):
        Session(Two()).follow("start 1, append 2")


def test_a_script_with_an_unknown_step_is_refused() -> None:
    with pytest.raises(ArgumentError, match="script must be of start, append, rollback, select and branch, got 'crop'"):
        Session(InPlace()).follow("start 1, crop 2")


@pytest.mark.parametrize(
    ("gives", "told"),
    [
        (lambda cache, seen: None, "a pair, the cache and a list of Seen, got NoneType"),
        (lambda cache, seen: cache, "a pair, the cache and a list of Seen, got Paged"),
        (lambda cache, seen: "ab", "a pair, the cache and a list of Seen, got str"),
        (lambda cache, seen: (cache, seen[0]), "the cache and a list of Seen, got a cache and Seen"),
        (lambda cache, seen: (cache, [None]), "the cache and a list of Seen, got a cache and list of NoneType"),
    ],
)
def test_an_append_that_gives_something_else_is_told_in_words(gives: Callable[[Any, Any], Any], told: str) -> None:
    class Odd(PagedAdapter):
        def append(self, cache: Any, k: Array, v: Array) -> Any:
            return gives(*super().append(cache, k, v))

    for attempt in (lambda: Session(Odd()).follow("start 1, append 2"), lambda: check_cache(Odd(), drawn=0)):
        with pytest.raises(ArgumentError, match=f"^append must return {told}$"):
            attempt()
