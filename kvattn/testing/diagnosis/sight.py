"""Who sees whom: the causal anchor, the window's bounds, what a mask means, and how they combine.

Method: with scores that are all 0 and one-hot values, an output row has weight on exactly the keys that
its query sees.  Each hypothesis is a table of who sees whom at several sizes; the one that agrees with
all of them names what was read.  Rows in which a hypothesis shows no key are left to `edges`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.behaviour import Behaviour
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.places import key_places, query_places
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.diagnosis.recipe import FLAT, Built, Recipe, Sizes
from kvattn.testing.diagnosis.window_forms import fixed, forms
from kvattn.typing import Visible

MASK = "(r.random(({B}, {Hq}, {T}, {S})) < 0.5) | np.eye({T}, {S}, {S} - {T}, dtype=bool) | (np.arange({S}) == 0)"
"""A mask with holes in which every query sees its own key and key 0."""

_SQUARE, _LONG, _STEP = Sizes(2, 6, 2, 5, 5, 12, 12), Sizes(2, 6, 2, 4, 9, 12, 12), Sizes(2, 6, 2, 1, 7, 12, 12)
_TALL = Sizes(2, 6, 2, 6, 4, 12, 12)
_TILED = Sizes(1, 2, 1, 70, 150, 12, 150)
_FAR, _TALLER = Sizes(1, 2, 1, 2, 300, 12, 300), Sizes(1, 2, 1, 70, 70, 12, 70)

PLACES = tuple((anchor, shift) for shift in (0, -1, 1, -2, 2) for anchor in ("bottom_right", "top_left"))
"""Corners of a causal triangle, and by how much it is moved."""

OTHERS = {"softcap": "0.9", "bias": "np.zeros(({B}, {Hq}, {T}, {S}))", "scale": "0.3", "sinks": "np.zeros({Hq})"}
"""Options that must not change who sees whom."""


def agree(hypothesis: Visible, read: Visible) -> bool:
    """Say whether two tables agree in every row in which the hypothesis shows a key.

    >>> agree(np.array([[False, False], [True, False]]), np.array([[True, True], [True, False]]))
    True
    """
    rows = hypothesis.any(-1)
    return np.array_equal(hypothesis[rows], read[rows])


def row_ratio(weights: NDArray[np.float64], above: Visible, below: Visible) -> float:
    """Return the mean weight of some keys over that of others in the same row, in the middle row.

    >>> row_ratio(np.array([[0.2, 0.4, 0.4]]), np.array([[True, False, False]]), np.array([[False, True, True]]))
    0.5
    """
    rows = above.any(-1) & below.any(-1)
    means = [(weights * keys).sum(-1)[rows] / keys.sum(-1)[rows] for keys in (above, below)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.median(means[0] / means[1]))


def runs(numbers: list[int]) -> str:
    """Write ascending numbers with runs joined.

    >>> runs([0, 1, 2, 5]), runs([])
    ('0-2, 5', 'none')
    """
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return ", ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in zip(starts, ends, strict=True)) or "none"


def describe(hypothesis: Visible, read: Visible) -> tuple[dict[str, object], str]:
    """Return the first row that differs, as parameters and as words.

    >>> describe(np.ones((1, 1, 1, 2), bool), np.array([[[[True, False]]]]))[1]
    'row 0 of head 0 sees keys 0, expected 0-1'
    """
    rows = (hypothesis != read).any(-1) & hypothesis.any(-1)
    b, h, t = (int(i) for i in np.argwhere(rows)[0])
    seen, wanted = (np.flatnonzero(table[b, h, t]).tolist() for table in (read, hypothesis))
    where = f"row {t} of head {h}" + (f" of sequence {b}" if b else "")
    return {
        "row": [b, h, t],
        "sees": seen,
        "expected": wanted,
    }, f"{where} sees keys {runs(seen)}, expected {runs(wanted)}"


def read_causal(lab: Lab) -> None:
    """Fit the anchor of ``causal=True``.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(anchor="top_left"))
    >>> read_causal(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["anchor"]
    ('causal-align', 'top_left')
    """
    cases = [lab.case(sizes, FLAT, causal="True") for sizes in (_LONG, _SQUARE, _STEP, _TALLER)]
    read = [lab.support(case) for case in cases]

    def fits(behaviour: Behaviour) -> bool:
        return all(agree(behaviour.visible(c.build()), r) for c, r in zip(cases, read, strict=True))

    if not fits(lab.behaviour):
        for anchor, shift in PLACES:
            if fits(replace(lab.behaviour, anchor=anchor, shift=shift)):
                by = f", moved by {shift}" if shift else ""
                long = cases[0].sizes
                keys, due = int(read[0][0, 0, 0].sum()), long.S - long.T + 1
                lab.add(
                    "causal-align",
                    {"anchor": anchor, "shift": shift},
                    f"The causal triangle is tied to the {anchor.replace('_', '-')} corner{by}: with T={long.T},"
                    f" S={long.S} the first query sees {keys} keys, expected {due}"
                    + (" (as torch's is_causal)." if anchor == "top_left" and not shift else "."),
                    cases[0] if anchor == "top_left" else cases[1],
                )
                lab.behaviour = replace(lab.behaviour, anchor=anchor, shift=shift)
                break
        else:
            _name_odd_causal(lab, cases, read)
            return
    if _after_softmax(lab, cases[1]):
        return
    _read_tall(lab)


def _after_softmax(lab: Lab, case: Recipe) -> bool:
    """Say whether rows keep only the share that their visible keys have among all."""
    weights, visible = lab.weights(case), lab.behaviour.visible(case.build())
    shares = visible.mean(-1)
    if np.allclose(weights.sum(-1), 1, atol=1e-3) or not np.allclose(weights.sum(-1), shares, atol=1e-3):
        return False
    lab.set_aside("causal", "window")
    b, h, t = (int(i) for i in np.unravel_index(int(np.argmin(shares)), shares.shape))
    detail = f"The mask is applied after the softmax: with causal=True the weights of row {t} of head {h} sum to"
    detail += f" {weights[b, h, t].sum():.4g}, expected 1."
    lab.add("mask-compose", {"argument": "causal", "applied": "after the softmax"}, detail, case)
    return True


def _name_odd_causal(lab: Lab, cases: list[Recipe], read: list[Visible]) -> None:
    lab.set_aside("causal", "window")
    wanted = [lab.behaviour.visible(case.build()) for case in cases]
    if all(table.all() for table in read):
        detail = "causal=True changes nothing: every query sees every key."
        lab.add("mask-dropped", {"argument": "causal"}, detail, cases[1])
        return
    if agree(np.triu(np.ones(read[1].shape[2:], np.bool_)), read[1][0, 0]):
        lab.add("mask-polarity", {"argument": "causal"}, "causal=True hides the past and shows the future.", cases[1])
        return
    right = [agree(w, r) for w, r in zip(wanted, read, strict=True)]
    for group, of in product((2, 4, 8, 16, 3, 32, 64), ("rows of the call", "positions")):
        shared = [
            agree(_grouped(lab.behaviour, case.build(), group, of), r) for case, r in zip(cases, read, strict=True)
        ]
        if all(a or b for a, b in zip(shared, right, strict=True)):
            wrong = next(n for n in (1, 0, 2, 3) if not right[n])
            found: dict[str, object] = {"argument": "causal", "row_group": group, "of": of}
            detail = f"Rows share a triangle in groups of {group} {of}: each sees what the last of its group may see."
            if not all(shared):
                long, short = cases[wrong].sizes.T, max(c.sizes.T for c, fine in zip(cases, right, strict=True) if fine)
                found["when"] = f"T = {long}"
                detail = f"{detail[:-1]}, at T = {long} and not at {short}."
            lab.add("mask-compose", found, detail, cases[wrong])
            return
    n = right.index(False)
    size = cases[n].sizes
    for anchor, shift in PLACES:
        other = replace(lab.behaviour, anchor=anchor, shift=shift)
        if all(fine or agree(other.visible(c.build()), r) for c, r, fine in zip(cases, read, right, strict=True)):
            pairs = list(zip(cases, right, strict=True))
            if all(c.sizes.T == 1 or fine for c, fine in pairs):
                when = "T = 1"
            else:
                when = " and ".join(f"T = {c.sizes.T}, S = {c.sizes.S}" for c, fine in pairs if not fine)
            by = f", moved by {shift}" if shift else ""
            detail = f"At {when} the causal triangle is tied to the {anchor.replace('_', '-')} corner{by}; elsewhere it"
            detail += " is where it should be."
            odd = {"anchor": anchor, "shift": shift, "when": when, "elsewhere": lab.behaviour.anchor}
            lab.add("causal-align", odd, detail, cases[n])
            return
    parameters, words = describe(wanted[n], read[n])
    detail = f"With causal=True, T={size.T}, S={size.S}, {words}."
    lab.add("mask-compose", {"argument": "causal", **parameters}, detail, cases[n])


def _grouped(behaviour: Behaviour, built: Built, group: int, of: str) -> Visible:
    """Return what is seen where rows of one group share the last one's triangle."""
    i, j = query_places(built, behaviour.anchor, behaviour.shift), key_places(built)
    if of == "rows of the call":
        rows = np.arange(built.q.shape[2])[:, None]
        return np.broadcast_to(
            j <= i - rows + rows // group * group + group - 1, (*built.q.shape[:3], built.k.shape[2])
        )
    return np.broadcast_to(j <= i // group * group + group - 1, (*built.q.shape[:3], built.k.shape[2]))


def _read_tall(lab: Lab) -> None:
    """More queries than keys: the contract is silent, so another choice is a convention, but the future is not."""
    case = lab.case(_TALL, FLAT, causal="True")
    try:
        read = lab.support(case)
    except Refused as refused:
        lab.notes.append(f"T > S with causal is refused: {refused}")
        return
    if agree(lab.behaviour.visible(case.build()), read):
        return
    for anchor in ("bottom_right", "top_left"):
        if agree(replace(lab.behaviour, anchor=anchor).visible(case.build()), read):
            other = lab.behaviour.anchor
            corners = f"{other.replace('_', '-')} where T <= S, {anchor.replace('_', '-')} where T > S"
            detail = f"The corner of the causal triangle switches with the sign of S - T: {corners}."
            switched = {"anchor": anchor, "when": "T > S", "otherwise": other}
            shown = case if anchor == "top_left" else lab.case(_LONG, FLAT, causal="True")  # where it differs
            lab.add("causal-align", switched, detail, shown, kind="convention")
            return
    tall = case.sizes
    offset = tall.S - tall.T
    for name, wrapped in (("unsigned", 2**32 + offset), ("absolute", -offset)):
        table = np.arange(tall.S) <= np.arange(tall.T)[:, None] + wrapped
        if agree(np.broadcast_to(table, read.shape), read):
            detail = f"With T={tall.T}, S={tall.S} the offset S - T = {offset} is taken {name}: later keys are seen."
            lab.add("causal-align", {"when": "T > S", "offset": name}, detail, case)
            return
    parameters, words = describe(lab.behaviour.visible(case.build()), read)
    lab.add("causal-align", {"when": "T > S", **parameters}, f"With T={tall.T}, S={tall.S}, {words}.", case)


def read_window(lab: Lab) -> None:
    """Fit the bounds of ``window=W``.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(extra_keys=1))
    >>> read_window(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["visible_keys"]
    ('window-off-by-one', 'W + 1')
    """
    cases = [
        lab.case(sizes, FLAT, causal="True", window=str(w))
        for sizes in (_LONG, _SQUARE, _STEP)
        for w in (2, 1, 3, sizes.S - 1, sizes.S, sizes.S + 1)
    ]
    cases += [lab.case(_TILED, FLAT, causal="True", window=w) for w in ("33", "6")]  # tiles that a kernel may skip
    cases.append(lab.case(_FAR, FLAT, causal="True", window="5"))  # beyond a window of a size of its own
    read = [lab.support(case) for case in cases]
    built = [case.build() for case in cases]

    def fits(tables: Iterator[Visible]) -> bool:
        return all(agree(table, r) for table, r in zip(tables, read, strict=True))

    if fits(lab.behaviour.visible(b) for b in built):
        return
    wrong = next(case for case, b, r in zip(cases, built, read, strict=True) if not agree(lab.behaviour.visible(b), r))
    for extra in (1, -1, 2, -2):
        behaviour = replace(lab.behaviour, extra_keys=extra)
        if fits(behaviour.visible(b) for b in built):
            keys = f"W {'+' if extra > 0 else '-'} {abs(extra)}"
            lab.add(
                "window-off-by-one",
                {"visible_keys": keys, "extra": extra},
                f"A window of W shows {keys} keys, expected W with the query's own key counted.",
                wrong,
            )
            lab.behaviour = behaviour
            return
    lab.set_aside("window")
    if fits(lab.behaviour.visible(b._replace(options={"causal": True})) for b in built):
        detail = "window= changes nothing: every query sees its whole past."
        lab.add("mask-dropped", {"argument": "window"}, detail, cases[0])
        return
    corner = replace(lab.behaviour, anchor="top_left")
    if fits(_window_from(corner, b) & lab.behaviour.visible(b._replace(options={"causal": True})) for b in built):
        detail = "The window is measured from the top-left corner, the causal triangle from the bottom-right."
        lab.add("causal-align", {"anchor": "top_left", "of": "window"}, detail, cases[0])
        return
    if fits(_window_from(lab.behaviour, b) for b in built):
        detail = "With window= the causal part is lost: keys after the query are visible."
        lab.add("mask-dropped", {"argument": "causal", "with": ["window"]}, detail, cases[0])
        return
    if _name_form(lab, fits, built, read, wrong):
        return
    if all(r.all() for r in read):
        detail = "causal and window are joined by OR: every query sees every key."
        lab.add("mask-compose", {"operator": "or", "of": ["causal", "window"]}, detail, cases[0])
        return
    off = [not agree(lab.behaviour.visible(b), r) for b, r in zip(built, read, strict=True)]
    lost = [
        agree(lab.behaviour.visible(b._replace(options={"causal": True})), r) for b, r in zip(built, read, strict=True)
    ]
    if all(is_lost for is_lost, is_off in zip(lost, off, strict=True) if is_off):
        size = wrong.sizes
        when = "T = 1" if size.T == 1 else f"T = {size.T}, S = {size.S}"
        lab.add("mask-dropped", {"argument": "window", "when": when}, f"window= changes nothing at {when}.", wrong)
        return
    wanted = lab.behaviour.visible(wrong.build())
    parameters, words = describe(wanted, lab.support(wrong))
    size, w = wrong.sizes, dict(wrong.options)["window"]
    asked, shown = _counts(cases, read)
    detail = f"With causal=True, window={w}, T={size.T}, S={size.S}, {words}; the last query sees {shown} keys at"
    detail += f" W = {asked}."
    lab.add("mask-compose", {"argument": "window", "window": int(w), **parameters}, detail, wrong)


def _name_form(
    lab: Lab, fits: Callable[[Iterator[Visible]], bool], built: list[Built], read: list[Visible], wrong: Recipe
) -> bool:
    """Say whether W is taken for something else that is known."""
    size = int(read[-1][0, 0, -1].sum())
    if fits(fixed(lab.behaviour, size)(b) for b in built):
        detail = f"The window shows {size} keys whatever W is: its size is fixed."
        lab.add("mask-compose", {"argument": "window", "reads": "a fixed size", "size": size}, detail, wrong)
        return True
    for form in forms(lab.behaviour):
        if fits(form.sees(b) for b in built):
            lost = "" if form.causal else "; the causal part is lost"
            detail = f"The window is {form.words}: {form.reads}{lost}. Expected i - j < W beside the triangle."
            parameters: dict[str, object] = {"argument": "window", "reads": form.reads, "causal": form.causal}
            if form.reads == "|i - j| < W":
                parameters = {"argument": "causal", "with": ["window"], "reads": form.reads}
                lab.add("mask-dropped", parameters, f"With window= keys after the query are visible. {detail}", wrong)
            else:
                lab.add("mask-compose", parameters, detail, wrong)
            return True
    return False


def _counts(cases: list[Recipe], read: list[Visible]) -> tuple[str, str]:
    """Return the windows that were asked for, and how many keys the last query saw."""
    pairs = {int(dict(case.options)["window"]): int(r[0, 0, -1].sum()) for case, r in zip(cases, read, strict=True)}
    return ", ".join(map(str, sorted(pairs))), ", ".join(str(pairs[w]) for w in sorted(pairs))


def _window_from(behaviour: Behaviour, built: Built) -> Visible:
    """Return the window's lower bound alone."""
    return behaviour.visible(built._replace(options={**built.options, "causal": False}))


def read_together(lab: Lab) -> None:
    """Read pairs of masks, which must intersect, and masks beside options that must not change them.

    Examples
    --------
    >>> from kvattn.testing.targets import target_of
    >>> def either(q, k, v, *, causal=False, mask=None):
    ...     keep = np.ones((*q.shape[:3], k.shape[2]), bool) if mask is None else mask
    ...     keep = keep | np.tri(q.shape[2], k.shape[2], k.shape[2] - q.shape[2], bool) if causal else keep
    ...     return keep / keep.sum(-1, keepdims=True) @ v
    >>> lab = Lab(target_of(either), grouped=False)
    >>> read_together(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["operator"]
    ('mask-compose', 'or')
    """
    texts = {"causal": "True", "mask": MASK, "window": "3"}
    for names in (("causal", "mask"), ("causal", "window", "mask")):
        if lab.can(*names):
            _pair(lab, lab.case(_LONG, FLAT, **{name: texts[name] for name in names}))
    for masks in (("causal",), ("mask",), ("causal", "window")):
        for other, text in OTHERS.items():
            if lab.can(*masks, other):
                _pair(lab, lab.case(_LONG, FLAT, **{name: texts[name] for name in masks}, **{other: text}))


_OFF = (
    ("window", "window-off-by-one", "extra", "extra_keys", "a window shows W {} 1 keys, expected W"),
    ("causal", "causal-align", "shift", "shift", "queries stand at t {} 1, expected t"),
)
"""Keyword, class, parameter, field of the behaviour and words for what is off by one beside another keyword."""


def _pair(lab: Lab, case: Recipe) -> None:
    built = case.build()
    read = lab.support(case)
    wanted = lab.behaviour.visible(built)
    if agree(wanted, read):
        return
    names = [name for name, _ in case.options]
    masks = [name for name in names if name in {"causal", "window", "mask"}]

    def without(*dropped: str) -> Visible:
        kept = {name: value for name, value in built.options.items() if name not in dropped}
        return lab.behaviour.visible(built._replace(options=kept))

    lab.apart.update(frozenset(pair) for pair in combinations(names, 2) if set(pair) != {"causal", "window"})
    weight = row_ratio(lab.weights(case), ~wanted, wanted)
    if "softcap" in names and read.all() and weight < 1 - lab.sharp:
        lab.add(
            "softcap",
            {"place": "after the mask", "weight": round(weight, 6), "with": masks},
            f"The cap is applied after the mask, so that hidden keys keep {weight:.3g} of a visible key's weight at"
            " softcap=0.9 (-inf becomes -cap), expected 0.",
            case,
        )
        lab.set_aside("softcap")
        return
    for count in range(1, len(masks) + 1):
        for lost in combinations(masks, count):
            if agree(without(*lost), read):
                rest = [name for name in names if name not in lost]
                detail = f"{' and '.join(lost)} changes nothing when {' and '.join(rest)} is given too."
                lab.add("mask-dropped", {"argument": lost[0], "with": rest}, detail, case)
                return
    singles = [without(*(m for m in masks if m != name)) for name in masks]
    if len(masks) > 1 and agree(np.logical_or.reduce(singles), read):
        detail = f"{' and '.join(masks)} are joined by OR, expected AND."
        lab.add("mask-compose", {"operator": "or", "of": masks}, detail, case)
        return
    for keyword, fault_class, way, field, words in _OFF:
        for by in (-1, 1):
            moved = replace(lab.behaviour, **{field: getattr(lab.behaviour, field) + by})
            if keyword in masks and agree(moved.visible(built), read):
                rest = [name for name in names if name not in masks] or [name for name in masks if name != keyword]
                detail = f"Beside {' and '.join(rest)} {words.format('+' if by > 0 else '-')}."
                lab.add(fault_class, {way: by, "with": rest}, detail, case, kind="fault")
                return
    parameters, words = describe(wanted, read)
    detail = f"With {', '.join(names)} together, {words}."
    lab.add("mask-compose", {"of": names, **parameters}, detail, case)
