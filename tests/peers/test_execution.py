"""Forms of execution beside torch's: its flash kernel with lse, flex attention, its paged and ring attention.

All in float64.  Each side is within the worst case of `kvattn.testing.tolerance` of the exact answer, for as many
tiles as it has, so they are within twice that of each other: `distance` measures in this unit, and the rows of
these sizes differ by less than 1e-13.  The tested mistakes of tests/mutants move them by 1e-3 or more.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
import warnings

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import KeyValue, Paged, key_value
from kvattn.core.merge import merge
from kvattn.execution import (
    BlockTable,
    Lookahead,
    Question,
    Segment,
    attend_parts,
    cascade_attend,
    chunked_attend,
    context_parallel_attend,
    contiguous,
    folded,
    lazy_attend,
    online_attend,
    ring_attend,
    split_attend,
    striped_attend,
    stripes,
    tree_attend,
    zigzag_attend,
)
from kvattn.masks import Causal, Tree, Window
from kvattn.typing import Array, Attended
from tests.execution.questions import distance, questions

torch = pytest.importorskip("torch", minversion="2.12", reason="compares with torch's attention: kvattn[peers]")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensors(*arrays: Array) -> list[Any]:
    return [torch.from_numpy(np.array(x)) for x in arrays]


def flash(question: Question) -> Attended:
    """torch's tiled kernel, with lse; heads repeated, a hidden pair is -inf, no row may be empty."""
    group = question.q.shape[1] // question.k.shape[1]
    q, k, v = tensors(question.q, question.k.repeat(group, 1), question.v.repeat(group, 1))
    hidden = torch.from_numpy(np.where(question.visible(), 0.0, -np.inf))
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, attn_mask=hidden, scale=question.scale
    )
    return Attended(out.numpy(), lse.numpy())


def flex(question: Question, mask: Any) -> Attended:
    """torch's flexible kernel in its plain form, with lse."""
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    def hide(score: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        return torch.where(mask(b, h, i, j), score, -float("inf"))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks to be compiled
        out, aux = flex_attention(
            *tensors(question.q, question.k, question.v),
            score_mod=hide,
            scale=question.scale,
            enable_gqa=True,
            return_aux=AuxRequest(lse=True),
        )
    return Attended(out.numpy(), aux.lse.numpy())


@st.composite
def full(draw: st.DrawFn) -> Question:
    """What torch's kernel takes: equal widths of keys and values, no sinks, mods or softcap, no row without a key."""
    drawn = draw(questions(square=True, masks=(None, Causal(), Window(3)), softcaps=(None,), dtypes=(np.float64,)))
    v = np.random.default_rng(1).normal(size=drawn.k.shape)
    return replace(drawn, v=v, mods=(), sinks=None)


@pytest.mark.peer(
    "execution/question", "torch _scaled_dot_product_flash_attention_for_cpu", "derived bound of float64, below 1e-12"
)
@pytest.mark.peer(
    "execution/online", "torch _scaled_dot_product_flash_attention_for_cpu", "derived bound of float64, below 1e-12"
)
@pytest.mark.peer(
    "execution/lazy", "torch _scaled_dot_product_flash_attention_for_cpu", "derived bound of float64, below 1e-12"
)
@pytest.mark.peer(
    "execution/split", "torch _scaled_dot_product_flash_attention_for_cpu", "derived bound of float64, below 1e-12"
)
@pytest.mark.peer(
    "execution/ring", "torch _scaled_dot_product_flash_attention_for_cpu", "derived bound of float64, below 1e-12"
)
@pytest.mark.peer(
    "execution/striped", "torch _scaled_dot_product_flash_attention_for_cpu", "derived bound of float64, below 1e-12"
)
@pytest.mark.peer(
    "execution/zigzag", "torch _scaled_dot_product_flash_attention_for_cpu", "derived bound of float64, below 1e-12"
)
@given(full())
def test_every_form_is_the_flash_kernels(question: Question) -> None:
    theirs = flash(question)
    found = {
        "question": question.attend(),
        "online": online_attend(question, rows=2, columns=3),
        "lazy": lazy_attend(question, queries=2),
        "split": split_attend(question, 3),
        "ring": ring_attend(question, 3).answer,
        "striped": striped_attend(question, 3).answer,
        "zigzag": zigzag_attend(question, 2).answer,
    }
    for name, ours in found.items():
        assert np.abs(ours.out - theirs.out).max() < 1e-12, name
        assert distance(ours, question, parts=4, wanted=theirs) <= 1, name


@pytest.mark.peer(
    "execution/chunked_prefill",
    "torch _scaled_dot_product_flash_attention_for_cpu",
    "derived bound of float64, below 1e-12",
)
@given(full())
def test_chunks_are_the_flash_kernels_whole(question: Question) -> None:
    question = replace(question, mask=Causal())
    cuts = list(range(2, question.q.shape[2], 2))
    assert distance(chunked_attend(question, cuts), question, wanted=flash(question)) <= 1


@pytest.mark.peer(
    "execution/context_parallel",
    "torch _scaled_dot_product_flash_attention_for_cpu",
    "derived bound of float64, below 1e-12",
)
@given(full())
def test_parts_of_either_side_merge_to_the_other(question: Question) -> None:
    """Each rank's part and its lse are the kernel's; our merge of the kernel's parts is its whole."""
    question = replace(question, mask=None)
    shares = [share for share in stripes(question.k.shape[2], 2) if len(share)]
    theirs = [flash(question.part(keys=share)) for share in shares]
    for share, part in zip(shares, theirs, strict=True):
        mine = question.part(keys=share)
        assert distance(mine.attend(), mine, wanted=part) <= 1
    assert distance(merge(*theirs), question, parts=2, wanted=flash(question)) <= 1
    ranks = 2 if question.q.shape[1] % 2 == 0 else 1
    assert distance(context_parallel_attend(question, ranks).answer, question, parts=2, wanted=merge(*theirs)) <= 1


@pytest.mark.peer("execution/ring", "torch context parallel _SDPAMerger", "derived bound of float64, below 1e-12")
@given(full())
def test_torchs_ring_merges_parts_to_the_same(question: Question) -> None:
    """It folds part by part with ``out - sigmoid(lse_b - lse) (out - out_b)``, and takes no part that is empty."""
    from torch.distributed.tensor.experimental._context_parallel._attention import _SDPAMerger

    question = replace(question, mask=None)
    shares = [share for share in contiguous(question.k.shape[2], 3) if len(share)]
    merger = _SDPAMerger(convert_to_f32=False, seq_dim=2)
    for share in shares:
        part = question.part(keys=share).attend()
        merger.step(*tensors(part.out, part.lse), partial=False)
    out, lse = (x.numpy() for x in merger.results())
    assert distance(Attended(out, lse), question, parts=6, wanted=ring_attend(question, 3).answer) <= 1


@pytest.mark.peer("execution/zigzag", "torch context parallel _HeadTailLoadBalancer", "the same row numbers")
@pytest.mark.parametrize(("tokens", "ranks"), [(8, 2), (12, 3), (40, 4), (2, 1)])
def test_torchs_head_and_tail_are_our_runs(tokens: int, ranks: int) -> None:
    from torch.distributed.tensor.experimental._context_parallel._load_balancer import _HeadTailLoadBalancer

    balancer = _HeadTailLoadBalancer(tokens, ranks, torch.device("cpu"))
    assert balancer._generate_indices().ravel().tolist() == np.concatenate(folded(tokens, ranks)).tolist()


@pytest.mark.peer("execution/lazy", "memory-efficient-attention", "1e-12: float64, sums of 24 terms of size one")
def test_lazy_chunks_are_those_of_another_reading_of_the_paper() -> None:
    theirs = pytest.importorskip("memory_efficient_attention.attention_torch", reason="kvattn[peers] has it on demand")
    random = np.random.default_rng(9)
    q, k, v = (random.normal(size=(2, 3, n, 4)) for n in (8, 24, 24))
    # hidden: a query's own key and two before it; a chunk hidden whole is NaN there in float64, as its fill overflows
    question = Question(q, k, v, mask=~Window(3))
    rows = [x.transpose(1, 2) for x in tensors(q, k, v)]
    mask = torch.from_numpy(question.visible())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checkpoints without a gradient
        found = theirs.efficient_dot_product_attention(*rows, mask=mask, query_chunk_size=4, key_chunk_size=6)
    ours = lazy_attend(question, queries=4, keys=6).out
    assert np.abs(ours - found.transpose(1, 2).numpy()).max() < 1e-12


@pytest.mark.peer(
    "execution/block_table",
    "torch PagedAttention with flex_attention",
    "1e-13: float64, sums of a dozen terms of size one",
)
@pytest.mark.parametrize("lengths", [(3, 8), (4, 5), (1, 9)])
def test_torchs_page_table_reads_the_same_rows(lengths: tuple[int, int]) -> None:
    """Pages of 4 that torch has dealt out; its pool, with ours over it, and its table as it stands."""
    from torch.nn.attention.experimental._paged_attention import PagedAttention

    page, pages, heads = 4, 7, 2
    random = np.random.default_rng(lengths[0])
    pool = torch.zeros((1, heads, pages * page, 8), dtype=torch.float64)
    pools = [pool, pool.clone()]
    paged = PagedAttention(pages, page, max_batch_size=2, device="cpu")
    for start in (0, 4, 8):  # in turns, so that pages of both sequences lie between each other
        for b, length in enumerate(lengths):
            stop = min(start + 4, length)
            if start < stop:
                whose = torch.tensor([b])
                paged.reserve(whose[0], torch.tensor(stop))
                rows = [torch.from_numpy(random.normal(size=(1, heads, stop - start, 8))) for _ in range(2)]
                paged.assign(whose, torch.arange(start, stop)[None], *rows, *pools)
    q = random.normal(size=(2, 4, 1, 8))
    keys, values = (x[0].unflatten(1, (pages, page)).permute(1, 2, 0, 3).numpy() for x in pools)
    mine = BlockTable(keys, values, paged.page_table.numpy(), lengths)
    last = torch.tensor(lengths)

    def window(b: Any, h: Any, i: Any, j: Any) -> Any:
        return last[b] - 1 - j < 3

    mask = paged.get_mask_mod(window, kv_len=last)
    k, v = (x.expand(2, -1, -1, -1).numpy() for x in pools)
    theirs = flex(Question(q, k, v), mask)
    ours = mine.attend(q, mask=Window(3))
    assert np.abs(ours.out - theirs.out).max() < 1e-13
    assert np.abs(ours.lse - theirs.lse).max() < 1e-13


@pytest.mark.peer("execution/cascade", "torch flex_attention", "1e-13: float64, sums of a dozen terms of size one")
def test_a_cascade_is_flex_attention_over_all_keys_at_once() -> None:
    """Prefix for both sequences, then each one's own keys, in one row of keys; the mask says whose they are."""
    random = np.random.default_rng(3)
    q, k, v = random.normal(size=(2, 4, 3, 8)), random.normal(size=(2, 15, 8)), random.normal(size=(2, 15, 8))
    owner, at = torch.tensor([-1] * 5 + [0] * 4 + [1] * 6), torch.tensor([*range(5), *range(5, 9), *range(5, 11)])
    ends = torch.tensor([6, 8])
    segments = [
        Segment(k[:, :5], v[:, :5], [0, 1]),
        Segment(k[:, 5:9], v[:, 5:9], [0], 5),
        Segment(k[:, 9:], v[:, 9:], [1], 5),
    ]
    asked = ends.numpy()[:, None] + np.arange(3)
    ours = cascade_attend(q, segments, q_positions=asked, mask=Causal())
    question = Question(q, np.stack([k] * 2), np.stack([v] * 2), q_positions=asked)

    def mask(b: Any, h: Any, i: Any, j: Any) -> Any:
        return ((owner[j] < 0) | (owner[j] == b)) & (at[j] <= ends[b] + i)

    theirs = flex(question, mask)
    assert np.abs(ours.out - theirs.out).max() < 1e-13
    assert np.abs(ours.lse - theirs.lse).max() < 1e-13


@pytest.mark.peer("execution/tree", "torch flex_attention", "1e-13: float64, sums of a dozen terms of size one")
@pytest.mark.peer("execution/lookahead", "torch flex_attention", "1e-13: float64, sums of a dozen terms of size one")
@pytest.mark.parametrize(
    "tree",
    [Tree([-1, -1, 0, 1, 1, 4, -1], start=6), Lookahead(window=3, ngram=3, guesses=2, start=4).tree],
    ids=["tree", "lookahead"],
)
def test_a_tree_is_flex_attention_with_a_table_of_ancestors(tree: Tree) -> None:
    count, start = len(tree.parents), tree.start
    random = np.random.default_rng(count)
    q, k, v = (random.normal(size=(1, h, start + count, 8)) for h in (4, 2, 2))
    past = Paged.start(key_value(2, 8)).append(KeyValue(k[:, :, :start], v[:, :, :start]))
    ours, _ = tree_attend(past, q[:, :, start:], k[:, :, start:], v[:, :, start:], tree)
    seen = torch.zeros((count, start + count), dtype=torch.bool)
    for node in range(count):
        seen[node, :start] = True
        above = node
        while above >= 0:
            seen[node, start + above] = True
            above = tree.parents[above]
    theirs = flex(Question(q[:, :, start:], k, v), lambda b, h, i, j: seen[i, j])
    assert np.abs(ours.out - theirs.out).max() < 1e-13
    assert np.abs(ours.lse - theirs.lse).max() < 1e-13


def test_parts_with_a_lse_to_base_2_are_noticed() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(1, 1, 6, 8))
    question = Question(x, x, x)
    first, second = attend_parts(question, [3])
    wrong = merge(first._replace(lse=first.lse / np.log(2)), second)
    assert np.abs(wrong.out - flash(question).out).max() > 1e-3
