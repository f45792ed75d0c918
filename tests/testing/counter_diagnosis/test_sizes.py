"""The closed forms against loops over every pair and row, and against what kvattn itself counts."""

from fractions import Fraction
from itertools import product
import random

import numpy as np
import pytest

import kvattn
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, key_value
from kvattn.codecs.codec import nbytes
from kvattn.codecs.q8_0 import Q8_0
from kvattn.core.accounting import Shape, attend_cost
from kvattn.masks import Causal, Window
from kvattn.testing.counter_diagnosis.sizes import Sizes, flops, pairs, rows, stored


def test_pairs_by_hand() -> None:
    for s, w in product(range(1, 10), (None, 1, 2, 3, 7, 30)):
        for t in range(1, s + 1):
            seen = sum(0 <= s - t + i - j < (w or s) for i in range(t) for j in range(s))
            assert pairs(t, s, w) == seen
            if w is not None:
                read = sum(any(0 <= s - t + i - j < w for i in range(t)) for j in range(s))
                assert rows(t, s, w) == read


@pytest.mark.parametrize("seed", range(6))
def test_flops_are_what_kvattn_counts(seed: int) -> None:
    r = random.Random(seed)
    s = r.randint(2, 300)
    t, hkv, group, d, dv = r.randint(1, min(s, 20)), *(r.randint(1, 9) for _ in range(4))
    asked = Sizes(batch=2, kv_heads=hkv, group=group, queries=t, keys=s, width=d, value_width=dv, causal=True)
    sizes = asked.but(window=r.choice((None, 1, 5, 400)))
    shape = Shape(hkv * group, hkv, d, dv, itemsize=8, past=s - t, new=t, batch=2)
    cost = attend_cost(shape, Causal() if sizes.window is None else Window(sizes.window))
    assert flops(sizes) == 2 * cost.pairs_visible * (d + dv)


def test_flops_without_a_mask_are_what_is_counted_while_it_runs() -> None:
    q, k, v = np.zeros((2, 4, 3, 8)), np.zeros((2, 2, 5, 8)), np.zeros((2, 2, 5, 6))
    with kvattn.counting() as tally:
        _ = kvattn.attend(q, k, v)
    sizes = Sizes(batch=2, kv_heads=2, group=2, queries=3, keys=5, width=8, value_width=6)
    assert tally.matmul == flops(sizes)


def test_bytes_are_what_a_cache_of_kvattn_allocates() -> None:
    schema = key_value(heads=3, width=8, value_width=4, dtype=np.float32)
    x = np.zeros((2, 3, 10, 8), np.float32)
    with kvattn.counting() as tally:
        cache = Paged.start(schema, page=4, batch=2).append(KeyValue(x, x[..., :4]))
    sizes = Sizes(batch=2, kv_heads=3, keys=10, width=8, value_width=4, itemsize=4)
    assert tally.kv_written == stored(sizes)
    assert tally.cache_live == stored(sizes.but(page=4))
    del cache


def test_scales_are_those_of_a_codec() -> None:
    sizes = Sizes(kv_heads=2, keys=7, width=64, value_width=96, bits=8, scale_group=32, scale_itemsize=2)
    kept = sum(nbytes(Q8_0(), (2, 7, width)) for width in (64, 96))  # a float16 scale for 32 numbers
    assert stored(sizes) == kept == 7 * 2 * (64 + 96 + (2 + 3) * 2)
    four = sizes.but(width=32, value_width=50, bits=4, scale_group=16)
    assert stored(four) == 7 * 2 * (Fraction(32 + 50, 2) + (2 + 4) * 2)


def test_some_layers_have_the_window() -> None:
    sizes = Sizes(layers=5, window_layers=2, queries=4, keys=9, causal=True, window=3)
    one, near = flops(sizes.but(layers=1, window=None, window_layers=None)), flops(sizes.but(layers=1, window_layers=1))
    assert flops(sizes) == 3 * one + 2 * near
    assert stored(sizes.but(queries=0)) == (3 * 9 + 2 * 3) * 16 * 2
