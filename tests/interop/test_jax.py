"""JAX's attention under its adapter: its corner, its empty rows and its NaN are conventions."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
import pytest

from kvattn.errors import MissingExtraError
from kvattn.interop import jax as adapter
from kvattn.testing import check
from kvattn.testing.targets import load

ONE = np.ones((1, 1, 2, 4))


def test_without_jax_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    for call in (lambda: adapter.dot_product_attention(ONE, ONE, ONE), adapter.target):
        with pytest.raises(MissingExtraError, match="jax must be installed for this adapter, got no module jax"):
            call()


@pytest.mark.peer
def test_its_choices_are_named_as_conventions() -> None:
    pytest.importorskip("jax", minversion="0.7", reason="runs JAX's attention: kvattn[peers]")
    report = check(load("jax.nn:dot_product_attention"), cases=16)
    assert {(f.fault_class, f.kind) for f in report.findings} >= {
        ("causal-align", "convention"),
        ("empty-row", "convention"),
        ("masked-nan", "convention"),
    }
    assert report.verdict == "convention", str(report)
    assert report.margin is not None
    assert report.margin.cases > 8


@pytest.mark.peer
def test_a_window_passed_as_it_stands_is_found() -> None:
    """Mutant: JAX's left bound leaves the query's own key out of the count."""
    pytest.importorskip("jax", minversion="0.7", reason="runs JAX's attention: kvattn[peers]")

    def wrong(
        q: NDArray[np.float64],
        k: NDArray[np.float64],
        v: NDArray[np.float64],
        *,
        causal: bool = False,
        window: int | None = None,
    ) -> NDArray[np.float64]:
        return adapter.dot_product_attention(q, k, v, causal=causal, window=window and window + 1)[0]

    own = adapter.target()
    report = check(replace(own, function=wrong, features=frozenset({"causal", "window"})), cases=0)
    found = {f.fault_class: f.parameters for f in report.findings if f.kind == "fault"}
    assert set(found) == {"window-off-by-one"}
