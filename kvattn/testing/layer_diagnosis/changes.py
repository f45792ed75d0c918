"""What layers are known to do otherwise than planned: single changes of a reading, each with its class and words."""

from collections.abc import Callable, Iterator
from dataclasses import replace
import math
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from kvattn.positions.rotary import Rotary
from kvattn.testing.diagnosis.behaviour import HEAD_MAPS, SCALES
from kvattn.testing.layer_diagnosis.reading import MORE_SCALES, SLOPES, LaidOut, Reading
from kvattn.testing.rotary_diagnosis.frequencies import changes as frequency_changes
from kvattn.testing.rotary_diagnosis.schemes import geometry, name_scheme

Kind: TypeAlias = Literal["convention", "fault"]


class Change(NamedTuple):
    """One change: class, parameters and words of the finding, and the reading that it leads to."""

    fault_class: str
    parameters: dict[str, Any]
    words: str
    reading: Any
    kind: Kind = "fault"


class Fit(NamedTuple):
    """A change with one number in it: how it reads, and between which bounds the number is looked for."""

    fault_class: str
    parameter: str
    words: str
    reading: Callable[[float], Any]
    low: float
    high: float


def projections(now: Reading) -> Iterator[Change]:
    """Yield other uses of the four matrices.

    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> next(projections(Reading(Plan()))).words
    'The output projection is missing: the joined heads come out as they are'
    """
    for name, words in (
        ("none", "is missing: the joined heads come out as they are"),
        ("transposed", "is transposed"),
    ):
        text = f"The output projection {words}"
        yield Change("output-projection", {"used": name}, text, replace(now, output=name))
    uses: dict[tuple[str, str, str], str] = {
        ("w_k", "w_q", "w_v"): "w_q and w_k are exchanged",
        ("w_q", "w_v", "w_k"): "w_k and w_v are exchanged",
        ("w_v", "w_k", "w_q"): "w_q and w_v are exchanged",
        ("w_q", "w_k", "w_k"): "Values are made with w_k",
        ("w_q", "w_v", "w_v"): "Keys are made with w_v",
        ("w_q", "w_q", "w_v"): "Keys are made with w_q",
        ("w_k", "w_k", "w_v"): "Queries are made with w_k",
    }
    for used, words in uses.items():
        yield Change("projection", {"uses": list(used)}, words, replace(now, uses=used))
    three = ("q_columns", "k_columns", "v_columns")
    for names in (*((name,) for name in three), three[:2], three):
        for order in ("features first", "tokens first"):
            which = [f"w_{name[0]}" for name in names]
            words = f"Columns of {', '.join(which)} are split {order}, expected heads first"
            changed: dict[str, Any] = dict.fromkeys(names, order)
            yield Change("gqa-map", {"columns": order, "of": which}, words, replace(now, **changed))
    for order in ("features first", "tokens first"):
        words = f"Heads are joined {order}, expected token by token, heads first"
        yield Change("gqa-map", {"columns": order, "of": ["w_o"]}, words, replace(now, o_rows=order))


def heads(now: Reading) -> Iterator[Change]:
    """Yield other head maps.

    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> next(heads(Reading(Plan()))).parameters
    {'map': 'h % Hkv', 'of': 'k and v'}
    """
    for which, names in (("k and v", ("key_map", "value_map")), ("k", ("key_map",)), ("v", ("value_map",))):
        for rule in HEAD_MAPS:
            if rule != now.key_map:
                words = f"Query head h reads head {rule} of {which}, expected {now.key_map}"
                changed: dict[str, Any] = dict.fromkeys(names, rule)
                yield Change("gqa-map", {"map": rule, "of": which}, words, replace(now, **changed))


def sharing(now: Reading) -> Iterator[Change]:
    """Yield how a layer that should read another's keys and values fails to.

    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> next(sharing(Reading(Plan(), shared=True))).parameters
    {'shares': 'later calls'}
    """
    words = {
        "later calls": "Another layer's keys and values are shared only where a cache exists: a first makes its own",
        "never": "It makes keys and values of its own, where it should share another layer's",
        "values": "It shares values alone and makes keys of its own",
        "keys": "It shares keys alone and makes values of its own",
    }
    for name, text in words.items():
        if now.shared:
            yield Change("shared-kv-layers", {"shares": name}, text, replace(now, shares=name))


def bends(now: Reading) -> Iterator[Change]:
    """Yield other scales, sights, slopes and softcaps.

    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> next(bends(Reading(Plan()))).parameters
    {'rule': '1'}
    """
    plan = now.plan
    wanted = "1 / sqrt(D)" if plan.scale is None else f"{plan.scale:g}"
    for rule in (*(name for name in SCALES if "Dv" not in name), *MORE_SCALES):  # a layer's heads have one width
        if plan.scale is not None or rule != "1 / sqrt(D)":
            text = f"The scale is {rule}, expected {wanted}"
            yield Change("scale", {"rule": rule}, text, replace(now, scale=rule))
    rotary = plan.rotary_at(1)
    if rotary is not None and rotary.magnitude != 1:
        for power in (-4, -2, -1, 1, 2):
            text = f"The scale is multiplied by the rotation's factor to the power of {power}"
            changed = replace(now, factor=rotary.magnitude**power)
            yield Change("rope-scaling", {"factor_of_scale": f"magnitude ** {power}"}, text, changed)
    sights: dict[str, tuple[str, dict[str, Any], str]] = {
        "all": ("mask-dropped", {"argument": "causal"}, "Every query sees every key: the causal mask is missing"),
        "strict": ("causal-align", {"shift": -1}, "A query does not see its own key"),
        "one ahead": ("causal-align", {"shift": 1}, "A query sees one key ahead of its own"),
    }
    if plan.causal:
        for name, (fault_class, parameters, words) in sights.items():
            yield Change(fault_class, parameters, words, replace(now, sight=name))
    else:
        words = "A query sees keys up to its own alone, expected all"
        yield Change("mask-dropped", {"argument": "causal", "value": False}, words, replace(now, sight="causal"))
    if plan.window is not None:
        for extra in (-1, 1):
            words = f"A window of {plan.window} shows {plan.window + extra} keys, the query's own counted"
            yield Change("window-off-by-one", {"extra": extra}, words, replace(now, window_extra=extra))
        words = f"The window of {plan.window} is not applied"
        yield Change("mask-dropped", {"argument": "window"}, words, replace(now, window_extra=10**6))
    if plan.alibi:
        for name in (*SLOPES, "none"):
            if name != "paper":
                words = f"ALiBi's slopes are {name}, expected the paper's"
                yield Change("alibi-slopes", {"slopes": name}, words, replace(now, slopes=name))
        for factor, words in ((-1.0, "ALiBi's slopes have the wrong sign"), (0.5, "ALiBi's slopes are halved")):
            yield Change("alibi-slopes", {"factor": factor}, words, replace(now, slope_factor=factor))
    if plan.softcap is not None:
        yield Change("softcap", {"rule": "none"}, "The softcap is missing", replace(now, softcap="none"))
        text = "The softcap comes before the scale"
        yield Change("softcap", {"rule": "before scale"}, text, replace(now, softcap="before scale"))


def norms(now: Reading) -> Iterator[Change]:
    """Yield other norms of queries and keys.

    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> next(norms(Reading(Plan(Rotary.of(8), norm="before")))).parameters
    {'norm': 'after'}
    """
    plan = now.plan
    if plan.norm is None:
        for place in ("before", "after"):
            text = f"Queries and keys are normed {place} the rotation, expected no norm"
            yield Change("qk-norm-order", {"norm": place}, text, replace(now, norm=place))
        return
    if plan.rotary is not None:
        other = "after" if plan.norm == "before" else "before"
        text = f"Norms come {other} the rotation, expected {plan.norm} it"
        yield Change("qk-norm-order", {"norm": other}, text, replace(now, norm=other))
    yield Change("qk-norm-order", {"norm": "none"}, "Queries and keys are not normed", replace(now, norm="none"))
    for side, text in (("q", "Queries alone are normed"), ("k", "Keys alone are normed")):
        yield Change("qk-norm-order", {"normed": side}, text, replace(now, normed=side))
    for kind, text in (("layer", "subtract the mean"), ("l2", "divide by the root of the sum of squares")):
        words = f"The norms of queries and keys {text}, expected root mean squares"
        yield Change("qk-norm-order", {"kind": kind}, words, replace(now, norm_kind=kind))
    words = "Norms go over all heads at once, expected head by head"
    yield Change("qk-norm-order", {"axis": "all"}, words, replace(now, norm_axis="all"))
    weights = {
        "none": "The weights of the norms are not applied",
        "1 + w": "The norms are weighted by 1 + w, expected w",
        "exchanged": "The weights of the two norms are exchanged",
    }
    for name, words in weights.items():
        yield Change("qk-norm-order", {"weight": name}, words, replace(now, norm_weight=name))


def undeclared(now: Reading) -> Iterator[Change]:
    """Yield what a layer of which nothing is declared may legally be.

    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> [change.parameters for change in undeclared(Reading(Plan()))][:2]
    [{'causal': False}, {'alibi': True}]
    """
    plan = now.plan
    text = "Every query sees every key, where nothing is declared"
    yield Change("mask-dropped", {"causal": False}, text, replace(now, plan=replace(plan, causal=False)), "convention")
    text = "Scores have ALiBi's slopes, where nothing is declared"
    yield Change("alibi-slopes", {"alibi": True}, text, replace(now, plan=replace(plan, alibi=True)), "convention")
    for place in ("before", "after"):
        for eps in (1e-6, 1e-5, 1e-8, 0.0):
            text = f"Queries and keys are normed {place} any rotation, eps {eps:g}, where nothing is declared"
            other = replace(plan, norm=place, eps=eps)
            normed: dict[str, Any] = {"norm": place, "eps": eps}
            yield Change("qk-norm-order", normed, text, replace(now, plan=other), "convention")
    for window in range(1, 7):
        text = f"A query sees the last {window} keys, its own counted, where nothing is declared"
        changed = replace(now, plan=replace(plan, window=window))
        yield Change("mask-compose", {"window": window}, text, changed, "convention")
    for layout in ("half", "adjacent"):
        for base in (10000.0, 500000.0, 1000000.0):
            text = f"Queries and keys turn {layout} pairs, base {base:g}, where nothing is declared"
            for width in (8, 16, 32, 64, 128):
                rotary = Rotary.of(width, base, layout)
                changed = replace(now, plan=replace(plan, rotary=rotary))
                found: dict[str, Any] = {"layout": layout, "base": base, "width": width}
                yield Change("rope-layout", found, text, changed, "convention")


def rotations(now: Reading, width: int) -> Iterator[Change]:
    """Yield other rotations of queries and keys.

    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> next(rotations(Reading(Plan(rotary=Rotary.of(8))), 8)).words
    'Queries and keys are not turned'
    """
    rotary = now.plan.rotary_at(1)
    if rotary is None:
        return
    turned = {"": "Queries and keys are not turned", "q": "Keys are not turned", "k": "Queries are not turned"}
    for which, words in turned.items():
        parameters: dict[str, Any] = {"of": " and ".join(side for side in "qk" if side not in which)}
        yield Change("rope-missing", parameters, words, replace(now, turned=which))
    yield Change("rope-missing", {"also": "v"}, "Values are turned too", replace(now, turned="qkv"))
    yield from _layouts(now, rotary)
    yield from _widths(now, rotary, width)
    for change in frequency_changes(np.array(rotary.frequencies), width, 1e-6):
        other = replace(rotary, frequencies=tuple(float(x) for x in change.frequencies))
        words = f"Frequencies are {name_scheme(change.frequencies).told}: {change.words}"
        changed = replace(now, q_rotary=other, k_rotary=other)
        yield Change(change.fault_class, change.parameters, words, changed)
    if rotary.magnitude != 1:
        m = rotary.magnitude
        for name, value in (("1", 1.0), ("expected ** 2", m**2), ("1 / expected", 1 / m)):
            other = replace(rotary, magnitude=value)
            for side, changed in _sides(now, other):
                parameters = {"magnitude": round(value, 6), "rule": name, "of": side}
                text = f"The factor on cosine and sine of {side} is {name}: {value:.6g}"
                yield Change("rope-scaling", parameters, text, changed)
    for offset in (-3, -2, -1, 1, 2, 3):
        words = f"Keys stand {offset:+d} positions away from where queries count them"
        parameters = {"offset": offset, "of": "k"}
        yield Change("rope-offset", parameters, words, replace(now, k_offset=offset))
    late = replace(now, q_places="after the call")
    if now.shared:
        words = "The offset is read after the source layer advanced: queries stand late by the tokens of the call"
        yield Change("shared-kv-layers", {"offset": "after the source"}, words, late)
    else:
        words = "Queries stand late by the tokens of the call, as if counted after its keys were appended"
        yield Change("rope-offset", {"positions": "after the call", "of": "q"}, words, late)
    for name in ("bfloat16", "float16"):
        for stage in ("frequencies", "positions"):
            words = f"{stage.capitalize()} are rounded to {name}"
            changed = replace(now, rounded=(stage, name))
            yield Change("rope-precision", {"rounded": stage, "format": name}, words, changed)


def _sides(now: Reading, other: Rotary | LaidOut) -> Iterator[tuple[str, Reading]]:
    yield "q and k", replace(now, q_rotary=other, k_rotary=other)
    yield "q", replace(now, q_rotary=other)
    yield "k", replace(now, k_rotary=other)


def _layouts(now: Reading, rotary: Rotary) -> Iterator[Change]:
    layout: Literal["half", "adjacent"] = "adjacent" if rotary.layout == "half" else "half"
    for side, changed in _sides(now, replace(rotary, layout=layout)):
        if side == "q and k":
            words = (
                f"Pairs are {layout}, where {rotary.layout} ones are expected: right with weights permuted to match,"
                " wrong with any other"
            )
            parameters = {"layout": layout, "expected": rotary.layout}
            yield Change("rope-layout", parameters, words, changed, "convention")
        else:
            names: dict[str, Any] = {"queries": rotary.layout, "keys": rotary.layout}
            names["queries" if side == "q" else "keys"] = layout
            words = f"Queries turn {names['queries']} pairs, keys {names['keys']} ones"
            yield Change("rope-layout", names, words, changed)
    for _, changed in list(_sides(now, LaidOut(rotary)))[:1]:
        words = f"Features pair as {rotary.layout}, angles are laid out for {layout} pairs"
        yield Change("rope-layout", {"pairs": rotary.layout, "angles": layout}, words, changed)
    back = replace(rotary, frequencies=tuple(-x for x in rotary.frequencies))
    for side, changed in _sides(now, back):
        words = f"Pairs of {side} turn backwards"
        if side == "q and k":
            words += ": the same scores with the two features of each pair exchanged in the weights"
        yield Change("rope-layout", {"direction": -1, "of": side}, words, changed)


def _widths(now: Reading, rotary: Rotary, width: int) -> Iterator[Change]:
    numbers = name_scheme(np.array(rotary.frequencies)).parameters
    base, factor = float(numbers.get("base", 10000.0)), float(numbers.get("factor", 1.0))
    own = rotary.start if rotary.start >= 0 else width + rotary.start
    for count in range(1, width // 2 + 1):
        for start in dict.fromkeys((0, own, width - 2 * count)):
            if start + 2 * count > width or (start, 2 * count) == (own, rotary.width):
                continue
            theta = tuple(float(x) / factor for x in geometry(base, count))
            other = replace(rotary, frequencies=theta, start=start, axes=None)
            words = f"Of {width} features, {2 * count} turn, from {start} on; expected {rotary.width} from {own} on"
            parameters = {"start": start, "width": 2 * count, "expected": [own, rotary.width]}
            yield Change("rope-partial", parameters, words, replace(now, q_rotary=other, k_rotary=other))


def places(now: Reading, most: int) -> Iterator[Change]:
    """Yield other uses of the positions that a layer is given.

    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> next(places(Reading(Plan()), 9)).parameters
    {'positions': 'rows'}
    """
    words = {
        "rows": "Positions that are given are not used: tokens are counted by row",
        "first row": "Every sequence stands at the positions of the first",
    }
    for name, text in words.items():
        yield Change("rope-offset", {"positions": name}, text, replace(now, places=name))
    for rows in range(1, most + 1):
        text = f"The table has {rows} rows: positions from {rows} on turn as {rows - 1}"
        yield Change("rope-table", {"rows": rows, "beyond": "clamp"}, text, replace(now, table=rows))


def padding(now: Reading) -> Iterator[Change]:
    """Yield other readings of padding.

    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> next(padding(Reading(Plan()))).parameters
    {'pads': 'visible'}
    """
    words = {
        "visible": ("padding-positions", "Keys of padding are visible"),
        "reversed": ("mask-polarity", "valid is read the wrong way round: padding is visible, tokens are not"),
        "first row": ("batch-row-state", "Every sequence has the padding of the first"),
    }
    for name, (fault_class, text) in words.items():
        yield Change(fault_class, {"pads": name}, text, replace(now, pads=name))
    for name in ("rows", "rows, then counted", "counted, then rows"):
        text = f"Positions under padding are {name}, expected counted tokens"
        yield Change("padding-positions", {"positions": name}, text, replace(now, pad_places=name))


def parts(now: Reading) -> Iterator[Change]:
    """Yield what happens to a sequence that is handed over in parts.

    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> next(parts(Reading(Plan()))).parameters
    {'positions': 'restart'}
    """
    sights = {
        "row numbers": "A later part sees as if its rows were the first: its triangle is anchored at the top left",
        "all": "A token of a later part sees all tokens of the part, those after it too",
        "itself": "A later part does not see what came before",
    }
    rules = {
        "restart": "Positions of a later part restart at 0",
        "one more": "Positions of a later part are one too large",
        "one less": "Positions of a later part are one too small",
        "length": "Positions of a later part are the length of the cache, whatever is given",
    }
    for name, text in rules.items():
        kind = "mrope" if now.plan.axes else "rope-offset"
        yield Change(kind, {"positions": name}, text, replace(now, part_places=name))
    for name, text in sights.items():
        yield Change("chunked-prefill", {"sees": name}, text, replace(now, part_sight=name))


def fits(now: Reading) -> Iterator[Fit]:
    """Yield changes with a number to fit.

    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> [fit.parameter for fit in fits(Reading(Plan()))]
    ['factor']
    """
    plan = now.plan
    wanted = "1 / sqrt(D)" if plan.scale is None else f"{plan.scale:g}"
    yield Fit("scale", "factor", "The scale is {:.6g} times " + wanted, lambda x: replace(now, factor=x), 1e-3, 1e3)
    rotary = plan.rotary_at(1)
    if rotary is not None:
        named = name_scheme(np.array(rotary.frequencies))
        base, factor = float(named.parameters.get("base", 0.0)), float(named.parameters.get("factor", 1.0))
        count = len(rotary.frequencies)

        def turned(theta: Any) -> Reading:
            other = replace(rotary, frequencies=tuple(float(x) for x in theta))
            return replace(now, q_rotary=other, k_rotary=other)

        if named.scheme in {"plain", "linear"}:
            words = f"The base of the rotation is {{:.6g}}, expected {base:g}"
            yield Fit("rope-scaling", "base", words, lambda x: turned(geometry(x, count) / factor), 2.0, 1e9)
        words = f"Frequencies are divided by {{:.6g}} more than expected ({named})"
        yield Fit("rope-scaling", "factor", words, lambda x: turned(np.array(rotary.frequencies) / x), 1 / 64, 64.0)
    if plan.norm is not None:
        words = f"The eps of the norms is {{:.3g}}, expected {plan.eps:g}"
        yield Fit("qk-norm-order", "eps", words, lambda x: replace(now, eps=x), 1e-12, 1.0)
    if plan.softcap is not None:
        cap = plan.softcap
        words = f"The softcap is {{:.6g}}, expected {cap:g}"
        yield Fit("softcap", "cap", words, lambda x: replace(now, plan=replace(plan, softcap=x)), cap / 50, cap * 50)
    if plan.alibi:
        words = "ALiBi's slopes are {:.6g} times the paper's"
        yield Fit("alibi-slopes", "factor", words, lambda x: replace(now, slope_factor=x), 1e-3, 1e3)


def scan(error: Callable[[float], float], low: float, high: float) -> float:
    """Return the number between two bounds at which an error is least: a coarse search, then halves of halves.

    >>> round(scan(lambda x: abs(x - 3.0), 0.1, 100.0), 9)
    3.0
    """
    logs = np.linspace(math.log(low), math.log(high), 161)
    values = [error(math.exp(at)) for at in logs]
    best = int(np.argmin(values))
    left, right = float(logs[max(best - 1, 0)]), float(logs[min(best + 1, len(logs) - 1)])
    golden = (math.sqrt(5) - 1) / 2
    one, two = right - golden * (right - left), left + golden * (right - left)
    at_one, at_two = error(math.exp(one)), error(math.exp(two))
    for _ in range(75):  # a quarter of an ulp of 1 is left
        if at_one <= at_two:
            right, two, at_two = two, one, at_one
            one = right - golden * (right - left)
            at_one = error(math.exp(one))
        else:
            left, one, at_one = one, two, at_two
            two = left + golden * (right - left)
            at_two = error(math.exp(two))
    return math.exp((left + right) / 2)
