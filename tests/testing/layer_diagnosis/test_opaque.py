"""A layer with a state, of which only the hidden size is known: what is wrong with the state is named."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from kvattn.testing import check
from kvattn.testing.layer_diagnosis.looking import look
from kvattn.testing.layer_targets import layer_target_of


@dataclass
class Linear:
    """Linear attention with decay, token by token, into which faults can be planted."""

    carries: bool = True
    shares: bool = False
    decays_carried: bool = True
    pads_update: bool = False
    leaks: bool = False
    noise: bool = False
    mixes: bool = False
    hidden: int = 6

    def __call__(self, x: Any, *, valid: Any = None, cache: Any = None) -> Any:
        batch, length, width = x.shape
        state = np.zeros((batch, width, width)) if cache is None or not self.carries else cache
        if self.shares and cache is not None:
            state = np.repeat(state[:1], batch, 0)
        out = np.zeros_like(x)
        for t in range(length):
            decay = 1.0 if t == 0 and cache is not None and not self.decays_carried else 0.9
            new = decay * state + x[:, t, :, None] * np.roll(x[:, t], 1, -1)[:, None, :]
            keep = np.ones((batch, 1, 1), bool) if valid is None or self.pads_update else valid[:, t, None, None]
            state = np.where(keep, new, state)
            out[:, t] = np.einsum("bij,bi->bj", state, np.roll(x[:, t], 2, -1))
        if self.leaks:
            out = out + x.mean(1, keepdims=True)
        if self.mixes:
            out = out + x.mean(0)
        if self.noise:
            out = out + np.random.default_rng().standard_normal(out.shape)
        return out.astype(x.dtype), state


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_right_state_passes(dtype: str) -> None:
    bench, margin = look(layer_target_of(Linear(), "mine"), dtype=dtype)
    assert bench.findings == []
    assert margin is None


WRONG: dict[str, tuple[Linear, str, dict[str, Any]]] = {
    "not carried": (Linear(carries=False), "linear-state", {"state": "not carried on"}),
    "shared between rows": (Linear(shares=True), "batch-row-state", {"state": "row 0"}),
    "carried without decay": (Linear(decays_carried=False), "unclassified", {"state": "other", "first_wrong": 5}),
    "of the padded end": (Linear(pads_update=True), "linear-state", {"state": "of the padded end"}),
    "sees the future": (Linear(leaks=True), "mask-dropped", {"argument": "causal"}),
    "not the same twice": (Linear(noise=True), "unclassified", {"random": True}),
    "mixes the batch": (Linear(mixes=True), "batch-row-state", {"row": 0}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_state_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    layer, fault_class, parameters = WRONG[name]
    report = check(layer)
    (finding,) = report.findings
    assert report.verdict == "fault"
    assert finding.fault_class == fault_class
    assert finding.parameters.items() >= parameters.items()
    exec(finding.reproduce, {"f": layer})  # noqa: S102 - that it runs is what is tested
    assert " expected " in capsys.readouterr().out


def test_a_layer_that_raises_is_told() -> None:
    def raises(x: Any) -> Any:
        raise RuntimeError("not today")

    raises.hidden = 4  # type: ignore[attr-defined]
    bench, _ = look(layer_target_of(raises))
    assert bench.findings[0].detail == "It raises RuntimeError: not today."
