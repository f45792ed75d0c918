"""Memory that streaming attention takes above its inputs and output: T = 32,768, one head, D = 64, float64.

    python tests/benchmarks/memory.py

Measured by tracemalloc, which NumPy reports its arrays to, and as the process's highest resident size.
"""

import resource
import tracemalloc

import numpy as np

import kvattn


def main() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 1, 32768, 64)) for _ in range(3))
    kvattn.attention(q[:, :, :8], k[:, :, :8], v[:, :, :8])  # loads everything that loads late
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    out = kvattn.attention(q, k, v, mask=kvattn.masks.Causal())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"output {out.nbytes / 1e6:.1f} MB")
    print(f"traced peak above inputs and output {(peak - out.nbytes) / 1e6:.1f} MB")
    print(f"resident peak above inputs and output {((after - before) * 1024 - out.nbytes) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
