"""What no read-out asked: drawn cases that mix options and stand at boundaries, against the definition.

Each case takes at least two options where the target has two, sizes that differ from each other, and
numbers one below, at and one above a boundary (the window, the length, a tile of 16, 32, 64 or 128 keys).
The comparison is elementwise, against the worst-case bound of `kvattn.testing.tolerance`, under what
the read-outs have learned.  A case that fails loses every option and makes every size smaller for as
long as it fails; then, where nothing that was found before explains it, the hypotheses that name faults are tried on
it, and where none fits it is described by what was read out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np

from kvattn.testing.choices import Recorded
from kvattn.testing.diagnosis import settling
from kvattn.testing.diagnosis.behaviour import HEAD_MAPS, SCALES, Behaviour, built_of
from kvattn.testing.diagnosis.differences import Difference
from kvattn.testing.diagnosis.explained import explained
from kvattn.testing.diagnosis.finding import Finding
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.prose import reads_like
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.diagnosis.recipe import DRAWN, FLAT, ONE_HOT, RANDOM, Recipe, Sizes
from kvattn.testing.diagnosis.sight import agree, describe
from kvattn.testing.drawn_calls import recipe_of, text_of
from kvattn.testing.keywords import KEYWORDS, fed, whole, whole_signature


@dataclass(frozen=True)
class Margin:
    """How the drawn cases went.

    Attributes
    ----------
    cases
        How many were compared.
    worst
        The largest error, in units of the bound.
    suspect
        How many had an error between the statistical and the worst-case bound; of a statistical one alone, between half
        of it and the whole.
    bound
        Which bound that is: ``"worst-case"``, or ``"statistical"``, of roundings that walk at random.

    Examples
    --------
    >>> Margin(cases=3, worst=0.1, suspect=0).cases
    3
    """

    cases: int
    worst: float
    suspect: int
    bound: str = "worst-case"


def draw(lab: Lab, count: int) -> Iterator[Recipe]:
    """Draw cases for a target: small ones, then a few that cross a tile.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> [len(case.options) >= 2 for case in draw(Lab(planted()), 3)]
    [True, True, True]
    """
    known = sorted(name for name in lab.target.features if lab.can(name))
    sparse = "mask" in known and "empty rows" not in lab.behaviour.without and lab.behaviour.mask == "may see"
    least = 1 + (lab.behaviour.extra_keys < 0)
    for n in range(count):
        choices = Recorded(seed=lab.seed * 2**20 + n)
        drawn = recipe_of(
            choices,
            known,
            together=lambda names: lab.can(*names),
            long=n % 8 == 7,
            sparse=sparse,
            least=least,
            shapes=lab.shapes,
        )
        sizes = replace(drawn.sizes, Dv=drawn.sizes.D) if lab.same_width else drawn.sizes
        case = lab.case(sizes, drawn.scores, RANDOM, **dict(drawn.options))
        yield replace(case, seed=lab.seed + n, page=drawn.page)


def _without(chosen: list[str], name: str) -> list[str]:
    """Drop a keyword, and those that need it."""
    rest = [other for other in chosen if other != name]
    return [other for other in rest if whole_signature(other, rest)]


def read_drawn(lab: Lab, count: int = 80) -> Margin:
    """Compare drawn cases; report the first failure of each kind.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted())
    >>> read_drawn(lab, 8).worst < 1
    True
    """
    return _compared(lab, draw(lab, count))


def read_pairs(lab: Lab) -> Margin:
    """Compare every keyword, and every two that go together, in a call of several queries and in one of a single query.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(lost={"sinks": "window is not None"}))
    >>> _ = read_pairs(lab)
    >>> lab.findings[0].fault_class, "window" in lab.findings[0].parameters["with"]
    ('sink', True)
    """
    known = [name for name in KEYWORDS if lab.can(name)]
    choices = Recorded(seed=lab.seed)
    cases = []
    sets = [fed(pair, known) for pair in (*combinations(known, 2), *((name,) for name in known))]
    sizes_of_calls = (Sizes(2, 6, 3, 7, 9, 5, 5), Sizes(2, 6, 3, 1, 9, 5, 5))
    for (i, sizes), (j, names) in product(enumerate(sizes_of_calls), enumerate(dict.fromkeys(sets))):
        if lab.slow and (i + j) % 2:
            continue
        if lab.can(*names) and whole(names):
            texts = {name: "2" if name in {"window", "splits"} else text_of(choices, name, sizes) for name in names}
            cases.append(lab.case(sizes, DRAWN, RANDOM, **texts))
    return _compared(lab, (case for case in cases if _stands_out(lab, case)))


def _stands_out(lab: Lab, recipe: Recipe) -> bool:
    """Say whether a case is off by more than a fit allows, or refused."""
    try:
        return lab.distance(recipe) > lab.sharp
    except Refused:
        return True


def _compared(lab: Lab, recipes: Iterator[Recipe]) -> Margin:
    cases, worst, suspect = 0, 0.0, 0
    failures: list[tuple[float, int, Recipe]] = []
    refusals = 0
    for recipe in recipes:
        if not _fair(lab, recipe):
            continue
        try:
            difference = lab.compare(recipe)
            if difference.ratio > 1 and settling.explain(lab, recipe):
                difference = lab.compare(recipe)
        except Refused as refused:
            refusals += 1
            case = lab.shrink(_fewer(recipe, lambda case: _refuses(lab, case)), lambda case: _refuses(lab, case))
            lab.add(
                "unclassified",
                {"raised": str(refused).partition(":")[0], "options": [name for name, _ in case.options]},
                f"It raises {refused}.",
                reproduce=lab.line(case),
            )
        else:
            cases += 1
            worst = max(worst, difference.ratio)
            suspect += difference.statistical > 1 >= difference.ratio
            if difference.ratio > 1:
                error = abs(difference.got - difference.expected)
                failures.append((error if np.isfinite(error) else np.inf, -cases, recipe))
        if refusals >= 3:
            break
    failures.sort(key=lambda failure: (not explained(lab, failure[2]), *failure[:2]), reverse=True)
    for _, _, recipe in failures[:4]:  # the plainest first
        _name(lab, recipe)
    return Margin(cases, worst, suspect)


def _fair(lab: Lab, recipe: Recipe) -> bool:
    """Leave out rows that see nothing where those were found to differ."""
    if "empty rows" not in lab.behaviour.without:
        return True
    return bool(lab.behaviour.visible(built_of(recipe)).any(-1).all())


def _refuses(lab: Lab, recipe: Recipe) -> bool:
    try:
        lab.see(recipe)
    except Refused:
        return True
    return False


def _fails(lab: Lab, recipe: Recipe, step: float = 0.0) -> bool:
    """Say whether a case is outside the bound, and by more than a step."""
    try:
        if not _fair(lab, recipe):
            return False
        if step >= 1e-3 >= lab.sharp:  # far outside any bound, and bounds take their time
            return lab.distance(recipe) > step
        found = lab.compare(recipe)
    except (Refused, IndexError, ValueError):
        return False
    near = abs(found.got - found.expected) <= step * (1 + abs(found.expected))
    return found.ratio > 1 and not near


def _fewer(recipe: Recipe, still: Callable[[Recipe], bool]) -> Recipe:
    """Drop every option that the failure does not need."""
    for name, _ in recipe.options:
        rest = tuple(item for item in recipe.options if item[0] != name)
        if not whole(item[0] for item in rest):
            continue
        if still(replace(recipe, options=rest)):
            return _fewer(replace(recipe, options=rest), still)
    return recipe


def _name(lab: Lab, recipe: Recipe) -> None:
    step = next((step for step in (2e-2, 1e-3, 1e-6, 0.0) if _fails(lab, recipe, step)), None)
    if step is None:
        _once(lab, recipe)
        return

    def still(case: Recipe) -> bool:
        return _fails(lab, case, step)

    wide = _fewer(recipe, still)
    recipe = _fewer(lab.shrink(wide, still), still)
    if explained(lab, recipe):
        return
    if recipe.options != wide.options:
        wide = recipe
    names = sorted(name for name, _ in recipe.options)
    difference = lab.compare(recipe)
    size = recipe.sizes
    where = f"B={size.B}, Hq={size.Hq}, Hkv={size.Hkv}, T={size.T}, S={size.S}, D={size.D}"
    where += f", Dv={size.Dv}" if size.Dv != size.D else ""
    when = f"with {', '.join(names)}" if names else "without options"
    for fault_class, parameters, words in _explanations(lab, recipe, wide):
        detail = f"{words}, {when}, at {where}."
        _record(lab, fault_class, {**parameters, "options": names}, detail, recipe, difference)
        return
    read = _described(lab, recipe)
    if read is not None and difference.channel == "lse" and not _off(read[1]) > lab.sharp:
        read = None  # the weights are right: they say nothing of a wrong lse
    if read is not None:
        fault_class, parameters, words = read
        if names == ["block_table", "lengths"]:  # without pages nothing was wrong
            fault_class, parameters = "paged-table", {"argument": "block_table", "page": recipe.page, **parameters}
            words += f", in pages of {recipe.page} keys"
        _record(lab, fault_class, {**parameters, "options": names}, f"{words}, {when}, at {where}.", recipe, difference)
        return
    like = f" {reads_like(lab, wide)}".rstrip()
    detail = (
        f"{difference.channel}{list(difference.place)} is {difference.got:.6g}, expected {difference.expected:.6g}"
        f" ({difference.ratio:.3g} times the worst-case bound), {when}, at {where}.{like}"
    )
    _record(lab, "unclassified", {"options": names}, detail, recipe, difference)


def _once(lab: Lab, recipe: Recipe) -> None:
    """Say that a case was outside its bound, and made again is not."""
    pick = "" if lab.see(recipe).lse is None else "[0]"
    line = f"{recipe.code()}; a = np.array({recipe.call()}{pick}); "
    line += f"print(np.array_equal(a, {recipe.call()}{pick}), 'expected', True)"
    detail = "A drawn case was outside its bound, and the same call again is not: it is random, or keeps something."
    lab.add("stale-state", {"property": "calls", "repeated": False}, detail, reproduce=lab.script(line))


def _record(
    lab: Lab, fault_class: str, parameters: dict[str, object], detail: str, recipe: Recipe, difference: Difference
) -> None:
    similar = [f for f in lab.findings if f.fault_class == fault_class]
    if any(f.parameters.get("options") == parameters["options"] for f in similar):
        return
    lab.findings.append(
        Finding(
            fault_class,
            "convention" if fault_class in lab.target.conventions else "fault",
            parameters,
            detail,
            lab.line(recipe, difference.channel),
        )
    )


def _explanations(lab: Lab, recipe: Recipe, wide: Recipe) -> Iterator[tuple[str, dict[str, object], str]]:
    """Yield what explains a failing case exactly, small and large: another behaviour, or an option that is lost."""
    now = lab.behaviour
    changes: list[tuple[str, dict[str, object], str, Behaviour]] = []
    names = {name for name, _ in recipe.options}
    if names & {"causal", "window", "chunk"}:
        other = "top_left" if now.anchor == "bottom_right" else "bottom_right"
        changes.append(("causal-align", {"anchor": other}, f"The anchor is {other}", replace(now, anchor=other)))
        for shift in (-1, 1):
            moved = replace(now, shift=now.shift + shift)
            changes.append(("causal-align", {"shift": shift}, f"Queries are moved by {shift}", moved))
    if "window" in names:
        for extra in (-1, 1):
            wider = replace(now, extra_keys=now.extra_keys + extra)
            words = f"The window shows W {'+' if extra > 0 else '-'} 1 keys"
            changes.append(("window-off-by-one", {"extra": extra}, words, wider))
    if recipe.sizes.Hq != recipe.sizes.Hkv:
        for rule in HEAD_MAPS:
            mapped = replace(now, key_map=rule, value_map=rule)
            changes.append(("gqa-map", {"map": rule}, f"Query head h reads head {rule}", mapped))
    if "scale" not in names:
        for rule in SCALES:
            changes.append(("scale", {"rule": rule}, f"The default scale is {rule}", replace(now, scale=rule)))  # noqa: PERF401
    if "mask" in names:
        changes.append(
            ("mask-polarity", {"true_means": "blocked"}, "The mask is reversed", replace(now, mask="blocked"))
        )
    for fault_class, parameters, words, behaviour in changes:
        if behaviour != now and _explained(lab, recipe, behaviour) and _explained(lab, wide, behaviour):
            yield fault_class, parameters, words
    for name in sorted(names - ({"lengths", "block_table"} if "block_table" in names else set())):
        kept = _without([item[0] for item in recipe.options], name)
        lost = tuple(item for item in recipe.options if item[0] in kept)
        if _explained(lab, recipe, now, lost) and _explained(lab, wide, now, lost):
            kind = "softcap" if name == "softcap" else "sink" if name == "sinks" else "scale" if name == "scale" else ""
            yield kind or "mask-dropped", {"argument": name, "with": sorted(names - {name})}, f"{name} is lost"


def _explained(
    lab: Lab, recipe: Recipe, behaviour: Behaviour, options: tuple[tuple[str, str], ...] | None = None
) -> bool:
    """Say whether the target's output is what another behaviour, or fewer options, would give."""
    seen = lab.see(recipe)
    built = seen.built
    if options is not None:
        kept = {name for name, _ in options}
        built = built._replace(options={name: value for name, value in built.options.items() if name in kept})
    expected, known = behaviour.expected(built), lab.behaviour.expected(seen.built)
    pairs = [(seen.out, expected.out, known.out)]
    if seen.lse is not None and "lse" not in lab.behaviour.without:
        pairs.append((seen.lse, expected.lse, known.lse))
    differs, near, far = False, 0.0, 0.0
    with np.errstate(invalid="ignore"):
        for got, want, contract in pairs:
            off, before = (np.where(got == x, 0.0, np.abs(got - x)) for x in (want, contract))
            if not bool((off <= 10 * lab.sharp * (1 + np.abs(want))).all()):
                return False
            differs |= bool(((np.abs(want - contract) > 20 * lab.sharp) & (want != contract)).any())
            near, far = max(near, float(off.max(initial=0))), max(far, float(np.fmax(before, 0).max(initial=0)))
    return differs and 2 * near < far  # in few bits, what is known may be as near


def _off(parameters: dict[str, object]) -> float:
    off = parameters.get("log_weight_off_by", np.inf)
    return abs(off) if isinstance(off, float) else np.inf


def _described(lab: Lab, recipe: Recipe) -> tuple[str, dict[str, object], str] | None:
    """Read the probabilities of a failing case: who sees whom, or which scores are off."""
    size = recipe.sizes
    wide = max(size.S, size.Dv)
    sizes = replace(size, D=max(size.D, wide), Dv=max(size.D, wide))
    if size.Dv != size.D:
        sizes = replace(size, Dv=wide + (wide == size.D))
    onehot = replace(recipe, sizes=sizes, values=ONE_HOT)
    flat = replace(onehot, scores=FLAT)
    stands_out = _fails(lab, flat)  # without the scores, who sees whom does
    if stands_out:
        onehot = flat
    elif not _fails(lab, onehot):
        return None
    read, weights = lab.support(onehot), lab.weights(onehot)
    built = onehot.build()
    wanted = lab.behaviour.visible(built)[..., : size.S]  # a paged call has slots behind its keys
    if stands_out and not agree(wanted, read):
        parameters, words = describe(wanted, read)
        return "mask-compose", parameters, f"{words[0].upper()}{words[1:]}"
    expected = lab.behaviour.expected(built).out[..., : size.S]
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.where(expected > 0, np.log(weights) - np.log(expected), 0)
    off = np.where(np.isfinite(off), off, 0)
    b, h, t, j = (int(i) for i in np.unravel_index(int(np.argmax(np.abs(off))), off.shape))
    row = np.round(weights[b, h, t], 4).tolist()
    if len(row) > 8 or abs(off[b, h, t, j]) < 1e-3:
        words = f"The log weight of key {j} in row {t} of head {h} is off by {off[b, h, t, j]:.3g}"
    else:
        words = f"Row {t} of head {h} has weights {row}, expected {np.round(expected[b, h, t], 4).tolist()}"
    return "unclassified", {"row": [b, h, t], "key": j, "log_weight_off_by": round(float(off[b, h, t, j]), 6)}, words
