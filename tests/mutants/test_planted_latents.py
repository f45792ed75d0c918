"""Every latent layer with a planted fault is detected and named, with the calls in which it sits; right ones pass.

What is planted stands in `kvattn.testing.planted_latent`.  CI runs every second, and of the right ones in float32 one
for each shape, ``KVATTN_PROFILE=deep`` all.
"""

import os
from typing import Any

import numpy as np
import pytest

from kvattn.testing import check
from kvattn.testing.layer_diagnosis.looking import look
from kvattn.testing.layer_targets import layer_target_of
from kvattn.testing.planted_latent import PlantedLatent, declared
from kvattn.variants.compressed.latent import Absorbed, Expanded

DEEP = os.environ.get("KVATTN_PROFILE") == "deep"

PLAIN = declared()
WIDE = declared(4, (6, 2, 3, 9, 12), seed=11)
YARN = declared(2, (4, 4, 5, 9, 14), scale=1.7 * 8**-0.5, low_rank=6, seed=3)


def wide(w: Any) -> float:
    return float((w.rank + w.rope_width) ** -0.5)


def rank(w: Any) -> float:
    return float(w.rank**-0.5)


def mscale_once(w: Any) -> float:
    return float(1.7**0.5 * w.width**-0.5)


def no_mscale(w: Any) -> float:
    return float(w.width**-0.5)


def following(h: int, heads: int) -> int:
    return (h + 1) % heads


def before(h: int, heads: int) -> int:
    return (h - 1) % heads


def first_head(h: int, heads: int) -> int:
    return 0


def reversed_head(h: int, heads: int) -> int:
    return heads - 1 - h


def no_norm(x: Any, w: Any, eps: float) -> Any:
    return x


def no_weights(x: Any, w: Any, eps: float) -> Any:
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps)


DECODE = "later calls"
WRONG: dict[str, tuple[Any, dict[str, Any], str, dict[str, Any]]] = {
    # name: declared, planted, class, parameters
    "scale of latent and rope": (PLAIN, {"later": {"scale": wide}}, "mla-absorb", {"scale": "1 / sqrt(r + Dr)"}),
    "scale of latent and rope, other sizes": (
        WIDE,
        {"later": {"scale": wide}},
        "mla-absorb",
        {"scale": "1 / sqrt(r + Dr)", "in": DECODE},
    ),
    "scale of the latent": (WIDE, {"later": {"scale": rank}}, "mla-absorb", {"scale": "1 / sqrt(r)", "in": DECODE}),
    "scale of the latent for one token": (
        PLAIN,
        {"later": {"scale": rank}, "several": True},
        "mla-absorb",
        {"scale": "1 / sqrt(r)", "in": "calls of one token"},
    ),
    "scale of the latent everywhere": (
        PLAIN,
        {"first": {"scale": rank}, "later": {"scale": rank}},
        "mla-absorb",
        {"scale": "1 / sqrt(r)", "in": "every call"},
    ),
    "scale by another factor": (
        PLAIN,
        {"later": {"scale": lambda w: 0.7 * w.width**-0.5}},
        "mla-absorb",
        {"factor in later calls": 0.7},
    ),
    "mscale once": (
        YARN,
        {"later": {"scale": mscale_once}},
        "mla-absorb",
        {"scale": "mscale / sqrt(Dn + Dr)", "in": DECODE},
    ),
    "mscale once in prefill": (
        YARN,
        {"first": {"scale": mscale_once}},
        "mla-absorb",
        {"scale": "mscale / sqrt(Dn + Dr)", "in": "the first call"},
    ),
    "no mscale": (YARN, {"later": {"scale": no_mscale}}, "mla-absorb", {"scale": "1 / sqrt(Dn + Dr)"}),
    "rope left out": (PLAIN, {"later": {"parts": "latent"}}, "mla-absorb", {"left_out": "rope", "in": DECODE}),
    "rope left out, other sizes": (WIDE, {"later": {"parts": "latent"}}, "mla-absorb", {"left_out": "rope"}),
    "latent left out": (YARN, {"later": {"parts": "rope"}}, "mla-absorb", {"left_out": "latent", "in": DECODE}),
    "W_uv of the next head": (
        PLAIN,
        {"later": {"value_head": following}},
        "mla-absorb",
        {"matrix": "W_uv", "head": "h + 1", "in": DECODE},
    ),
    "W_uv of the head before, for one token": (
        WIDE,
        {"later": {"value_head": before}, "several": True},
        "mla-absorb",
        {"matrix": "W_uv", "head": "h - 1"},
    ),
    "W_uv of the first head": (YARN, {"later": {"value_head": first_head}}, "mla-absorb", {"head": "0"}),
    "W_uk of the next head": (
        PLAIN,
        {"later": {"key_head": following}},
        "mla-absorb",
        {"matrix": "W_uk", "head": "h + 1"},
    ),
    "both of the reversed head": (
        WIDE,
        {"later": {"key_head": reversed_head, "value_head": reversed_head}},
        "mla-absorb",
        {"matrix": "W_uk and W_uv", "head": "Hq - 1 - h"},
    ),
    "latents of later calls not normed": (
        PLAIN,
        {"later": {"norm": no_norm}},
        "mla-absorb",
        {"norm": "none", "of_tokens_in": DECODE},
    ),
    "norm without weights in later calls": (
        YARN,
        {"later": {"norm": no_weights}},
        "mla-absorb",
        {"norm": "no weights", "of_tokens_in": DECODE},
    ),
    "what is read not normed": (
        WIDE,
        {"later": {"norm": no_norm}, "norms_read": True},
        "mla-absorb",
        {"norm": "none", "in": DECODE},
    ),
    "what is kept not normed": (
        PLAIN,
        {"caches_raw": True},
        "mla-absorb",
        {"norm": "none", "cached_in": "the first call"},
    ),
    "rope queries not turned": (PLAIN, {"later": {"turns": "k"}}, "rope-missing", {"of": "q", "in": DECODE}),
    "rope keys not turned": (YARN, {"later": {"turns": "q"}}, "rope-missing", {"of": "k", "in": DECODE}),
    "positions restart": (
        PLAIN,
        {"part": lambda right, begin: np.arange(right.shape[1]) + np.zeros_like(right)},
        "rope-offset",
        {"positions": "restart"},
    ),
    "positions one too large": (
        WIDE,
        {"part": lambda right, begin: right + 1},
        "rope-offset",
        {"positions": "one more"},
    ),
    "the triangle of a later part at the top left": (
        PLAIN,
        {"sees": lambda i, j, begin: j <= i - begin},
        "chunked-prefill",
        {"sees": "row numbers"},
    ),
    "a later part without a triangle": (YARN, {"sees": lambda i, j, begin: True}, "chunked-prefill", {"sees": "all"}),
    "pads visible": (PLAIN, {"pads": False}, "padding-positions", {"pads": "visible"}),
}


@pytest.mark.parametrize("name", [*WRONG][:: 1 if DEEP else 2])
def test_a_planted_fault_is_named_and_its_line_shows_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    latent, faults, fault_class, parameters = WRONG[name]
    layer = PlantedLatent(latent, **faults)
    bench, _ = look(layer_target_of(layer), cases=5)
    (finding,) = bench.findings
    assert finding.fault_class == fault_class, finding
    assert finding.parameters.items() >= parameters.items(), finding
    assert finding.detail.endswith(".")
    exec(finding.reproduce, {"f": layer})  # noqa: S102 - that it runs is what is tested
    got, _, wanted = capsys.readouterr().out.strip().partition(" expected ")
    assert got != wanted


@pytest.mark.parametrize("name", [*WRONG][:: 1 if DEEP else 9])
def test_a_planted_fault_is_named_in_float32(name: str) -> None:
    latent, faults, fault_class, _ = WRONG[name]
    bench, _ = look(layer_target_of(PlantedLatent(latent, **faults)), cases=5, dtype="float32")
    assert [finding.fault_class for finding in bench.findings] == [fault_class]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("latent", [PLAIN, WIDE, YARN], ids=["plain", "wide", "YARN"])
def test_a_right_layer_with_two_paths_passes(latent: Any, dtype: str) -> None:
    layers = PlantedLatent(latent), PlantedLatent(latent, several=True), PlantedLatent(latent, norms_read=True)
    one = (PLAIN, WIDE, YARN).index(latent)
    for layer in layers if DEEP or dtype == "float64" else layers[one : one + 1]:
        bench, margin = look(layer_target_of(layer), dtype=dtype, cases=25)
        assert bench.findings == []
        assert margin is not None
        assert margin.cases == 25
        assert margin.worst < 1


@pytest.mark.parametrize("form", [Absorbed, Expanded])
@pytest.mark.parametrize("latent", [PLAIN, WIDE, YARN], ids=["plain", "wide", "YARN"])
def test_kvattns_own_pass(latent: Any, form: Any) -> None:
    own = form(latent.projections, latent.mask, latent.rotation, scale=latent.scale)

    def layer(x: Any, *, cache: Any = None) -> Any:
        attended, cache = own.step(own.start(len(x)) if cache is None else cache, x)
        return attended.out, cache

    def whole(x: Any, *, positions: Any = None) -> Any:
        return own.definition(x, np.arange(x.shape[1]) if positions is None else positions).out

    for function in (layer, whole):
        function.latent = latent  # type: ignore[union-attr]
        bench, margin = look(layer_target_of(function), cases=20)
        assert bench.findings == []
        assert margin is not None
        assert margin.worst < 1


@pytest.mark.skipif(not DEEP, reason="pairs of changes take seconds")
def test_what_no_change_explains_is_described() -> None:
    layer = PlantedLatent(PLAIN, later={"scale": lambda w: 1.1 * w.width**-0.5}, sees=lambda i, j, begin: j != 1)
    (finding,) = check(layer, cases=5).findings
    assert finding.fault_class == "unclassified"
    assert finding.detail.endswith("a single token comes out right, so it is scores, or who sees whom, that differ.")


@pytest.mark.parametrize("name", ["scale of the latent", "rope left out", "what is kept not normed"])
def test_undeclared_it_is_described_and_not_named(name: str) -> None:
    latent, faults, _, _ = WRONG[name]
    planted = PlantedLatent(latent, **faults)

    def layer(x: Any, *, cache: Any = None) -> Any:
        return planted(x, cache=cache)

    layer.hidden = latent.projections.hidden  # type: ignore[attr-defined]
    (finding,) = check(layer).findings
    assert (finding.kind, finding.fault_class) == ("fault", "unclassified")
    assert finding.detail.startswith("In parts it gives other than the whole")
