"""Which of several layers have the window: the last question, in terms of what one layer counts."""

from fractions import Fraction
from typing import Any

from kvattn.testing.counter_diagnosis.bench import CounterBench
from kvattn.testing.counter_diagnosis.pairs import Node, Rule


def read_layers(bench: CounterBench) -> None:
    """Compare seven layers, some of them with a window, with one layer of each sort.

    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> def mine(*, layers, tokens, width, itemsize, window=None, window_layers=None):
    ...     return 2 * layers * min(tokens, window or tokens) * width * itemsize
    >>> bench = bench_of(mine)
    >>> read_layers(bench)
    >>> bench.findings[0].parameters
    {'window_layers': 'all'}
    """
    step = 6 if bench.target.counts == "flops" else 1

    def ask(layers: int, narrow: int | None, window: int | None) -> Fraction:
        asked: dict[str, Any] = {"layers": layers, "window_layers": narrow, "window": window, "causal": True}
        return bench.count(bench.sizes(queries=step, keys=9, **asked))

    wide, near = ask(1, None, None), ask(1, 1, 3)
    table: dict[Node, Fraction] = {(7, n, 0): ask(7, n, 3) for n in (1, 3, 5)}
    rules = (
        Rule(lambda n: (n[0] - n[1]) * wide + n[1] * near, "", "right"),
        Rule(lambda n: n[0] * wide, "takes no notice of the window where only some layers have it", "fault",
             {"window_layers": "none"}),
        Rule(lambda n: n[0] * near, "gives every layer the window", "fault", {"window_layers": "all"}),
        Rule(lambda n: (n[0] - n[1]) * wide, "leaves the layers with a window out", "fault",
             {"window_layers": "left out"}),
        Rule(lambda n: n[1] * near, "leaves the layers without a window out", "fault",
             {"window_layers": "counted alone"}),
        Rule(lambda n: n[1] * wide + (n[0] - n[1]) * near, "gives the window to the other layers", "fault",
             {"window_layers": "the other ones"}),
    )  # fmt: skip
    sizes = bench.sizes(queries=step, keys=9, layers=7, window_layers=3, window=3, causal=True)
    rule = next((rule for rule in rules if rule.settled(table)), None)
    if rule is None:
        bench.unexplained(sizes, None, "Which layers have the window does not read")
    elif rule.kind == "fault":
        bench.add(dict(rule.parameters), f"It {rule.words}.", sizes)
