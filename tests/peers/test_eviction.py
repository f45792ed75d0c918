"""Eviction beside kvpress and torch: scores within 1e-12 of size 1, and the same kept sets.

kvpress pins an older transformers than the peers extra has, so its package is not imported: the files of its
presses are, one by one, from where it was installed without its dependencies (``pip install --no-deps
kvpress==0.5.5``).  Where it computes in float32 inside, the bound is wider and says so.  Scores here are sums of
at most 64 float64 terms of size 1, whose rounding stays below 64 · 2^-53 · 64 = 5e-13.
"""

from collections.abc import Callable, Iterator
import importlib
from importlib.util import find_spec
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kvattn.eviction import (
    HeavyHitters,
    MaxPool,
    MeanPool,
    Tova,
    adaptive_budgets,
    attend_kept,
    averaged,
    decode,
    expected,
    kept_slots,
    key_difference,
    last_query,
    negative_norms,
    probabilities,
    protect,
    pyramid_budgets,
    query_moments,
    recency,
    reindex,
    rotated,
    safeguarded_budgets,
    top,
    window_votes,
)
from kvattn.positions import Rotary
from tests.eviction.drawn import fresh, prompt

torch = pytest.importorskip("torch", minversion="2.5", reason="compares with torch's formulas: kvattn[peers]")
functional = torch.nn.functional

CLOSE = 1e-12


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def press() -> Iterator[Callable[[str, str], Any]]:
    """A class of kvpress by file and name; its packages are stood in for, so that no ``__init__`` runs."""
    pytest.importorskip("transformers", minversion="5.23", reason="kvpress imports its models: kvattn[peers]")
    found = find_spec("kvpress")
    if found is None or not found.submodule_search_locations:
        pytest.skip("kvpress is not installed: pip install --no-deps kvpress==0.5.5")
    (root,) = found.submodule_search_locations
    before = {name for name in sys.modules if name.partition(".")[0] == "kvpress"}
    for name, path in (("kvpress", root), ("kvpress.presses", f"{root}/presses")):
        package = ModuleType(name)
        package.__path__ = [path]
        sys.modules[name] = package
    yield lambda file, name: getattr(importlib.import_module(f"kvpress.presses.{file}"), name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "kvpress"]:
        if name not in before:
            del sys.modules[name]


def tensor(array: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(array))


def module(heads: int = 6, kv_heads: int = 2, width: int = 5, **others: Any) -> Any:
    """What a press asks of an attention module."""
    config = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "_attn_implementation": "sdpa"}
    return SimpleNamespace(
        config=SimpleNamespace(**config, num_hidden_layers=others.pop("layers", 1)), head_dim=width, **others
    )


def chosen(scores: Any, budget: int) -> Any:
    """The set that a press keeps, as flags."""
    keep = torch.zeros(scores.shape, dtype=torch.bool)
    return keep.scatter_(-1, scores.topk(budget, dim=-1).indices, True).numpy()


def close(found: Any, wanted: Any) -> bool:
    """Within the bound where finite; what is always kept is above all else on both sides."""
    finite = np.isfinite(found)
    rest = wanted[~finite]
    return bool(np.allclose(found[finite], wanted[finite], rtol=0, atol=CLOSE)) and (
        not rest.size or bool((rest > wanted[finite].max(initial=-np.inf)).all())
    )


def scored(given: Any, question: Any, **others: Any) -> Any:
    attentions = tensor(probabilities(question))
    hidden = torch.zeros(question.q.shape[0], question.q.shape[2], 1)
    arguments = {"hidden_states": hidden, "attentions": attentions, "kwargs": {}} | others
    return given.score(module(), keys=tensor(question.k), values=tensor(question.v), **arguments).numpy()


SEEDS = range(4)


@pytest.mark.peer("eviction/heavy_hitters: a prompt at once", "kvpress ObservedAttentionPress", "1e-12, float64")
@pytest.mark.parametrize("seed", SEEDS)
def test_the_mean_over_queries(press: Any, seed: int) -> None:
    question = prompt(seed, length=11)
    wanted = scored(press("observed_attention_press", "ObservedAttentionPress")(0.5), question)
    found = averaged(probabilities(question), question.visible(), 2)
    assert close(found, wanted)
    assert np.array_equal(top(found, 5), chosen(torch.from_numpy(wanted), 5))


@pytest.mark.peer("eviction/snap", "kvpress SnapKVPress", "1e-12, float64")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("window", "width"), [(1, 1), (3, 5), (4, 7)])
def test_votes_of_the_window(press: Any, seed: int, window: int, width: int) -> None:
    question = prompt(seed, length=11)
    given = press("snapkv_press", "SnapKVPress")(0.5, window_size=window, kernel_size=width)
    wanted = scored(given, question)
    found = window_votes(probabilities(question), 2, window=window, pool=MeanPool(width))
    assert close(found, wanted)
    assert np.array_equal(top(found, 6), chosen(torch.from_numpy(wanted), 6))


@pytest.mark.peer("eviction/snap: pools", "torch avg_pool1d and max_pool1d", "1e-12, float64")
@pytest.mark.parametrize("width", [1, 3, 5, 9])
def test_pools(width: int) -> None:
    numbers = np.random.default_rng(width).random((2, 3, 6))
    words = {"kernel_size": width, "padding": width // 2, "stride": 1}
    assert close(MeanPool(width)(numbers), functional.avg_pool1d(tensor(numbers), **words).numpy())
    assert np.array_equal(MaxPool(width)(numbers), functional.max_pool1d(tensor(numbers), **words).numpy())


@pytest.mark.peer("eviction/tova: a prompt at once", "kvpress TOVAPress", "1e-12, float64")
@pytest.mark.parametrize("seed", SEEDS)
def test_the_last_query(press: Any, seed: int) -> None:
    question = prompt(seed, length=11)
    wanted = scored(press("tova_press", "TOVAPress")(0.5), question)
    found = protect(last_query(probabilities(question), 2), last=1)
    assert close(found, wanted)


@pytest.mark.peer("eviction/streaming", "kvpress StreamingLLMPress", "the same set")
@pytest.mark.parametrize(("length", "sinks", "kept"), [(11, 4, 7), (12, 0, 3), (8, 2, 2)])
def test_sinks_and_recent(press: Any, length: int, sinks: int, kept: int) -> None:
    question = prompt(0, length=length)
    given = press("streaming_llm_press", "StreamingLLMPress")(1 - kept / length, n_sink=sinks)
    wanted = scored(given, question)
    assert np.array_equal(top(recency(length, sinks=sinks, batch=2, kv_heads=2), kept), wanted == 1)


@pytest.mark.peer("eviction/key_norm", "kvpress KnormPress", "1e-12, float64")
@pytest.mark.peer("eviction/key_diff", "kvpress KeyDiffPress", "1e-12, float64")
@pytest.mark.parametrize("seed", SEEDS)
def test_keys_alone(press: Any, seed: int) -> None:
    question = prompt(seed, length=11)
    assert close(negative_norms(question.k), scored(press("knorm_press", "KnormPress")(0.5), question))
    assert close(key_difference(question.k), scored(press("keydiff_press", "KeyDiffPress")(0.5), question))


def cosines(rotary: Rotary) -> Callable[..., Any]:
    """A Llama module's rotary embedding in float64: halves repeated."""

    def turn(_: Any, positions: Any) -> Any:
        angles = positions[..., None].double() * torch.tensor(rotary.frequencies, dtype=torch.float64)
        whole = torch.cat([angles, angles], dim=-1)
        return whole.cos(), whole.sin()

    return turn


@pytest.mark.peer("eviction/expected_attention", "kvpress ExpectedAttentionPress", "1e-12, float64")
@pytest.mark.parametrize("sinks", [0, 3])
@pytest.mark.parametrize("covariance", [True, False])
def test_expected_attention(press: Any, sinks: int, covariance: bool) -> None:
    random = np.random.default_rng(sinks)
    hidden, weight = random.normal(size=(2, 9, 8)), random.normal(size=(8, 24)) / 3
    q = (hidden @ weight).reshape(2, 9, 6, 4).swapaxes(1, 2)
    k, v = random.normal(size=(2, 2, 9, 4)), random.normal(size=(2, 2, 9, 3))
    rotary = Rotary.of(4)
    given = press("expected_attention_press", "ExpectedAttentionPress")(
        0.5, n_future_positions=7, n_sink=sinks, use_covariance=covariance, epsilon=0.01
    )
    attention = module(width=4, q_proj=lambda x: x @ tensor(weight), rotary_emb=cosines(rotary))
    wanted = given.score(attention, tensor(hidden), tensor(k), tensor(v), None, {}).numpy()
    moments = query_moments(q, skip=sinks)
    if not covariance:
        moments = moments._replace(covariance=moments.covariance * 0)
    found = expected(k, v, rotated(moments, rotary, np.arange(9, 16)), sinks=sinks, epsilon=0.01)
    assert close(found, wanted)


@pytest.mark.peer("eviction/pyramid", "kvpress PyramidKVPress.get_layer_budget", "1 key: they round to nearest")
@pytest.mark.parametrize(("length", "ratio", "beta"), [(1000, 0.75, 20), (1000, 0.9, 5), (600, 0.5, 10), (800, 0.3, 2)])
def test_pyramids(press: Any, length: int, ratio: float, beta: int) -> None:
    window, layers = 4, 12
    given = press("pyramidkv_press", "PyramidKVPress")(ratio, window_size=window, beta=beta)
    wanted = [given.get_layer_budget(module(layers=layers, layer_idx=layer), length) for layer in range(layers)]
    past = round(length * (1 - ratio))
    found = pyramid_budgets(layers, window + past, length=length, window=window, beta=beta)
    assert len(set(wanted)) > 1  # they did not fall back to equal budgets
    assert max(abs(n - window - other) for n, other in zip(found, wanted, strict=True)) <= 1


@pytest.mark.peer("eviction/adaptive: protected", "kvpress AdaKVPress", "the same set")
@pytest.mark.parametrize("floor", [0.0, 0.2, 0.3, 1.0])
@pytest.mark.parametrize("kept", [1, 5, 10])
def test_protected_heads(press: Any, floor: float, kept: int) -> None:
    scores = np.random.default_rng(kept).random((2, 3, 16))
    base = press("scorer_press", "ScorerPress")

    class Given(base):  # type: ignore[misc, valid-type]
        def score(self, *_: Any) -> Any:
            return tensor(scores).clone()

    attention = module()
    rows = torch.zeros(2, 3, 16, 5)
    press("adakv_press", "AdaKVPress")(Given(1 - kept / 16), floor).compress(attention, rows, rows, rows, None, {})
    wanted = np.ones(scores.shape, bool)
    wanted[tuple(index.numpy() for index in attention.masked_key_indices)] = False
    assert np.array_equal(top(scores, safeguarded_budgets(scores, kept, floor=floor)), wanted)


@pytest.mark.peer("eviction/adaptive", "torch: topk of all heads, bincount", "integers where shares are whole")
@pytest.mark.parametrize("floor", [0.0, 0.5, 1.0])
def test_adaptive_heads(floor: float) -> None:
    scores = np.random.default_rng(3).random((1, 4, 16)) ** np.array([1.0, 2.0, 4.0, 8.0])[:, None]
    best = tensor(scores).reshape(-1).topk(4 * 8).indices // 16
    exact = (1 - floor) * torch.bincount(best, minlength=4).double() + floor * 8
    found = adaptive_budgets(scores, 8, floor=floor)[0]
    assert (np.abs(found - exact.numpy()) < 1).all()
    assert found.sum() == 32


@pytest.mark.peer("eviction/reindexed", "kvpress KeyRerotationPress.rerotate_keys", "1e-5: angles in float32")
@pytest.mark.parametrize("seed", SEEDS)
def test_rerotation(press: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    rotary = Rotary.of(6)
    keys = rotary.rotate(random.normal(size=(2, 3, 12, 6)), np.arange(12))
    keep = top(random.random((2, 3, 12)), 5)
    embedding = SimpleNamespace(inv_freq=torch.tensor(rotary.frequencies))
    given = press("key_rerotation_press", "KeyRerotationPress")
    wanted = given.rerotate_keys(module(width=6, rotary_emb=embedding), tensor(kept_slots(keep)), tensor(keys))
    assert np.allclose(reindex(keys, keep, rotary), wanted.numpy(), rtol=0, atol=1e-5)


def torch_loop(question: Any, budget: int, decide: Callable[..., Any]) -> Any:
    """Token by token with rows that are really thrown away: the slots that are left, and what was mixed."""
    q, k, v = (tensor(rows) for rows in (question.q, question.k, question.v))
    mixed = []
    batch, kv_heads, length, width = k.shape
    group = q.shape[1] // kv_heads
    slots = torch.zeros(batch, kv_heads, 0, dtype=torch.long)
    totals = torch.zeros(batch, kv_heads, 0, dtype=torch.float64)
    for i in range(length):
        slots = torch.cat([slots, torch.full((batch, kv_heads, 1), i)], dim=2)
        held = k.gather(2, slots[..., None].expand(-1, -1, -1, width))
        asked = q[:, :, i].reshape(batch, kv_heads, group, width)
        row = torch.softmax(torch.einsum("bhgd,bhsd->bhgs", asked, held) / width**0.5, dim=-1)
        values = v.gather(2, slots[..., None].expand(-1, -1, -1, v.shape[3]))
        mixed.append(torch.einsum("bhgs,bhsd->bhgd", row, values).flatten(1, 2))
        totals = functional.pad(totals, (0, 1)) + row.sum(2)
        if slots.shape[2] > budget:
            stays = decide(row, totals).sort(dim=2).values
            slots, totals = slots.gather(2, stays), totals.gather(2, stays)
    return slots.numpy(), torch.stack(mixed, dim=2).numpy()


@pytest.mark.peer("eviction/heavy_hitters", "torch: a loop with topk and gather", "the same slots; 1e-12, float64")
@pytest.mark.peer("eviction/standing", "torch: rows that are thrown away", "1e-12, float64")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("heavy", "recent"), [(2, 2), (3, 1), (1, 4)])
def test_the_greedy_loop(seed: int, heavy: int, recent: int) -> None:
    question = prompt(seed, length=14)

    def decide(_: Any, totals: Any) -> Any:
        size = totals.shape[2]
        old = totals[:, :, : size - recent].topk(heavy, dim=2).indices
        return torch.cat([old, torch.arange(size - recent, size).expand(*old.shape[:2], -1)], dim=2)

    found = decode(HeavyHitters(heavy, recent), fresh(question), question)
    slots, mixed = torch_loop(question, heavy + recent, decide)
    assert np.array_equal(kept_slots(found.standing.kept), slots)
    assert np.allclose(found.answer.out, mixed, rtol=0, atol=CLOSE)


@pytest.mark.peer("eviction/tova", "torch: a loop with topk and gather", "the same slots; 1e-12, float64")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("budget", [1, 3, 6])
def test_the_loop_of_the_last_query(seed: int, budget: int) -> None:
    question = prompt(seed, length=14)

    def decide(row: Any, _: Any) -> Any:
        means = row.mean(dim=(1, 2), keepdim=True)[:, :, 0]
        return means.topk(budget, dim=2).indices.expand(-1, row.shape[1], -1)

    found = decode(Tova(budget), fresh(question), question)
    slots, mixed = torch_loop(question, budget, decide)
    assert np.array_equal(kept_slots(found.standing.kept), slots)
    assert np.allclose(found.answer.out, mixed, rtol=0, atol=CLOSE)


@pytest.mark.peer("eviction/observed", "torch: softmax of masked products", "1e-12, float64")
@pytest.mark.parametrize("seed", SEEDS)
def test_softmax(seed: int) -> None:
    question = prompt(seed, length=11)
    products = tensor(question.q) @ tensor(question.k).repeat_interleave(3, dim=1).mT / 5**0.5
    wanted = products.masked_fill(~torch.ones(11, 11, dtype=torch.bool).tril(), -torch.inf).softmax(dim=-1)
    assert np.allclose(probabilities(question), wanted.numpy(), rtol=0, atol=CLOSE)


@pytest.mark.peer("eviction/selection", "torch.topk, of scores that differ", "the same set")
@pytest.mark.parametrize("budget", [0, 1, 6, 11])
def test_selection(budget: int) -> None:
    scores = np.random.default_rng(budget).normal(size=(2, 3, 11))
    assert np.array_equal(top(scores, budget), chosen(tensor(scores), budget))


@pytest.mark.peer("eviction/gathered", "torch scaled_dot_product_attention of gathered rows", "1e-12, float64")
@pytest.mark.parametrize("seed", SEEDS)
def test_gathered_rows(seed: int) -> None:
    question = prompt(seed, length=11).part(slice(10, 11))
    keep = top(np.random.default_rng(seed).random((2, 2, 11)), 4)
    slots = tensor(kept_slots(keep))[..., None]
    k, v = (tensor(x).gather(2, slots.expand(-1, -1, -1, x.shape[3])) for x in (question.k, question.v))
    wanted = functional.scaled_dot_product_attention(tensor(question.q), k, v, enable_gqa=True)
    assert np.allclose(attend_kept(question, keep).out, wanted.numpy(), rtol=0, atol=CLOSE)
