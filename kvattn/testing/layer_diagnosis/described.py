"""What is read out of a layer where no known change explains it: which part of it differs, and one row of weights."""

from dataclasses import replace
from typing import Any

import numpy as np

from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.layer_diagnosis.bench import LayerBench
from kvattn.testing.layer_diagnosis.drawing import Drawing
from kvattn.testing.layer_targets import Weights


def describe(bench: LayerBench, drawing: Drawing) -> None:
    """Record what differs, plainly.

    Examples
    --------
    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> bench = layer_bench(PlantedLayer(sees=lambda i, j: j <= i and j != 2))
    >>> describe(bench, bench.drawing(T=4))
    >>> bench.findings[0].parameters["part"]
    'who sees whom'
    """
    part, words, row = "scores", "", ""
    try:
        part, words = _part(bench, drawing)
        row = _row(bench, drawing) if bench.target.own is None and part != "values" else ""
    except Refused as refused:
        part, words, row = "raises", f"it raises {refused}", ""
    size = f"B={drawing.B}, T={drawing.T}, Hq={drawing.Hq}, Hkv={drawing.Hkv}, D={drawing.D}"
    more = [name for name in ("positions", "valid", "cuts") if getattr(drawing, name)]
    when = f" with {', '.join(more)}" if more else ""
    parameters: dict[str, Any] = {"part": part, "with": more}
    bench.add("unclassified", parameters, f"It differs from its plan at {size}{when}: {words}{row}.", drawing)


def _part(bench: LayerBench, drawing: Drawing) -> tuple[str, str]:
    """Say which part of the layer differs, by taking the others away."""
    one = replace(drawing, T=1, cuts=(), valid="")
    if bench.differs(one) > 1:
        return "values", "a single token comes out wrong, so values, heads or the output projection differ"
    if bench.target.own is not None:
        return "weights", "a single token comes out right, so it is scores, or who sees whom, that differ"
    weights, case = drawing.build(None, bench.dtype)
    flat = _with(weights, w_q=np.zeros_like(weights.w_q))
    if bench.apart(bench.run(flat, case), bench.reading.predict(flat, case), case) > bench.limit(flat, case):
        return "who sees whom", "with scores of 0 it is wrong already, so it is who sees whom, or a bias, that differs"
    return "scores", "with scores of 0 it is right, so it is the scores that differ"


def _row(bench: LayerBench, drawing: Drawing) -> str:
    """Read the weights of the row that is farthest off, where a head is wide enough to tell the keys apart."""
    weights, case = drawing.build(None, bench.dtype)
    length, width = drawing.T, drawing.D
    if max(length, width) > drawing.M or length > width:
        return ""
    w_o = np.zeros_like(weights.w_o)
    w_o[:width, :width] = np.eye(width)
    square = np.linalg.pinv(case.x[0]) @ np.eye(length, width)  # values of sequence 0 are the unit vectors
    own = _with(weights, w_v=np.tile(square, drawing.Hkv).astype(bench.dtype), w_o=w_o)
    got, wanted = bench.run(own, case)[0, :, :length], bench.reading.predict(own, case)[0, :, :length]
    if case.valid is not None:
        got, wanted = got[case.valid[0]], wanted[case.valid[0]]
    t = int(np.nan_to_num(np.abs(got - wanted), nan=np.inf).max(1).argmax())
    read, right = (np.round(row[t], 4).tolist() for row in (got, wanted))
    return f"; row {t} of head 0 has weights {read}, expected {right}"


def _with(weights: Weights, **changed: Any) -> Weights:
    return replace(weights, **changed)
