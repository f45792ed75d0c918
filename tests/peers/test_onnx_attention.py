"""Every node test of ONNX Attention (opsets 23, 24, 25) through kvattn, by name.

The cases come from the installed onnx itself.  Each is compared twice: with the outputs that onnx stores, and with
onnx's own reference evaluator run on the same inputs in float64.  The ``_expanded`` twins hold the same data for the
operator's function body, which one test at the end verifies; nothing is skipped.
"""

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
import importlib
import inspect
from typing import Any

import numpy as np
import pytest

from kvattn.interop.onnx import AttentionOutputs, attention
from kvattn.testing.tolerance import Arithmetic, bounds

onnx = pytest.importorskip("onnx", minversion="1.23", reason="the node tests come from onnx>=1.23: kvattn[peers]")
ml_dtypes = pytest.importorskip("ml_dtypes", reason="some node tests hold bfloat16: kvattn[peers]")

pytestmark = pytest.mark.peer

OUTPUTS = ("Y", "present_key", "present_value", "qk_matmul_output")


def registered(module: str, operator: str) -> dict[str, Any]:
    """Name to case; importing the one module registers its cases and takes half a second, all modules take seven."""
    node = importlib.import_module("onnx.backend.test.case.node")
    state = np.random.get_state()  # noqa: NPY002  registering seeds the global generator
    importlib.import_module(f"onnx.backend.test.case.node.{module}")
    np.random.set_state(state)  # noqa: NPY002
    return {case.name: case for case in node._NodeTestCases if operator in case.name}


EVERY = registered("attention", "attention")
TWIN = "_expanded"
CASES = {name: case for name, case in EVERY.items() if not name.endswith(TWIN)}


def inputs_of(case: Any) -> dict[str, Any]:
    """Input name to array."""
    present = [name for name in case.model.graph.node[0].input if name]
    return dict(zip(present, case.data_sets[0][0], strict=True))


def stored(case: Any) -> dict[str, Any]:
    """Output name to the array that onnx expects."""
    node = case.model.graph.node[0]
    names = [ours for ours, theirs in zip(OUTPUTS, node.output, strict=False) if theirs]
    return dict(zip(names, case.data_sets[0][1], strict=True))


def attributes(case: Any) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in case.model.graph.node[0].attribute}


def through_kvattn(case: Any, **changed: Any) -> AttentionOutputs:
    """Arrays as onnx holds them, float16 and bfloat16 too, and attributes by their names."""
    given = {name.lower() if name in "QKV" else name: array for name, array in inputs_of(case).items()}
    return attention(**given, **{**attributes(case), **changed})


def root_squared(case: Any) -> dict[str, Any]:
    """The scale that the evaluator applies: it holds the attribute in float32 and takes the root there."""
    scale = attributes(case).get("scale")
    return {} if scale is None else {"scale": float(np.sqrt(np.float32(scale))) ** 2}


def in_float64(case: Any) -> dict[str, Any]:
    """onnx's reference evaluator on the case's inputs, widened; it computes in the dtype of its inputs."""
    from onnx.reference import ReferenceEvaluator

    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    wide = onnx.TensorProto.DOUBLE
    small = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.elem_type in small:
            value.type.tensor_type.elem_type = wide
    for attribute in model.graph.node[0].attribute:
        if attribute.name == "softmax_precision":
            attribute.i = wide
    feeds = {
        name: array if array.dtype.kind in "bi" else array.astype(np.float64) for name, array in inputs_of(case).items()
    }
    answers = ReferenceEvaluator(model).run(None, feeds)
    return dict(zip(stored(case), answers, strict=True))


def tolerance(case: Any, dtype: str) -> dict[str, Any]:
    """Worst distance of each output, computed in ``dtype``, from the exact one: `kvattn.testing.tolerance`.

    ONNX rounds ``sqrt(scale)``, both scaled factors and both uses of the root, 4 u in all, where the bound reckons with
    5 u.  ``qk_matmul_output`` is bounded as the log-sum-exp over a single key, which is how it is computed here, or
    as the mix of an identity matrix.  Concatenation is exact.
    """
    ours, options = through_kvattn(case), attributes(case)
    # without scores, what remains is the mask and the bias
    bias = through_kvattn(case, qk_matmul_output_mode=2, scale=0.0, softcap=0.0).qk_matmul_output
    q = inputs_of(case)["Q"].astype(np.float64)
    if q.ndim == 3:
        q = q.reshape(*q.shape[:2], options["q_num_heads"], -1).swapaxes(1, 2)
    k, v = ours.present_key, ours.present_value
    seen = bias != -np.inf
    common: dict[str, Any] = {
        "arithmetic": Arithmetic(dtype, tiles=1),
        "scale": options.get("scale"),
        "softcap": options.get("softcap") or None,
        "bias": np.where(seen, bias, 0.0),
        "visible": seen,
    }
    found: dict[str, Any] = {"Y": bounds(q, k, v, **common).worst, "present_key": 0.0, "present_value": 0.0}
    if inputs_of(case)["Q"].ndim == 3:
        found["Y"] = found["Y"].swapaxes(1, 2).reshape(*inputs_of(case)["Q"].shape[:2], -1)
    if options.get("qk_matmul_output_mode") == 3:
        eye = np.broadcast_to(np.eye(k.shape[2]), (*k.shape[:3], k.shape[2]))
        found["qk_matmul_output"] = bounds(q, k, eye, **common).worst
    else:
        singles = [
            bounds(
                q, k[:, :, [j]], v[:, :, [j]], **{**common, "bias": common["bias"][..., [j]], "visible": None}
            ).lse_worst
            for j in range(k.shape[2])
        ]
        found["qk_matmul_output"] = np.stack(singles, axis=-1)
    return found


def far(ours: Any, theirs: Any, allowed: Any) -> list[str]:
    """What is wrong with an output; -inf must stand in the same places."""
    if ours.shape != theirs.shape:
        return [f"shape {ours.shape}, not {theirs.shape}"]
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where(ours == theirs, 0.0, np.abs(ours - theirs))
    wrong = ~(apart <= np.broadcast_to(allowed, apart.shape))
    return [f"{wrong.sum()} of {wrong.size} values, by up to {apart[wrong].max()}"] if wrong.any() else []


def complaints(
    ours: AttentionOutputs, theirs: Mapping[str, Any], allowed: Mapping[str, Any]
) -> list[tuple[str, Sequence[str]]]:
    """Every output that is wrong."""
    each = [(name, far(getattr(ours, name), theirs[name], allowed[name])) for name in theirs]
    return [(name, found) for name, found in each if found]


def test_the_collection_is_complete() -> None:
    """As many cases as the source of onnx's test file has calls of ``expect``, and no fewer than 1.23.0 had."""
    module = importlib.import_module("onnx.backend.test.case.node.attention")
    tree = ast.parse(inspect.getsource(module))
    calls = [x for x in ast.walk(tree) if isinstance(x, ast.Call) and getattr(x.func, "id", "") == "expect"]
    assert len(CASES) == len(calls) >= 87
    if onnx.__version__ == "1.23.2":
        assert len(CASES) == 93
        assert Counter(case.model.opset_import[0].version for case in CASES.values()) == {23: 69, 24: 13, 25: 11}
    assert {case.model.graph.node[0].op_type for case in CASES.values()} == {"Attention"}


@pytest.mark.parametrize("name", CASES)
def test_stored_outputs_are_met_at_the_precision_of_the_case(name: str) -> None:
    case = CASES[name]
    dtype = str(inputs_of(case)["Q"].dtype)
    assert complaints(through_kvattn(case), stored(case), tolerance(case, dtype)) == []


@pytest.mark.peer("mods/softcap", "onnx Attention-25", "1e-12: float64")
@pytest.mark.peer("mods/bias", "onnx Attention-25", "1e-12: float64")
@pytest.mark.peer("masks/causal", "onnx Attention-25", "1e-12: float64")
@pytest.mark.peer("masks/window", "onnx Attention-25", "1e-12: float64")
@pytest.mark.peer("masks/explicit", "onnx Attention-25", "1e-12: float64")
@pytest.mark.parametrize("name", CASES)
def test_the_reference_in_float64_is_met_at_1e_12(name: str) -> None:
    """Both sides are within the worst case of the exact value, so twice that is enough; and twice that is < 1e-12."""
    case = CASES[name]
    allowed = {output: 2 * np.asarray(bound) for output, bound in tolerance(case, "float64").items()}
    assert max(bound.max() for bound in allowed.values()) < 1e-12
    assert complaints(through_kvattn(case, **root_squared(case)), in_float64(case), allowed) == []


@pytest.mark.parametrize("name", CASES)
def test_the_expanded_twin_holds_the_same_data(name: str) -> None:
    """So a case that passes passes for its twin."""
    for mine, twin in zip(CASES[name].data_sets[0], EVERY[name + TWIN].data_sets[0], strict=True):
        for x, y in zip(mine, twin, strict=True):
            assert x.dtype == y.dtype
            assert np.array_equal(x.astype(np.float64), y.astype(np.float64), equal_nan=True)


def test_every_expanded_twin_has_its_case() -> None:
    assert {name.removesuffix(TWIN) for name in EVERY if name.endswith(TWIN)} == set(CASES)


WRONG: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "the causal triangle is left out": ("test_attention_4d_causal", {"is_causal": 0}),
    "the window shows a key more": ("test_attention_local_window", {"left_window_size": 3}),
    "the window ends a key early": ("test_attention_bidirectional_window", {"right_window_size": 1}),
    "the scale is 1 % off": ("test_attention_4d_scaled", {"scale": 0.0101}),
    "the cap is left out": ("test_attention_4d_softcap", {"softcap": 0.0}),
    "another stage is shown": ("test_attention_4d_with_qk_matmul_bias", {"qk_matmul_output_mode": 0}),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_attribute_is_noticed(mistake: str) -> None:
    """Against the stored outputs, which is the wider of the two tolerances."""
    name, change = WRONG[mistake]
    case = CASES[name]
    assert complaints(through_kvattn(case, **change), stored(case), tolerance(case, "float32"))


def test_heads_tiled_instead_of_repeated_are_noticed() -> None:
    """``[h0, h1, h2, h0, …]``, the mistake of onnx until 1.19 (#7274)."""
    case = CASES["test_attention_4d_gqa"]
    q, k, v = (inputs_of(case)[n] for n in "QKV")
    wrong = attention(q, *(np.tile(x, (1, q.shape[1] // k.shape[1], 1, 1)) for x in (k, v)))
    assert complaints(wrong, stored(case), tolerance(case, "float32"))


def test_mode_0_is_raw_as_the_schema_says_where_the_reference_shows_capped_scores() -> None:
    """No node test asks for mode 0 with a cap."""
    from onnx.reference import ReferenceEvaluator

    case = CASES["test_attention_3d_with_past_and_present_qk_matmul_softcap"]
    cap = attributes(case)["softcap"]
    raw = through_kvattn(case, qk_matmul_output_mode=0).qk_matmul_output
    capped = through_kvattn(case).qk_matmul_output
    assert np.abs(cap * np.tanh(raw / cap) - capped).max() < 1e-12
    assert np.abs(raw - capped).max() > 0.1
    if onnx.__version__.startswith("1.23."):
        asked = onnx.ModelProto()
        asked.CopyFrom(case.model)
        (mode,) = [a for a in asked.graph.node[0].attribute if a.name == "qk_matmul_output_mode"]
        mode.i = 0
        assert np.abs(ReferenceEvaluator(asked).run(None, inputs_of(case))[-1] - capped).max() < 1e-5
