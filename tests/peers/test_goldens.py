"""Every golden by a second program: the same formulas over mpmath at 80 digits, and other readers of the exports."""

from collections.abc import Iterable
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvattn.goldens.exporting import SAFETENSORS, export
from kvattn.goldens.formats import FORMATS, Bits, decoded
from kvattn.goldens.numbers import Decimals
from kvattn.goldens.reading import RECORDED, Case, every_case
from kvattn.goldens.recipe import Formula, flat, read
from kvattn.goldens.recipes import every

mpmath = pytest.importorskip("mpmath", reason="the second program for exact arithmetic: kvattn[peers]")

CASES = {case.name: case for case in every_case(RECORDED)}
RECIPES = {recipe.name: recipe for recipe in every()}
DIGITS = 80


class Mp:
    """mpmath's numbers under the names of `kvattn.goldens.numbers.Numbers`."""

    def __call__(self, value: float) -> Any:
        return mpmath.mpf(value)

    def sum(self, terms: Iterable[Any]) -> Any:
        return mpmath.fsum(terms)

    def max(self, values: Iterable[Any]) -> Any:
        return max(values)

    def pi(self) -> Any:
        return +mpmath.pi

    def __getattr__(self, name: str) -> Any:
        return getattr(mpmath, name)


def outputs(formula: Formula, case: Case) -> dict[str, Any]:
    """What a formula gives of the stored inputs, each number rounded to float64."""
    n = Mp()
    arrays = {
        name: Bits(case.dtypes[name], array) if case.dtypes[name] in FORMATS else array
        for name, array in case.inputs.items()
    }
    found = formula(n, {name: read(n, array) for name, array in arrays.items()}, case.parameters)
    return {name: [float(leaf) for leaf in flat(np.asarray(values, object).tolist())] for name, values in found.items()}


def differences(case: Case, n: int = DIGITS) -> list[str]:
    """Which recorded numbers are not what mpmath gives, to the last bit."""
    recipe = RECIPES[case.name]
    wanted = [("expected", case.expected, recipe.formula)] if case.result != "invalid" else []
    wanted += [(word, case.alternatives[word], formula) for word, formula in recipe.alternatives.items()]
    wanted += [(word, case.mistakes[word], formula) for word, formula in recipe.mistakes.items()]
    odd = []
    with mpmath.workdps(n):
        for word, recorded, formula in wanted:
            found = outputs(formula, case)
            for name, array in recorded.items():
                if not np.array_equal(
                    np.array(found[name], np.float64), array.ravel().astype(np.float64), equal_nan=True
                ):
                    odd.append(f"{case.name}: {word}/{name}")
    return odd


GROUPS = sorted({name.rpartition("/")[0] for name in CASES})


@pytest.mark.parametrize("group", GROUPS)
def test_mpmath_rounds_every_value_to_the_same_float64(group: str) -> None:
    odd = [word for name, case in CASES.items() if name.rpartition("/")[0] == group for word in differences(case)]
    assert not odd


def test_fifteen_digits_would_not_do() -> None:
    """A mutant: arithmetic hardly better than float64 rounds some value to a neighbour."""
    assert any(differences(case, 15) for name, case in CASES.items() if name.startswith("dense/scale/"))


@pytest.mark.parametrize("digits", [30, 60, 70, 140])
def test_intervals_hold_what_mpmath_says(digits: int) -> None:
    n = Decimals(digits)
    exact = [0.5, -1.25, 3.0, 100.0625, -6e-5, 2.0**-30, 700.5, 1e6, -1e9, 2.0**70]
    with mpmath.workdps(2 * digits + 40):
        for x in exact:
            named = {name: getattr(n, name)(n(x)) for name in ("sin", "cos")}
            named |= {name: getattr(n, name)(n(x)) for name in ("exp", "tanh") if abs(x) < 1000}
            named |= {name: getattr(n, name)(n(x)) for name in ("log", "sqrt") if x > 0}
            for name, found in named.items():
                low, high, true = mpmath.mpf(str(found.low)), mpmath.mpf(str(found.high)), getattr(mpmath, name)(x)
                assert low <= true <= high, (name, x)
                assert high - low <= mpmath.mpf(10) ** (8 - digits) * max(1, abs(true)), (name, x)
        pi = n.pi()
        assert mpmath.mpf(str(pi.low)) <= mpmath.pi <= mpmath.mpf(str(pi.high))


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in {"float32", "float16"}])
def test_ml_dtypes_decodes_every_pattern_the_same(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="a second reader of small formats: kvattn[peers]")
    width = max(1, FORMATS[name].bits // 8)
    bits = np.arange(2 ** FORMATS[name].bits).astype(f"<u{width}")
    with np.errstate(invalid="ignore"):  # a signalling NaN
        theirs = bits.view(getattr(ml_dtypes, name)).astype(np.float64)
    assert np.array_equal(decoded(Bits(name, bits)), theirs, equal_nan=True)


def test_safetensors_reads_the_export(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors", reason="its own reader of the format: kvattn[peers]")
    export(tmp_path, "safetensors", CASES)
    index = json.loads((tmp_path / "goldens.json").read_bytes())
    dtypes = {"F64": np.float64, "I64": np.int64, "BOOL": np.bool_}
    read_back = 0
    with safetensors.safe_open(tmp_path / "goldens.safetensors", "numpy") as file:
        for written in index["cases"]:
            case = CASES[written["name"]]
            for part in ("inputs", "expected"):
                for name, entry in written[part].items():
                    piece = file.get_slice(entry["tensor"])
                    assert piece.get_dtype() == SAFETENSORS[case.dtypes[name]]
                    assert piece.get_shape() == entry["shape"]
                    if piece.get_dtype() in dtypes and math.prod(entry["shape"]):
                        array = file.get_tensor(entry["tensor"])
                        assert array.dtype == dtypes[piece.get_dtype()]
                        assert array.tobytes() == getattr(case, part)[name].tobytes()
                        read_back += 1
    assert read_back > 1000


def masked(case: Case) -> Any:
    """The boolean mask of a case of the operation ``attention``, by its words."""
    q, k = case.inputs["q"], case.inputs["k"]
    length, held, p = q.shape[2], k.shape[2], case.parameters
    first = held - length if p.get("alignment", "bottom_right") == "bottom_right" else 0
    i = case.inputs.get("q_positions", np.arange(first, first + length)[None])[:, None, :, None]
    j = case.inputs.get("k_positions", np.arange(held)[None])[:, None, None, :]
    size = p.get("window", 10**9) + (p.get("window_bound") == "distance")
    seen = (j <= i) | (not p.get("causal", False))
    if "window" in p:
        seen = seen & (i - j < size) & (i - j >= -p.get("ahead", 0))
    seen = seen | (j < p.get("prefix", -(10**9)))
    if "mask" in case.inputs:
        seen = seen & (case.inputs["mask"] ^ p.get("inverted", False))
    if "lengths" in case.inputs:
        seen = seen & (j < case.inputs["lengths"][:, None, None, None])
    if "starts" in case.inputs:
        seen = seen & (j >= case.inputs["starts"][:, None, None, None])
    return np.broadcast_to(seen, (q.shape[0], q.shape[1], length, held))


SDPA = {"scale", "causal", "alignment", "window", "window_bound", "ahead", "prefix", "inverted", "lse_base"}
"""Parameters that torch's attention can be told of, through a mask where it has no word for them."""

TOLD = {
    name: case
    for name, case in CASES.items()
    if case.operation == "attention"
    and case.result != "invalid"
    and case.parameters.keys() <= SDPA
    and not case.inputs.keys() & {"sinks", "slopes", "documents"}
    and set(case.dtypes.values()) <= {"float64", "bool", "int64"}
    and all(np.isfinite(case.inputs[name]).all() for name in "qkv")
    and 0 not in case.expected["out"].shape
    and case.inputs["k"].shape[2] > 0
}


@pytest.mark.parametrize("name", TOLD)
def test_torch_gives_the_expected_outputs_in_double_precision(name: str) -> None:
    """An implementation that shares nothing with ours; rows that see nothing are 0 there too."""
    torch = pytest.importorskip("torch", reason="an independent attention in double precision: kvattn[peers]")
    case = TOLD[name]
    q, k, v = (torch.from_numpy(np.array(case.inputs[part])) for part in "qkv")
    bias = np.where(masked(case), case.inputs.get("bias", 0.0), -np.inf)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        found = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=torch.from_numpy(bias), scale=case.parameters.get("scale"), enable_gqa=True
        )
    empty = ~masked(case).any(axis=3) | np.isneginf(bias).all(axis=3)
    out = np.where(empty[..., None], 0.0, found.numpy())  # NaN there where a bias of -inf empties a row
    assert np.abs(out - case.expected["out"]).max() <= case.bounds["out"]


def test_torch_is_asked_about_many() -> None:
    assert len(TOLD) >= 80


CAPPED = {
    name: case
    for name, case in CASES.items()
    if case.operation in {"attention", "attention_stages"}
    and "softcap" in case.parameters
    and case.parameters.keys() <= {"softcap", "causal", "window", "scale"}
    and not case.inputs.keys() & {"sinks", "slopes"}
}


@pytest.mark.parametrize("name", CAPPED)
def test_onnx_gives_the_expected_outputs_in_double_precision(name: str) -> None:
    """Its reference takes the mask as a bias, and hands out scores that are capped, biased or normalised."""
    attention = pytest.importorskip("onnx.reference.ops.op_attention", reason="ONNX's reference: kvattn[peers]")
    case = CAPPED[name]
    arrays = [np.array(case.inputs[part]) for part in "qkv"]
    bias = np.where(masked(case), case.inputs.get("bias", 0.0), -np.inf)
    options = {key: case.parameters[key] for key in ("softcap", "scale") if key in case.parameters}

    def answer(mode: int) -> Any:
        found = attention._compute_attention(*arrays, attn_mask=bias, qk_matmul_output_mode=mode, **options)
        return found[0], found[-1]

    if case.operation == "attention":
        assert np.abs(answer(0)[0] - case.expected["out"]).max() <= case.bounds["out"]
        return
    for mode, stage in ((1, "capped"), (2, "biased"), (3, "weights")):
        scores, wanted = answer(mode)[1], case.expected[stage]
        assert np.array_equal(np.isinf(scores), np.isinf(wanted))
        seen = np.isfinite(wanted)
        assert np.abs(scores[seen] - wanted[seen]).max() <= case.bounds[stage], stage


def test_onnx_is_asked_about_several() -> None:
    assert len(CAPPED) >= 10
