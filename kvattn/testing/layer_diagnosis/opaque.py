"""What holds of a layer of which only the hidden size is known: linear attention, a state-space model, anything.

Nothing is asked of its values.  Equal calls agree; sequences keep apart; what comes later changes nothing before; a
sequence in parts gives what the whole gives; padding at the right leaves no trace in the state.

Two ways to compute one thing differ by rounding: outputs may be 2^13 roundings of the largest output apart, which is
what 64 tokens of sums over 128 numbers add up to in any order; a fault in a state is larger by orders.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.layer_diagnosis.bench import LayerBench
from kvattn.testing.layer_diagnosis.reading import Case

Numbers = NDArray[np.float64]

_CUT = 5


def look_opaque(bench: LayerBench, progress: Callable[[str], None] = lambda _: None) -> None:
    """Read a layer of which only the hidden size is known.

    Examples
    --------
    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> def running_sum(x, *, cache=None):
    ...     out = np.cumsum(x, 1)  # what came before is forgotten
    ...     return out, out[:, -1]
    >>> running_sum.hidden = 4
    >>> bench = layer_bench(running_sum)
    >>> look_opaque(bench)
    >>> bench.findings[0].fault_class, bench.findings[0].parameters
    ('linear-state', {'state': 'not carried on'})
    """
    x = np.random.default_rng(bench.seed).standard_normal((3, 9, bench.target.hidden or 0))
    try:
        progress("manners")
        whole = _run(bench, x)
        limit = 2.0**13 * {"float64": 2.0**-53, "float32": 2.0**-24}[bench.dtype] * max(1.0, np.abs(whole).max())
        _read_manners(bench, x, whole, limit)
        if bench.findings:
            return
        if bench.can("cache"):
            progress("parts")
            _read_parts(bench, x, whole, limit)
            if bench.can("valid") and not bench.findings:
                _read_padding(bench, x, limit)
    except Refused as refused:
        parameters = {"raised": str(refused).partition(":")[0]}
        bench.add("unclassified", parameters, f"It raises {refused}.", reproduce=_line(bench))


def _run(bench: LayerBench, x: Numbers, cuts: tuple[int, ...] = (), valid: Any = None) -> Numbers:
    return bench.run(None, Case(x, None, valid, cuts))


def _read_manners(bench: LayerBench, x: Numbers, whole: Numbers, limit: float) -> None:
    if not np.isfinite(whole).all():
        bench.add("unclassified", {"out": "nan"}, "The plain call gives NaN or infinity.", reproduce=_line(bench))
        return
    if not np.array_equal(whole, _run(bench, x)):
        text = "Two equal calls give different results."
        bench.add("unclassified", {"random": True}, text, reproduce=_line(bench))
        return
    for b in range(len(x)):
        if np.abs(_run(bench, x[b : b + 1])[0] - whole[b]).max() > limit:
            text = f"Sequence {b} of three gives other alone than in the batch."
            bench.add("batch-row-state", {"row": b}, text, reproduce=_line(bench))
            return
    later = x.copy()
    later[:, _CUT:] = 7.0
    off = np.abs(_run(bench, later)[:, :_CUT] - whole[:, :_CUT]).max((0, 2))
    if off.max() > limit and bench.target.expects.causal:
        text = f"Token {int(np.argmax(off > limit))} changes with tokens from {_CUT} on."
        bench.add("mask-dropped", {"argument": "causal"}, text, reproduce=_line(bench))


def _read_parts(bench: LayerBench, x: Numbers, whole: Numbers, limit: float) -> None:
    off = {cuts: np.abs(_run(bench, x, cuts) - whole).max((0, 2)) for cuts in ((_CUT,), tuple(range(1, 9)))}
    if max(o.max() for o in off.values()) <= limit:
        return
    cuts = (_CUT,) if off[_CUT,].max() > limit else tuple(range(1, 9))
    cut = cuts[0]
    read = _run(bench, x, cuts)[:, cut:]
    first = x.copy()
    first[:, :cut] = x[:1, :cut]
    late = off[cuts] > limit
    rules: list[tuple[str, dict[str, Any], str, Numbers]] = [
        ("linear-state", {"state": "not carried on"}, "A later part begins as if nothing came before", x[:, cut:]),
        ("batch-row-state", {"state": "row 0"}, "A later part goes on from the state of the first sequence", first),
    ]
    for fault_class, parameters, words, other in rules:
        wanted = _run(bench, other)[:, -read.shape[1] :]
        if cuts == (_CUT,) and np.abs(read - wanted).max() <= limit:
            bench.add(fault_class, parameters, f"{words}.", reproduce=_line(bench, cuts))
            return
    single = off[tuple(range(1, 9))].max() <= limit
    parameters = {"state": "other", "cuts": list(cuts), "first_wrong": int(np.argmax(late))}
    several = off[_CUT,].max() <= limit
    words = ", where one token after the other is right" if single else ""
    words = ", where a part of several tokens is right" if several else words
    text = (
        f"In parts it gives other than the whole{words}: cut at {list(cuts)[:3]}, token {int(np.argmax(late))} is the"
        f" first that differs, by {off[cuts].max():.3g}."
    )
    bench.add("chunked-prefill" if single else "unclassified", parameters, text, reproduce=_line(bench, cuts))


def _read_padding(bench: LayerBench, x: Numbers, limit: float) -> None:
    """See that what stands at the right of a shorter sequence leaves no trace in what comes later."""
    valid = np.ones((3, 9), np.bool_)
    valid[1, 3:_CUT] = False
    padded = _run(bench, x, (_CUT,), valid)
    alone = np.concatenate([x[1:2, :3], x[1:2, _CUT:]], 1)
    wanted = _run(bench, alone)[0, 3:]
    if np.abs(padded[1, _CUT:] - wanted).max() <= limit:
        return
    seen = _run(bench, x)[1, _CUT:]
    alike = bool(np.abs(padded[1, _CUT:] - seen).max() <= limit)
    parameters = {"state": "of the padded end" if alike else "other", "padding": "right"}
    text = "After padding at the right a sequence goes on from " + (
        "the state of the padded end, as if padding were tokens." if alike else "another state than its own."
    )
    fault_class = "linear-state" if alike else "unclassified"
    bench.add(fault_class, parameters, text, reproduce=_line(bench, (_CUT,)))


def _line(bench: LayerBench, cuts: tuple[int, ...] = ()) -> str:
    opening = ["import numpy as np", *([bench.target.setup] if bench.target.setup else [])]
    text = f"x = np.random.default_rng({bench.seed}).standard_normal((3, 9, {bench.target.hidden}))"
    if not bench.can("cache"):
        return "; ".join([*opening, text, "print(f(x)[0, -1, :8], 'expected', f(x[:1])[0, -1, :8])"])
    steps, begin = ["y, c = f(x, cache=None)"], 0
    for end in (*cuts, 9):
        cache = "None" if begin == 0 else "c"
        steps.append(f"z, c = f(x[:, {begin}:{end}], cache={cache})")
        begin = end
    return "; ".join([*opening, text, *steps, "print(z[-1, -1, :8], 'expected', y[-1, -1, :8])"])
