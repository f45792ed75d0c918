"""Biases over distance: ALiBi, T5's buckets, KERPLE, FIRE, Sandwich, and biases over offsets on a grid.

    s'[h, i, j] = s[h, i, j] + bias_h(i, j)          before the mask

"attention with a bias over distance": inputs ``q``, ``k``, ``v``, ``q_positions``, ``k_positions``, and ``sinks [H]``
where there are any; ``causal`` by positions, or not; a ``scheme``, null for none, with

    alibi      heads, kind behind, symmetric or key; table mpt with its exponent; a factor on the
               slopes; without, so many further heads with slope 0
    t5         table [buckets, H]; buckets, farthest, both_ways
    kerple     height [H], shape [H]; kind log or power
    fire       inner, inner_bias, outer, outer_bias; rate, threshold, epsilon
    sandwich   heads, width
    grid       grid of rows and columns; kind learned, with a table, or network, with inner,
               inner_bias, outer, and the grid on which it was trained

Expected: ``out`` and ``lse``, which sees what is the same for a whole row.  Sources: Press et al. 2021 (arXiv
2108.12409) §3; Raffel et al. 2020 (1910.10683) §2.1; Chi et al. 2022 (2205.09921) §4; Li et al. 2023 (2310.04418) §3.2;
Chi et al. 2023 (2212.10356) §5; Liu et al. 2021 (2103.14030) and 2022 (2111.09883).
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from kvattn.goldens.formulas import attention, sigmoid
from kvattn.goldens.numbers import Number, Numbers
from kvattn.goldens.recipe import Flag, Recipe, drawn
from kvattn.goldens.recipes._forms import Asked, attention_forms
from kvattn.goldens.recipes._loops import Nested, Row, causal, geometric, power
from kvattn.goldens.recipes._told import told
from kvattn.masks.causal import Causal
from kvattn.positions import alibi, kerple, log_cpb, t5_buckets
from kvattn.positions.fire import Fire
from kvattn.positions.sandwich import Sandwich
from kvattn.typing import Mod

SLOPES = Flag(
    "AlibiSlopes",
    "KNOWN_BUG",
    "Uses the power-of-two rule for any number of heads, starts the exponent at 0, or deals slopes out otherwise.",
    (
        "ml-explore/mlx#343",
        "paiml/aprender#2143",
        "NVIDIA/TensorRT-LLM#1611",
        "huggingface/transformers#28380",
        "baichuan-inc/Baichuan2#225",
    ),
)
SHIFTED = Flag(
    "AlibiShifted",
    "CONVENTION",
    "Adds slope times key position, without the query's: outputs are the same, a log-sum-exp or a sink are not.",
    ("vllm-project/vllm#945", "mosaicml/llm-foundry#186"),
)
PARTLY = Flag(
    "AlibiHeads",
    "KNOWN_BUG",
    "Counts the heads without bias from another axis.",
    ("lucidrains/x-transformers#85",),
)
BUCKETS = Flag("Buckets", "POSITION", "Moves a border of the buckets, or gives keys ahead of the query another side.")
CURVES = Flag("BiasCurve", "BASIC", "Gets the curve of the bias over distance wrong.")
GRID = Flag("GridBias", "LAYOUT", "Reads rows for columns, or offsets from the key instead of from the query.")


def _slopes(n: Numbers, p: Mapping[str, Any]) -> Row:
    """One for each head, 2 to the exponents of the rule that ``table`` names."""
    count, table = p["heads"], p.get("table", "paper")
    whole = 1 << (count.bit_length() - 1)

    def rule(heads: int, last: float, first: int = 1) -> list[Fraction]:
        return [-Fraction(last) * (h + first) / heads for h in range(heads)]

    if table == "power":
        exponents = rule(count, 8.0, p.get("first", 1))
    elif table == "mpt":
        above = 1 << (count - 1).bit_length()
        exponents = rule(above, p["exponent"])
        exponents = exponents if above == count else [*exponents[1::2], *exponents[::2]][:count]
    else:
        exponents = rule(whole, 8.0) + rule(2 * whole, 8.0)[::2][: count - whole]
        exponents = sorted(exponents, reverse=True) if table == "sorted" else exponents
    factor = n(p.get("factor", 1.0))
    slopes = [power(n, n(2), n(x.numerator) / x.denominator) * factor for x in exponents]
    return slopes + [n(0)] * p.get("without", 0)


def _alibi(n: Numbers, p: Mapping[str, Any], _: Mapping[str, Nested]) -> Any:
    slopes, kind = _slopes(n, p), p["kind"]

    def bias(h: int, i: int, j: int) -> Number:
        if kind == "key":
            return slopes[h] * j
        return -slopes[h] * (abs(i - j) if kind == "symmetric" else i - j)

    return bias


def _bucket(count: int, farthest: int, apart: int) -> int:
    """Of a distance back; (apart / E)^(N - E) >= (F / E)^m says that border m is reached."""
    exact = count // 2
    if apart < exact:
        return max(apart, 0)
    m, rest = 0, count - exact
    while m < rest - 1 and apart**rest * exact ** (m + 1) >= farthest ** (m + 1) * exact**rest:
        m += 1
    return exact + m


def _t5(_: Numbers, p: Mapping[str, Any], a: Mapping[str, Nested]) -> Any:
    def bias(h: int, i: int, j: int) -> Number:
        apart = i - j + p.get("shift", 0)
        if not p["both_ways"]:
            return a["table"][_bucket(p["buckets"], p["farthest"], apart)][h]
        half = p["buckets"] // 2
        ahead = apart > 0 if p.get("sides_swapped") else apart < 0
        return a["table"][_bucket(half, p["farthest"], abs(apart)) + (half if ahead else 0)][h]

    return bias


def _kerple(n: Numbers, p: Mapping[str, Any], a: Mapping[str, Nested]) -> Any:
    def bias(h: int, i: int, j: int) -> Number:
        far, shape = abs(i - j), a["shape"][h]
        if p["kind"] == "log":
            return -a["height"][h] * n.log(1 + shape * far)
        return -a["height"][h] * power(n, n(far), shape) if far else n(0)

    return bias


def _fire(n: Numbers, p: Mapping[str, Any], a: Mapping[str, Nested]) -> Any:
    rate, threshold = n(p["rate"]), p["threshold"]

    def psi(x: int) -> Number:
        return n.log(rate * x + 1)

    def bias(h: int, i: int, j: int) -> Number:
        y = psi(abs(i - j)) / (psi(max(i, threshold)) + n(p["epsilon"]))
        hidden = [b + w * y for w, b in zip(a["inner"], a["inner_bias"], strict=True)]
        return n.sum([*(o * x for o, x in zip(a["outer"][h], hidden, strict=True) if x > 0), a["outer_bias"][h]])

    return bias


def _sandwich(n: Numbers, p: Mapping[str, Any], _: Mapping[str, Nested]) -> Any:
    waves = geometric(n, p["width"])

    def bias(h: int, i: int, j: int) -> Number:
        return n(p["heads"]) / (8 * (h + 1)) * n.sum(n.cos((i - j) * w) for w in waves)

    return bias


def _grid(n: Numbers, p: Mapping[str, Any], a: Mapping[str, Nested]) -> Any:
    rows, columns = p["grid"]

    def spaced(offset: int, side: int) -> Number:
        if offset == 0:
            return n(0)
        size = n.log(1 + 8 * n(abs(offset)) / max(side - 1, 1)) / n.log(n(2)) / 3
        return size if offset > 0 else -size

    def bias(h: int, i: int, j: int) -> Number:
        y, x = i // columns - j // columns, i % columns - j % columns
        if p.get("transposed"):
            y, x = i % rows - j % rows, i // rows - j // rows
        if p.get("from_key"):
            y, x = -y, -x
        if p["kind"] == "learned":
            return a["table"][h][y + rows - 1][x + columns - 1]
        tall, wide = p.get("trained", p["grid"])
        there = spaced(y, tall), spaced(x, wide)
        units = [
            b + first * there[0] + second * there[1]
            for b, first, second in zip(a["inner_bias"], *a["inner"], strict=True)
        ]
        return 16 * sigmoid(n, n.sum(o[h] * u for o, u in zip(a["outer"], units, strict=True) if u > 0))

    return bias


_BIASES = {"alibi": _alibi, "t5": _t5, "kerple": _kerple, "fire": _fire, "sandwich": _sandwich, "grid": _grid}


def _biased(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Attention with the bias of a scheme; ``scheme`` is null for none."""
    bias = _BIASES[p["scheme"]](n, p, a) if p["scheme"] else None
    q_at, k_at = a["q_positions"], a["k_positions"]
    extra: dict[str, Any] = {"see": causal(q_at, k_at)} if p["causal"] else {}
    if bias is not None:
        extra["bend"] = lambda score, b, h, t, s: score + bias(h, q_at[b][t], k_at[b][s])
    return attention(n, a["q"], a["k"], a["v"], sinks=a.get("sinks"), **extra)


def _mod(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Mod | None:
    scheme = p["scheme"]
    if scheme == "alibi":
        table = p.get("table", "paper")
        slopes = alibi.mpt_slopes(p["heads"], p["exponent"]) if table == "mpt" else alibi.slopes(p["heads"])
        kinds: Any = {"key": alibi.KeyAlibi, "symmetric": alibi.SymmetricAlibi}
        if p["kind"] in kinds:
            made: Mod = kinds[p["kind"]](slopes)
            return made
        return alibi.Alibi(slopes).scaled(p.get("factor", 1.0)).padded(p["heads"] + p.get("without", 0))
    if scheme == "t5":
        rule: Any = t5_buckets.BothWays if p["both_ways"] else t5_buckets.OneWay
        return t5_buckets.BucketBias(inputs["table"], rule(p["buckets"], p["farthest"]))
    if scheme == "kerple":
        kind: Any = kerple.KerpleLog if p["kind"] == "log" else kerple.KerplePower
        return kind(tuple(inputs["height"].tolist()), tuple(inputs["shape"].tolist()))  # type: ignore[no-any-return]
    if scheme == "fire":
        named: Any = {name: inputs[name] for name in ("inner", "inner_bias", "outer", "outer_bias")}
        return Fire(**named, rate=p["rate"], threshold=p["threshold"], epsilon=p["epsilon"])
    if scheme == "sandwich":
        return Sandwich.of(p["heads"], p["width"])
    if scheme == "grid" and p["kind"] == "learned":
        return log_cpb.GridBias(inputs["table"])
    if scheme == "grid":
        network = (inputs["inner"], inputs["inner_bias"], inputs["outer"])
        return log_cpb.log_cpb(tuple(p["grid"]), *network, trained=tuple(p.get("trained", p["grid"])))
    return None


def _asked(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Asked:
    mod = _mod(inputs, p)
    how = {"mask": Causal() if p["causal"] else None, "mods": (mod,) if mod else (), "sinks": inputs.get("sinks")}
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    return Asked(q, k, v, inputs["q_positions"], inputs["k_positions"], how)


def _case(
    name: str,
    row: str,
    comment: str,
    parameters: dict[str, Any],
    *,
    heads: int = 4,
    q_at: Any = (4, 5, 6),
    k_at: Any = (0, 1, 2, 3, 4, 5, 6),
    further: Mapping[str, Any] | None = None,
    **others: Any,
) -> Recipe:
    """A case of a few queries among seven keys."""
    label = f"bias {heads} {len(q_at)} {len(k_at)} "
    inputs = {
        "q": drawn(label + "q", 1, heads, len(q_at), 5),
        "k": drawn(label + "k", 1, heads // 2 if heads % 2 == 0 else heads, len(k_at), 5),
        "v": drawn(label + "v", 1, heads // 2 if heads % 2 == 0 else heads, len(k_at), 2),
        "q_positions": np.array([q_at]),
        "k_positions": np.array([k_at]),
        **(further or {}),
    }
    return told(
        f"positions/{name}",
        f"positions/{row}",
        "attention with a bias over distance",
        comment,
        inputs,
        {"causal": True} | parameters,
        _biased,
        attention_forms(_asked),
        **others,
    )


def _alibis() -> tuple[Recipe, ...]:
    def case(name: str, comment: str, parameters: dict[str, Any], sibling: str | None, **others: Any) -> Recipe:
        given = {"scheme": "alibi", "kind": "behind"} | parameters
        given.setdefault("heads", others.get("heads", 4))
        sibling = sibling and f"positions/alibi/{sibling}"
        return _case(f"alibi/{name}", "alibi", comment, given, sibling=sibling, **others)

    none: dict[str, Any] = {"scheme": None}
    every = tuple(range(7))
    power_rule = {"power of two rule": {"table": "power"}}
    from_0 = {"exponent from 0": {"table": "power", "first": 0}}
    return (
        *(
            case(f"none-{heads}", "No bias: the plain case.", none, None, heads=heads, flags=(SLOPES,))
            for heads in (3, 4, 6, 8, 12)
        ),
        case(
            "four-heads",
            "Slopes 1/4, 1/16, 1/64, 1/256.",
            {},
            "none-4",
            flags=(SLOPES,),
            mistakes=from_0,
        ),
        case(
            "eight-heads",
            "Slopes from 1/2 down to 1/256; an exponent from 0 would give head 0 a slope of 1.",
            {},
            "none-8",
            heads=8,
            flags=(SLOPES,),
            mistakes=from_0,
        ),
        case(
            "three-heads",
            "Not a power of two: 1/16, 1/256, and then 1/4.",
            {},
            "none-3",
            heads=3,
            flags=(SLOPES,),
            mistakes={**power_rule, "in order": {"table": "sorted"}},
        ),
        case(
            "six-heads",
            "Not a power of two: the four of four heads, then the first and third of eight.",
            {},
            "none-6",
            heads=6,
            flags=(SLOPES,),
            mistakes={**power_rule, "in order": {"table": "sorted"}},
        ),
        case(
            "twelve-heads",
            "The eight of eight heads, then every second one of sixteen: not monotone.",
            {},
            "none-12",
            heads=12,
            flags=(SLOPES,),
            mistakes={**power_rule, "in order": {"table": "sorted"}},
        ),
        case(
            "mpt",
            "MPT's table for six heads with its exponent of 4 in place of 8.",
            {"table": "mpt", "exponent": 4.0},
            "six-heads",
            heads=6,
            flags=(SLOPES,),
            mistakes={"exponent 8": {"exponent": 8.0}},
        ),
        case(
            "behind-a-cache",
            "Two queries behind nine keys: distances count from their own positions.",
            {},
            None,
            q_at=(7, 8),
            k_at=tuple(range(9)),
            flags=(SLOPES,),
            mistakes={"no bias": none},
        ),
        case(
            "key-position",
            "BLOOM: slope times key position; the output is ALiBi's, the log-sum-exp is not.",
            {"kind": "key"},
            "four-heads",
            flags=(SHIFTED,),
            mistakes={"by distance": {"kind": "behind"}},
        ),
        case(
            "key-position-with-sinks",
            "With a sink the shift of a whole row shows in the output too.",
            {"kind": "key"},
            "key-position",
            further={"sinks": np.array([0.5, -1.0, 1.25, 0.0])},
            flags=(SHIFTED,),
            mistakes={"by distance": {"kind": "behind"}},
        ),
        case(
            "symmetric",
            "An encoder: the absolute distance, all keys visible.",
            {"kind": "symmetric", "causal": False},
            "none-4",
            q_at=every[2:5],
            flags=(SLOPES,),
            mistakes={"keys ahead rewarded": {"kind": "behind"}},
        ),
        case(
            "scaled",
            "Falcon adds the bias before it scales: slopes times a factor, here 1/2.",
            {"factor": 0.5},
            "four-heads",
            flags=(SLOPES,),
            mistakes={"not scaled": {"factor": 1.0}},
        ),
        case(
            "heads-without",
            "Two heads with a bias, two that cannot tell positions apart.",
            {"heads": 2, "without": 2},
            "four-heads",
            flags=(PARTLY,),
            mistakes={"all biased": {"heads": 4, "without": 0}},
        ),
    )


def _others() -> tuple[Recipe, ...]:
    far: Any = {"q_at": (3, 17, 40), "k_at": (0, 2, 3, 9, 14, 30, 39)}
    around: Any = {"q_at": (14, 20), "k_at": (0, 9, 13, 14, 15, 18, 40)}
    four = "positions/alibi/none-4"
    image: Any = {"q_at": (0, 4, 5), "k_at": (0, 1, 2, 3, 4, 5)}
    network = {
        "inner": drawn("fire inner", 3),
        "inner_bias": drawn("fire inner bias", 3),
        "outer": drawn("fire outer", 4, 3),
        "outer_bias": drawn("fire outer bias", 4),
    }
    grid_network = {
        "inner": drawn("cpb inner", 2, 3),
        "inner_bias": drawn("cpb inner bias", 3),
        "outer": drawn("cpb outer", 3, 4),
    }
    fire = {"scheme": "fire", "rate": 0.25, "threshold": 20, "epsilon": 0.0}
    return (
        _case(
            "bias/buckets-one-way",
            "t5_buckets",
            "Eight buckets up to 20: four exact ones, then 4, 6, 9 and 14 on.",
            {"scheme": "t5", "buckets": 8, "farthest": 20, "both_ways": False},
            further={"table": drawn("t5", 8, 4)},
            **far,
            sibling="positions/bias/buckets-32",
            flags=(BUCKETS,),
            mistakes={"a border off": {"shift": 1}, "another farthest": {"farthest": 128}},
        ),
        _case(
            "bias/buckets-both-ways",
            "t5_buckets",
            "An encoder: half of the buckets for keys ahead.",
            {"scheme": "t5", "buckets": 8, "farthest": 20, "both_ways": True, "causal": False},
            further={"table": drawn("t5", 8, 4)},
            **around,
            sibling=None,
            flags=(BUCKETS,),
            mistakes={"sides swapped": {"sides_swapped": True}, "one way": {"both_ways": False}},
        ),
        _case(
            "bias/buckets-32",
            "t5_buckets",
            "T5's own 32 buckets up to 128, at distances 0 to 137.",
            {"scheme": "t5", "buckets": 32, "farthest": 128, "both_ways": False},
            further={"table": drawn("t5 32", 32, 4)},
            q_at=(16, 40, 137),
            k_at=far["k_at"],
            flags=(BUCKETS,),
            mistakes={"a border off": {"shift": 1}},
        ),
        _case(
            "bias/kerple-log",
            "kerple",
            "The height times ln(1 + rate · distance).",
            {"scheme": "kerple", "kind": "log"},
            further={"height": np.array([0.5, 1.0, 1.5, 2.0]), "shape": np.array([0.25, 0.5, 1.0, 2.0])},
            sibling=four,
            flags=(CURVES,),
            mistakes={"power": {"kind": "power"}},
        ),
        _case(
            "bias/kerple-power",
            "kerple",
            "The height times distance to a power; 0 at distance 0.",
            {"scheme": "kerple", "kind": "power"},
            further={"height": np.array([0.5, 1.0, 1.5, 2.0]), "shape": np.array([0.25, 0.5, 1.0, 1.5])},
            sibling=four,
            flags=(CURVES,),
            mistakes={"log": {"kind": "log"}},
        ),
        _case(
            "bias/fire",
            "fire",
            "Below the threshold the query's own position does not matter, above it does.",
            fire,
            further=network,
            **far,
            sibling="positions/bias/buckets-one-way",
            flags=(CURVES,),
            mistakes={"no threshold": {"threshold": 1}},
        ),
        _case(
            "bias/fire-with-epsilon",
            "fire",
            "Published programs add a number to the divisor; a large one, to show.",
            {**fire, "epsilon": 0.125},
            further=network,
            **far,
            sibling="positions/bias/fire",
            flags=(CURVES,),
            mistakes={"without": {"epsilon": 0.0}},
        ),
        _case(
            "bias/sandwich",
            "sandwich",
            "A sum of cosines of the distance, times H / (8 (h + 1)).",
            {"scheme": "sandwich", "heads": 4, "width": 6},
            sibling=four,
            flags=(CURVES,),
            mistakes={"another width": {"width": 8}},
        ),
        _case(
            "bias/grid-learned",
            "log_cpb",
            "Swin: a bias for each offset of rows and of columns, in a window of two rows and three columns.",
            {"scheme": "grid", "kind": "learned", "grid": [2, 3], "causal": False},
            further={"table": drawn("swin", 4, 3, 5)},
            **image,
            flags=(GRID,),
            mistakes={"from the key": {"from_key": True}},
        ),
        _case(
            "bias/grid-network",
            "log_cpb",
            "Swin V2: 16 times the sigmoid of a network of log-spaced offsets.",
            {"scheme": "grid", "kind": "network", "grid": [2, 3], "causal": False},
            further=grid_network,
            **image,
            sibling="positions/bias/grid-learned",
            flags=(GRID,),
            mistakes={"from the key": {"from_key": True}},
        ),
        _case(
            "bias/grid-network-elsewhere",
            "log_cpb",
            "The network was trained in a window of 4 by 5: offsets are divided by that one.",
            {"scheme": "grid", "kind": "network", "grid": [2, 3], "trained": [4, 5], "causal": False},
            further=grid_network,
            **image,
            sibling="positions/bias/grid-network",
            flags=(GRID,),
            mistakes={"by its own window": {"trained": [2, 3]}},
        ),
    )


def recipes() -> tuple[Recipe, ...]:
    """The cases of biases over distance.

    >>> len({recipe.name for recipe in recipes()}) > 25
    True
    """
    return _alibis() + _others()
