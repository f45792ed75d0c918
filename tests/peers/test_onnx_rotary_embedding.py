"""Every node test of ONNX RotaryEmbedding (opset 23) through kvattn, by name.

The tables of these tests hold random numbers, no cosines and sines: pairs are stretched as well as turned, and both
parts are told apart by `kvattn.interop.onnx.rotary_embedding`.
"""

import ast
import importlib
import inspect
from typing import Any

import numpy as np
import pytest

from kvattn.interop.onnx import rotary_embedding

onnx = pytest.importorskip("onnx", minversion="1.23", reason="the node tests come from onnx>=1.23: kvattn[peers]")

pytestmark = pytest.mark.peer


def registered() -> dict[str, Any]:
    """Name to case."""
    node = importlib.import_module("onnx.backend.test.case.node")
    state = np.random.get_state()  # noqa: NPY002  registering seeds the global generator
    importlib.import_module("onnx.backend.test.case.node.rotaryembedding")
    np.random.set_state(state)  # noqa: NPY002
    return {case.name: case for case in node._NodeTestCases if "rotary" in case.name}


EVERY = registered()
TWIN = "_expanded"
CASES = {name: case for name, case in EVERY.items() if not name.endswith(TWIN)}

U32, U64 = 2.0**-24, 2.0**-53


def inputs_of(case: Any) -> dict[str, Any]:
    return dict(zip(case.model.graph.node[0].input, case.data_sets[0][0], strict=True))


def through_kvattn(case: Any, **changed: Any) -> Any:
    node, given = case.model.graph.node[0], inputs_of(case)
    options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} | changed
    return rotary_embedding(given["input"], *list(given.values())[1:], **options)


def test_the_collection_is_complete() -> None:
    """As many cases as the source of onnx's test file has calls of ``expect``."""
    module = importlib.import_module("onnx.backend.test.case.node.rotaryembedding")
    tree = ast.parse(inspect.getsource(module))
    calls = [x for x in ast.walk(tree) if isinstance(x, ast.Call) and getattr(x.func, "id", "") == "expect"]
    assert len(CASES) == len(calls) >= 8
    assert {case.model.graph.node[0].op_type for case in CASES.values()} == {"RotaryEmbedding"}


@pytest.mark.parametrize("name", CASES)
def test_stored_outputs_are_met_in_float32(name: str) -> None:
    """``c a - s b`` is two products and a difference, each rounded once: 2 u (|c a| + |s b|), and c, s are below 1."""
    case = CASES[name]
    theirs = case.data_sets[0][1][0]
    allowed = 2 * U32 * 2 * np.abs(inputs_of(case)["input"]).max() * (1 + 4 * U32)
    assert through_kvattn(case).shape == theirs.shape
    assert np.abs(through_kvattn(case) - theirs).max() <= allowed


@pytest.mark.peer("positions/rotary", "onnx RotaryEmbedding-23", "1e-12: float64")
@pytest.mark.parametrize("name", CASES)
def test_the_reference_in_float64_is_met_at_1e_12(name: str) -> None:
    """An angle of at most π comes with 2 π u from atan2, cos and sin with a few u more; 1e-12 is 9,000 u."""
    from onnx.reference import ReferenceEvaluator

    case = CASES[name]
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    feeds = {n: x if x.dtype.kind == "i" else x.astype(np.float64) for n, x in inputs_of(case).items()}
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    (theirs,) = ReferenceEvaluator(model).run(None, feeds)
    assert theirs.dtype == np.float64
    assert np.abs(through_kvattn(case) - theirs).max() <= 9000 * U64 < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_the_expanded_twin_holds_the_same_data(name: str) -> None:
    """So a case that passes passes for its twin."""
    for mine, twin in zip(CASES[name].data_sets[0], EVERY[name + TWIN].data_sets[0], strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(mine, twin, strict=True))


def test_every_expanded_twin_has_its_case() -> None:
    assert {name.removesuffix(TWIN) for name in EVERY if name.endswith(TWIN)} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_other_layout_is_noticed(name: str) -> None:
    case = CASES[name]
    other = 0 if "interleaved" in name else 1
    assert np.abs(through_kvattn(case, interleaved=other) - case.data_sets[0][1][0]).max() > 1e-2
