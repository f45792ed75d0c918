"""What is printed builds what was run."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.layer_diagnosis.drawing import POSITIONS, VALID, Drawing
from kvattn.testing.planted_layer import PlantedLayer


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("valid", VALID)
@pytest.mark.parametrize("cuts", [(), (2, 4)])
def test_the_call_that_is_printed_is_the_call_that_is_made(positions: str, valid: str, cuts: tuple[int, ...]) -> None:
    if positions == "axes":
        return
    drawing = Drawing(B=3, T=6, norms=True, positions=positions, valid=valid, cuts=cuts, seed=3)
    layer = PlantedLayer(norm=True)
    features = frozenset({"w_q", "w_k", "w_v", "w_o", "heads", "kv_heads", "q_norm", "k_norm", "cache"})
    names: dict[str, Any] = {"np": np, "f": layer.cached}
    exec(f"{drawing.code()}; {drawing.call(features)}", names)  # noqa: S102 - that it runs is what is tested
    weights, case = drawing.build()
    given = {n: getattr(weights, n) for n in ("w_q", "w_k", "w_v", "w_o", "heads", "kv_heads", "q_norm", "k_norm")}
    out, cache, begin = [], None, 0
    for end in (*cuts, 6):
        at = None if case.positions is None else case.positions[:, begin:end]
        seen = None if case.valid is None else case.valid[:, begin:end]
        y, cache = layer.cached(case.x[:, begin:end], **given, positions=at, valid=seen, cache=cache)
        out.append(y)
        begin = end
    assert np.array_equal(names["y"], np.concatenate(out, 1))


def test_smaller_cases_keep_their_kind() -> None:
    case = Drawing(B=3, T=6, Hq=6, Hkv=2, M=48, valid="left", cuts=(2,))
    for smaller in case.smaller():
        assert smaller.valid == "left"
        assert smaller.B >= 2
        assert smaller.T > 2
        assert smaller.Hq * smaller.D == smaller.M


def test_padding_leaves_a_token_in_every_row_and_pads_the_first() -> None:
    for side in ("left", "right"):
        _, case = Drawing(B=3, T=6, valid=side).build()
        assert case.valid is not None
        assert case.valid.any(1).all()
        assert not case.valid[0].all()
