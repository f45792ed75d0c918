"""What becomes of a window where a sequence is handed over in parts, and the cases in which it is seen.

A layer may apply its window to a prompt and not to the token that follows, let its cache hold a row too many or too
few, or drop rows that the first tokens of a part still need.
"""

from collections.abc import Iterator
from dataclasses import replace

from kvattn.testing.layer_diagnosis.bench import LayerBench
from kvattn.testing.layer_diagnosis.changes import Change
from kvattn.testing.layer_diagnosis.drawing import Drawing
from kvattn.testing.layer_diagnosis.reading import Reading

PARTS = {
    "all": "Later parts",
    "one token": "Later parts of one token",
    "several tokens": "Later parts of several tokens",
}
"""Which parts are told apart, in words."""

LONGEST = 128
"""The widest window that is filled."""

FREE = 6
"""Windows up to which are tried where none is declared."""


def windows(now: Reading) -> Iterator[Change]:
    """Yield other windows of later parts.

    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> next(windows(Reading(Plan(window=3)))).words
    'Later parts see without the window of 3'
    """
    declared = now.plan.window
    if declared is None:
        for of, who in PARTS.items():
            for keys in range(1, FREE + 1):
                words = f"{who} see the last {keys} keys alone, where no window is declared"
                changed = replace(now, part_window=keys, part_window_of=of)
                yield Change("window-cache", {"keys": keys, "parts": of}, words, changed)
        return
    for of, who in PARTS.items():
        words = f"{who} see without the window of {declared}"
        changed = replace(now, part_window=10**6, part_window_of=of)
        yield Change("mask-dropped", {"argument": "window", "parts": of}, words, changed)
    for of, who in PARTS.items():
        for keys in sorted({1, 2, declared // 2, *range(declared - 3, declared + 4)}):
            if keys < 1 or keys == declared + now.window_extra:
                continue
            words = f"{who} see {keys} keys, the query's own counted, where the window is {declared}"
            changed = replace(now, part_window=keys, part_window_of=of)
            if abs(keys - declared) <= 1:
                yield Change("window-off-by-one", {"extra": keys - declared, "parts": of}, words, changed)
            else:
                yield Change("window-cache", {"keys": keys, "parts": of}, words, changed)
    words = (
        f"Of a part and what came before, the last {declared} rows are left before its first tokens have seen theirs"
    )
    evicted = replace(now, part_sight="the last window")
    yield Change("window-cache", {"evicts": "before all queries have read"}, words, evicted)


def filled(bench: LayerBench) -> list[Drawing]:
    """Return whole calls that go beyond a declared window, where the usual ones do not.

    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> [case.T for case in filled(layer_bench(PlantedLayer(), Plan(window=9)))]
    [12]
    """
    window = bench.target.expects.window
    if window is None or window < 5:
        return []
    if window > LONGEST:
        bench.notes.append(f"The window of {window} was not filled: no case has more than {LONGEST + 4} tokens")
        return []
    return [bench.drawing(B=1, T=window + 3, seed=bench.seed + 6)]


def continued(bench: LayerBench) -> list[Drawing]:
    """Return calls in parts in which several tokens, and then one token after another, go beyond a window.

    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> [(case.T, case.cuts) for case in continued(layer_bench(PlantedLayer(), Plan(window=4)))]
    [(8, (2, 6, 7))]
    """
    window = bench.target.expects.window or 4
    length = window + 4
    if window > LONGEST or getattr(bench.target.expects.rotary, "trained", 10**9) < length:
        return []
    return [bench.drawing(B=1, T=length, cuts=(2, length - 2, length - 1), seed=bench.seed + 7)]
