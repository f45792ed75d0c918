"""FlashAttention's rule holds for what it was made for, and misses what it cannot see."""

import numpy as np
import pytest

from kvattn.errors import ArgumentError, ShapeError
from kvattn.testing.arithmetic import BFLOAT16_SOFTMAX, BFLOAT16_TENSOR_CORE, FLOAT64
from kvattn.testing.emulated import emulate
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance import flash_rule, judge


def test_a_flash_kernel_is_within_twice_the_error_of_plain_attention() -> None:
    r = np.random.default_rng(0)
    q, k, v = (format_of("bfloat16").round(r.standard_normal((1, 1, 64, 16))) for _ in "qkv")
    exact, plain, flash = (
        emulate(q, k, v, arithmetic=at).out for at in (FLOAT64, BFLOAT16_SOFTMAX, BFLOAT16_TENSOR_CORE)
    )
    assert flash_rule(flash, plain, exact, store="bfloat16").holds
    assert not flash_rule(flash + 0.5, plain, exact, store="bfloat16").holds

    wrong = flash.copy()  # a row of small numbers, lost beside the large ones: the rule does not see it, the gate does
    small = v.copy()
    small[:, :, :, 0] /= 1024
    exact, plain, flash = (
        emulate(q, k, small, arithmetic=at).out for at in (FLOAT64, BFLOAT16_SOFTMAX, BFLOAT16_TENSOR_CORE)
    )
    wrong = flash.copy()
    wrong[..., 0] = 0
    assert flash_rule(wrong, plain, exact, store="bfloat16").holds
    assert judge(wrong, q, k, small, arithmetic=BFLOAT16_TENSOR_CORE).word == "fail"


def test_the_bound_is_the_ratio_and_the_rounding_of_numbers_near_a_third() -> None:
    found = flash_rule([0.25], [0.5], [0.0], store="bfloat16", ratio=3.0)
    assert found.error == 0.25
    assert found.bound == 1.5 + 2 * abs(float(format_of("bfloat16").round(format_of("bfloat16").round(0.3) - 0.3)))


def test_nan_holds_only_where_all_have_it() -> None:
    nan = np.array([np.nan, 1.0])
    one = np.array([1.0, 1.0])
    assert not flash_rule(nan, one, one, store="float16").holds
    assert not flash_rule(one, nan, one, store="float16").holds


def test_shapes_and_ratio_are_checked() -> None:
    with pytest.raises(ShapeError, match=r"reference must have exact's shape \(2,\), got \(3,\)"):
        flash_rule(np.ones(2), np.ones(3), np.ones(2), store="float16")
    with pytest.raises(ArgumentError, match="ratio must be a finite number above 0"):
        flash_rule(np.ones(2), np.ones(2), np.ones(2), store="float16", ratio=0)
