"""Which key/value head each query head reads, and whether sequences keep apart.

Method: let every value of key/value head g be the unit vector g.  Whatever the scores, an output row
is then the share that the query head takes from each key/value head.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.axes import read_axes
from kvattn.testing.diagnosis.behaviour import HEAD_MAPS
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.prose import reads_like
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.diagnosis.recipe import BY_BATCH, BY_HEAD, Recipe, Sizes
from kvattn.testing.diagnosis.totals import read_own_sink

_SIZES = (Sizes(3, 8, 2, 5, 7, 26, 26), Sizes(2, 6, 3, 4, 6, 20, 20))


def read_heads(lab: Lab) -> None:
    """Read the head map of the values, and name it.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(head_map="h % Hkv"))
    >>> read_heads(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["map"]
    ('gqa-map', 'h % Hkv')
    """
    lab.see(lab.case(replace(_SIZES[0], Hkv=8)))  # as many key/value heads as query heads: must work
    try:
        shares = [lab.see(case).out for case in _cases(lab)]
    except Refused as refused:
        refusing = lab.case(_SIZES[1])
        lab.grouped = False
        lab.add(
            "gqa-map",
            {"supported": False, "raised": str(refused)},
            f"It refuses Hq != Hkv ({refused}); the rest was checked with Hq = Hkv.",
            refusing,
            kind="convention",
        )
        shares = [lab.see(case).out for case in _cases(lab)]
    read = []
    for out, case in zip(shares, _cases(lab), strict=True):
        sizes = case.sizes
        share = out[..., : sizes.Hkv]
        if not np.allclose(share.sum(-1), 1, atol=5 * lab.sharp):
            if read_own_sink(lab) or read_axes(lab):
                return
            total = float(share.sum(-1).flat[np.argmax(np.abs(share.sum(-1) - 1))])
            lab.add(
                "unclassified",
                {"row_sum": total},
                f"A row of probabilities sums to {total:.6g} without a sink, expected 1. {reads_like(lab)}".strip(),
                lab.case(sizes),
            )
            lab.stopped = True
            return
        read.append([_single(share[:, h]) for h in range(sizes.Hq)])
    mixed = lab.see(lab.case(_SIZES[0], values=BY_BATCH)).out
    own = np.stack([mixed[b, ..., b] for b in range(len(mixed))])
    if own.min() < 1 - 10 * lab.sharp:
        lab.add(
            "batch-row-state",
            {"share_from_other_sequences": round(1 - float(own.min()), 6)},
            "A sequence reads the values of another sequence in its batch.",
            lab.case(_SIZES[0], values=BY_BATCH),
        )
        lab.stopped = True
    lab.behaviour = replace(lab.behaviour, value_map=name_map(lab, read, "v"))


def _single(share: NDArray[np.float64]) -> int:
    """Return the head from which all rows ``[B, T, Hkv]`` take all that they take; -1 where there is none."""
    head = int(share[0, 0].argmax())
    return head if (share[..., head] / share.sum(-1)).min() > 0.99 else -1


def _cases(lab: Lab) -> list[Recipe]:
    return [lab.case(sizes, values=BY_HEAD) for sizes in _SIZES]


def name_map(lab: Lab, read: list[list[int]], which: str) -> str:
    """Name a head map that was read at the sizes of this module, and report it where it is not the contract's.

    >>> from kvattn.testing.diagnosis.lab import planted
    >>> name_map(Lab(planted()), [[0, 1, 0, 1, 0, 1, 0, 1], [0, 1, 2, 0, 1, 2]], "v")
    'h % Hkv'
    """
    sizes = [case.sizes for case in _cases(lab)]
    rows = [(size.Hq, size.Hkv, row) for size, row in zip(sizes, read, strict=True)]
    first = next(iter(HEAD_MAPS))
    name = next(
        (
            n
            for n, rule in HEAD_MAPS.items()
            if all(row == [rule(h, hq, hkv) for h in range(hq)] for hq, hkv, row in rows)
        ),
        "",
    )
    if not name and read_axes(lab):
        return first
    if name != first:
        text = f"reads {'K' if which == 'k' else 'V'} of head {name}" if name else f"reads heads {read[0]}"
        parameters = {"map": name or "other", "of": which, "read": read[0]}
        for n, finding in enumerate(lab.findings):
            if which == "k" and finding.parameters == {**parameters, "of": "v"}:  # one fault, seen twice
                detail = finding.detail.replace("reads V", "reads K and V")
                lab.findings[n] = replace(finding, parameters={**parameters, "of": "k and v"}, detail=detail)
                break
        else:
            due = [h // (sizes[0].Hq // sizes[0].Hkv) for h in range(sizes[0].Hq)]
            lab.add(
                "gqa-map",
                parameters,
                f"Query head h {text}, expected h // (Hq // Hkv): {due} for {sizes[0].Hq} heads on {sizes[0].Hkv}.",
                lab.case(_SIZES[0], values=BY_HEAD) if which == "v" else lab.case(_SIZES[0]),
            )
        lab.stopped = lab.stopped or not name
    return name or first
