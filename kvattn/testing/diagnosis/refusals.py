"""Shapes that a target refuses: what it takes is found out by asking, and everything is read at that.

Method: a plain call of small odd sizes that all differ.  Where it raises, a call of sizes that most kernels take, from
which one size at a time is brought back to what is wanted; what raises on the way is left out.  A refusal is no fault:
it is told in the notes.
"""

from collections.abc import Iterator
from dataclasses import replace

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.raised import Misshapen, Refused
from kvattn.testing.diagnosis.recipe import DRAWN, RANDOM, Sizes
from kvattn.testing.shapes import ANY, Shapes

WIDTHS = (8, 16, 24, 32, 64, 128, 256)
"""Head dimensions that are tried where an odd one is refused."""

BLOCKS = (2, 4, 8, 16, 32, 64, 128)
"""Numbers of which lengths may have to be multiples."""

_PLAIN = Sizes(3, 2, 2, 4, 7, 10, 6)
_WIDE = 300
_FIRM = (
    *((length, width) for length in (128, 256) for width in (64, 128)),
    *((length, width) for length in (128, 16) for width in (32, 16, 256, 64)),
)


def read_shapes(lab: Lab) -> None:
    """Find out which sizes are taken, where the target does not say so.

    Examples
    --------
    >>> from kvattn.testing.targets import target_of
    >>> def picky(q, k, v):
    ...     if q.shape[-1] % 16:
    ...         raise ValueError("no such head dimension")
    ...     return v
    >>> lab = Lab(target_of(picky))
    >>> read_shapes(lab)
    >>> lab.notes[0]
    'It refused head dimension 10 (ValueError: no such head dimension); read at 16, 32, 64, 128, 256'
    """
    if lab.shapes != ANY:
        lab.notes.append(f"Read at what it declares: {lab.shapes.told()}")
    why = _refusal(lab, lab.shapes.fit(_PLAIN))
    if why is None:
        _read_largest(lab)
        _read_groups(lab)
        _read_beside_causal(lab)
        return
    firm = next((sizes for sizes in _firm(lab) if _refusal(lab, sizes) is None), None)
    if firm is None:
        return  # whatever comes: the first reading that needs a call says so
    declared, notes = lab.shapes, len(lab.notes)
    for look in (_read_widths, _read_values, _read_batch, _read_lengths):
        look(lab, firm)
    joint = _refusal(lab, lab.shapes.fit(_PLAIN))
    if joint is not None:
        lab.shapes = _only(declared, firm)
        del lab.notes[notes:]
        lab.notes.append(f"It refused all but one shape ({joint}); read at {_worded(firm)}")
    _read_groups(lab)
    _read_beside_causal(lab)


def _refusal(lab: Lab, sizes: Sizes, *options: str) -> str | None:
    """Return what the target raises at these sizes; None where it does not."""
    case = lab.case(sizes, DRAWN, RANDOM, **dict.fromkeys(options, "True"))
    try:
        lab.see(replace(case, sizes=sizes))
    except Misshapen:
        return None  # an answer, if a wrong one
    except Refused as refused:
        return str(refused)
    return None


def _firm(lab: Lab) -> Iterator[Sizes]:
    """Sizes that most kernels take, and that the target does not exclude."""
    tried = []
    for queries in (None, 1):
        for keys, width in _FIRM:
            sizes = Sizes(1, 2, 2, keys if queries is None else queries, keys, width, width)
            sizes = lab.shapes.fit(sizes)
            if sizes not in tried:
                tried.append(sizes)
                yield sizes


def _read_widths(lab: Lab, firm: Sizes) -> None:
    if lab.shapes.head_dims is not None:
        return
    odd = 10
    why = _refusal(lab, replace(firm, D=odd, Dv=odd))
    if why is None:
        return
    taken = tuple(w for w in WIDTHS if w == firm.D or _refusal(lab, replace(firm, D=w, Dv=w)) is None)
    lab.shapes = replace(lab.shapes, head_dims=taken)
    lab.notes.append(f"It refused head dimension {odd} ({why}); read at {', '.join(map(str, taken))}")


def _read_values(lab: Lab, firm: Sizes) -> None:
    """Find out whether values may have another width than keys."""
    shapes = lab.shapes
    if shapes.equal_head_dims:
        return
    others = (6,) if shapes.head_dims is None else (n for n in shapes.head_dims if n != firm.D)
    other = next(iter(others if shapes.value_head_dims is None else shapes.value_head_dims), firm.D)
    if other == firm.D:
        return
    why = _refusal(lab, replace(firm, Dv=other))
    if why is not None:
        lab.shapes = replace(shapes, equal_head_dims=True)
        lab.notes.append(f"Values that are not as wide as the keys are refused: {why}")


def _read_batch(lab: Lab, firm: Sizes) -> None:
    if lab.shapes.batch_sizes is not None:
        return
    why = _refusal(lab, replace(firm, B=3))
    if why is None:
        return
    taken = (1, *(n for n in (2, 4) if _refusal(lab, replace(firm, B=n)) is None))
    lab.shapes = replace(lab.shapes, batch_sizes=taken)
    alone = "; what the sequences of a batch share was not read" if taken == (1,) else ""
    lab.notes.append(f"It refused a batch of 3 ({why}); read at {', '.join(map(str, taken))}{alone}")


def _read_groups(lab: Lab) -> None:
    """Find out how many query heads may share a key/value head; that none may is told with the head map."""
    if lab.shapes.group_sizes is not None:
        return
    sizes = lab.shapes.fit(_PLAIN)
    why = _refusal(lab, replace(sizes, Hq=6))
    if why is None:
        return
    taken = (1, *(n for n in (2, 4, 8) if _refusal(lab, replace(sizes, Hq=2 * n)) is None))
    if len(taken) > 1:
        lab.shapes = replace(lab.shapes, group_sizes=taken)
        read = ", ".join(map(str, taken))
        lab.notes.append(f"It refused 3 query heads to a key/value head ({why}); read at {read}")


def _read_lengths(lab: Lab, firm: Sizes) -> None:
    """Find out how many queries and keys there may be."""
    shapes = lab.shapes
    if shapes.query_lengths is not None or shapes.key_lengths is not None or shapes.equal_lengths:
        return
    queries, keys = (1, 7) if firm.T == 1 else (4, 7)

    def why(t: int, s: int) -> str | None:
        return _refusal(lab, replace(firm, T=t, S=s))

    first = why(queries, keys)
    if first is None and firm.T > 1:
        return
    said = f"It refused T = {_PLAIN.T}, S = {_PLAIN.S} ({first or _refusal(lab, replace(firm, T=4, S=firm.S))})"
    if firm.T == 1:
        found = replace(shapes, query_lengths=(1,))
    elif why(keys, keys) is None:
        found = replace(shapes, equal_lengths=True)
    else:
        found = shapes
    step = 1
    if why(*(keys if found.equal_lengths else queries, keys)) is not None:
        sizes = [n for n in BLOCKS if n <= firm.S]
        step = next((n for n in sizes if why(1 if firm.T == 1 else 3 * n, 3 * n) is None), firm.S)
        steps = range(step, 16 * step + 1, step)
        found = replace(found, key_lengths=steps)
        if firm.T > 1 and why(queries, 3 * step) is not None:
            found = replace(found, query_lengths=steps, equal_lengths=why(step, 3 * step) is not None)
    lab.shapes = found
    words = ["T = 1"] if firm.T == 1 else ["T = S"] if found.equal_lengths else []
    words += [f"multiples of {step} keys"] if step > 1 else []
    words += [f"and of {step} queries"] if found.query_lengths and firm.T > 1 and not found.equal_lengths else []
    lab.notes.append(f"{said}; read at {', '.join(words)}")


def _read_largest(lab: Lab) -> None:
    """Find out whether heads of 300 channels are taken."""
    if lab.shapes != ANY:
        return
    wide = Sizes(1, 2, 2, 2, 3, _WIDE, _WIDE)
    if (why := _refusal(lab, wide)) is None:
        return
    largest = next((w for w in (256, 128, 64, 32) if _refusal(lab, replace(wide, D=w, Dv=w)) is None), None)
    if largest is not None:
        lab.shapes = replace(lab.shapes, head_dims=range(1, largest + 1))
        lab.notes.append(f"It refused head dimension {_WIDE} ({why}); read up to {largest}")


def _read_beside_causal(lab: Lab) -> None:
    """Find out whether ``causal`` needs as many queries as keys."""
    if lab.shapes.equal_lengths or not lab.can("causal"):
        return
    sizes = lab.shapes.fit(_PLAIN, ("causal",))
    if sizes.T == sizes.S or (why := _refusal(lab, sizes, "causal")) is None:
        return
    beside = replace(lab.shapes, equal_lengths=frozenset({"causal"}))
    if _refusal(lab, beside.fit(_PLAIN, ("causal",)), "causal") is None:
        lab.shapes = beside
        lab.notes.append(f"It refused T = {sizes.T}, S = {sizes.S} with causal ({why}); read at T = S")


def _only(declared: Shapes, firm: Sizes) -> Shapes:
    pinned = replace(declared, head_dims=(firm.D,), value_head_dims=(firm.Dv,), batch_sizes=(firm.B,))
    return replace(pinned, query_lengths=(firm.T,), key_lengths=(firm.S,))


def _worded(sizes: Sizes) -> str:
    return f"B = {sizes.B}, T = {sizes.T}, S = {sizes.S}, D = {sizes.D}, Dv = {sizes.Dv}"
