"""What caches say they hold, beside what was allocated.

    python -m tests.benchmarks.cache_memory

A life of a few hundred tokens in 4 heads of 32 numbers, beams and a rollback included (`tests/caches/allocated.py`);
measured by tracemalloc, which NumPy reports its arrays to.  ``each`` is what is allocated beside the live bytes, for
each page, buffer or state; ``peak`` is counted, ``traced`` is what tracemalloc saw.
"""

from kvattn.counting import counting
from tests.caches.allocated import LIVES, measured


def main() -> None:
    print(f"{'storage':25} {'live':>9} {'allocated':>10} {'objects':>8} {'each':>6} {'peak':>9} {'traced':>9}")
    for name, life in LIVES.items():
        memory, _ = measured(name)
        with counting() as tally:
            held = life()
        each = (memory.allocated - memory.live) / memory.objects
        print(
            f"{name:25} {memory.live:9,} {memory.allocated:10,} {memory.objects:8} {each:6,.0f} "
            f"{tally.cache_peak:9,} {memory.peak:9,}"
        )
        del held


if __name__ == "__main__":
    main()
