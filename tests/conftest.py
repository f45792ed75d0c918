"""What every test runs under: Hypothesis profiles, and memory that is NaN until somebody writes it."""

from collections.abc import Callable, Iterator
import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings
import numpy as np
import pytest

# One machine's clock is no property of the code: no deadlines, and slow draws are no failure.
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
# Phase.explain traces every line of what fails, ten times slower, and a mutant is meant to fail.
_PHASES = [phase for phase in Phase if phase is not Phase.explain]
settings.register_profile(
    "ci",
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    phases=_PHASES,
    suppress_health_check=_SLOW,
)
settings.register_profile(
    "deep", max_examples=1000, deadline=None, print_blob=True, phases=_PHASES, suppress_health_check=_SLOW
)
settings.load_profile(os.environ.get("KVATTN_PROFILE", "ci"))


def poisoned(allocate: Callable[..., np.ndarray[Any, Any]]) -> Callable[..., np.ndarray[Any, Any]]:
    """Wrap ``np.empty`` or ``np.empty_like`` so that inexact elements start as NaN."""

    def filled(*args: Any, **kwargs: Any) -> np.ndarray[Any, Any]:
        array = allocate(*args, **kwargs)
        if array.dtype.kind in "fc":
            array.fill(np.nan)
        return array

    return filled


@pytest.fixture(autouse=True, scope="module")
def _unwritten_memory_is_nan(request: pytest.FixtureRequest) -> Iterator[None]:
    if "benchmarks" in request.path.parts:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "empty", poisoned(np.empty))
        patch.setattr(np, "empty_like", poisoned(np.empty_like))
        yield
