"""The rotation behind a layer's scores, read out pair by pair.

Method: weights that hand the hidden state's first features to every head as query, the next as key, the next as value.
A token of zeros at the start has score 0 with every query, so log weights over its weight are scores; with q = e_a
and k = e_b for all a and b they are the entries of the matrix that turns a key to a query's place.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.positions.rotary import Rotary
from kvattn.testing.layer_diagnosis.bench import LayerBench
from kvattn.testing.layer_diagnosis.drawing import Drawing
from kvattn.testing.layer_diagnosis.reading import Case
from kvattn.testing.layer_targets import Weights
from kvattn.testing.rotary_diagnosis.pairs import layout_of, pairs_of, read_turning
from kvattn.testing.rotary_diagnosis.schemes import geometry, name_scheme

Numbers = NDArray[np.float64]


def relative_matrices(bench: LayerBench) -> Numbers:
    """Read ``[distances, D, D]``: what a query's place does to a key, that many positions before it.

    Examples
    --------
    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> from kvattn.testing.planted_rotation import PlantedRotation
    >>> bench = layer_bench(PlantedLayer(rotate=PlantedRotation()))
    >>> relative_matrices(bench)[1][0].round(2) + 0.0  # cos 1 and -sin 1 of the first half pair
    array([ 0.54,  0.  ,  0.  ,  0.  , -0.84,  0.  ,  0.  ,  0.  ])
    """
    drawing = bench.drawing(Hq=6, Hkv=2)
    size, hidden = drawing.D, drawing.M
    length = min(size, 8)
    eye = np.eye(size)

    def placed(row: int, heads: int) -> Numbers:
        matrix = np.zeros((hidden, heads * size))
        matrix[row * size : (row + 1) * size] = np.tile(eye, heads)
        return matrix

    w_o = np.zeros((drawing.Hq * size, hidden))
    w_o[:size, :size] = eye
    ones = np.ones(size) if drawing.norms else None
    q, k, v = placed(0, drawing.Hq), placed(1, drawing.Hkv), placed(2, drawing.Hkv)
    weights = Weights(q, k, v, w_o, drawing.Hq, drawing.Hkv, ones, ones, k, v)
    x = np.zeros((size, size, length, hidden))  # [a, b, token, M]
    x[..., 1:, :size] = eye[:, None, None]
    x[..., 1:, size : 2 * size] = eye[None, :, None]
    x[..., 2 * size : 2 * size + length] = np.eye(length)
    case = Case(x.reshape(size * size, length, hidden))
    mixed = bench.run(weights, case)[..., :length].reshape(size, size, length, length)
    with np.errstate(all="ignore"):
        scores = np.log(mixed) - np.log(mixed[..., :1])
    scale = size**-0.5 if bench.reading.plan.scale is None else bench.reading.plan.scale
    if bench.reading.plan.norm is not None:
        scale = scale / (1 / size + bench.reading.plan.eps)
    return np.asarray(np.stack([scores[:, :, 1 + d, 1].T for d in range(length - 1)]) / scale)


def read_rotation(bench: LayerBench) -> bool:
    """Read the rotation, and name it where it is not the planned one.

    Returns
    -------
    bool
        False where the scores are no rotation.

    Examples
    --------
    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> from kvattn.testing.planted_rotation import PlantedRotation
    >>> mine = PlantedLayer(rotate=PlantedRotation(frequencies=lambda n, width: [1.0, 0.73, 0.01, 0.001]))
    >>> bench = layer_bench(mine, Plan(rotary=Rotary.of(8)))
    >>> read_rotation(bench)
    True
    >>> bench.findings[0].detail
    'Frequencies are of no known scheme: pair 1 turns by 0.73 per position where 0.1 is expected.'
    """
    if bench.target.weights is not None or bench.target.expects.alibi:
        return False
    matrices = relative_matrices(bench)
    if not np.isfinite(matrices).all():
        return False
    turning = read_turning(matrices)
    layout = layout_of(turning.partner)
    strayed = turning.stray > 1e-5 or turning.bent > 1e-4 or np.abs(turning.start).max() > 1e-5
    if strayed or layout.kind in {"none", "other"}:
        return False
    first, _ = pairs_of(layout)
    theta = np.where(np.abs(turning.steps[first]) < 1e-12, 0.0, turning.steps[first])
    named = name_scheme(np.abs(theta), 1e-5)
    if named.scheme in {"plain", "linear"}:
        exact = geometry(named.parameters["base"], len(theta)) / named.parameters.get("factor", 1.0)
        theta = np.sign(theta[0]) * exact
    magnitude = float(np.sqrt(turning.magnitude[first].mean()))
    magnitude = 1.0 if abs(magnitude - 1) < 1e-5 else magnitude
    kind: Any = "half" if layout.kind == "half" else "adjacent"
    found = Rotary(tuple(float(x) for x in theta), kind, magnitude, layout.start)
    plan = bench.reading.plan
    right = plan.rotary_at(1)
    bench.reading = replace(bench.reading, plan=replace(plan, rotary=found))
    if right is None:
        bench.legal = replace(bench.legal, plan=replace(bench.legal.plan, rotary=found))
    drawing = bench.drawing()
    if right is None:
        bench.add(
            "rope-layout",
            {"layout": layout.kind, "start": layout.start, "width": layout.width, "scheme": str(named)},
            f"Queries and keys turn {layout}, {named}, where no rotation is declared.",
            drawing,
            kind="convention",
        )
        return True
    _compare(bench, right, found, drawing)
    return True


def _compare(bench: LayerBench, right: Rotary, found: Rotary, drawing: Drawing) -> None:
    own, read = np.array(right.frequencies), np.array(found.frequencies)
    named = name_scheme(np.abs(read), 1e-5)
    wanted = name_scheme(own)
    parameters = {"scheme": named.scheme, **named.parameters, "expected": str(wanted)}
    if len(own) == len(read):
        worst = int(np.argmax(np.abs(read - own)))
        text = f"pair {worst} turns by {read[worst]:.6g} per position where {own[worst]:.6g} is expected"
    else:
        text = f"{2 * len(read)} features turn where {2 * len(own)} are expected"
    if named.scheme == "list":
        bench.add("rope-scaling", parameters, f"Frequencies are of no known scheme: {text}.", drawing)
    else:
        bench.add("rope-scaling", parameters, f"Frequencies are {named}, expected {wanted}: {text}.", drawing)
