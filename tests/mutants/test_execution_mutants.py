"""Wrong forms of execution that the comparisons of tests/execution must reject; most are real faults of engines."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
import math
from typing import Any

import numpy as np
import pytest

from kvattn.caches import KeyValue, Paged, key_value
from kvattn.caches.blocks import blocks_of
from kvattn.core import streaming
from kvattn.core.merge import base2_from_natural, merge
from kvattn.core.pipeline import arguments_of
from kvattn.execution import (
    BlockTable,
    Lookahead,
    Question,
    Segment,
    attend_parts,
    cascade_attend,
    chunked_attend,
    commit,
    contiguous,
    folded,
    plan,
    ring_attend,
    smoothed_attend,
    stripes,
    tree_attend,
)
from kvattn.masks import Causal, Document, Tree, Window
from kvattn.typing import Array, Attended, Indices
from tests.execution import questions, test_lookahead

RANDOM = np.random.default_rng(11)
Q, K, V = (RANDOM.normal(size=(2, h, 8, w)) for h, w in ((4, 5), (2, 5), (2, 3)))
ASKED = Question(Q, K, V, mask=Causal(), sinks=np.array([0.5, -1.0, 2.0, 0.0]))


def rejected(found: Attended, question: Question = ASKED) -> bool:
    """Whether the tests' own measure sees it, by far more than rounding."""
    return questions.distance(found, question, parts=9) > 100


def sink_in_each_part(question: Question) -> Attended:
    """rocm-libraries #12227, one of its pipelines."""
    return merge(*(question.part(keys=part).attend() for part in (slice(0, 3), slice(3, 8))))


def sink_in_the_first_part(question: Question) -> Attended:
    """And dropped with it where that part is hidden from a row, or counted in an empty one."""
    first, second = attend_parts(question, [0])
    return merge(first, Attended(second.out, np.logaddexp(second.lse, question.of_sinks().lse)))


def sink_in_no_part(question: Question) -> Attended:
    return merge(*attend_parts(question, [3]))


def base_two(question: Question) -> Attended:
    """sglang #40903: one kernel's lse is to base 2, the merge takes it for natural."""
    first, second = attend_parts(question, [3])
    return merge(first._replace(lse=base2_from_natural(first.lse)), second, question.of_sinks())


def largest_part_wins(question: Question) -> Attended:
    """Max in place of sum."""
    parts = [*attend_parts(question, [3]), question.of_sinks()]
    best = np.argmax([part.lse for part in parts], axis=0)
    out = np.take_along_axis(np.stack([part.out for part in parts]), best[None, ..., None], 0)[0]
    return Attended(out, np.max([part.lse for part in parts], axis=0))


def mean_of_parts(question: Question) -> Attended:
    parts = attend_parts(question, [3])
    return Attended((parts[0].out + parts[1].out) / 2, merge(*parts, question.of_sinks()).lse)


def one_part_twice(question: Question) -> Attended:
    """A shared prefix that the suffix holds as well."""
    prefix, suffix = attend_parts(question, [3])
    return merge(prefix, suffix, prefix, question.of_sinks())


@pytest.mark.parametrize(
    "mutant",
    [
        sink_in_each_part,
        sink_in_the_first_part,
        sink_in_no_part,
        base_two,
        largest_part_wins,
        mean_of_parts,
        one_part_twice,
    ],
)
def test_wrong_merges_are_rejected(mutant: Callable[[Question], Attended]) -> None:
    assert rejected(mutant(ASKED))
    assert not rejected(merge(*attend_parts(ASKED, [3]), ASKED.of_sinks()))


def online(question: Question, *, fade_sum: bool = True, fade_mix: bool = True, guard: bool = True) -> Attended:
    """A running softmax in plain NumPy over keys one at a time, whole where nothing is switched off."""
    group = question.q.shape[1] // question.k.shape[1]
    scores = np.einsum("bhtd,bhsd->bhts", question.q, question.k.repeat(group, 1)) / math.sqrt(question.q.shape[3])
    scores = np.where(question.visible(), scores, -np.inf)
    values = question.v.repeat(group, 1)
    out, top = question.of_sinks()
    total = np.zeros_like(top)
    with np.errstate(invalid="ignore"):
        for s in range(scores.shape[3]):
            peak = np.maximum(top, scores[..., s])
            shift = np.maximum(peak, -1e300) if guard else peak
            fade, weight = np.exp(top - shift), np.exp(scores[..., s] - shift)
            total = total * (fade if fade_sum else 1) + weight
            out = (
                out * (fade if fade_mix else np.ones_like(fade))[..., None] + weight[..., None] * values[:, :, None, s]
            )
            top = peak
    return Attended(out / total[..., None], top + np.log(total))


@pytest.mark.parametrize("off", ["fade_sum", "fade_mix", "guard"])
def test_a_running_softmax_without_one_of_its_parts_is_rejected(off: str) -> None:
    """Without the guard, rows whose first key is hidden are NaN (flashinfer #4401)."""
    question = replace(ASKED, mask=Window(2), sinks=None)
    assert not rejected(online(question), question)
    assert rejected(online(question, **{off: False}), question)


def chunks_without_a_common_maximum(question: Question) -> Attended:
    """Lazy softmax that forgets to bring its chunks to one maximum."""
    parts = attend_parts(question.without_sinks(), [3])
    tops = [np.where(np.isneginf(part.lse), 0, 1.0) for part in parts]
    total = sum(tops)
    out = sum(part.out * top[..., None] for part, top in zip(parts, tops, strict=True)) / total[..., None]  # type: ignore[index]
    return Attended(out, merge(*parts).lse)


def test_chunks_that_keep_their_own_maximum_are_rejected() -> None:
    question = ASKED.without_sinks()
    assert rejected(chunks_without_a_common_maximum(question), question)


def rows_for_positions(question: Question, ranks: int, layout: Any) -> Attended:
    """A ring whose masks are taken from row numbers of what a rank holds: right in no step but the first."""
    shares = layout(8, ranks)
    out, lse = question.of_sinks()
    for rank in range(ranks):
        parts = [Attended(out[:, :, shares[rank]], lse[:, :, shares[rank]])]
        for step in range(ranks):
            part = question.without_sinks().part(shares[rank], shares[(rank - step) % ranks])
            rows, columns = np.arange(part.q.shape[2]), np.arange(part.k.shape[2])
            parts.append(replace(part, q_positions=rows, k_positions=columns).attend())
        out[:, :, shares[rank]], lse[:, :, shares[rank]] = merge(*parts)
    return Attended(out, lse)


@pytest.mark.parametrize("layout", [contiguous, stripes, folded])
def test_a_ring_without_positions_is_rejected(layout: Any) -> None:
    assert rejected(rows_for_positions(ASKED, 2, layout))
    assert not rejected(ring_attend(ASKED, 2, layout).answer)


def test_results_left_in_the_ranks_order_are_rejected() -> None:
    right, order = ring_attend(ASKED, 2, stripes).answer, np.concatenate(stripes(8, 2))
    assert rejected(Attended(right.out[:, :, order], right.lse[:, :, order]))


def unfolded(tokens: int, ranks: int) -> tuple[Indices, ...]:
    """Zigzag that deals the late runs out in the order of the early ones."""
    runs = contiguous(tokens, 2 * ranks)
    return tuple(np.concatenate([runs[rank], runs[ranks + rank]]) for rank in range(ranks))


def test_late_runs_that_are_not_folded_show_in_the_work() -> None:
    right, wrong = (ring_attend(ASKED, 2, layout) for layout in (folded, unfolded))
    assert not rejected(wrong.answer)
    assert len(set(right.pairs)) == 1
    assert len(set(wrong.pairs)) == 2
    assert wrong.critical > right.critical


@dataclass(frozen=True, eq=False, repr=False)
class WholeBlocks(BlockTable):
    """The last block read in full, zeros and garbage with it (pegainfer #291, vLLM #2231)."""

    def rows(self, sequence: int) -> tuple[Array, Array]:
        page = self.keys.shape[1]
        used = np.asarray(self.table)[sequence, : -(-self.lengths[sequence] // page)]
        keys, values = (pool[used].reshape(-1, *pool.shape[2:]).swapaxes(0, 1) for pool in (self.keys, self.values))
        return keys, values

    def attend(self, q: Array, **pipeline: Any) -> Attended:
        rows = [self.rows(b) for b in range(len(self.lengths))]
        at = np.array(self.lengths)[:, None] - 1 + np.zeros((1, q.shape[2]), int)
        held = [
            blocks_of(k, v, np.minimum(np.arange(k.shape[1]), n - 1))
            for (k, v), n in zip(rows, self.lengths, strict=True)
        ]
        return streaming.attend(q, at, held, value_width=self.values.shape[3], **pipeline)


@dataclass(frozen=True, eq=False, repr=False)
class Slab(BlockTable):
    """Blocks taken to lie one behind the other from the first on (pypto #470, ssd #22)."""

    def rows(self, sequence: int) -> tuple[Array, Array]:
        first = int(np.asarray(self.table)[sequence, 0])
        flat = [np.roll(pool, -first, axis=0).reshape(-1, *pool.shape[2:]) for pool in (self.keys, self.values)]
        keys, values = (pool[: self.lengths[sequence]].swapaxes(0, 1) for pool in flat)
        return keys, values


@dataclass(frozen=True, eq=False, repr=False)
class Sorted(BlockTable):
    """Blocks met in physical order (vllm-ascend #14038)."""

    def rows(self, sequence: int) -> tuple[Array, Array]:
        table = np.sort(np.asarray(self.table), axis=1)
        return BlockTable(self.keys, self.values, table, self.lengths).rows(sequence)


@pytest.mark.parametrize("mutant", [WholeBlocks, Slab, Sorted])
def test_wrong_gathers_are_rejected(mutant: type[BlockTable]) -> None:
    """Seven tokens in blocks of 2, physical order 5, 2, 4, 0; a window makes the order show."""
    keys, values = (RANDOM.normal(size=(7, 2, 2, rows.shape[3])) for rows in (K, V))
    for slot in range(7):
        place = [5, 2, 4, 0][slot // 2], slot % 2
        keys[place], values[place] = K[0, :, slot], V[0, :, slot]
    q, table, mask = Q[:1, :, :1], [[5, 2, 4, 0]], Window(4)
    question = Question(q, K[:1, :, :7], V[:1, :, :7], mask=mask)
    assert rejected(mutant(keys, values, table, [7]).attend(q, mask=mask), question)
    assert not rejected(BlockTable(keys, values, table, [7]).attend(q, mask=mask), question)


def test_a_cascade_that_asks_every_mask_as_the_first_member_is_rejected() -> None:
    """And one that takes the position of the first member's queries for all."""
    mask, at = Causal() & Document([[0] * 8, [0, 0, 1, 1, 1, 1, 1, 1]]), np.array([[7], [3]])
    q, segment = Q[:, :, :1], Segment(K[0], V[0], [0, 1])
    question = Question(
        q, np.stack([K[0]] * 2), np.stack([V[0]] * 2), mask=mask, q_positions=at, k_positions=np.arange(8)
    )
    first = Document([[0] * 8] * 2)
    assert rejected(cascade_attend(q, [segment], q_positions=at, mask=Causal() & first), question)
    assert rejected(cascade_attend(q, [segment], q_positions=at[0], mask=mask), question)
    assert not rejected(cascade_attend(q, [segment], q_positions=at, mask=mask), question)


TREE = Tree([-1, -1, 1, 0], start=4)
PAST = Paged.start(key_value(2, 5, 3), batch=2).append(KeyValue(K[:, :, :4], V[:, :, :4]))
NODES = Q[:, :, 4:], K[:, :, 4:], V[:, :, 4:]


def path_of_node_2() -> Question:
    keys = [0, 1, 2, 3, 5, 6]
    return Question(Q[:, :, 6:7], K[:, :, keys], V[:, :, keys], mask=Window(4))


def node_2(found: Attended) -> Attended:
    return Attended(found.out[:, :, 2:3], found.lse[:, :, 2:3])


def test_nodes_that_see_cousins_or_count_slots_are_rejected() -> None:
    """FastDeploy #3514; and a window that takes slots for positions."""
    question = path_of_node_2()
    right, held = tree_attend(PAST, *NODES, TREE, mask=Window(4))
    assert not rejected(node_2(right), question)
    blocks, slots = [held.blocks(b) for b in range(2)], np.tile(np.arange(4, 8), (2, 1))
    for mask in (Window(4), TREE & Window(4)):
        wrong = streaming.attend(NODES[0], slots, blocks, value_width=3, mask=mask)
        assert rejected(node_2(wrong), question)
    chain, _ = tree_attend(PAST, *NODES, Tree([-1, 0, 1, 2], start=4), mask=Window(4))
    assert rejected(node_2(chain), question)


def test_a_commit_that_keeps_a_rejected_token_is_rejected() -> None:
    """By cutting to the number of accepted tokens, which keeps the first that came."""
    _, held = tree_attend(PAST, *NODES, TREE)
    plain = PAST.append(KeyValue(K[:, :, [5, 6]], V[:, :, [5, 6]])).rows()
    kept, cut = commit(held, TREE, [1, 2]).rows(), held.truncate(6).rows()
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(kept, plain, strict=True))
    assert not any(np.array_equal(mine, theirs) for mine, theirs in zip(cut, plain, strict=True))


class ByRow(Lookahead):
    """Each level a row of its own: a token sees the level before it, and not its column (a wrong reading of fig. 2)."""

    @property
    def tree(self) -> Tree:
        right = super().tree
        parents = np.array(right.parents)
        parents[self.levels[1:, 1:]] = self.levels[1:, :-1]
        return Tree(parents, self.start)


class Chained(Lookahead):
    """Guesses follow each other."""

    @property
    def tree(self) -> Tree:
        parents = np.array(super().tree.parents)
        parents[self.verified[1:, 0]] = self.verified[:-1, -1]
        return Tree(parents, self.start)


class BehindTheWindow(Lookahead):
    """Guesses begin behind level 0 and not behind the newest token."""

    @property
    def tree(self) -> Tree:
        parents = np.array(super().tree.parents)
        parents[self.verified[:, 0]] = self.levels[0, -1]
        return Tree(parents, self.start)


@pytest.mark.parametrize("mutant", [ByRow, Chained, BehindTheWindow])
def test_wrong_lookahead_trees_are_rejected(mutant: type[Lookahead]) -> None:
    rule = test_lookahead.test_the_mask_is_the_papers_rule_pair_by_pair.hypothesis.inner_test
    rule(Lookahead(window=3, ngram=3, guesses=2, start=1))
    with pytest.raises(AssertionError):
        rule(mutant(window=3, ngram=3, guesses=2, start=1))


def chunks_from_row_0(question: Question, cuts: list[int]) -> Attended:
    """Each chunk's mask begins at row 0 again (sgl-kernel-xpu #196, mlxcel #885)."""
    edges, parts = [0, *cuts, question.q.shape[2]], []
    for start, stop in pairwise(edges):
        part = question.part(slice(start, stop), slice(0, stop))
        parts.append(replace(part, q_positions=np.arange(stop - start)).attend())
    return Attended(*(np.concatenate(x, 2) for x in zip(*parts, strict=True)))


def chunks_in_a_ring(question: Question, cuts: list[int]) -> Attended:
    """Chunks longer than 1 in a ring of W rows: the first queries of a chunk lose keys (executorch #20346)."""
    edges, parts = [0, *cuts, question.q.shape[2]], []
    for start, stop in pairwise(edges):
        parts.append(question.part(slice(start, stop), slice(max(0, stop - 3), stop)).attend())
    return Attended(*(np.concatenate(x, 2) for x in zip(*parts, strict=True)))


def test_wrong_chunks_are_rejected() -> None:
    windowed = replace(ASKED, mask=Window(3))
    assert rejected(chunks_from_row_0(ASKED, [3, 5]))
    assert rejected(chunks_in_a_ring(windowed, [3, 5]), windowed)
    assert not rejected(chunks_in_a_ring(windowed, list(range(1, 8))), windowed)
    assert not rejected(chunked_attend(ASKED, [3, 5]))


def test_a_plan_that_reads_prompts_first_keeps_decoders_waiting() -> None:
    """What the plan's law looks for: under a budget of 2 the second prompt would hold up the first answer."""
    steps = plan([1, 9], [4, 1], budget=2)
    assert [0 in {work.sequence for work in step} for step in steps[1:4]] == [True] * 3


def test_a_smoothed_answer_whose_lse_or_sink_is_not_moved_back_is_rejected() -> None:
    mu = np.full((2, 2, 5), 0.3)
    shifted = replace(ASKED, k=ASKED.k - mu[:, :, None])
    assert rejected(shifted.attend())
    alone = shifted.without_sinks().attend()
    assert rejected(alone, ASKED.without_sinks())
    assert not rejected(smoothed_attend(ASKED, mu))
    assert not rejected(Attended(alone.out, ASKED.without_sinks().attend().lse), ASKED.without_sinks())


def test_the_question_itself_is_not_rejected() -> None:
    held = [blocks_of(k, v, np.arange(8)) for k, v in zip(K, V, strict=True)]
    found = streaming.attend(Q, ASKED.q_positions, held, value_width=3, **arguments_of(ASKED))
    assert not rejected(found)
