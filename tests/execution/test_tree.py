"""Tree decoding: each node as if its path had been decoded alone; what is committed is what plain decoding leaves."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import KeyValue, Paged, key_value, latent
from kvattn.core import streaming
from kvattn.counting import counting
from kvattn.errors import ArgumentError, ShapeError
from kvattn.execution import Question, commit, tree_attend
from kvattn.masks import Causal, Tree, Window
from kvattn.positions.alibi import Alibi
from kvattn.positions.rotary import Rotary
from kvattn.typing import Array, Attended
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from tests.execution.questions import distance, distance_by_hand

HKV, HEADS, D, DV = 2, 4, 4, 3
TURN = Rotary.of(width=D)
PIPELINES: list[dict[str, Any]] = [
    {},
    {"sinks": np.linspace(-1, 1, HEADS), "softcap": 2.0},
    {"mods": (Alibi.of(HEADS),)},
    {"mask": Window(3), "scale": 0.4},
]


@st.composite
def drafts(draw: st.DrawFn) -> tuple[Tree, Paged[KeyValue], list[Array]]:
    """A tree, a past in pages around its length, and raw rows for the nodes."""
    start, page = draw(st.integers(0, 5)), draw(st.sampled_from([1, 2, 3, 4, 256]))
    parents = [draw(st.integers(-1, node - 1)) for node in range(draw(st.integers(1, 6)))]
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    q, k, v = (random.normal(size=(2, h, start + 6, w)) for h, w in ((HEADS, D), (HKV, D), (HKV, DV)))
    at = np.broadcast_to(np.arange(start)[None, None], (2, 1, start))
    past = Paged.start(key_value(HKV, D, DV), batch=2, page=page)
    past = past.append(KeyValue(TURN.rotate(k[:, :, :start], at), v[:, :, :start]))
    return Tree(parents, start), past, [x[:, :, start : start + len(parents)] for x in (q, k, v)]


def turned(rows: Array, positions: Any) -> Array:
    return TURN.rotate(rows, np.tile(np.asarray(positions), (2, 1))[:, None])


def checked(tree: Tree, past: Paged[KeyValue], rows: list[Array], **pipeline: Any) -> tuple[Attended, Paged[KeyValue]]:
    q, k, v = rows
    return tree_attend(past, turned(q, tree.positions), turned(k, tree.positions), v, tree, **pipeline)


def climb(tree: Tree, node: int) -> list[int]:
    """The nodes from a child of the past to this one."""
    found = []
    while node >= 0:
        found.append(node)
        node = tree.parents[node]
    return found[::-1]


def plain(
    past: Paged[KeyValue], rows: list[Array], path: list[int], **pipeline: Any
) -> tuple[list[Attended], Paged[KeyValue]]:
    """Decode the tokens of a path one at a time, causally, as if nobody had drafted anything."""
    found, mask = [], pipeline.get("mask")
    mask = Causal() if mask is None else Causal() & mask
    for node in path:
        q, k, v = (x[:, :, node : node + 1] for x in rows)
        at = np.full((2, 1), past.length)
        past = past.append(KeyValue(turned(k, at[0]), v))
        held = [past.blocks(b) for b in range(2)]
        found.append(streaming.attend(turned(q, at[0]), at, held, value_width=DV, **(pipeline | {"mask": mask})))
    return found, past


def asked(past: Paged[KeyValue], rows: list[Array], tree: Tree, node: int, pipeline: dict[str, Any]) -> Question:
    """The question that a node puts: its turned query, the past and its path at their positions."""
    path = climb(tree, node)
    at = tree.start + np.arange(len(path))
    q, k, v = (x[:, :, path] for x in rows)
    return Question(
        turned(q[:, :, -1:], at[-1:]),
        np.concatenate([past.rows().k, turned(k, at)], 2),
        np.concatenate([past.rows().v, v], 2),
        **pipeline,
    )


@pytest.mark.by_hand("execution/tree")
@pytest.mark.law("execution/tree", "a node equals decoding its path alone", "bound")
@given(drafts(), st.sampled_from(PIPELINES))
def test_a_node_is_its_path_decoded_alone(
    draft: tuple[Tree, Paged[KeyValue], list[Array]], pipeline: dict[str, Any]
) -> None:
    tree, past, rows = draft
    found, _ = checked(tree, past, rows, **pipeline)
    for node in range(len(tree.parents)):
        path = climb(tree, node)
        alone = plain(past, rows, path, **pipeline)[0][-1]
        mine = Attended(found.out[:, :, node : node + 1], found.lse[:, :, node : node + 1])
        question = asked(past, rows, tree, node, pipeline)
        assert distance(mine, question, wanted=alone) <= 1
        assert distance_by_hand(mine, question) <= 1
        if path == list(range(node + 1)):  # the same keys in the same slots
            assert np.array_equal(mine.out, alone.out)
            assert np.array_equal(mine.lse, alone.lse)


@pytest.mark.law("execution/tree", "after a commit everything is as if the path had been decoded plainly", "bits")
@given(drafts(), st.data(), st.sampled_from(PIPELINES))
def test_after_a_commit_decoding_goes_on_as_if_nothing_had_been_drafted(
    draft: tuple[Tree, Paged[KeyValue], list[Array]], data: st.DataObject, pipeline: dict[str, Any]
) -> None:
    tree, past, rows = draft
    path = climb(tree, data.draw(st.integers(-1, len(tree.parents) - 1)))
    _, held = checked(tree, past, rows, **pipeline)
    kept = commit(held, tree, path)
    _, wanted = plain(past, rows, path, **pipeline)
    assert kept.lengths == wanted.lengths == (tree.start + len(path),) * 2
    for mine, theirs in zip(kept.rows(), wanted.rows(), strict=True):
        assert np.array_equal(mine, theirs)
    (after,), _ = plain(kept, rows, [0], **pipeline)
    (before,), _ = plain(wanted, rows, [0], **pipeline)
    assert np.array_equal(after.out, before.out)
    assert np.array_equal(after.lse, before.lse)
    assert held.length == tree.start + len(tree.parents)  # the draft is a value, too


@given(st.integers(0, 4), st.integers(0, 2**16), st.sampled_from([2, 256]))
def test_a_layer_goes_on_behind_a_commit_as_behind_its_own_steps(start: int, seed: int, page: int) -> None:
    """The layer's projections around `tree_attend`; then its own steps, to the bit, and its out for the first node."""
    random = np.random.default_rng(seed)
    wq, wk, wv, wo = (random.normal(size=shape) for shape in ((6, 4 * D), (6, 2 * D), (6, 2 * DV), (4 * DV, 6)))
    layer = Grouped(Projections(wq, wk, wv, wo, heads=4, kv_heads=2), query_key=(TURN,), page=page)
    x, drafted = random.normal(size=(2, start, 6)), random.normal(size=(2, 5, 6))
    _, past = layer.step(layer.start(2), x)
    tree, w = Tree([-1, -1, 0, 1, 3], start), layer.projections
    rows = [w.queries(drafted), w.keys(drafted), w.values(drafted)]
    found, held = checked(tree, past, rows)
    kept, plainly, alone = commit(held, tree, [1, 3, 4]), past, []
    for node in (1, 3, 4):
        one, plainly = layer.step(plainly, drafted[:, node : node + 1])
        alone.append(one)
    assert np.allclose(
        w.outputs(found.out)[:, [1, 3, 4]], np.concatenate([one.out for one in alone], 1), rtol=1e-11, atol=1e-11
    )
    after, before = layer.step(kept, drafted[:, :2])[0], layer.step(plainly, drafted[:, :2])[0]
    assert np.array_equal(after.out, before.out)
    assert np.array_equal(after.lse, before.lse)


def test_a_commit_copies_what_moves_and_no_more() -> None:
    """Nodes 0 and 1 stay where they are; node 3 moves to slot 2 + start, behind a page that is copied up to there."""
    past = Paged.start(key_value(1, 2), page=8).append([np.ones((1, 1, 3, 2))] * 2)
    tree = Tree([-1, 0, 1, 1], start=3)
    held = past.append([np.ones((1, 1, 4, 2))] * 2)
    row = 2 * 2 * 8
    with counting() as stays:
        commit(held, tree, [0, 1])
    with counting() as moves:
        commit(held, tree, [0, 1, 3])
    assert (stays.kv_written, stays.kv_copied) == (0, 0)
    assert (moves.kv_written, moves.kv_copied) == (0, 6 * row)  # the row was written before: moving it is a copy


def test_siblings_are_alike_to_positions() -> None:
    """Position is depth: equal siblings give equal results, which slot they stand in notwithstanding."""
    past = Paged.start(key_value(1, 2)).append([np.ones((1, 1, 3, 2))] * 2)
    tree, row = Tree([-1, -1, -1], start=3), np.ones((1, 1, 3, 2))
    found, _ = tree_attend(past, row, row, row, tree, mask=Window(2), mods=(Alibi((0.5,)),))
    assert np.array_equal(found.lse[0, 0], np.full(3, found.lse[0, 0, 0]))
    assert np.exp(found.lse[0, 0, 0] - 2 / np.sqrt(2)) == pytest.approx(1 + np.exp(-0.5))  # itself and one before


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ([1], r"^path\[0\] must be a child of the past, got 1$"),
        ([0, 2], r"^path\[1\] must be a child of node 0, got 2$"),
        ([0, 1, 1], r"^path\[2\] must be a child of node 1, got 1$"),
        ([3], r"^path\[0\] must be a child of the past, got 3$"),
        ([-1], r"^path\[0\] must be an integer >= 0, got -1$"),
    ],
)
def test_what_is_no_path_is_named(path: list[int], words: str) -> None:
    tree = Tree([-1, 0, -1], start=1)
    held = Paged.start(key_value(1, 2)).append([np.ones((1, 1, 4, 2))] * 2)
    with pytest.raises(ArgumentError, match=words):
        commit(held, tree, path)


def test_bad_arguments_are_named() -> None:
    past, row = Paged.start(key_value(1, 2)).append([np.ones((1, 1, 4, 2))] * 2), np.ones((1, 1, 1, 2))
    with pytest.raises(ArgumentError, match=r"^tree must start at 4, where the cache ends, got 3$"):
        tree_attend(past, row, row, row, Tree([-1], start=3))
    with pytest.raises(ArgumentError, match=r"^cache must hold 6 tokens, the past and all nodes, got 4$"):
        commit(past, Tree([-1, 0], start=4), [0])
    with pytest.raises(ShapeError, match=r"^q must have shape \[1, Hq, 2, 2\], got \(1, 1, 1, 2\)$"):
        tree_attend(past, row, row, row, Tree([-1, 0], start=4))
    with pytest.raises(ShapeError, match=r"^k must have shape \[1, 1, 1, 2\], got \(1, 1, 0, 2\)$"):
        tree_attend(past, row, row[:, :, :0], row[:, :, :0], Tree([-1], start=4))
    with pytest.raises(ArgumentError, match=r"^cache must hold keys k and values v, got Latent$"):
        tree_attend(Paged.start(latent(2)), row, row, row, Tree([-1], start=0))  # type: ignore[arg-type]
