"""Ends of tiles: numbers of keys, queries and channels one below, at and one above those that kernels cut at.

Method: with scores that are 0 every key of a row weighs the same; the numbers of keys at which one does not, or is
missing, tell the tile.  Channels: one is 1 and the others 0, so that the score says whether it was counted.
Last, a row whose maximum grows from tile to tile: what was summed before must be scaled down each time.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.diagnosis.recipe import DRAWN, FLAT, Recipe, Sizes
from kvattn.testing.formats import FORMATS

TILES = (8, 16, 32, 64, 128, 256)
"""Sizes that kernels cut at."""

EDGES = tuple(sorted({n + by for n in TILES for by in (-1, 0, 1)} | {24, 48, 96, 97, 192, 193, 300}))
"""Numbers of keys, queries and channels to try."""

FEW = (15, 17, 33, 64, 65, 127, 129)
"""Those that are tried where calls are slow."""


def read_tails(lab: Lab) -> None:
    """Read every row of long calls, at each edge.

    Examples
    --------
    >>> from kvattn.testing.targets import target_of
    >>> def mean(q, k, v):
    ...     n = max(1, k.shape[2] // 16 * 16) if k.shape[2] > 16 else k.shape[2]
    ...     return np.repeat(v[:, :, :n].mean(2, keepdims=True), q.shape[2], 2)
    >>> lab = Lab(target_of(mean), grouped=False)
    >>> read_tails(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["axis"], lab.findings[0].parameters["tile"]
    ('tile-tail', 'keys', 16)
    """
    if any(finding.parameters.get("property") == "uninitialised memory" for finding in lab.findings):
        return
    for axis in ("keys", "queries", "channels"):
        edges = [n for n in _edges(lab, axis) if _takes(lab, axis, n)]
        wrong = [n for n in edges if not _fine(lab, _case(lab, axis, n), axis)]
        if len(wrong) > len(edges) // 2 and _tile(wrong, edges)[1] is None:
            return  # not the tail: every call
        if wrong:
            _tell(lab, axis, wrong, edges)
            return
    _read_running(lab)


def _edges(lab: Lab, axis: str) -> list[int]:
    """Numbers to try, with the head dimensions that the target takes."""
    widths = lab.shapes.head_dims if axis == "channels" and lab.shapes.head_dims is not None else ()
    return sorted({*(FEW if lab.slow else EDGES), *(n for n in widths if len(widths) < 9 and n <= EDGES[-1])})


def _takes(lab: Lab, axis: str, n: int) -> bool:
    case = _case(lab, axis, n)
    letter = {"keys": "S", "queries": "T", "channels": "D"}[axis]
    return lab.takes(case) and getattr(case.sizes, letter) == n


def _case(lab: Lab, axis: str, n: int) -> Recipe:
    if axis == "keys":
        return lab.case(Sizes(1, 2, 1, 2, n, 4, n), FLAT)
    if axis == "queries":
        return lab.case(Sizes(1, 1, 1, n, 3, 4, 4), DRAWN)
    last = "np.zeros(({B}, {H}, {T}, {D})) + np.sqrt({D}) * (np.arange({D}) == {D} - 1)"
    scores = (
        last.replace("{H}", "{Hq}"),
        f"({last.replace('{H}', '{Hkv}').replace('{T}', '{S}')}) * np.arange({{S}})[:, None]",
    )
    case = lab.case(Sizes(1, 1, 1, 1, 3, n, 4), (scores[0], scores[1].replace("np.sqrt({D})", "1.0")))
    return replace(case, sizes=lab.shapes.fit(replace(case.sizes, D=n), columns=case.sizes.Dv))


def _expected(lab: Lab, case: Recipe) -> NDArray[np.float64]:
    """Weights by their definition, on the few heads of these cases."""
    built = case.build()
    scores = lab.scores(built) * lab.behaviour.used_scale(case.sizes, None)
    scores = np.where(lab.behaviour.visible(built), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def _fine(lab: Lab, case: Recipe, axis: str) -> bool:
    try:
        read = lab.weights(case)
    except Refused as refused:
        note = f"Some numbers of {axis} are refused: "
        if not any(known.startswith(note) for known in lab.notes):
            lab.notes.append(f"{note}{refused}")
        return True
    want = _expected(lab, case)
    if case.sizes.S * FORMATS[lab.dtype].roundoff > 1:  # a running total of ones may stand still: rounding, no tail
        read = read / read.sum(-1, keepdims=True)
    close = lab.sharp * want.max() if axis != "channels" else 20 * lab.sharp
    return bool((np.abs(read - want) <= max(close, 1e-9)).all())


def _tile(wrong: list[int], edges: list[int]) -> tuple[int, int | str | None]:
    """Return the largest tile, and what is left over, at which the numbers from the first on are the wrong ones."""
    later = [n for n in edges if n >= wrong[0]]
    for tile in reversed(TILES):
        if wrong == [n for n in later if n % tile == wrong[0] % tile]:
            return tile, wrong[0] % tile
    for tile in reversed(TILES):
        if wrong == [n for n in later if n % tile]:
            return tile, "any"
    return next((tile for tile in reversed(TILES) if tile <= wrong[0]), TILES[0]), None


def _tell(lab: Lab, axis: str, wrong: list[int], edges: list[int]) -> None:
    tile, rest = _tile(wrong, edges)
    case = _case(lab, axis, wrong[0])
    read, want = lab.weights(case), _expected(lab, case)
    b, h, t, j = (
        int(i) for i in np.unravel_index(int(np.argmax(np.abs(np.nan_to_num(read, nan=9.0) - want))), want.shape)
    )
    words = "anything" if rest == "any" else rest
    where = f"their number is {words} more than a multiple of {tile}"
    when = f"at {', '.join(map(str, wrong[:6]))}" if rest is None else f"where {where}"
    got, due = read[b, h, t, j], want[b, h, t, j]
    row = f"at {wrong[0]} {axis}, row {t} gives key {j} the weight {got:.4g}, expected {due:.4g}"
    parameters = {"axis": axis, "tile": tile, "rest": rest, "wrong_at": wrong[:12]}
    lab.add("tile-tail", parameters, f"The tail of the {axis} is wrong {when}: {row}.", case)


_GROWING = (
    "np.ones(({B}, {Hq}, {T}, {D}))",
    "np.zeros(({B}, {Hkv}, {S}, {D})) + np.sin(np.arange({S}))[:, None] / 4 + np.arange({S})[:, None] / {S}",
)
"""Scores that rise along the keys, not from each to the next."""


def _read_running(lab: Lab) -> None:
    case = lab.case(Sizes(1, 1, 1, 1, 150, 4, 150), _GROWING)
    try:
        read = lab.weights(case)
    except Refused:
        return
    built = case.build()
    scores = (lab.scores(built) * lab.behaviour.used_scale(case.sizes, None))[0, 0, 0]
    want = np.exp(scores - scores.max())
    close = max(5 * lab.sharp * (want / want.sum()).max(), 1e-9)
    if np.abs(read[0, 0, 0] - want / want.sum()).max() <= close:
        return
    for tile in (*TILES, *range(2, len(scores))):
        ends = np.arange(len(scores)) // tile
        tops = np.maximum.accumulate([scores[ends == n].max() for n in range(ends[-1] + 1)])
        kept = np.exp(scores - tops[ends])  # each key's weight when its tile was added
        models = {
            "the output": (kept, want.sum()),
            "the total": (want, kept.sum()),
            "neither output nor total": (kept, kept.sum()),
        }
        for what, (weights, total) in models.items():
            if np.abs(read[0, 0, 0] - weights / total).max() <= close:
                verb = "are" if what.startswith("neither") else "is not"
                detail = f"When a tile of {tile} keys raises the maximum, {what} so far {verb} scaled down."
                parameters = {"running": what, "rescaled": False, "tile": tile}
                lab.add("lse-merge", parameters, detail, case)
                return
