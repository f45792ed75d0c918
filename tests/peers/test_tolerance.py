"""torch's attention on a CPU does not fail in the arithmetic it is said to compute in, and fails in a finer one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvattn.testing import arithmetic
from kvattn.testing.arithmetic import FLOAT32_BLAS, FLOAT64
from kvattn.testing.tolerance import judge

torch = pytest.importorskip("torch", reason="torch's attention is what is judged")

ARITHMETICS = {
    "float64": arithmetic.FLOAT64,
    "float32": arithmetic.FLOAT32_BLAS,
    "bfloat16": arithmetic.BFLOAT16_TENSOR_CORE,
    "float16": arithmetic.FLOAT16_TENSOR_CORE,
}
"""Scores and sums in float32, weights rounded to the dtype, on CPUs with and without 16-bit products."""


def attended(dtype: str, backend: str, keys: int, *, causal: bool, size: float) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(keys)
    shapes = ((1, 2, keys, 32), (1, 2, keys, 32), (1, 2, keys, 32))
    q, k, v = (torch.randn(shape, generator=generator).to(getattr(torch, dtype)) for shape in shapes)
    q = q * size
    with torch.nn.attention.sdpa_kernel(getattr(torch.nn.attention.SDPBackend, backend)):
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return tuple(x.double().numpy() for x in (out, q, k, v))


@pytest.mark.parametrize("backend", ["MATH", "FLASH_ATTENTION"])
@pytest.mark.parametrize("dtype", ARITHMETICS)
@pytest.mark.parametrize(("keys", "size"), [(1, 1.0), (37, 0.25), (37, 4.0), (200, 1.0)])
def test_torch_does_not_fail_in_its_arithmetic(dtype: str, backend: str, keys: int, size: float) -> None:
    out, *arrays = attended(dtype, backend, keys, causal=True, size=size)
    visible = np.tri(keys, dtype=bool)
    tiles = 0 if backend == "MATH" else -(-keys // 32)  # the first divides the weights before it rounds them
    verdict = judge(out, *arrays, arithmetic=replace(ARITHMETICS[dtype], tiles=tiles), visible=visible)
    assert verdict.failed == 0, str(verdict)
    assert verdict.suspect <= 0.002 * verdict.grades.size, str(verdict)


def test_torch_fails_in_a_finer_one() -> None:
    out, *arrays = attended("bfloat16", "FLASH_ATTENTION", 37, causal=False, size=1.0)
    assert judge(out, *arrays, arithmetic=FLOAT32_BLAS).word == "fail"
    out, *arrays = attended("float32", "FLASH_ATTENTION", 37, causal=False, size=1.0)
    assert judge(out, *arrays, arithmetic=FLOAT64).word == "fail"
