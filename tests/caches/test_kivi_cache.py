"""KIVI's cache: what settles, when, and to which codes, compared with a plain list of tokens.

CI draws three layers of each number of bits beside one that is always tried, ``KVATTN_PROFILE=deep`` 25.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
import os
import struct
from typing import Any

from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn import attend
from kvattn.caches import key_value, latent, placed
from kvattn.caches.kivi_cache import KiviCache, step_in_windows
from kvattn.caches.rows import KeyValue
from kvattn.codecs import PER_TOKEN_HEAD, Kivi, Minimum, token_groups_of
from kvattn.core import streaming
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, KvattnError, PositionError, RollbackError, ShapeError
from kvattn.masks import Causal
from kvattn.testing.laws import same_bits, stepped
from kvattn.typing import Attended
from kvattn.variants.dense.grouped import Grouped
from tests.caches.codes import WIDTH, Over, layer_of

SCHEMA = key_value(2, 4, 8)
KIVI = Kivi(bits=2, group=2, residual=4)


def half(number: float) -> float:
    """The nearest float16."""
    return float(struct.unpack("e", struct.pack("e", number))[0])


def rounded(group: Sequence[float]) -> list[float]:
    """What two bits, a scale and a minimum in float16 make of some numbers."""
    low, scale = half(min(group)), half((max(group) - min(group)) / 3)
    codes = [max(0, min(3, round((number - low) / scale))) if scale else 0 for number in group]
    return [code * scale + low for code in codes]


def by_hand(k: Any, v: Any) -> tuple[Any, Any]:
    """Tokens ``[heads, T, width]`` one after another: all residuals but the last one become codes."""
    k, v = k.copy(), v.copy()
    tokens = k.shape[1]
    whole = 0  # the first token that stays as it came
    while tokens - whole > 4:
        for head in range(2):
            for first in (whole, whole + 2):
                for channel in range(k.shape[2]):
                    k[head, first : first + 2, channel] = rounded(k[head, first : first + 2, channel].tolist())
            for token in range(whole, whole + 4):
                for channel in range(0, v.shape[2], 2):
                    v[head, token, channel : channel + 2] = rounded(v[head, token, channel : channel + 2].tolist())
        whole += 4
    return k, v


def held_bytes(tokens: int) -> int:
    """Bytes that reading so many tokens takes: codes of 2 bits, two float16 for each group, whole rows."""
    settled = max(0, tokens - 1) // 4 * 4
    keys = settled * 2 * 1 + settled // 2 * 2 * 4 * 2 * 2  # 4 channels are a byte; a scale and a minimum for each
    values = settled * 2 * (2 + 4 * 2 * 2)
    return keys + values + (tokens - settled) * 2 * (4 + 8) * 8


def drawn(seed: int, batch: int, tokens: int, schema: Any = SCHEMA) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((batch, f.heads, tokens, f.width)).astype(f.dtype) for f in schema.fields]


def agrees(cls: type[KiviCache]) -> None:
    """Compare with lists through any appends, cuts and choices, and say which cuts must be refused."""

    @settings(phases=[Phase.generate] if cls is not KiviCache else tuple(Phase), deadline=None)
    @given(
        page=st.sampled_from([1, 3, 256]),
        steps=st.lists(
            st.tuples(st.integers(0, 2**32), st.integers(0, 9), st.integers(0, 5), st.sampled_from([None, [1, 0]])),
            min_size=1,
            max_size=5,
        ),
    )
    def check(page: int, steps: list[tuple[int, int, int, list[int] | None]]) -> None:
        cache = cls.start(SCHEMA, KIVI, batch=2, page=page)
        kept: list[list[Any]] = [[x[0, :, :0] for x in drawn(0, 1, 0)] for _ in range(2)]
        for seed, new, back, order in steps:
            rows = drawn(seed, 2, new)
            old, was = cache, [x.tobytes() for x in cache.rows(0)]
            cache = cache.append(rows)
            kept = [[np.concatenate([a, x[b]], 1) for a, x in zip(kept[b], rows, strict=True)] for b in range(2)]
            if order is not None:
                cache, kept = cache.select(order), [kept[b] for b in order]
            lengths = [len(tokens[0][0]) for tokens in kept]
            cut = [max(0, lengths[0] - back), lengths[1]]
            if 0 < cut[0] < max(0, lengths[0] - 1) // 4 * 4:
                with pytest.raises(RollbackError, match=f"must be 0 or at least .* got {cut[0]}$"):
                    cache.truncate(cut)
            else:
                at_edge = cut[0] == cache.settled[0] > 0
                cache = cache.truncate(cut)
                kept[0] = [x[:, : cut[0]] for x in kept[0]]
                if at_edge:  # nothing is whole: what settled is what the next token will see
                    settled = by_hand(*(np.concatenate([x, x[:, :1]], 1) for x in kept[0]))
                    assert [x[0].tolist() for x in cache.rows(0)] == [x[:, : cut[0]].tolist() for x in settled]
                    more = drawn(seed + 1, 2, 1)
                    cache = cache.append(more)
                    kept = [[np.concatenate([a, x[b]], 1) for a, x in zip(kept[b], more, strict=True)] for b in (0, 1)]
            assert [x.tobytes() for x in old.rows(0)] == was
            for b, tokens in enumerate(kept):
                n = tokens[0].shape[1]
                wanted = by_hand(*tokens)
                found = cache.rows(b)
                assert cache.lengths[b] == n
                assert [x[0].tolist() for x in found] == [x.tolist() for x in wanted]
                for block in cache.blocks(b):
                    assert block.k[:, :, :n].swapaxes(1, 2).tolist() == wanted[0].tolist()
                    assert block.v[:, :n].tolist() == wanted[1].tolist()
                    assert not block.k[:, :, n:].any()
                    assert block.stored == held_bytes(n)
            if page == 1:
                assert cache.nbytes >= max(held_bytes(tokens[0].shape[1]) for tokens in kept)

    check()


@pytest.mark.by_hand("caches/kivi_cache")
@pytest.mark.no_peer("caches/kivi_cache", "transformers encodes again what it decoded; KIVI's own code needs a GPU")
def test_it_agrees_with_a_list_of_tokens() -> None:
    agrees(KiviCache)


class SettlesOneTokenEarly(KiviCache):
    """A residual settles when it is full, before its last token has been attended to."""

    def settled_of(self, tokens: int) -> int:
        return self.kivi.settled_keys(tokens)


class SettlesNothing(KiviCache):
    """Everything stays whole."""

    def settled_of(self, tokens: int) -> int:
        return 0


class SettlesByTheStep(KiviCache):
    """What comes in one step settles only with the next: the state remembers how tokens were cut."""

    def append(self, rows: Any, positions: Any = None) -> KiviCache:
        cache = self
        if rows[0].shape[2]:
            lengths = self.lengths

            class Late(SettlesByTheStep):
                def settled_of(self, tokens: int) -> int:
                    return self.kivi.settled_keys(min(lengths))

            late = Late(self.kivi, self.recent, self.key_groups, self.value_codes)
            grown = KiviCache.append(late, rows, positions)
            cache = SettlesByTheStep(grown.kivi, grown.recent, grown.key_groups, grown.value_codes)
        return cache


class MakesCodesOfCodes(KiviCache):
    """All settled rows are encoded once more at every step, from what they were decoded to (transformers)."""

    def rows(self, sequence: int = 0) -> KeyValue:
        k, v = KiviCache.rows(self, sequence)
        n = self.settled[sequence]
        codec = Minimum(2, token_groups_of(4), np.float16)
        return KeyValue(np.concatenate([codec.decode(codec.encode(k[:, :, :n]), k.dtype), k[:, :, n:]], 2), v)


class SharesValuesAcrossChannels(KiviCache):
    """A value has one scale, not one for each group of channels."""

    def _encoded(self, arrays: Any, done: Any) -> Any:
        codec = Minimum(2, PER_TOKEN_HEAD, np.float16)
        one = [arrays[0], codec.decode(codec.encode(arrays[1]), arrays[1].dtype)]
        return KiviCache._encoded(self, one, done)


class CountsNoScales(KiviCache):
    """Bytes read are those of codes and whole rows."""

    def blocks(self, sequence: int) -> Any:
        less = self.settled[sequence] // 2 * 2 * 4 * 2 * 2
        return tuple(block._replace(stored=(block.stored or 0) - less) for block in super().blocks(sequence))


class GoesBackInSilence(KiviCache):
    """A length inside what is settled is returned to with half of a group."""

    def truncate(self, length: Any) -> KiviCache:
        try:
            return super().truncate(length)
        except RollbackError:
            return super().truncate([max(n, s) for n, s in zip(length, self.settled, strict=True)])


@pytest.mark.parametrize(
    "wrong",
    [
        SettlesOneTokenEarly,
        SettlesNothing,
        SettlesByTheStep,
        MakesCodesOfCodes,
        SharesValuesAcrossChannels,
        CountsNoScales,
        GoesBackInSilence,
    ],
    ids=lambda wrong: wrong.__name__,
)
def test_a_wrong_one_is_rejected(wrong: type[KiviCache]) -> None:
    with pytest.raises((AssertionError, KvattnError, pytest.fail.Exception)):
        agrees(wrong)


@pytest.mark.law("caches/kivi_cache", "what is settled depends on the number of tokens alone", "bits")
@given(st.integers(0, 2**32), st.integers(1, 30), st.lists(st.integers(0, 30), max_size=4))
@settings(max_examples=25, deadline=None)
def test_cuts_are_invisible_in_what_is_kept(seed: int, tokens: int, cuts: list[int]) -> None:
    rows = drawn(seed, 2, tokens)
    whole = KiviCache.start(SCHEMA, KIVI, batch=2, page=3).append(rows)
    parts = KiviCache.start(SCHEMA, KIVI, batch=2, page=5)
    at = sorted(min(cut, tokens) for cut in cuts)
    for start, stop in zip((0, *at), (*at, tokens), strict=True):
        parts = parts.append([x[:, :, start:stop] for x in rows])
    assert parts.settled == whole.settled
    for b in range(2):
        assert [x.tobytes() for x in parts.rows(b)] == [x.tobytes() for x in whole.rows(b)]


CODES = {"2 bits": Kivi(2, 4, 8), "4 bits, a group of values": Kivi(4, 8, 8), "8 bits": Kivi(8, 2, 2)}


@pytest.mark.law("caches/kivi_cache", "attention of each query is attention to what settled before it", "bits")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", CODES)
def test_attention_of_each_query_is_attention_to_what_settled_before_it(name: str, dtype: Any) -> None:
    kivi = CODES[name]
    schema = key_value(2, WIDTH, dtype=dtype)
    (k, v), q = drawn(0, 1, 40, schema), drawn(1, 1, 40, key_value(4, WIDTH, dtype=dtype))[0]
    cache = KiviCache.start(schema, kivi, page=7)
    for t in range(40):
        cache = cache.append([k[:, :, t : t + 1], v[:, :, t : t + 1]])
        last = t - t % kivi.residual
        seen = []
        for codec, x in ((kivi.keys, k), (kivi.values, v)):
            codes = codec.decode(codec.encode(x[:, :, :last]), dtype)
            seen.append(np.concatenate([codes, x[:, :, last : t + 1]], axis=2))
        found = streaming.attend(
            q[:, :, t : t + 1], np.array([[t]]), [cache.blocks(0)], value_width=WIDTH, mask=Causal()
        )
        wanted = attend(q[:, :, t : t + 1], *seen, mask=Causal(), q_positions=np.array([t]), dtype=dtype)
        assert found.out.tobytes() == wanted.out.tobytes()
        assert found.lse.tobytes() == wanted.lse.tobytes()


def variant_of(kivi: Kivi, layer: Grouped, page: int, step: Any = step_in_windows) -> Over:
    return Over(layer, partial(KiviCache.start, kivi=kivi), step, page)


@pytest.mark.law("caches/kivi_cache", "decode is recompute, batch mates, pages, rollback, branches, beams", "bits")
@pytest.mark.parametrize("name", CODES)
@settings(max_examples=25 if os.environ.get("KVATTN_PROFILE") == "deep" else 3, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 3),
    length=st.one_of(st.integers(1, 20), st.integers(254, 259)),
    cuts=st.lists(st.integers(0, 259), max_size=3),
    page=st.sampled_from([256, 1, 7]),
    window=st.sampled_from([None, 4]),
    dtype=st.sampled_from([np.float64, np.float32]),
)
@example(seed=1, batch=2, length=258, cuts=[101, 257], page=7, window=None, dtype=np.float64)
def test_layers_step_over_kivi(
    name: str, seed: int, batch: int, length: int, cuts: list[int], page: int, window: int | None, dtype: Any
) -> None:
    kivi, layer = CODES[name], layer_of(seed, window, dtype)
    this, twin = variant_of(kivi, layer, page), variant_of(kivi, layer, 256 if page != 256 else 3)
    x = np.random.default_rng(seed).standard_normal((batch, length, 6)).astype(dtype)
    at = sorted(min(cut, length) for cut in cuts)
    whole, _ = stepped(this, x, ())
    found, cache = stepped(this, x, at)
    same_bits("decode is recompute", whole, found)
    same_bits("pages are invisible", whole, stepped(twin, x, at)[0])
    for b in range(batch):
        alone, _ = stepped(this, x[b : b + 1], at)
        same_bits("batch mates are invisible", Attended(*(a[b : b + 1] for a in found)), alone)
    keep = max(cache.settled[0], length - 3)
    _, trunk = stepped(this, x[:, :keep], ())
    last = Attended(whole.out[:, keep:], whole.lse[:, :, keep:])
    same_bits("rollback forgets", last, stepped(this, x[:, keep:], (), cache.truncate(keep))[0])
    stepped(this, -x, (), trunk)
    same_bits("branches are isolated", last, stepped(this, x[:, keep:], (), trunk)[0])
    order = [batch - 1, 0]
    beams, _ = stepped(this, x[order, keep:], (), trunk.select(order))
    same_bits("beams are separate caches", Attended(*(a[order] for a in last)), beams)
    one_by_one, _ = stepped(replace(this, step_with=Grouped.step), x[:, :20], range(1, min(20, length)))
    same_bits("a step of one token needs no cut", Attended(whole.out[:, :20], whole.lse[:, :, :20]), one_by_one)


def test_a_step_that_is_not_cut_shows_codes_too_early() -> None:
    """What `step_in_windows` is for: a plain step of many shows all its queries what the last one sees."""
    layer = layer_of(0, None, np.float64)
    x = np.random.default_rng(0).standard_normal((1, 12, 6))
    cut, plain = (
        stepped(variant_of(Kivi(2, 4, 8), layer, 256, step), x, ())[0] for step in (step_in_windows, Grouped.step)
    )
    assert cut.out[:, 8:].tobytes() == plain.out[:, 8:].tobytes()
    assert cut.out[:, :8].tobytes() != plain.out[:, :8].tobytes()


def test_sequences_of_different_lengths_are_cut_where_each_settles() -> None:
    layer, kivi = layer_of(1, None, np.float64), Kivi(4, 2, 4)
    this = variant_of(kivi, layer, 256)
    x = np.random.default_rng(1).standard_normal((2, 13, 6))
    whole, _ = stepped(this, x, ())
    _, cache = stepped(this, x[:, :3], ())
    more = np.stack([x[0, 1:11], x[1, 3:13]])
    found, later = stepped(this, more, (), cache.truncate([1, 3]))
    assert later.lengths == (11, 13)
    assert found.out[0].tobytes() == whole.out[0, 1:11].tobytes()
    assert found.out[1].tobytes() == whole.out[1, 3:13].tobytes()
    with pytest.raises(ArgumentError, match=r"length must be the same for all sequences, got \(11, 13\)"):
        _ = later.length


@pytest.mark.law("caches/kivi_cache", "bytes read are those of codes, scales and whole rows", "integers")
def test_bytes_are_those_of_codes_scales_and_whole_rows() -> None:
    layer, kivi = layer_of(2, None, np.float32), Kivi(2, 32, 64)
    cache: Any = KiviCache.start(layer.start().schema, kivi, page=32)
    x = np.random.default_rng(2).standard_normal((1, 300, 6)).astype(np.float32)
    with counting() as tally:
        cache = layer.step(cache, x)[1]
        counted = tally.tally
    row, settled = 2 * 2 * WIDTH * 4, 256
    codes = settled * 2 * 2 * (8 + 4)  # for each token and head: 32 numbers of 2 bits, and 2 float16 for each 32
    assert cache.settled == (settled,)
    assert counted.kv_written == 300 * row + codes
    assert counted.kv_read == codes + (300 - settled) * row
    assert cache.nbytes == codes + 64 * row
    with counting() as tally:
        later = cache.append(drawn(3, 1, 20, layer.start().schema)).append(drawn(4, 1, 1, layer.start().schema))
        assert tally.kv_read == 64 * row  # the residual is read when it settles
    assert later.settled == (320,)
    # KIVI itself keeps the last 64 values whole at any time; here one value is whole, as one key is
    assert kivi.nbytes(2, 321, WIDTH, 4) - 63 * (row // 2 - 2 * 12) == 320 * 2 * 2 * 12 + row


@pytest.mark.parametrize(
    ("schema", "change", "error", "words"),
    [
        (latent(4), {}, ArgumentError, "schema must be of keys and values, .* got Latent"),
        (placed(SCHEMA), {}, ArgumentError, "schema must not be placed"),
        (key_value(1, 4, 3), {}, ShapeError, "got 3"),
        (key_value(1, 4, dtype=np.float16), {}, DtypeError, "float16"),
        (SCHEMA, {"kivi": 2}, ArgumentError, "kivi must be a Kivi, got 2"),
        (SCHEMA, {"batch": 0}, ArgumentError, "batch must be an integer >= 1, got 0"),
        (SCHEMA, {"page": True}, ArgumentError, "page must be an integer >= 1, got True"),
    ],
)
def test_bad_settings_are_refused(schema: Any, change: dict[str, Any], error: type[KvattnError], words: str) -> None:
    with pytest.raises(error, match=words):
        KiviCache.start(schema, **{"kivi": KIVI, **change})


@pytest.mark.parametrize(
    ("at", "value", "positions", "error", "words"),
    [
        (0, np.nan, None, ArgumentError, "k must be finite, got nan"),
        (1, np.inf, None, ArgumentError, "v must be finite, got inf"),
        (0, 1e6, None, ArgumentError, "x must have .* in the range of float16"),
        (0, 0.0, np.array([[5, 6, 7]]), PositionError, "positions of sequence 0 must be 3 .. 5"),
    ],
)
def test_bad_rows_are_refused_and_leave_the_cache_as_it_was(
    at: int, value: float, positions: Any, error: type[KvattnError], words: str
) -> None:
    cache = KiviCache.start(SCHEMA, KIVI, page=4).append(drawn(0, 1, 3))
    rows = drawn(1, 1, 3)
    rows[at][0, 1, 0, 2] = value
    before = [x.tobytes() for x in cache.rows()]
    with counting() as tally, pytest.raises(error, match=words):
        cache.append(rows, positions)
    assert tally.kv_written == tally.kv_copied == 0
    assert [x.tobytes() for x in cache.rows()] == before
    assert cache.append(drawn(1, 1, 3)).length == 6


def test_bad_lengths_are_refused() -> None:
    cache = KiviCache.start(SCHEMA, KIVI).append(drawn(0, 1, 9))
    with pytest.raises(ArgumentError, match=r"length must be an integer in 0 \.\. 9, got 10"):
        cache.truncate(10)
    with pytest.raises(RollbackError, match="length of sequence 0 must be 0 or at least 8, what is settled, got 7"):
        cache.truncate(7)
    assert cache.truncate(0).append(drawn(0, 1, 9)).rows().k.tobytes() == cache.rows().k.tobytes()
