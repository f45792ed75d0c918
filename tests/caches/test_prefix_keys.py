"""A key says everything that rows depend on, and different keys never look alike."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import Paged, latent
from kvattn.caches.prefix_keys import Found, Origin, Usage, check_cache, encoded, read_tokens, too_many
from kvattn.caches.rows import placed
from kvattn.errors import ArgumentError
from tests.caches.prefixes import ORIGIN, OTHERS, cache_of

VALUES = st.lists(st.none() | st.text(max_size=4) | st.binary(max_size=4) | st.integers(0, 300), max_size=5)


@pytest.mark.no_peer("caches/prefix_keys", "the names of the parts are ours; engines hash other sets of them")
@pytest.mark.law("caches/prefix_keys", "different values give different bytes", "integers")
@given(VALUES, VALUES)
def test_different_values_never_give_the_same_bytes(left: list[Any], right: list[Any]) -> None:
    alike = [(type(x), x) for x in left] == [(type(x), x) for x in right]
    assert (encoded(left) == encoded(right)) == alike


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (["X", None], [None, "X"]),  # vLLM #44701: an adapter X, a salt X
        ([1, 23], [12, 3]),
        (["ab", "c"], ["a", "bc"]),
        (["1:"], ["1", ""]),
        ([1], ["1"]),
        ([b"1"], ["1"]),
        ([b""], [None]),
        ([], [""]),
    ],
)
def test_what_others_confused_differs(left: list[Any], right: list[Any]) -> None:
    assert encoded(left) != encoded(right)


@pytest.mark.by_hand("caches/prefix_keys")
def test_encoding_by_hand() -> None:
    assert encoded(["ab", None, 12, b"\x00"]) == b"s2:abn4:Nonei2:12b1:\x00"


def test_origins_differ_in_every_part() -> None:
    everyone = (ORIGIN, *OTHERS)
    assert len(set(everyone)) == len({encoded(each.parts) for each in everyone}) == len(everyone)
    assert replace(ORIGIN, dtype="f8") == ORIGIN
    assert hash(replace(ORIGIN, dtype="f8")) == hash(ORIGIN)


def test_no_part_of_an_origin_may_be_left_out() -> None:
    parts = {"model": "m", "adapter": None, "dtype": "f8", "salt": None, "start": 0}
    for name in parts:
        with pytest.raises(TypeError, match=name):
            Origin(**{k: v for k, v in parts.items() if k != name})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("model", "", "model must be a text that is not empty, got ''"),
        ("model", None, "model must be a text that is not empty, got None"),
        ("adapter", 3, "adapter must be a text or None, got 3"),
        ("salt", b"x", "salt must be a text or None, got b'x'"),
        ("start", -1, "start must be an integer >= 0, got -1"),
    ],
)
def test_a_bad_origin_is_refused(part: str, value: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as said:
        replace(ORIGIN, **{part: value})
    assert str(said.value) == words


def test_tokens_are_integers_or_bytes() -> None:
    assert read_tokens([1, b"x", int(np.int32(3))]) == (1, b"x", 3)
    assert read_tokens(np.array([1, 2], np.int32)) == (1, 2)
    assert read_tokens(np.array([], int)) == ()
    for bad, words in [
        ([1, -1], "tokens[1] must be an integer >= 0, got -1"),
        ([True], "tokens[0] must be an integer >= 0, got True"),
        (["a"], "tokens[0] must be an integer >= 0, got 'a'"),
        (np.zeros((1, 2), int), "tokens must be a row of integers or bytes, got an array of shape (1, 2)"),
    ]:
        with pytest.raises(ArgumentError) as said:
            read_tokens(bad)  # type: ignore[arg-type]
        assert str(said.value) == words


def test_a_cache_that_is_not_of_these_tokens_is_refused() -> None:
    cache = cache_of(ORIGIN, (1, 2, 3, 4, 5))
    check_cache(cache, ORIGIN, (1, 2, 3, 4, 5))
    for bad, tokens, words in [
        (cache, (), "tokens must be at least one, got none"),
        (cache, (1, 2), "cache must hold the 2 tokens and one sequence, got lengths (5,)"),
        (cache.select([0, 0]), (1, 2, 3, 4, 5), "cache must hold the 5 tokens and one sequence, got lengths (5, 5)"),
        (cache.release(0, 2), (1, 2, 3, 4, 5), "cache must hold every slot, got one that has released 2 of them"),
    ]:
        with pytest.raises(ArgumentError) as said:
            check_cache(bad, ORIGIN, tokens)
        assert str(said.value) == words


def test_positions_must_be_those_of_the_origin() -> None:
    cache = Paged.start(placed(latent(2))).append([np.ones((1, 1, 3, 2))], positions=np.array([[2, 3, 4]]))
    check_cache(cache, replace(ORIGIN, start=2), (7, 8, 9))
    for bad, start in (
        (cache, 0),
        (cache.shift(1), 2),
        (cache.truncate(1).append([np.ones((1, 1, 2, 2))], np.array([[4, 5]])), 2),
    ):
        with pytest.raises(ArgumentError, match=f"cache must hold positions from {start} on, one by one, got"):
            check_cache(bad, replace(ORIGIN, start=start), (7, 8, 9))


def test_usage_adds_up() -> None:
    cache = cache_of(ORIGIN, (1, 2, 3))
    usage = Usage().after(4, Found(cache, 3)).after(6, Found(None, 0), collisions=2)
    assert usage == Usage(asked=10, found=3, shared=cache.nbytes, collisions=2)
    assert usage.hit_rate == 0.3


@given(st.integers(0, 600))
def test_just_enough_caches_go(budget: int) -> None:
    trunk = Paged.start(latent(2), page=2).append([np.ones((1, 1, 5, 2))])
    row = [np.ones((1, 1, 3, 2))]
    caches = [trunk.truncate(2), trunk, trunk.append(row), trunk.append(row), cache_of(ORIGIN, (1, 2))]

    def held(some: list[Paged[Any]]) -> int:
        return sum({k: v for cache in some for k, v in cache.footprint().items()}.values())

    gone = too_many(caches, budget)
    assert held(caches[gone:]) <= budget
    assert gone == 0 or held(caches[gone - 1 :]) > budget
