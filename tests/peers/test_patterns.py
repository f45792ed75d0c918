"""Fixed patterns against torch, transformers and attention-gym.

Two kinds of comparison.  A peer that answers for pairs (a ``mask_mod`` of attention-gym, a mask function of
transformers) must give the same boolean for every pair, without any tolerance.  A peer that computes attention
must be within 1e-12 in float64: the sums here have at most a few dozen terms of size one, so each side is
within about 1e-14 of the exact answer; the tested mistakes move results by 1e-3 or more.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest

import kvattn
from kvattn.masks import (
    BlockDiffusion,
    BlockWise,
    Causal,
    Chosen,
    Chunked,
    Columns,
    Dilated,
    Document,
    KeysAt,
    Neighbourhood,
    Padding,
    PerHead,
    Prefix,
    QueriesAt,
    Sink,
    Strided,
    Tree,
    Window,
)
from kvattn.variants.dense.projections import Projections
from kvattn.variants.sparse.longformer import Longformer

torch = pytest.importorskip("torch", minversion="2.5", reason="compares with torch's attention: kvattn[peers]")

EXACT = 1e-12


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pairs(mask: Any, queries: int, keys: int | None = None, heads: int = 1) -> Any:
    """Every answer, ``[H, T, S]``."""
    keys = queries if keys is None else keys
    head = np.arange(heads)[:, None, None]
    answers = mask(0, head, np.arange(queries)[None, :, None], np.arange(keys)[None, None, :])
    return np.broadcast_to(answers, (heads, queries, keys))


def asked(mask_mod: Any, queries: int, keys: int | None = None) -> Any:
    """The same of a peer's mask function."""
    keys = queries if keys is None else keys
    zero = torch.zeros((), dtype=torch.int64)
    answers = mask_mod(zero, zero, torch.arange(queries)[:, None], torch.arange(keys)[None, :])
    return torch.broadcast_to(answers, (queries, keys)).numpy()[None]


# --- torch: attention under a table that loops fill ---------------------------------------------------------------

Rule = Callable[[int, int, int], bool]
TABLE = [[3, 1], [0, 0], [1, 2], [2, 0], [0, 3]]

RULES: dict[str, tuple[Any, Rule]] = {
    "strided": (
        PerHead((Window(4), Strided(3))),
        lambda h, i, j: (j <= i and i - j <= 3) if h == 0 else (j <= i and (i - j) % 3 == 0),
    ),
    "fixed": (
        PerHead((Causal() & Chunked(4), Causal() & Columns(4, 2, 2))),
        lambda h, i, j: j <= i and (i // 4 == j // 4 if h == 0 else j % 4 >= 2),
    ),
    "duo": (
        PerHead((Causal(), Causal() & (Sink(2) | Window(3)))),
        lambda h, i, j: j <= i and (h == 0 or j < 2 or i - j < 3),
    ),
    "vertical": (
        Causal() & BlockWise(2, Window(2) | PerHead((Columns(3, 2), Columns(3, 1)))),
        lambda h, i, j: j <= i and (i // 2 - j // 2 < 2 or (j // 2 + h + 1) % 3 == 0),
    ),
    "chosen": (BlockWise(3, Chosen(TABLE)), lambda h, i, j: j // 3 in TABLE[i // 3]),
}


@pytest.mark.peer("masks/per_head: duo attention", "torch scaled_dot_product_attention over a table", "1e-12: float64")
@pytest.mark.peer("masks/strided", "torch scaled_dot_product_attention over a table", "1e-12: float64")
@pytest.mark.peer("masks/columns: fixed", "torch scaled_dot_product_attention over a table", "1e-12: float64")
@pytest.mark.peer("masks/chosen", "torch scaled_dot_product_attention over a table", "1e-12: float64")
@pytest.mark.peer("masks/sink", "torch scaled_dot_product_attention over a table", "1e-12: float64")
@pytest.mark.parametrize("name", RULES)
def test_attention_under_a_table_that_loops_fill(name: str) -> None:
    mask, rule = RULES[name]
    length = 13
    rng = np.random.default_rng(3)
    q, k, v = (rng.normal(size=(1, 2, length, width)) for width in (4, 4, 3))
    table = np.array([[[rule(h, i, j) for j in range(length)] for i in range(length)] for h in range(2)])
    tensors = [torch.from_numpy(x) for x in (q, k, v)]
    theirs = torch.nn.functional.scaled_dot_product_attention(*tensors, attn_mask=torch.from_numpy(table[None])).numpy()
    assert np.abs(kvattn.attention(q, k, v, mask=mask) - theirs).max() < EXACT
    if isinstance(mask, PerHead):
        turned = PerHead(mask.masks[::-1])
        assert np.abs(kvattn.attention(q, k, v, mask=turned) - theirs).max() > 1e-3


# --- attention-gym and transformers: masks, pair by pair ----------------------------------------------------------


@pytest.fixture(scope="module")
def gym() -> Any:
    return pytest.importorskip("attn_gym.masks", reason="compares with attention-gym's masks: attn-gym")


@pytest.mark.peer("masks/block_diffusion", "attn_gym generate_block_diffusion_mask", "every pair equal")
@pytest.mark.parametrize(("size", "length"), [(1, 3), (2, 6), (3, 7), (4, 4), (5, 3)])
def test_block_diffusion(gym: Any, size: int, length: int) -> None:
    theirs = asked(gym.generate_block_diffusion_mask(length, size), 2 * length)
    assert np.array_equal(pairs(BlockDiffusion(size, length), 2 * length), theirs)
    clean = theirs[:, length:, length:]
    assert np.array_equal(pairs(BlockWise(size, Causal()), length), clean)


@pytest.mark.peer("masks/neighbourhood", "attn_gym generate_natten", "every pair equal, on square grids")
@pytest.mark.parametrize(("side", "wide"), [(4, 3), (5, 5), (6, 1), (7, 3)])
def test_neighbourhood(gym: Any, side: int, wide: int) -> None:
    theirs = asked(gym.generate_natten(side, side, wide, wide), side * side)
    assert np.array_equal(pairs(Neighbourhood([side, side], [wide, wide]), side * side), theirs)


def test_attention_gyms_neighbourhoods_exchange_rows_and_columns(gym: Any) -> None:
    """Why square grids: on 3 rows of 5 it clamps rows at the width, so the last rows lose keys."""
    theirs = asked(gym.generate_natten(canvas_w=5, canvas_h=3, kernel_w=3, kernel_h=3), 15)
    assert (pairs(Neighbourhood([3, 5], [3, 3]), 15).sum(-1) == 9).all()
    assert theirs.sum(-1).min() < 9


@pytest.mark.peer("masks/neighbourhood: sliding tiles", "attn_gym generate_sta_mask_mod_2d", "every pair equal")
def test_sliding_tiles(gym: Any) -> None:
    theirs = asked(gym.generate_sta_mask_mod_2d((6, 10), (6, 6), (2, 2)), 60)
    assert np.array_equal(pairs(BlockWise(4, Neighbourhood([3, 5], [3, 3])), 60), theirs)


@pytest.mark.peer("masks/prefix", "attn_gym generate_prefix_lm_mask", "every pair equal")
@pytest.mark.parametrize("length", [0, 1, 4, 9])
def test_prefix(gym: Any, length: int) -> None:
    assert np.array_equal(pairs(Causal() | Prefix(length), 8), asked(gym.generate_prefix_lm_mask(length), 8))


@pytest.mark.peer("masks/dilated", "attn_gym generate_dilated_sliding_window", "every pair equal")
@pytest.mark.parametrize(("window", "rate"), [(1, 1), (3, 2), (2, 4)])
def test_dilated(gym: Any, window: int, rate: int) -> None:
    """Theirs looks both ways, and counts distance, self not included."""
    theirs = asked(gym.generate_dilated_sliding_window((window - 1) * rate, rate), 15) & np.tri(15, dtype=bool)
    assert np.array_equal(pairs(Dilated(window, rate), 15), theirs)


@pytest.mark.peer("masks/document", "attn_gym generate_doc_mask_mod", "every pair equal")
def test_document(gym: Any) -> None:
    lengths = [3, 1, 5]
    theirs = asked(gym.generate_doc_mask_mod(gym.causal_mask, torch.tensor([0, 3, 4, 9])), 9)
    assert np.array_equal(pairs(Causal() & Document.of_lengths(lengths), 9), theirs)


@pytest.mark.peer("masks/global_tokens", "attn_gym generate_global_sliding_window", "every pair equal")
def test_global_tokens(gym: Any) -> None:
    marked = torch.zeros(11, dtype=torch.bool)
    marked[[0, 6]] = True
    ours = Window(3, ahead=2) | KeysAt([0, 6]) | QueriesAt([0, 6])
    assert np.array_equal(pairs(ours, 11), asked(gym.generate_global_sliding_window(2, marked), 11))


@pytest.mark.peer("masks/tree", "attn_gym generate_jetspec_tree_causal_mask_mod", "every pair equal")
def test_tree(gym: Any) -> None:
    parents = [-1, 0, 0, 1, 1, 2, 5]
    ancestors = gym.build_tree_ancestor_matrix(parents, device="cpu")
    theirs = asked(gym.generate_jetspec_tree_causal_mask_mod(4, ancestors), 7, 11)
    ours = pairs(Tree(parents, start=4), 11)[:, 4:]
    assert np.array_equal(ours, theirs)


@pytest.mark.peer("masks/chunked", "transformers chunked_causal_mask_function", "every pair equal")
@pytest.mark.parametrize("size", [1, 3, 4])
def test_chunked(size: int) -> None:
    masking = pytest.importorskip("transformers.masking_utils", reason="compares with transformers: kvattn[peers]")
    theirs = asked(masking.chunked_causal_mask_function(size, torch.zeros(1, dtype=torch.int64)), 11)
    assert np.array_equal(pairs(Causal() & Chunked(size), 11), theirs)


# --- transformers: Longformer and BigBird -------------------------------------------------------------------------


def matrix(linear: Any) -> Any:
    """A torch layer as ``[in, out]``; its bias must be zero, which our layers do not have."""
    torch.nn.init.zeros_(linear.bias) if linear.bias is not None else None
    return linear.weight.detach().numpy().T.copy()


HIDDEN, HEADS, RADIUS, LENGTH = 12, 3, 2, 16


def longformer_pair(tokens: list[int], **more: Any) -> tuple[Longformer, Any]:
    modeling = pytest.importorskip(
        "transformers.models.longformer.modeling_longformer", reason="compares with transformers: kvattn[peers]"
    )
    config = modeling.LongformerConfig(
        hidden_size=HIDDEN, num_attention_heads=HEADS, attention_window=[2 * RADIUS], attention_probs_dropout_prob=0.0
    )
    torch.manual_seed(5)
    peer = modeling.LongformerSelfAttention(config, layer_id=0).double().eval()
    names = ("query", "key", "value", "query_global", "key_global", "value_global")
    query, key, value, *over = (matrix(getattr(peer, name)) for name in names)
    w = Projections(query, key, value, np.eye(HIDDEN), heads=HEADS, kv_heads=HEADS)
    fields: dict[str, Any] = {"tokens": tokens, "window": Window(RADIUS + 1, ahead=RADIUS), "page": 3, **more}
    return Longformer(w, over[0], over[1], over[2], **fields), peer


def longformer_out(peer: Any, x: Any, tokens: list[int], padded: int = 0) -> Any:
    kinds = torch.zeros(x.shape[:2], dtype=torch.float64)
    kinds[:, tokens] = 10000.0
    if padded:
        kinds[:, -padded:] = -10000.0
    # its softmax asks for torch.float32 by name
    with mock.patch.object(torch, "float32", torch.float64), torch.no_grad():
        return peer(
            torch.from_numpy(x),
            attention_mask=kinds,
            is_index_masked=kinds < 0,
            is_index_global_attn=kinds > 0,
            is_global_attn=bool(tokens),
        )[0].numpy()


@pytest.mark.peer("variants/sparse/longformer", "transformers LongformerSelfAttention", "1e-12: float64 softmax")
@pytest.mark.peer("masks/global_tokens: longformer", "transformers LongformerSelfAttention", "1e-12: float64")
@pytest.mark.parametrize("tokens", [[0], [0, 7], [3, 4, 5, 15]])
def test_longformer(tokens: list[int]) -> None:
    layer, peer = longformer_pair(tokens)
    x = np.random.default_rng(6).normal(size=(2, LENGTH, HIDDEN))
    theirs = longformer_out(peer, x, tokens)
    for ours in (layer.definition(x, np.arange(LENGTH)).out, layer.step(layer.start(2), x)[0].out):
        assert np.abs(ours - theirs).max() < EXACT
    narrow = replace(layer, window=Window(RADIUS, ahead=RADIUS))
    shared = replace(layer, global_key=layer.projections.key)
    for wrong in (narrow, shared):
        assert np.abs(wrong.step(wrong.start(2), x)[0].out - theirs).max() > 1e-3


def test_longformer_with_padding() -> None:
    layer, peer = longformer_pair([0, 7], order=Padding([LENGTH - 3]))
    x = np.random.default_rng(6).normal(size=(1, LENGTH, HIDDEN))
    theirs = longformer_out(peer, x, [0, 7], padded=3)
    ours = layer.step(layer.start(), x)[0].out
    assert np.abs(ours - theirs)[:, :-3].max() < EXACT


def big_bird(training: bool, length: int, size: int, blocks: int) -> tuple[Any, Any, Any]:
    """Their layer, its output for some input, and the random blocks that it drew."""
    modeling = pytest.importorskip(
        "transformers.models.big_bird.modeling_big_bird", reason="compares with transformers: kvattn[peers]"
    )
    config = modeling.BigBirdConfig(
        hidden_size=HIDDEN, num_attention_heads=HEADS, block_size=size, num_random_blocks=blocks, use_bias=False,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(7)
    peer = modeling.BigBirdBlockSparseAttention(config, seed=3).double().train(training)
    drawn: list[Any] = []
    draw = peer._bigbird_block_rand_mask_with_head

    def kept(*args: Any, **options: Any) -> Any:
        drawn.append(draw(*args, **options))
        return drawn[-1]

    x = np.random.default_rng(8).normal(size=(2, length, HIDDEN))
    masks = modeling.BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(2, length, dtype=torch.float64), size)
    blocked, band, rows, columns = masks
    state = np.random.get_state()  # noqa: NPY002 theirs seeds the global generator
    with mock.patch.object(peer, "_bigbird_block_rand_mask_with_head", kept), torch.no_grad():
        theirs = peer(torch.from_numpy(x), band, rows, columns, blocked, blocked)[0].numpy()
    np.random.set_state(state)  # noqa: NPY002
    query, key, value = (matrix(getattr(peer, name)) for name in ("query", "key", "value"))
    w = Projections(query, key, value, np.eye(HIDDEN), heads=HEADS, kv_heads=HEADS)
    return (w, x), theirs, np.array(drawn[0])


def big_bird_mask(size: int, count: int, chosen: Any) -> BlockWise:
    ends = [0, count - 1]
    table = np.full((HEADS, count, chosen.shape[2]), -1)
    table[:, 1:-1] = chosen
    return BlockWise(size, Window(2, ahead=1) | KeysAt(ends) | QueriesAt(ends) | Chosen(table))


@pytest.mark.peer("masks/block_wise: big bird", "transformers BigBirdBlockSparseAttention, train", "1e-12: float64")
@pytest.mark.peer("masks/chosen: big bird", "transformers BigBirdBlockSparseAttention, train", "1e-12: float64")
@pytest.mark.parametrize(("size", "count", "blocks"), [(2, 12, 2), (3, 11, 1), (1, 15, 3)])
def test_big_bird(size: int, count: int, blocks: int) -> None:
    from kvattn.variants.dense.grouped import Grouped

    (w, x), theirs, chosen = big_bird(True, size * count, size, blocks)
    layer = Grouped(w, big_bird_mask(size, count, chosen), page=3)
    assert np.abs(layer.step(layer.start(2), x)[0].out - theirs).max() < EXACT
    assert np.abs(layer.definition(x, np.arange(size * count)).out - theirs).max() < EXACT
    for table in (chosen[::-1], (chosen + 1) % count):
        wrong = replace(layer, mask=big_bird_mask(size, count, table))
        assert np.abs(wrong.step(wrong.start(2), x)[0].out - theirs).max() > 1e-3


def test_outside_training_big_bird_counts_the_first_block_again() -> None:
    """Its random blocks are then all block 0, which the global part has already: no mask says "twice"."""
    from kvattn.variants.dense.grouped import Grouped

    (w, x), theirs, chosen = big_bird(False, 24, 2, 2)
    assert not chosen.any()
    layer = Grouped(w, big_bird_mask(2, 12, chosen))
    apart = np.abs(layer.step(layer.start(2), x)[0].out - theirs)
    assert apart[:, 2:-2].max() > 1e-3
    assert apart[:, [0, 1, -2, -1]].max() < EXACT
