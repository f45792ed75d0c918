"""Speed of attention beside torch SDPA: prefill and decode, medians of interleaved runs, both on 2 threads.

    OMP_NUM_THREADS=2 python tests/benchmarks/attention.py

Timings belong to no test; the bit laws that hold on this very path are in ``tests/core/test_cutting.py``
and are spot-checked here on the arrays that are timed.
"""

from collections.abc import Callable
import statistics
import sys
import time

import numpy as np

import kvattn
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, key_value
from kvattn.core import streaming
from kvattn.masks import Causal

ROUNDS = 15

PAUSE = 0.02
"""Seconds before each run: the other side's threads spin for a while after their work is done."""


def interleaved(ours: Callable[[], object], peer: Callable[[], object]) -> tuple[float, float]:
    """Median milliseconds of each, run in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 2):
        for taken, function in zip(times, (ours, peer), strict=True):
            time.sleep(PAUSE)
            start = time.perf_counter()
            function()
            if number >= 2:  # the first two warm up
                taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[0]), statistics.median(times[1])


def report(name: str, ours: float, peer: float, limit: float | None) -> bool:
    kept = limit is None or ours <= limit * peer
    mark = "" if limit is None else f"  (at most {limit}: {'kept' if kept else 'NOT KEPT'})"
    print(f"{name:42} kvattn {ours:8.1f} ms   torch {peer:8.1f} ms   ratio {ours / peer:5.2f}{mark}")
    return kept


def prefill(dtype: type[np.floating], causal: bool) -> tuple[float, float]:
    import torch

    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 8, 2048, 64)).astype(dtype) for _ in range(3))
    tensors = [torch.from_numpy(x) for x in (q, k, v)]
    mask = Causal() if causal else None

    def ours() -> np.ndarray:
        return kvattn.attention(q, k, v, mask=mask, dtype=dtype)

    def peer() -> object:
        return torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=causal)

    if causal:  # a row alone has the bits of the same row in the prefill
        row = kvattn.attention(q[:, :, 1000:1001], k[:, :, :1001], v[:, :, :1001], mask=mask, dtype=dtype)
        if row.tobytes() != np.ascontiguousarray(ours()[:, :, 1000:1001]).tobytes():
            raise AssertionError("a row alone differs from the prefill")
    return interleaved(ours, peer)


def decode(dtype: type[np.floating]) -> tuple[float, float]:
    import torch

    rng = np.random.default_rng(0)
    q = rng.standard_normal((1, 32, 1, 128)).astype(dtype)
    k, v = (rng.standard_normal((1, 8, 8192, 128)).astype(dtype) for _ in range(2))
    tensors = [torch.from_numpy(x) for x in (q, k, v)]
    cache = Paged.start(key_value(8, 128, dtype=dtype)).append(KeyValue(k, v))
    at = np.array([[8191]])

    def ours() -> object:
        return streaming.attend(q, at, [cache.blocks(0)], value_width=128, mask=Causal())

    def peer() -> object:
        return torch.nn.functional.scaled_dot_product_attention(*tensors, enable_gqa=True)

    return interleaved(ours, peer)


def main() -> int:
    import torch

    torch.set_num_threads(2)
    kept = True
    for dtype, limits in ((np.float64, (2.0, 1.5)), (np.float32, (None, 1.5))):
        name = np.dtype(dtype).name
        for causal in (False, True):
            what = f"prefill B1 H8 T2048 D64 {name} {'causal' if causal else 'full'}"
            kept &= report(what, *prefill(dtype, causal), limits[0])
        kept &= report(f"decode 8192 keys, 32/8 heads, D128 {name}", *decode(dtype), limits[1])
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
