"""A narrowed function rounds what goes in and what comes out, and keeps its signature."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvattn.testing import check
from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.emulated import emulate
from kvattn.testing.formats import FORMATS
from kvattn.testing.narrowed import Narrowed
from kvattn.testing.planted import Planted
from kvattn.testing.targets import target_of
from kvattn.testing.tolerance import judge


def given(dtype: Any = np.float64) -> tuple[Any, Any, Any]:
    r = np.random.default_rng(0)
    shapes = ((1, 4, 3, 8), (1, 2, 9, 8), (1, 2, 9, 5))
    q, k, v = (r.standard_normal(shape).astype(dtype) for shape in shapes)
    return q, k, v


def test_it_is_float32_between_roundings() -> None:
    q, k, v = given()
    sinks = np.array([0.1, 0.2, 0.3, 0.4])
    out, lse = Narrowed(Planted(), "bfloat16")(q, k, v, causal=True, sinks=sinks)
    round_to = FORMATS["bfloat16"].round
    singles = [round_to(x).astype(np.float32) for x in (q, k, v, sinks)]
    wide, logs = Planted()(*singles[:3], causal=True, sinks=singles[3])
    assert np.array_equal(out, round_to(wide))
    assert np.array_equal(lse, logs)
    assert (out.dtype, lse.dtype) == (np.float32, np.float32)


def test_narrow_arrays_come_back_as_they_went_in() -> None:
    assert Narrowed(Planted(returns_lse=False), "float16")(*given(np.float16)).dtype == np.float16
    pytest.importorskip("ml_dtypes", reason="bfloat16 arrays are those of ml_dtypes, of the peers extra")
    assert Narrowed(Planted(returns_lse=False), "bfloat16")(*given("bfloat16")).dtype == np.dtype("bfloat16")


def test_it_takes_what_its_function_takes() -> None:
    narrowed = target_of(Narrowed(Planted(), "float16"))
    assert narrowed.features == target_of(Planted()).features
    assert target_of(Narrowed(lambda q, k, v, *, causal=False: v, "float16")).features == {"causal"}


def test_it_computes_as_a_flash_kernel_with_wide_weights() -> None:
    q, k, v = given()
    arithmetic = Arithmetic("float32", inputs="bfloat16", store="bfloat16")
    out, lse = Narrowed(Planted(), "bfloat16")(q, k, v)
    assert judge(out, q, k, v, lse=lse, arithmetic=arithmetic).word == "pass"
    ours = emulate(q, k, v, arithmetic=arithmetic)
    assert np.mean(ours.out == out) > 0.95
    assert judge(out, q, k, v, arithmetic=Arithmetic("float32")).word == "fail"


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("faults", "fault_class", "shown_by"),
    [
        ({"head_map": "h % Hkv"}, "gqa-map", ()),
        ({"scale": "1"}, "scale", ()),
        ({"extra_keys": 1}, "window-off-by-one", ("causal", "window")),
        ({"cap": "c * tanh(s)"}, "softcap", ("softcap",)),
        ({"mask_reads": "blocked"}, "mask-polarity", ("mask",)),
        ({"sink_count": 2}, "sink", ("sinks",)),
        ({"log_base": 2.0}, "lse-merge", ()),
    ],
)
def test_faults_are_named_in_16_bits(
    faults: dict[str, Any], fault_class: str, shown_by: tuple[str, ...], name: str
) -> None:
    """`tests/benchmarks/planted_faults.py` tries all of them."""
    pytest.importorskip("ml_dtypes", reason="bfloat16 arrays are those of ml_dtypes, of the peers extra")
    target = replace(target_of(Narrowed(Planted(**faults), name)), features=frozenset(shown_by))
    report = check(target, dtype=name, cases=8)
    assert [finding.fault_class for finding in report.findings] == [fault_class]
    assert "What it does was read" not in " ".join(report.notes)
