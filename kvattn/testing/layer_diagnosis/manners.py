"""What holds of any layer, whatever its plan: equal calls agree, sequences keep apart, the future is not seen.

These ask nothing of the weights: they are asked of a layer with weights of its own as of any other.
"""

from dataclasses import replace

import numpy as np

from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.layer_diagnosis.bench import LayerBench


def settle(bench: LayerBench) -> None:
    """Find sizes that the layer takes.

    Raises
    ------
    Refused
        Where it takes none.

    Examples
    --------
    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> def layer(x, *, w_q, w_k, w_v, w_o, heads, kv_heads):
    ...     if x.shape[2] != w_q.shape[1]:
    ...         raise ValueError("hidden size must be heads times width")
    ...     return x
    >>> bench = layer_bench(layer)
    >>> settle(bench)
    >>> bench.square
    True
    """
    refusal: Refused | None = None
    for grouped in (True, False) if bench.target.own is None else (True,):
        for square in (False, True):
            bench.square, bench.grouped = square, grouped
            try:
                bench.run(*bench.drawing().build(bench.target.own, bench.dtype))
            except Refused as refused:
                refusal = refusal or refused
                continue
            if not grouped and bench.can("kv_heads"):
                bench.add(
                    "gqa-map",
                    {"supported": False, "raised": str(refusal)},
                    f"It refuses fewer key/value heads than query heads ({refusal}); the rest was checked without.",
                    kind="convention",
                    reproduce=bench.line(bench.drawing(Hkv=2)),
                )
            if square:
                bench.notes.append("It takes hidden states of the width of all heads together alone, M = Hq·D.")
            return
    raise refusal or Refused("no sizes are left to try")


def read_manners(bench: LayerBench) -> None:
    """See that equal calls agree, that sequences keep apart, and that the input is left alone.

    Examples
    --------
    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> bench = layer_bench(PlantedLayer(dropout=0.25))
    >>> read_manners(bench)
    >>> bench.findings[0].fault_class, bench.findings[0].parameters
    ('dropout-eval', {'p': 0.25, 'of': 'weights'})
    """
    drawing = bench.drawing(B=3, T=6)
    weights, case = drawing.build(bench.target.own, bench.dtype)
    one, two = bench.run(weights, case), bench.run(weights, case)
    if not np.isfinite(one).all():
        bench.add("unclassified", {"out": "nan"}, "The plain call gives NaN or infinity.", drawing)
        bench.stopped = True
        return
    if not np.array_equal(one, two):
        _name_random(bench)
        return
    limit = 2 * bench.limit(weights, case)
    for b in range(3):
        positions = None if case.positions is None else case.positions[..., b : b + 1, :]
        valid = None if case.valid is None else case.valid[b : b + 1]
        lone = bench.run(weights, case._replace(x=case.x[b : b + 1], positions=positions, valid=valid))
        if np.abs(lone[0] - one[b]).max() > max(limit, 1e-6 if bench.dtype == "float32" else 0.0):
            bench.add(
                "batch-row-state",
                {"row": b},
                f"Sequence {b} of three gives other alone than in the batch, by {np.abs(lone[0] - one[b]).max():.3g}.",
                drawing,
            )
            break
    held = case.x.astype(bench.dtype)
    options = {"cache": None} if bench.can("cache") else {}
    if case.positions is not None:
        options["positions"] = case.positions  # type: ignore[assignment]
    if case.valid is not None:
        options["valid"] = case.valid  # type: ignore[assignment]
    bench.target(held, weights, options)
    if not np.array_equal(held, case.x.astype(bench.dtype)):
        bench.add("unclassified", {"writes_into": "x"}, "It writes into its input.", drawing, kind="convention")


def _name_random(bench: LayerBench) -> None:
    """Name dropout by what becomes of a weight of 1: with one token, a head's mix is its value or 0."""
    drawing = bench.drawing(B=64, T=1)
    weights, case = drawing.build(bench.target.own, bench.dtype)
    if bench.target.latent is not None:
        bench.stopped = True
        text = "Two equal calls give different results."
        bench.add("unclassified", {"random": True}, text, reproduce=bench.line(drawing))
        return
    wanted, got = bench.reading.predict(weights, case), bench.run(weights, case)
    joined = weights.matrix("w_o")
    bench.stopped = True
    p: float | None = None
    of = ""
    if joined.shape[0] <= joined.shape[1]:  # more outputs than features: heads come apart again
        ours, theirs = (y @ np.linalg.pinv(joined) for y in (wanted, got))
        ratio = (theirs / ours).reshape(-1, weights.heads, weights.width)
        p, of = _share(ratio.mean(-1)), "weights"
        if p is None or np.ptp(ratio, -1).max() > 1e-3:
            p, of = _share(ratio), "heads' features"
    if p is None:
        p, of = _share(got / wanted), "outputs"
    if p is None and joined.shape[0] > joined.shape[1]:
        p, of = _by_heads(bench), "weights"
    line = bench.line(drawing)
    if p is None:
        bench.add("unclassified", {"random": True}, "Two equal calls give different results.", reproduce=line)
        return
    bench.add(
        "dropout-eval",
        {"p": round(p, 4), "of": of},
        f"Two equal calls give different results: a share of {p:.3g} of the {of} is dropped, which a layer must not do"
        " outside training.",
        reproduce=line,
    )


def _share(ratio: np.ndarray) -> float | None:
    """Return the share that is dropped, where every ratio is 0 or one number above 1."""
    kept = ratio[np.abs(ratio) > 1e-6]
    if not 0 < kept.size < ratio.size or np.ptp(kept) > 1e-3 * abs(float(kept.mean())) or kept.mean() <= 1:
        return None
    return 1 - 1 / float(kept.mean())


def _by_heads(bench: LayerBench) -> float | None:
    """Read the share with a w_o that passes the first head alone."""
    if bench.target.own is not None:
        return None
    weights, case = bench.drawing(B=64, T=1).build(None, bench.dtype)
    w_o = np.zeros_like(weights.w_o)
    count = min(weights.width, w_o.shape[1])
    w_o[:count, :count] = np.eye(count)
    own = replace(weights, w_o=w_o)
    ours, theirs = bench.reading.predict(own, case)[..., :count], bench.run(own, case)[..., :count]
    return _share(theirs / ours)
