"""How many blocks should share a step of the running softmax: time of decoding for several spans, in one run.

    OMP_NUM_THREADS=2 python tests/benchmarks/spans.py

Each column is the median over interleaved runs, as a ratio to a span of one block.
"""

import statistics
import time
from typing import Any

import numpy as np

from kvattn.caches.blocks import BLOCK
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, key_value
from kvattn.core import streaming
from kvattn.core.tiles import SPAN
from kvattn.masks import Causal

SPANS = (1, 2, 4, 8)
ROUNDS = 61


def main() -> None:
    kept = SPAN
    types: tuple[type[np.floating[Any]], ...] = (np.float64, np.float32)
    for dtype in types:
        rng = np.random.default_rng(0)
        q = rng.standard_normal((1, 32, 1, 128)).astype(dtype)
        k, v = (rng.standard_normal((1, 8, 8192, 128)).astype(dtype) for _ in range(2))
        cache = Paged.start(key_value(8, 128, dtype=dtype)).append(KeyValue(k, v))
        taken: dict[int, list[float]] = {span: [] for span in SPANS}
        for _ in range(ROUNDS):
            for span, times in taken.items():
                vars(streaming)["SPAN"] = span * BLOCK
                start = time.perf_counter()
                streaming.attend(q, np.array([[8191]]), [cache.blocks(0)], value_width=128, mask=Causal())
                times.append(time.perf_counter() - start)
        medians = {span: statistics.median(times) for span, times in taken.items()}
        shown = "   ".join(f"{span} blocks {median / medians[1]:.2f}" for span, median in medians.items())
        print(f"decode 8192 keys {np.dtype(dtype).name}: {shown}")
    vars(streaming)["SPAN"] = kept


if __name__ == "__main__":
    main()
