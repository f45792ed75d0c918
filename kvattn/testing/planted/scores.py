"""Planted faults of heads, scores, caps, biases and slopes."""

from kvattn.testing.planted.attention import Planted
from kvattn.testing.planted.mutant import Mutant
from kvattn.testing.planted.wrapped import Axis, Turns, Viewed

_FORTH, _BACK = "[B, H, T, D] read as [B, T, H, D]", "[B, T, H, D] read as [B, H, T, D]"

HEADS = (
    Mutant("tiled heads", Planted(head_map="h % Hkv"), "gqa-map", {"map": "h % Hkv"}),
    Mutant(
        "head over the number of key heads", Planted(head_map="min(h // Hkv, Hkv - 1)"), "gqa-map", {"map": "h // Hkv"}
    ),
    Mutant("all heads read head 0", Planted(head_map="0"), "gqa-map", {"map": "0"}),
    Mutant("all heads read the last", Planted(head_map="Hkv - 1"), "gqa-map", {"map": "Hkv - 1"}),
    Mutant("heads clamped", Planted(head_map="min(h, Hkv - 1)"), "gqa-map", {"map": "min(h, Hkv - 1)"}),
    Mutant(
        "groups in reverse",
        Planted(head_map="Hkv - 1 - h // (Hq // Hkv)"),
        "gqa-map",
        {"map": "Hkv - 1 - h // (Hq // Hkv)"},
    ),
    Mutant(
        "heads moved by one",
        Planted(head_map="(h + 1) // (Hq // Hkv) % Hkv"),
        "gqa-map",
        {"map": "other", "read": [0, 0, 0, 1, 1, 1, 1, 0]},
    ),
    *(
        Mutant(
            f"a view of {', '.join(of)} for a transpose{', back' if back else ''}",
            Viewed(*of, back=back),
            "gqa-map",
            {"map": "heads and tokens swapped", "of": [*of], "view": _BACK if back else _FORTH},
        )
        for of, back in (
            (("q", "k", "v"), False),
            (("k", "v"), False),
            (("q",), True),
            (("v",), False),
            (("out",), True),
            (("out",), False),
            (("q", "k", "v", "out"), True),
        )
    ),
    *(
        Mutant(f"softmax over the {name}", Axis(axis), "unclassified", {"softmax_over": name})
        for name, axis in (("queries", 2), ("heads", 1))
    ),
)

SCALES = (
    *(
        Mutant(f"default scale {rule}", Planted(scale=rule), "scale", {"rule": rule})
        for rule in (
            "1",
            "2 / sqrt(D)",
            "0.5 / sqrt(D)",
            "1 / D",
            "1 / sqrt(Hq * D)",
            "1 / sqrt(Hkv * D)",
            "1 / sqrt(S)",
            "1 / sqrt(D + 1)",
            "1 / sqrt(Dv)",
            "sqrt(D)",
            "0",
            "-1 / sqrt(D)",
            "log(S) / sqrt(D)",
        )
    ),
    Mutant(
        "default scale off by a factor", Planted(scale="1.37 / sqrt(D)"), "scale", {"rule": "other", "factor": 1.37}
    ),
    Mutant("scale= ignored", Planted(ignore=("scale",)), "scale", {"argument": "scale", "used": "ignored"}),
    Mutant(
        "scale= ignored at decode",
        Planted(lost={"scale": "T == 1"}),
        "scale",
        {"argument": "scale"},
    ),
    Mutant("bias times -1", Planted(bias_factor=-1.0), "scale", {"argument": "bias", "factor": -1.0}),
    Mutant("bias halved", Planted(bias_factor=0.5), "scale", {"argument": "bias", "factor": 0.5}),
    *(
        Mutant(
            f"bias of {of}",
            Planted(formulas={"biased": f"x + {formula}"}),
            "mask-compose",
            {"argument": "bias", "of": of},
        )
        for of, formula in (
            ("head 0", "bias[:, :1]"),
            ("row 0", "bias[:, :, :1]"),
            ("heads in reverse", "bias[:, ::-1]"),
            ("[S, T] read as [T, S]", "bias.swapaxes(2, 3).reshape(bias.shape)"),
        )
    ),
    Mutant("bias transposed", Turns("bias"), "mask-compose", {"argument": "bias", "of": "the transposed"}),
    Mutant(
        "bias before the scale",
        Planted(bias_place="before scale"),
        "scale",
        {"argument": "bias", "place": "before the scale"},
    ),
)

CAPS = (
    Mutant("cap after the mask", Planted(cap_last=True), "softcap", {"place": "after the mask"}),
    Mutant("cap ignored", Planted(ignore=("softcap",)), "softcap", {"formula": "s"}),
    *(
        Mutant(f"cap {formula}", Planted(cap=formula.replace(", twice", "")), "softcap", {"formula": formula})
        for formula in (
            "a * c * tanh(x / c)",
            "s * tanh(s / c)",
            "c * tanh(s)",
            "s * tanh(s)",
            "tanh(s / c)",
            "c * tanh(x / c)",
            "c * tanh(s * c)",
        )
    ),
    Mutant("cap clipped", Planted(cap="maximum(minimum(s, c), -c)"), "softcap", {"formula": "clip(s, -c, c)"}),
    Mutant("cap of another shape", Planted(cap="c * s / (c + s * s)"), "softcap", {"formula": "other"}),
    Mutant("bias before the cap", Planted(bias_place="before cap"), "softcap", {"place": "after the bias"}),
    Mutant("cap lost beside sinks", Planted(lost={"softcap": "sinks is not None"}), "softcap", {"argument": "softcap"}),
)

SLOPES = (
    Mutant(
        "one rule of slopes for every number of heads",
        Planted(formulas={"slopes": "2 ** (-8 * (h + 1) / H)"}),
        "alibi-slopes",
        {"slopes": "2 ** (-8 (h + 1) / H) for every H"},
    ),
    Mutant(
        "slopes from h = 0",
        Planted(formulas={"slopes": "2 ** (-8 * h / H)"}),
        "alibi-slopes",
        {"slopes": "2 ** (-8 h / H)"},
    ),
    Mutant(
        "slopes in reverse",
        Planted(formulas={"slopes": "paper(H)[::-1]"}),
        "alibi-slopes",
        {"slopes": "the paper's, in reverse"},
    ),
    Mutant(
        "slopes times 1.5",
        Planted(formulas={"slopes": "1.5 * paper(H)"}),
        "alibi-slopes",
        {"slopes": "scaled", "factor": 1.5},
    ),
    Mutant(
        "one slope for all heads",
        Planted(formulas={"slopes": "paper(H)[0]"}),
        "alibi-slopes",
        {"slopes": "one for all heads"},
    ),
    Mutant(
        "a penalty that rewards distance",
        Planted(formulas={"penalty": "m * abs(at - j)"}),
        "alibi-slopes",
        {"factor": -1.0},
    ),
    Mutant(
        "distance with its sign", Planted(formulas={"penalty": "-m * (at - j)"}), "alibi-slopes", {"distance": "q - k"}
    ),
    Mutant(
        "queries counted from 0",
        Planted(formulas={"penalty": "-m * abs(t - j)"}),
        "alibi-slopes",
        {"distance": "|q - k|, queries from 0"},
    ),
    Mutant(
        "distance squared",
        Planted(formulas={"penalty": "-m * (at - j) ** 2"}),
        "alibi-slopes",
        {"distance": "(q - k) ** 2"},
    ),
    Mutant(
        "distance one too far",
        Planted(formulas={"penalty": "-m * abs(at - j + 1)"}),
        "alibi-slopes",
        {"distance": "|q - k + 1|"},
    ),
    Mutant(
        "penalty shifted by a constant of the row",
        Planted(formulas={"penalty": "-m * abs(at - j) + m * at"}),
        "alibi-slopes",
        {"argument": "alibi"},
    ),
    Mutant("slopes ignored", Planted(ignore=("alibi_slopes",)), "mask-dropped", {"argument": "alibi_slopes"}),
)
