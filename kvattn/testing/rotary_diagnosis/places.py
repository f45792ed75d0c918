"""Which positions were used, where they are not the ones that were given.

Method: pairs of different speed are the hands of a clock.  Among all whole positions up to twice the context, the
one whose angles fit all pairs is the position that was used.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.formats import FORMATS
from kvattn.testing.rotary_diagnosis.bench import RotaryBench
from kvattn.testing.rotary_diagnosis.model import Model

_NONE = -1


def implied(known: Model, angles: NDArray[np.float64], most: int, loose: float = 2e-3) -> NDArray[np.int64]:
    """Return the whole position that each row of angles ``[..., pairs]`` stands for, -1 where none does.

    Examples
    --------
    >>> from kvattn.positions.rotary import Rotary
    >>> known = Model.of(Rotary.of(8), 8)
    >>> implied(known, known.angles(np.array([3, 40])), 64)
    array([ 3, 40])
    """
    turning = np.flatnonzero(known.frequencies)
    hands = np.exp(1j * known.angles(np.arange(most))[:, turning])  # [most, pairs]
    rows = np.exp(1j * angles.reshape(-1, angles.shape[-1])[:, turning])
    found = np.full(len(rows), _NONE, np.int64)
    for n, row in enumerate(rows):
        apart = np.abs(hands - row).max(-1)
        best = int(np.argmin(apart))
        if apart[best] <= loose:
            found[n] = best
    return found.reshape(angles.shape[:-1])


def read_places(bench: RotaryBench) -> None:
    """See that each row turns by the positions that it was given.

    Examples
    --------
    >>> from kvattn.positions import Rotary
    >>> from kvattn.testing.rotary_diagnosis.structure import read_structure
    >>> def restarts(x, positions):
    ...     return Rotary.of(8).rotate(x, np.arange(x.shape[2]))
    >>> from kvattn.testing.rotary_diagnosis.bench import bench_of
    >>> bench = bench_of(restarts, width=8)
    >>> read_structure(bench)
    >>> read_places(bench)
    >>> bench.findings[0].parameters
    {'positions': 'restart', 'given': [[7, 8, 9, 10]], 'used': [[0, 1, 2, 3]]}
    """
    cases = (
        ("a later part", np.array([[7, 8, 9, 10]])),
        ("rows of their own", np.array([[3, 4, 5, 6], [9, 10, 11, 12], [0, 1, 2, 3]])),
        ("no run", np.array([[4, 11, 6, 6], [2, 2, 9, 1]])),
        ("one token", np.array([[8], [5], [11]])),  # as in decoding
    )
    for side, known in bench.known.items():
        if not known.frequencies.any():
            continue
        for what, given in cases:
            try:
                angles = bench.angles(given, side)
            except Refused as refused:
                bench.add(
                    "unclassified",
                    {"raised": str(refused).partition(":")[0], "positions": given.tolist()},
                    f"It raises {refused} at positions {given.tolist()}, {what}.",
                    reproduce=bench.line(given[0].tolist(), side),
                )
                continue
            used = implied(known, angles, 256)
            if not np.array_equal(used, given):
                _name(bench, side, given, used)
                bench.stopped = True
                return


def _name(bench: RotaryBench, side: str, given: NDArray[np.int64], used: NDArray[np.int64]) -> None:
    steps = np.arange(given.shape[1]) + np.zeros_like(given)
    rules: dict[str, tuple[NDArray[np.int64], str]] = {
        "restart": (steps, "Positions restart at 0 in each call"),
        "first row": (given[:1] + np.zeros_like(given), "Every row turns by the positions of the first"),
        "last row": (given[-1:] + np.zeros_like(given), "Every row turns by the positions of the last"),
        "from first": (given[:, :1] + steps, "Positions count on from each row's first"),
        "from first of all": (given[0, 0] + steps, "Positions count on from the first row's first"),
        "from last": (given[:, -1:] - steps[:, ::-1], "Positions count back from each row's last"),
        "from smallest": (given.min() + steps, "Positions count on from the smallest"),
        "from largest": (given.max() - steps[:, ::-1], "Positions count back from the largest"),
        "less the first": (given - given[:, :1], "Positions are taken less each row's first"),
        "by row": (np.arange(len(given))[:, None] + 0 * given, "Positions are the number of the row in the batch"),
    }
    name, words = next(
        ((rule, words) for rule, (wanted, words) in rules.items() if np.array_equal(used, wanted)),
        ("other", "Other positions are used than were given"),
    )
    if given.shape[1] == 1 and name in {"restart", "first row", "last row"}:
        words = words.replace(" in each call", "") + ", in calls of one token"
    offset = used - given
    if name == "other" and (used != _NONE).all() and not np.ptp(offset):
        name, words = f"{offset[0, 0]:+d}", f"Positions are moved by {offset[0, 0]:+d}"
    parameters = {"positions": name, "given": given.tolist(), "used": used.tolist()}
    if bench.target.pair:
        parameters["of"] = side
    row = int(np.argmax((used != given).any(-1)))
    bench.add(
        "rope-offset",
        parameters,
        f"{words}: given {given.tolist()}, the angles are those of"
        f" {used.tolist() if (used != _NONE).all() else 'no whole positions'}.",
        reproduce=bench.line(given[row].tolist(), side),
    )


def far_positions(context: int) -> list[int]:
    """Return positions around the powers of two below a length, and its last ones.

    >>> far_positions(100)
    [15, 16, 17, 31, 32, 33, 63, 64, 65, 98, 99]
    """
    powers = [2**n + step for n in range(4, 40) for step in (-1, 0, 1) if 2**n + 1 < context]
    return sorted({*powers, context - 2, context - 1})


def read_reach(bench: RotaryBench) -> None:
    """Find how many positions it takes, and whether a far one changes what becomes of the near ones.

    Examples
    --------
    >>> from kvattn.testing.planted_rotation import PlantedRotation
    >>> from kvattn.testing.rotary_diagnosis.bench import bench_of
    >>> from kvattn.testing.rotary_diagnosis.structure import read_structure
    >>> bench = bench_of(PlantedRotation(table=100, beyond="raise").alone, width=8)
    >>> read_structure(bench)
    >>> read_reach(bench)
    >>> bench.reach, bench.findings[0].kind
    (100, 'convention')
    """
    context = bench.reach = bench.target.context
    at = np.array([[context - 1]])
    x = np.zeros((1, 2, 1, bench.width))
    near = np.arange(4)[None]
    before = {side: bench.angles(near, side) for side in bench.known}
    try:
        bench.run(x, x[:, :1], at)
    except Refused as refused:
        bench.reach = _first(context - 1, lambda p: _refuses(bench, p))
        bench.add(
            "rope-table",
            {"rows": bench.reach, "beyond": "raises"},
            f"From position {bench.reach} on it raises {refused}; the context is {context}.",
            kind=bench.legal,
            reproduce=bench.line([bench.reach]),
        )
        return
    if any(not np.array_equal(bench.angles(near, side), angles) for side, angles in before.items()):
        bench.add(
            "rope-dynamic",
            {"reset": False, "after": context},
            f"After a sequence of {context} tokens, one of 4 is turned by other frequencies than before it.",
        )
        bench.stopped = True


def read_table(bench: RotaryBench) -> None:
    """See that every position turns by itself: no table ends before, none is rounded.

    Examples
    --------
    >>> from kvattn.testing.planted_rotation import PlantedRotation
    >>> from kvattn.testing.rotary_diagnosis.bench import bench_of
    >>> from kvattn.testing.rotary_diagnosis.structure import read_structure
    >>> bench = bench_of(PlantedRotation(table=100).alone, width=8)
    >>> read_structure(bench)
    >>> read_reach(bench)
    >>> read_table(bench)
    >>> bench.findings[0].fault_class, bench.findings[0].parameters
    ('rope-table', {'rows': 100, 'beyond': 'clamp'})
    """
    for side, known in bench.known.items():
        if not known.frequencies.any():
            continue
        places = far_positions(bench.reach)
        used = _used(bench, side, places)
        off = [(p, u) for p, u in zip(places, used, strict=True) if p != u]
        if not off or any(u == _NONE for _, u in off):
            continue  # what has no whole position is a matter of precision, or of the length
        for name in ("bfloat16", "float16"):
            if all(FORMATS[name].round(float(p)) == u for p, u in zip(places, used, strict=True)):
                bench.add(
                    "rope-precision",
                    {"rounded": "positions", "format": name},
                    f"Positions are rounded to {name}: position {off[0][0]} turns as {off[0][1]}.",
                    reproduce=bench.line([off[0][0]], side),
                )
                bench.stopped = True
                return
        _name_table(bench, side, off)
        return


def _name_table(bench: RotaryBench, side: str, off: list[tuple[int, int]]) -> None:
    rows = _first(off[0][0], lambda p: _used(bench, side, [p])[0] != p)
    ends = {u for _, u in off}
    if len(ends) == 1 and ends == {rows - 1}:
        beyond, words = "clamp", f"turn as {rows - 1}"
    elif all(u == p % rows for p, u in off):
        beyond, words = "wrap", "begin again at 0"
    else:
        beyond, words = "other", f"turn otherwise: {off[0][0]} as {off[0][1]}"
    bench.add(
        "rope-table",
        {"rows": rows, "beyond": beyond},
        f"The table has {rows} rows: positions from {rows} on {words}.",
        reproduce=bench.line([rows + 1], side),
    )
    bench.stopped = True


def _used(bench: RotaryBench, side: str, places: list[int]) -> list[int]:
    known = bench.known[side]
    angles = np.concatenate([bench.angles(np.array([places[n : n + 16]]), side)[0] for n in range(0, len(places), 16)])
    apart = np.abs(np.exp(1j * angles) - np.exp(1j * known.angles(np.array(places)))).max(-1)
    used = np.array(places)
    far = apart > 2e-3
    if far.any():
        used[far] = implied(known, angles[far], 2 * bench.reach)
    return [int(p) for p in used]


def _refuses(bench: RotaryBench, position: int) -> bool:
    x = np.zeros((1, 2, 1, bench.width))
    try:
        bench.run(x, x[:, :1], np.array([[position]]))
    except Refused:
        return True
    return False


def _first(most: int, broken: Callable[[int], bool]) -> int:
    """Return the smallest position below ``most + 1`` from which on a thing is broken."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if broken(middle) else (middle + 1, high)
    return low
