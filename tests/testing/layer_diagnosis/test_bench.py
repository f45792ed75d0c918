"""Sizes that a layer takes are found; padding is left out of comparisons; NaN is infinitely far."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.diagnosis.raised import Misshapen, Refused
from kvattn.testing.layer_diagnosis.bench import layer_bench
from kvattn.testing.layer_diagnosis.drawing import Drawing
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.testing.layer_diagnosis.reading import Case
from kvattn.testing.planted_layer import PlantedLayer


def test_a_right_layer_is_within_the_bound_and_a_wrong_one_is_not() -> None:
    assert layer_bench(PlantedLayer()).differs(Drawing()) < 1
    assert layer_bench(PlantedLayer(), Plan(causal=False)).differs(Drawing()) > 1e6


def test_rows_of_padding_do_not_count() -> None:
    bench = layer_bench(PlantedLayer())
    case = Case(np.zeros((1, 2, 1)), valid=np.array([[False, True]]))
    assert bench.apart(np.array([[[9.0], [1.0]]]), np.array([[[0.0], [1.0]]]), case) == 0
    assert bench.apart(np.array([[[0.0], [np.nan]]]), np.zeros((1, 2, 1)), case) == np.inf


def test_what_it_raises_is_told() -> None:
    def raises(x: Any, *, w_q: Any, w_k: Any, w_v: Any, w_o: Any, heads: int) -> Any:
        raise KeyError("w")

    with pytest.raises(Refused, match="KeyError: 'w'"):
        layer_bench(raises).run(*Drawing().build())
    with pytest.raises(Misshapen, match="the output has shape"):
        layer_bench(lambda x, *, w_q, w_k, w_v, w_o, heads: x[..., :3]).run(*Drawing().build())


def test_the_smallest_case_still_shows_it() -> None:
    bench = layer_bench(PlantedLayer(sees=lambda i, j: j <= i + 1))
    small = bench.smallest(bench.drawing())
    assert (small.B, small.T, small.Hq) == (1, 2, 1)
