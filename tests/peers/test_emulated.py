"""Emulated arithmetic beside torch's own bfloat16 and float16 on a CPU.

What agrees, and how closely, depends on what torch computes inside.  Its math backend converts to float32 and rounds
the output: nearly every number is the same, since float32 sums in another order seldom move a rounding.  Its flash
backend rounds the weights too: most numbers are the same, and the error is, within a tenth.  Eager operations round
between them, but softmax keeps float32 inside, where the emulation rounds shift and exp: those errors are of the same
size, within a quarter, and the numbers differ.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvattn.one_liners import attend
from kvattn.testing.arithmetic import BFLOAT16_SOFTMAX, FLOAT16_SOFTMAX, Arithmetic
from kvattn.testing.emulated import emulate
from kvattn.testing.formats import FORMATS
from kvattn.typing import Array

torch = pytest.importorskip("torch", reason="emulated arithmetic is compared with torch's, of the peers extra")

pytestmark = pytest.mark.peer

CASES = [(name, keys) for name in ("bfloat16", "float16") for keys in (50, 1000)]


def drawn(name: str, keys: int) -> tuple[list[Array], list[Any], Array]:
    """Arrays of the format, as torch has them, and the exact outputs; 2,048 of them."""
    r = np.random.default_rng(keys)
    sizes = ((8, 2.0), (keys, 1.0), (keys, 1.0))
    arrays = [FORMATS[name].round(factor * r.standard_normal((1, 4, n, 64))) for n, factor in sizes]
    theirs = [torch.from_numpy(x).to(getattr(torch, name)) for x in arrays]
    return arrays, theirs, attend(*arrays).out


def error(found: Array, exact: Array) -> float:
    return float(np.sqrt(((found - exact) ** 2).mean()))


@contextmanager
def backend(name: str) -> Iterator[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(getattr(SDPBackend, name)):
        yield


def sdpa(tensors: list[Any]) -> Array:
    found: Array = torch.nn.functional.scaled_dot_product_attention(*tensors).double().numpy()
    return found


@pytest.mark.parametrize(("name", "keys"), CASES)
def test_the_math_backend_is_float32_inside(name: str, keys: int) -> None:
    arrays, theirs, exact = drawn(name, keys)
    ours = emulate(*arrays, arithmetic=Arithmetic("float32", inputs=name, store=name, tiles=0, order="pairwise")).out
    with backend("MATH"):
        found = sdpa(theirs)
    assert (found == ours).mean() >= 0.98
    step = 2 * FORMATS[name].roundoff
    assert (np.abs(found - ours) <= step * np.abs(exact) + FORMATS[name].tiny).all()  # the neighbour at most
    assert error(found, exact) == pytest.approx(error(ours, exact), rel=0.01)


@pytest.mark.parametrize(("name", "keys"), CASES)
def test_the_flash_backend_rounds_its_weights(name: str, keys: int) -> None:
    arrays, theirs, exact = drawn(name, keys)
    arithmetic = Arithmetic("float32", inputs=name, store=name, probabilities=name, tiles=-(-keys // 512))
    ours = emulate(*arrays, arithmetic=arithmetic).out
    with backend("FLASH_ATTENTION"):
        found = sdpa(theirs)
    unrounded = emulate(*arrays, arithmetic=replace(arithmetic, probabilities="float32")).out
    assert (found == ours).mean() >= 0.65
    assert (found == ours).mean() > (found == unrounded).mean()
    assert error(found, exact) == pytest.approx(error(ours, exact), rel=0.1)
    assert abs(error(found, exact) - error(ours, exact)) < abs(error(found, exact) - error(unrounded, exact))


@pytest.mark.parametrize(("name", "keys"), CASES)
def test_eager_operations_have_errors_of_the_same_size(name: str, keys: int) -> None:
    arrays, (q, k, v), exact = drawn(name, keys)
    arithmetic = {"bfloat16": BFLOAT16_SOFTMAX, "float16": FLOAT16_SOFTMAX}[name]
    ours = emulate(*arrays, arithmetic=arithmetic).out
    found = (torch.softmax(q @ k.mT * 0.125, -1) @ v).double().numpy()
    assert 0.8 <= error(found, exact) / error(ours, exact) <= 1.25
    wide = emulate(*arrays, arithmetic=Arithmetic("float32", inputs=name, store=name)).out
    assert error(found, exact) > 2 * error(wide, exact)


def test_float32_has_errors_of_the_same_size() -> None:
    """The order of torch's sums is its own; blocked ones stand between the two orders here."""
    arrays, _, _ = drawn("float16", 1000)
    r = np.random.default_rng(1)
    arrays = [(x + 1e-4 * r.standard_normal(x.shape)).astype(np.float32).astype(np.float64) for x in arrays]
    exact = attend(*arrays).out
    with backend("MATH"):
        found = sdpa([torch.from_numpy(x).float() for x in arrays])
    pairwise, sequential = (
        error(emulate(*arrays, arithmetic=Arithmetic("float32", tiles=0, order=order)).out, exact)
        for order in ("pairwise", "sequential")
    )
    assert 0.5 * pairwise <= error(found, exact) <= 1.5 * sequential
