"""Drawn features at drawn positions, against what is known by now, under a derived bound."""

import numpy as np

from kvattn.testing.diagnosis.differential import Margin
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.rotary_diagnosis.bench import RotaryBench


def read_drawn(bench: RotaryBench, count: int = 80) -> Margin:
    """Compare drawn cases; report the farthest element outside the bound.

    Examples
    --------
    >>> from kvattn.positions import Rotary
    >>> from kvattn.testing.rotary_diagnosis.structure import read_structure
    >>> from kvattn.testing.rotary_diagnosis.bench import bench_of
    >>> bench = bench_of(Rotary.of(8).rotate, width=8)
    >>> read_structure(bench)
    >>> read_drawn(bench, 4).worst < 1
    True
    """
    r = np.random.default_rng(bench.seed)
    angle, data = bench.roundoff
    reach = bench.reach or bench.target.context
    cases, worst, suspect = 0, 0.0, 0
    dynamic = hasattr(bench.target.expects, "trained")
    for n in range(count):
        batch, keys, group, length = (int(r.integers(1, 4)) for _ in range(4))
        length = length * int(r.integers(1, 7))
        most = int(r.choice([min(16, reach), min(300, reach), reach]))
        most = min(most, int(bench.target.expects.trained)) if dynamic else most  # type: ignore[union-attr]
        at = r.integers(0, most, (batch, length))
        if n % 2:
            at = np.arange(length) + r.integers(0, max(most - length, 1), (batch, 1))
        q, k = (r.standard_normal((batch, heads, length, bench.width)) for heads in (keys * group, keys))
        q, k = (x.astype(bench.dtype).astype(np.float64) for x in (q, k))
        try:
            turned = bench.run(q, k, at)
        except Refused as refused:
            first = str(refused).partition(":")[0]
            detail = f"It raises {refused} at shape {q.shape}."
            bench.add("unclassified", {"raised": first}, detail, reproduce=bench.line(at[0].tolist()))
            continue
        cases += 1
        for side, known in bench.known.items():
            x, got = (q, turned.q) if side == "q" else (k, turned.k)
            limit = np.maximum(known.bound(x, at[:, None], angle, data), 1e-300)
            off = np.abs(got - known.turn(x, at[:, None])) / limit
            off = np.where(np.isnan(off), np.inf, off)
            worst = max(worst, float(off.max(initial=0.0)))
            suspect += int(0.5 < off.max(initial=0.0) <= 1)
            if off.max(initial=0.0) > 1 and not bench.stopped:
                b, h, t, d = (int(i) for i in np.unravel_index(int(off.argmax()), off.shape))
                right = float(known.turn(x, at[:, None])[b, h, t, d])
                bench.add(
                    "unclassified",
                    {"of": side, "position": int(at[b, t]), "feature": d},
                    f"Feature {d} of {side} at position {at[b, t]} is {got[b, h, t, d]:.6g}, expected {right:.6g}"
                    f" ({off.max():.3g} times the bound), in a call of shape {x.shape}.",
                    reproduce=bench.line(at[b].tolist(), side),
                )
                bench.stopped = True
    return Margin(cases, worst, suspect)
