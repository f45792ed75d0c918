"""The whole reading of a counter, and drawn sizes under what was read."""

from collections.abc import Callable
from fractions import Fraction
import random
from typing import Any

from kvattn.errors import ArgumentError
from kvattn.testing.counter_diagnosis.bench import CounterBench
from kvattn.testing.counter_diagnosis.flops import Flops, read_flops
from kvattn.testing.counter_diagnosis.manners import read_repeats, read_unit, settle
from kvattn.testing.counter_diagnosis.numbers import shown
from kvattn.testing.counter_diagnosis.sizes import Sizes
from kvattn.testing.counter_diagnosis.stored import Stored, read_stored
from kvattn.testing.counter_targets import CounterTarget
from kvattn.testing.diagnosis.differential import Margin
from kvattn.testing.diagnosis.raised import Misshapen, Refused

_NARROW = (
    ("hidden", "width", "width is hidden // query_heads"),
    ("query_heads", "kv_heads", "there are as many key/value heads as query heads"),
)
"""What a counter takes, what it does not, and which models are then out of its reach."""


def look(
    target: CounterTarget,
    *,
    seed: int = 0,
    dtype: str = "float64",
    cases: int = 80,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[CounterBench, Margin | None]:
    """Read a counter, and compare drawn sizes.

    Parameters
    ----------
    target
        The counter.
    seed, cases
        Of the drawn sizes.
    dtype
        Sizes have none: only the default is legal.
    progress
        Called with the name of each step.

    Returns
    -------
    tuple
        The bench, and how many drawn sizes were compared, exactly; None where one did not fit what was read.

    Raises
    ------
    ArgumentError
        When dtype is not float64.

    Examples
    --------
    >>> from kvattn.testing.counter_targets import counter_target_of
    >>> def mine(*, query_heads, queries, keys, width):
    ...     return query_heads * queries * keys * width * 2
    >>> bench, margin = look(counter_target_of(mine))
    >>> [(finding.kind, finding.parameters) for finding in bench.findings], margin.cases
    ([('convention', {'unit': 1})], 80)
    """
    if dtype != "float64":
        raise ArgumentError(f"dtype must be left out for a counter, which is given integers, got {dtype}")
    bench = CounterBench(target, seed=seed)
    try:
        progress("manners")
        settle(bench)
        read_repeats(bench)
        read: Flops | Stored | None = None
        if not bench.stopped:
            read_unit(bench)
            progress("pairs" if target.counts == "flops" else "rows")
            read = read_flops(bench) if target.counts == "flops" else read_stored(bench)
    except Refused as refused:
        name = str(refused).partition(":")[0]
        shapeless = isinstance(refused, Misshapen)
        told = {"returned": str(refused).split()[1].rstrip(",")} if shapeless else {"raised": name}
        words = f"It {refused}." if shapeless else f"It raises {refused}."
        bench.add(told, words, bench.last, fault_class="unclassified")
        return bench, None
    for given, missing, words in _NARROW:
        flops_ = missing == "kv_heads" and target.counts == "flops"  # which needs them not
        if given in target.features and missing not in target.features and not flops_:
            bench.notes.append(f"It takes no {missing}: it can be right only where {words}")
    if read is not None and not bench.stopped:
        progress("drawn sizes")
        _compare(bench, read, cases)
    return bench, Margin(bench.drawn, 0.0, 0) if bench.drawn and not bench.stopped else None


def draw(bench: CounterBench, generator: random.Random) -> Sizes:
    """Draw sizes: a few tokens, a boundary of a window or a tile, or as many as in a large model.

    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> draw(bench_of(lambda *, queries, keys, width: 0), random.Random(0)).keys
    1
    """
    large = generator.random() < 0.25
    keys = generator.choice((4096, 8191, 32768) if large else (1, 7, 64, 65, 127, 255, generator.randint(1, 40)))
    queries = generator.choice((1, keys, generator.randint(1, keys)))
    if bench.target.counts == "bytes":
        queries = min(queries, 8)
    width = generator.choice((64, 128, 192, 576) if large else (8, 24, 40, 64, 96, 256))
    asked: dict[str, Any] = {
        "batch": generator.choice((1, 3, 32) if large else (1, 2, 5)),
        "layers": generator.choice((1, 2, 61)),
        "kv_heads": generator.choice((1, 2, 8)),
        "group": generator.choice((1, 4, 5)),
        "queries": queries,
        "keys": keys,
        "width": width,
        "value_width": generator.choice((width, 16, 128)),
        "head": generator.choice((width, 64, 80)),
        "causal": generator.random() < 0.5,
        "itemsize": generator.choice((1, 2, 4)),
        "bits": generator.choice((8, 16, 32)),
        "page": generator.choice((1, 1, 16, 64)),
    }
    if bench.can("window") and generator.random() < 0.4:
        edge = generator.choice((keys - 1, keys, keys + 1, 16, 128, generator.randint(1, keys)))
        asked |= {"window": max(1, edge), "causal": True, "page": 1}
    return bench.sizes(**asked)


def _compare(bench: CounterBench, read: Flops | Stored, cases: int) -> None:
    """Ask for drawn sizes, and hold the answers to what was read."""
    generator = random.Random(bench.seed)
    for _ in range(cases):
        sizes = draw(bench, generator)
        wanted = read.at(sizes)
        if wanted is None:
            continue
        try:
            got = bench.count(sizes)
        except Refused as refused:
            bench.notes.append(f"It refuses drawn sizes: {refused}")
            continue
        bench.drawn += 1
        if got == wanted or (bench.unit > 1 and abs(got - wanted) <= wanted * Fraction(1, 10**9)):
            continue
        if wanted > 2**53 and abs(got - wanted) <= wanted * Fraction(1, 2**48):
            continue  # a float has no more digits
        if bench.unit == 1 and abs(got - wanted) <= wanted * Fraction(1, 2**22):
            words = f"It rounds as float32 does: it counts {shown(got)} in place of {shown(wanted)}."
            bench.add({"rounded": "float32"}, words, sizes, kind="convention")
            continue
        if (got - wanted) % 2**32 == 0 and wanted >= 2**31:
            words = f"It wraps around at 32 bits: it counts {shown(got)} in place of {shown(wanted)}."
            bench.add({"overflow": 32}, words, sizes)
            bench.stopped = True
            return
        bench.unexplained(sizes, wanted, "What was read of it does not hold here")
        return
