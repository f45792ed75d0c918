"""How many steps the machine over all does, in pieces: ``python tests/benchmarks/machine_steps.py 20000 500``.

The numbers are the steps wanted and the most seconds to take; each piece has a seed of its own and prints what it did.
"""

from collections import Counter
import sys
from time import monotonic

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import get_state_machine_test

from kvattn.testing.machines import ServingMachine

PIECE = settings(
    max_examples=20,
    stateful_step_count=50,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def main(wanted: int, seconds: float, first: int = 0) -> int:
    """Run pieces until so many steps are done or so much time has passed; return the steps."""
    done: Counter[tuple[str, str]] = Counter()
    machine = type("Machine", (ServingMachine,), {"done": done})
    begun, piece, steps = monotonic(), first, 0
    while steps < wanted and monotonic() - begun < seconds:
        seed(piece)(get_state_machine_test(machine, settings=PIECE))()
        piece += 1
        steps = sum(count for (verb, _), count in done.items() if verb != "end")
        print(f"seeds {first} .. {piece - 1}: {steps} steps, {monotonic() - begun:.0f} s", flush=True)
    for at, what in enumerate(("verb", "kind")):
        by: Counter[str] = Counter()
        for names, count in done.items():
            by[names[at]] += count
        print(f"by {what}: {', '.join(f'{name} {count}' for name, count in by.most_common())}")
    return steps


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), *map(int, sys.argv[3:]))
