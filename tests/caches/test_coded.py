"""A cache of codes: what comes back is what a plain list of codes says, and attention to it is attention to that.

CI draws four layers of each codec, ``KVATTN_PROFILE=deep`` 25.
"""

from collections.abc import Sequence
from functools import partial
import os
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn import attend
from kvattn.caches import key_value, latent, live_bytes, placed
from kvattn.caches.coded import Coded
from kvattn.caches.rows import KeyValue
from kvattn.codecs import (
    E5M2,
    MXFP4,
    NVFP4,
    PER_CHANNEL,
    PER_TOKEN,
    Q4_0,
    Q8_0,
    Float8,
    Float8Fixed,
    Kivi,
    Minimum,
    Rotated,
    Symmetric,
    ZeroPoint,
    groups_of,
)
from kvattn.core import streaming
from kvattn.core.accounting import attend_cost
from kvattn.counting import Tally, counting
from kvattn.errors import ArgumentError, DtypeError, KvattnError, PositionError, ShapeError
from kvattn.masks import Causal
from kvattn.variants.dense import around
from tests.caches.codes import WIDTH, Over, holds, int8_by_hand, layer_of, uint4_by_hand

SCHEMA = key_value(2, 4, 6)

CODECS: dict[str, tuple[Any, Any]] = {
    "int8": (Symmetric(8), Symmetric(8)),
    "int4": (Symmetric(4, groups_of(16)), Symmetric(4)),
    "int8 over heads, float16 scales": (Symmetric(8, PER_TOKEN, np.float16), ZeroPoint(8)),
    "minimum": (Minimum(2, groups_of(8), np.float16), Kivi(4, 32, 32).values),
    "fp8": (Float8(), Float8(E5M2)),
    "fp8 fixed": (Float8Fixed(), Float8Fixed(E5M2, (0.01,))),
    "MXFP4": (MXFP4(), MXFP4()),
    "NVFP4": (NVFP4(0.003), NVFP4(0.002)),
    "q8_0": (Q8_0(), Q8_0()),
    "q4_0": (Q8_0(), Q4_0()),
    "rotated": (Rotated(Symmetric(4)), Symmetric(8)),
}


def drawn(seed: int, batch: int, heads: int, tokens: int, width: int, dtype: Any = np.float64) -> Any:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((batch, heads, tokens, width)) * rng.choice([0.01, 1, 30], (tokens, 1))).astype(dtype)


def agrees(cls: type[Coded]) -> None:
    """Compare int8 keys and four-bit values with lists of what each token's numbers become, through all verbs."""

    @settings(phases=[Phase.generate] if cls is not Coded else tuple(Phase), deadline=None)
    @given(
        page=st.sampled_from([1, 3, 256]),
        steps=st.lists(
            st.tuples(st.integers(0, 2**32), st.lists(st.integers(0, 4), min_size=2, max_size=2), st.integers(0, 3)),
            min_size=1,
            max_size=5,
        ),
    )
    def check(page: int, steps: list[tuple[int, list[int], int]]) -> None:
        cache = cls.start(SCHEMA, keys=Symmetric(8), values=Minimum(4, groups_of(2)), batch=2, page=page)
        keys: list[list[list[list[float]]]] = [[], []]  # for each sequence the tokens, heads and numbers
        values: list[list[list[list[float]]]] = [[], []]
        for seed, counts, back in steps:
            k, v = drawn(seed, 2, 2, 4, 4), drawn(seed + 1, 2, 2, 4, 6)
            for b, n in enumerate(counts):
                k[b, :, n:], v[b, :, n:] = np.nan, np.inf
                for token in range(n):
                    key: list[list[float]] = []
                    value: list[list[float]] = []
                    for head in range(2):
                        codes, scale = int8_by_hand(k[b, head, token].tolist())
                        key.append([code * scale for code in codes])
                        value.append([])
                        for at in (0, 2, 4):
                            codes, scale, low = uint4_by_hand(v[b, head, token, at : at + 2].tolist())
                            value[-1] += [code * scale + low for code in codes]
                    keys[b].append(key)
                    values[b].append(value)
            old, cache = cache, cache.append([k, v], counts=counts)
            was = old.lengths
            cut = [max(0, n - back) for n in cache.lengths]
            cache = cache.truncate(cut)
            keys, values = ([rows[:n] for rows, n in zip(side, cut, strict=True)] for side in (keys, values))
            assert old.lengths == was
            assert cache.lengths == tuple(cut) == tuple(len(rows) for rows in keys)
            for b, n in enumerate(cut):
                found = cache.rows(b)
                assert found.k[0].swapaxes(0, 1).tolist() == keys[b]
                assert found.v[0].swapaxes(0, 1).tolist() == values[b]
                for block in cache.blocks(b):
                    held = np.arange(256) < n
                    assert block.k[:, :, held].transpose(2, 0, 1).tolist() == keys[b]
                    assert not block.k[:, :, ~held].any()
                    assert not block.v[:, ~held].any()
                    assert block.stored == n * 2 * (4 + 4 + 3 + 3 * 8)
            assert cache.nbytes == sum(-(-n // page) for n in cut) * page * 2 * (4 + 4 + 3 + 3 * 8)

    check()


@pytest.mark.by_hand("caches/coded")
@pytest.mark.no_peer("caches/coded", "caches of others attend to new tokens as they came, and to their codes later")
def test_it_agrees_with_a_list_of_codes() -> None:
    agrees(Coded)


class TakesTheNeighboursScale(Coded):
    """The scales of keys are one token late."""

    def append(self, rows: Any, positions: Any = None, counts: Any = None) -> Coded:
        k, v = rows
        late = np.concatenate([k[:, :, -1:], k[:, :, :-1]], axis=2)
        size = [np.nan_to_num(np.abs(x).max(-1, keepdims=True), posinf=1.0) for x in (k, late)]
        return super().append([k * np.divide(size[1], size[0], where=size[0] > 0, out=size[0]), v], positions, counts)


class ReadsKeysAsValues(Coded):
    """Keys are decoded as what comes second is encoded."""

    def rows(self, sequence: int = 0) -> KeyValue:
        k, v = super().rows(sequence)
        return KeyValue(Minimum(4).decode(Minimum(4).encode(k), k.dtype), v)


class ForgetsScales(Coded):
    """Bytes are those of codes alone."""

    @property
    def nbytes(self) -> int:
        fields = self.memory.schema.fields
        codes = sum(field.nbytes for field in fields if field.name.endswith("codes"))
        return super().nbytes * codes // self.memory.schema.nbytes


class ReadsWhatItGivesBack(Coded):
    """Bytes read are those of the decoded rows."""

    def blocks(self, sequence: int) -> Any:
        return tuple(block._replace(stored=None) for block in super().blocks(sequence))


class SharesAcrossTokens(Coded):
    """All tokens that come together share a scale: what is stored depends on the cut."""

    def append(self, rows: Any, positions: Any = None, counts: Any = None) -> Coded:
        codec = Symmetric(8, PER_CHANNEL)
        k = np.nan_to_num(rows[0])
        return super().append([codec.decode(codec.encode(k), k.dtype), rows[1]], positions, counts)


@pytest.mark.parametrize(
    "wrong",
    [TakesTheNeighboursScale, ReadsKeysAsValues, ForgetsScales, ReadsWhatItGivesBack, SharesAcrossTokens],
    ids=lambda wrong: wrong.__name__,
)
def test_a_wrong_one_is_rejected(wrong: type[Coded]) -> None:
    with pytest.raises((AssertionError, KvattnError)):
        agrees(wrong)


@pytest.mark.law("caches/coded", "attention over codes is attention to the rounded rows", "bits")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", CODECS)
def test_attention_over_codes_is_attention_to_the_rounded_rows(name: str, dtype: Any) -> None:
    keys, values = CODECS[name]
    q, k, v = (drawn(seed, 1, heads, 270, 2 * WIDTH, dtype) for seed, heads in ((0, 4), (1, 2), (2, 2)))
    cache = Coded.start(key_value(2, 2 * WIDTH, dtype=dtype), keys=keys, values=values, page=7)
    for start, stop in ((0, 1), (1, 200), (200, 200), (200, 270)):
        cache = cache.append([k[:, :, start:stop], v[:, :, start:stop]])
    at = np.arange(270)
    blocks = [cache.blocks(0)]
    found = streaming.attend(q, at[None], blocks, value_width=2 * WIDTH, mask=Causal())
    rounded = [codec.decode(codec.encode(x), dtype) for codec, x in ((keys, k), (values, v))]
    wanted = attend(q, *rounded, mask=Causal(), dtype=dtype)
    assert found.out.tobytes() == wanted.out.tobytes()
    assert found.lse.tobytes() == wanted.lse.tobytes()


@pytest.mark.law("caches/coded", "differs from attention to the rows by what the codecs' errors allow", "bound")
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [None, np.array([0.5, -1.0])])
@pytest.mark.parametrize("name", CODECS)
def test_the_error_of_codes_bounds_that_of_attention(name: str, softcap: float | None, sinks: Any) -> None:
    keys, values = CODECS[name]
    rng = np.random.default_rng(5)
    q, k, v = (rng.standard_normal((1, heads, 40, WIDTH)) for heads in (2, 1, 1))
    cache = Coded.start(key_value(1, WIDTH), keys=keys, values=values).append([k, v])
    more: dict[str, Any] = {"softcap": softcap, "sinks": sinks}
    found = streaming.attend(
        q, np.arange(40)[None], [cache.blocks(0)], value_width=WIDTH, mask=Causal(), scale=0.1, **more
    )
    wanted = attend(q, k, v, mask=Causal(), scale=0.1, **more)
    e, f = keys.error(k)[0, 0], values.error(v)[0, 0]
    for head in range(2):
        for t in range(40):
            delta = max(0.1 * float(np.abs(q[0, head, t]) @ e[j]) for j in range(t + 1))
            seen = v[0, 0, : t + 1] if sinks is None else np.concatenate([v[0, 0, : t + 1], np.zeros((1, WIDTH))])
            limit = f[: t + 1].max(0) + np.tanh(delta / 2) * (seen.max(0) - seen.min(0))
            assert abs(found.lse[0, head, t] - wanted.lse[0, head, t]) <= delta + 1e-12
            assert (np.abs(found.out[0, head, t] - wanted.out[0, head, t]) <= limit + 1e-12).all()
            if t == 39 and name == "int4" and sinks is None:
                assert (
                    np.abs(found.out[0, head, t] - wanted.out[0, head, t]).max() > limit.min() / 100
                )  # it says something


@pytest.mark.law("caches/coded", "decode is recompute, batch mates, pages, rollback, branches, beams", "bits")
@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=25 if os.environ.get("KVATTN_PROFILE") == "deep" else 4, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 3),
    length=st.one_of(st.integers(0, 12), st.integers(254, 259)),
    cuts=st.lists(st.integers(0, 259), max_size=3),
    page=st.sampled_from([256, 1, 7]),
    window=st.sampled_from([None, 4]),
    dtype=st.sampled_from([np.float64, np.float32]),
)
def test_layers_step_over_codes(
    name: str, seed: int, batch: int, length: int, cuts: list[int], page: int, window: int | None, dtype: Any
) -> None:
    keys, values = CODECS[name]
    layer = layer_of(seed, window, dtype)
    holds(Over(layer, partial(Coded.start, keys=keys, values=values)), seed, batch, length, cuts, page, dtype)


@pytest.mark.law("caches/coded", "the future is invisible", "bits")
def test_later_tokens_are_invisible() -> None:
    layer, (keys, values) = layer_of(3, None, np.float64), CODECS["MXFP4"]
    variant = Over(layer, partial(Coded.start, keys=keys, values=values))
    x = np.random.default_rng(3).standard_normal((2, 9, 6))
    other = np.concatenate([x[:, :5], -40 * x[:, 5:]], axis=1)
    one, two = (variant.step(variant.start(2), rows)[0] for rows in (x, other))
    assert one.out[:, :5].tobytes() == two.out[:, :5].tobytes()
    assert one.out[:, 5:].tobytes() != two.out[:, 5:].tobytes()


@pytest.mark.law("caches/coded", "cost is count", "integers")
@pytest.mark.parametrize("name", CODECS)
def test_cost_is_count(name: str) -> None:
    keys, values = CODECS[name]
    layer = layer_of(1, None, np.float32)
    cache: Any = Coded.start(layer.start().schema, keys=keys, values=values, batch=2, page=4)
    x = np.random.default_rng(1).standard_normal((2, 7, 6)).astype(np.float32)
    for start, stop in ((0, 5), (5, 6), (6, 7)):
        with counting() as tally:
            later: Any = layer.step(cache, x[:, start:stop])[1]
            counted = tally.tally
        cost = around.cost(layer, 2 * (stop - start)) + cache.append_cost(past=start, new=stop - start)
        plain = attend_cost(around.shape_of(layer, start, stop - start, 2), layer.mask)
        per_token = sum(
            int(np.prod(part.shape)) * int(part.dtype[-1])
            for codec in (keys, values)
            for part in codec.parts((2, 1, WIDTH))
        )
        read = Tally(kv_read=2 * stop * per_token - plain.kv_read)
        assert counted == cost + later.blocks_cost() + plain + read
        assert later.token_bytes == per_token < layer.start().schema.nbytes
        cache = later


def test_a_smaller_cache_holds_the_same_tokens() -> None:
    """Bytes of 256 tokens, 2 heads of 32 channels: floats of 4 bytes against codes with their scales."""
    schema = key_value(2, WIDTH, dtype=np.float32)
    sizes = {}
    for name, (keys, values) in CODECS.items():
        rows = drawn(0, 1, 2, 256, WIDTH, np.float32)
        sizes[name] = Coded.start(schema, keys=keys, values=values).append([rows, rows]).nbytes // (256 * 2)
    assert sizes["int8"] == 2 * (32 + 4)
    assert sizes["int4"] == 16 + 8 + 16 + 4
    assert sizes["MXFP4"] == 2 * 17
    assert sizes["q8_0"] == 2 * 34
    assert sizes["fp8 fixed"] == 2 * 32


def test_branches_share_pages() -> None:
    cache = Coded.start(SCHEMA, keys=Symmetric(8), values=Symmetric(8), page=4)
    trunk = cache.append([drawn(0, 1, 2, 6, 4), drawn(1, 1, 2, 6, 6)])
    left = trunk.append([drawn(2, 1, 2, 1, 4), drawn(3, 1, 2, 1, 6)])
    assert live_bytes(trunk, left, trunk.select([0, 0])) == trunk.nbytes == left.nbytes
    assert trunk.branch() is trunk
    assert trunk.length == 6


def test_tokens_may_stand_where_they_like() -> None:
    cache = Coded.start(placed(SCHEMA), keys=Symmetric(8), values=Symmetric(8))
    cache = cache.append([drawn(0, 1, 2, 2, 4), drawn(1, 1, 2, 2, 6)], positions=np.array([[4, 9]]))
    assert cache.ends == (10,)
    assert cache.coming(1).tolist() == [[10]]
    (block,) = cache.blocks(0)
    assert block.positions[:2].tolist() == [4, 9]
    assert cache.memory.schema.nbytes == cache.token_bytes + 8


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"keys": Symmetric(8, PER_CHANNEL)}, ArgumentError, "keys must be a codec .* tokens=1, got tokens=None"),
        ({"values": Kivi().keys}, ArgumentError, "values must be a codec .* tokens=1, got tokens=32"),
        ({"values": 8}, ArgumentError, "values must be a codec .* tokens=1, got 8"),
        ({"schema": latent(4)}, ArgumentError, "schema must be of keys and values, .* got Latent"),
        ({"schema": "rows"}, ArgumentError, "schema must be of keys and values, .* got 'rows'"),
        ({"schema": key_value(1, 4, dtype=np.float16)}, DtypeError, "float16"),
        ({"keys": MXFP4()}, ShapeError, "x must have a width that is a multiple of 32, got 4"),
        ({"batch": 0}, ArgumentError, "batch must be an integer >= 1, got 0"),
        ({"page": True}, ArgumentError, "page must be an integer >= 1, got True"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], error: type[KvattnError], words: str) -> None:
    settings_of: dict[str, Any] = {"schema": SCHEMA, "keys": Symmetric(8), "values": Symmetric(8), **change}
    with pytest.raises(error, match=words):
        Coded.start(settings_of.pop("schema"), **settings_of)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"k": np.nan}, ArgumentError, "k must be finite, got nan"),
        ({"v": -np.inf}, ArgumentError, "v must be finite, got -inf"),
        ({"k": 1e300}, ArgumentError, "x must have scales in the range of float32"),
        ({"positions": np.array([[5, 6, 7]])}, PositionError, "positions of sequence 0 must be 2 .. 4"),
        ({"counts": [4]}, ArgumentError, r"counts\[0\] must be an integer in 0 .. 3, got 4"),
    ],
)
def test_bad_rows_are_refused_and_leave_the_cache_as_it_was(
    change: dict[str, Any], error: type[KvattnError], words: str
) -> None:
    cache = Coded.start(SCHEMA, keys=Symmetric(8), values=Symmetric(8), page=4)
    cache = cache.append([drawn(0, 1, 2, 2, 4), drawn(1, 1, 2, 2, 6)])
    rows: dict[str, Any] = {"k": drawn(2, 1, 2, 3, 4), "v": drawn(3, 1, 2, 3, 6)}
    options = {}
    for name, value in change.items():
        if name in rows:
            rows[name][0, 1, 2, 3] = value
        else:
            options[name] = value
    before = [x.tobytes() for x in cache.rows()]
    with counting() as tally, pytest.raises(error, match=words):
        cache.append(list(rows.values()), **options)
    assert tally.kv_written == tally.kv_copied == 0
    assert [x.tobytes() for x in cache.rows()] == before
    assert cache.append([drawn(2, 1, 2, 3, 4), drawn(3, 1, 2, 3, 6)]).length == 5


@pytest.mark.parametrize(
    ("rows", "error"),
    [((np.zeros((1, 2, 1, 4)),), ShapeError), ((np.zeros((1, 2, 1, 4), np.float32),) * 2, DtypeError)],
)
def test_rows_of_another_kind_are_refused(rows: Sequence[Any], error: type[KvattnError]) -> None:
    with pytest.raises(error):
        Coded.start(SCHEMA, keys=Symmetric(8), values=Symmetric(8)).append(rows)
