"""The tree of tuples is a plain list to whoever reads it, and a new value copies one path and no more."""

from collections.abc import Callable
from typing import Any
import weakref

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
import pytest

from kvattn.caches import vectors
from kvattn.caches.vectors import BRANCHES, Vector
from kvattn.errors import ArgumentError

EDGES = (0, 1, 31, 32, 33, 1023, 1024, 1025, 1056)
SIZES = st.sampled_from(EDGES) | st.integers(0, 2200)


def places(size: int) -> st.SearchStrategy[int]:
    near = [n for n in EDGES if n <= size] + [size, max(0, size - 1), size // BRANCHES * BRANCHES]
    return st.sampled_from(near) | st.integers(0, size)


def check(data: st.DataObject) -> None:
    """Do the same to a vector and to a list, five times over, and compare everything each time."""
    vector: Vector[Any] = Vector()
    plain: list[Any] = []
    given_out = 0
    for _ in range(5):
        old, was = vector, list(plain)
        verb = data.draw(st.sampled_from(["extend", "take", "fill", "replace"]), label="verb")
        if verb == "extend":
            count = data.draw(SIZES, label="count")
            vector, plain = (
                vector.extend(range(given_out, given_out + count)),
                [
                    *plain,
                    *range(given_out, given_out + count),
                ],
            )
            given_out += count
        elif verb == "take":
            count = data.draw(places(len(plain)), label="count")
            vector, plain = vector.take(count), plain[:count]
        elif verb == "fill":
            start, stop = sorted((data.draw(places(len(plain))), data.draw(places(len(plain)))))
            vector, plain = vector.fill(start, stop, None), plain[:start] + [None] * (stop - start) + plain[stop:]
        elif plain:
            index = data.draw(st.integers(0, len(plain) - 1), label="index")
            vector, plain = vector.replace(index, -1), [*plain[:index], -1, *plain[index + 1 :]]
        assert list(vector) == plain
        assert (len(vector), list(old)) == (len(plain), was)
        assert vector == Vector.of(plain)  # the shape of the tree depends on the items alone
        start, stop = sorted((data.draw(places(len(plain))), data.draw(places(len(plain)))))
        assert list(vector.between(start, stop)) == plain[start:stop]
        for index in {0, len(plain) // 2, len(plain) - 1, -1} if plain else ():
            assert vector[index] == plain[index]


@pytest.mark.by_hand("caches/vectors")
@pytest.mark.no_peer("caches/vectors", "a plain list says all that there is to say")
@given(data=st.data())
def test_a_vector_reads_as_a_list(data: st.DataObject) -> None:
    check(data)


def nodes(node: Any, height: int) -> dict[int, int]:
    """Every node by identity, with how many pointers it holds."""
    found = {id(node): len(node)}
    for child in node if height else ():
        found.update(nodes(child, height - 1))
    return found


def copied(old: Vector[Any], new: Vector[Any]) -> int:
    """Pointers in nodes of the new value which the old one does not have."""
    there = nodes(old.root, old.height)
    return sum(count for name, count in nodes(new.root, new.height).items() if name not in there)


CHANGES: dict[str, Callable[[Vector[int]], Vector[int]]] = {
    "extend": lambda v: v.extend([-1]),
    "replace": lambda v: v.replace(len(v) // 2, -1),
    "take": lambda v: v.take(len(v) - 1),
    "take half": lambda v: v.take(len(v) // 2 + 1),
    "fill": lambda v: v.fill(1, len(v) - 1, -1),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.law("caches/vectors", "a change copies paths, not items", "integers")
def test_a_change_copies_paths_however_long_the_vector_is(name: str) -> None:
    for size in (1, 31, 32, 33, 1000, 1025, 30_000, 40_000):
        old = Vector.of(range(size))
        paths = 3 if name == "fill" else 1  # two edges, and the full nodes that all others share
        assert copied(old, CHANGES[name](old)) <= paths * BRANCHES * (old.height + 2)


def test_putting_many_at_the_end_one_by_one_costs_a_path_each() -> None:
    vector: Vector[int] = Vector()
    total = 0
    for n in range(2000):
        longer = vector.extend([n])
        total += copied(vector, longer)
        vector = longer
    assert total <= 2000 * 2 * (BRANCHES + 3)


def test_what_is_cut_off_is_let_go() -> None:
    class Item: ...

    item = Item()
    gone = weakref.ref(item)
    vector = Vector.of([*range(40), item, *range(40)])
    short, holed = vector.take(40), vector.fill(33, 50, None)
    del item, vector
    assert gone() is None
    assert (len(short), len(holed)) == (40, 81)


@pytest.mark.parametrize("index", [-4, 3, 40])
def test_an_item_that_is_not_there_is_refused(index: int) -> None:
    with pytest.raises(ArgumentError, match=rf"index must be in 0 \.\. 2, got {index}"):
        Vector.of("abc")[index]


def _keeps_the_end(node: Any, height: int, count: int) -> Any:
    whole, rest = divmod(count, BRANCHES**height)
    return node[: whole + bool(rest)]


def _one_short(node: Any, height: int, start: int, stop: int, item: Any, full: Any) -> Any:
    return RIGHT(node, height, start, max(start, stop - 1), item, full)


RIGHT = vectors._filled


@pytest.mark.parametrize(("name", "wrong"), [("_cut", _keeps_the_end), ("_filled", _one_short)])
def test_wrong_trees_are_rejected(monkeypatch: pytest.MonkeyPatch, name: str, wrong: Any) -> None:
    monkeypatch.setattr(vectors, name, wrong)

    @settings(phases=[Phase.generate])
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        check(data)

    with pytest.raises((AssertionError, TypeError, IndexError, ArgumentError)):
        run()
