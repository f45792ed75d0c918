"""Channels that the scores leave out: of D, those behind the last full tile.

Method: the logarithms of the weights are fitted by q·k over the first n channels alone, for every n; where one n leaves
nothing at two widths, and is the largest multiple of a tile at both, the tail of the channels is lost.

Shapes: weights ``[B, Hq, T, S]``.
"""

from dataclasses import replace

import numpy as np

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.recipe import MILD, Recipe, Sizes
from kvattn.testing.diagnosis.tails import TILES

_SIZES = (Sizes(2, 4, 2, 5, 7, 26, 26), Sizes(1, 2, 2, 4, 6, 45, 45))


def read_channels(lab: Lab) -> bool:
    """Name a tail of channels that is lost, and say whether there is one; the rest is then not read.

    Examples
    --------
    >>> from kvattn.testing.planted.kernels import FewChannels
    >>> from kvattn.testing.targets import target_of
    >>> lab = Lab(target_of(FewChannels(8)))
    >>> read_channels(lab), lab.findings[0].fault_class, lab.findings[0].parameters["axis"]
    (True, 'tile-tail', 'channels')
    """
    first, second = _SIZES
    case = lab.case(first, MILD)
    width = lab.shapes.other_width(case.sizes.D, second.D)
    cases = [case, lab.case(replace(second, D=width), MILD)]
    used = [(case.sizes.D, _used(lab, case)) for case in cases]
    tile = next((tile for tile in TILES if all(n in (d, d // tile * tile) for d, n in used)), 0)
    if not tile or all(n == d for d, n in used) or not all(n for _, n in used):
        return False
    case, (d, n) = next(pair for pair in zip(cases, used, strict=True) if pair[1][0] != pair[1][1])
    detail = f"The scores leave out what stands behind the last full tile of {tile} channels: of D={d} they take {n}."
    lab.add("tile-tail", {"axis": "channels", "tile": tile, "rest": "any", "used": n, "of": d}, detail, case)
    lab.stopped = True
    return True


def _used(lab: Lab, case: Recipe) -> int:
    """Return the fewest of the first channels whose products explain the weights; 0 where none do."""
    weights = lab.weights(case)
    if not (weights > 0).all():
        return 0
    logs = np.log(weights)
    logs -= logs.mean(-1, keepdims=True)
    built = case.build()
    group = case.sizes.Hq // case.sizes.Hkv
    q, k = built.q.astype(np.float64), np.repeat(built.k.astype(np.float64), group, 1)
    raw = np.cumsum(q[:, :, :, None] * k[:, :, None], -1)  # [B, Hq, T, S, D]
    raw -= raw.mean(3, keepdims=True)
    slope = (raw * logs[..., None]).sum((0, 1, 2, 3)) / np.maximum((raw**2).sum((0, 1, 2, 3)), 1e-30)
    rest = np.abs(logs[..., None] - slope * raw).max((0, 1, 2, 3))  # [D]
    close = 3 * lab.sharp * max(1.0, float(np.abs(logs).max()))
    return int(np.argmax(rest <= close)) + 1 if (rest <= close).any() else 0
