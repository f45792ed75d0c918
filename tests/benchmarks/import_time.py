"""What importing kvattn costs beside importing NumPy: medians of fresh processes, run in turn.

    python tests/benchmarks/import_time.py

Three ratios, whole processes, interpreter start included: the bare import; the import with
`kvattn.attention` loaded; the same with every mask.
"""

import statistics
import subprocess
import sys
import time

RUNS = 21
STATEMENTS = (
    "import numpy",
    "import numpy, kvattn",
    "import numpy, kvattn; kvattn.attention",
    "import numpy, kvattn; kvattn.attention; kvattn.masks",
)


def seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> None:
    taken: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for number in range(RUNS + 1):
        for statement, found in taken.items():
            found.append(seconds(statement))
            if number == 0:
                found.clear()  # the first run compiles
    base = statistics.median(taken[STATEMENTS[0]])
    for statement, found in taken.items():
        median = statistics.median(found)
        print(f"{statement:55} {median * 1e3:7.1f} ms   ratio {median / base:.2f}")


if __name__ == "__main__":
    main()
