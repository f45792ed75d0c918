"""What attention gives under a behaviour, told by an attention into which the behaviour was planted."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.diagnosis.behaviour import GIVEN, HEAD_MAPS, SCALES, Behaviour
from kvattn.testing.diagnosis.recipe import Recipe, Sizes
from kvattn.testing.planted import Planted

CASE = Recipe(
    Sizes(2, 6, 2, 3, 5, 8, 8),
    options=(
        ("causal", "True"),
        ("window", "3"),
        ("softcap", "1.3"),
        ("sinks", "r.standard_normal({Hq})"),
        ("bias", "r.standard_normal(({B}, {Hq}, {T}, {S}))"),
        ("mask", "r.random(({B}, {Hq}, {T}, {S})) < 0.6"),
    ),
)


@pytest.mark.parametrize(
    ("behaviour", "faults"),
    [
        ({}, {}),
        ({"anchor": "top_left"}, {"anchor": "top_left"}),
        ({"shift": -1}, {"shift": -1}),
        ({"extra_keys": 1}, {"extra_keys": 1}),
        ({"key_map": "h % Hkv", "value_map": "h % Hkv"}, {"head_map": "h % Hkv"}),
        ({"scale": "1 / D"}, {"scale": "1 / D"}),
        ({"factor": 1.5}, {"scale": "1.5 / sqrt(D)"}),
        ({"bias_factor": -1.0}, {"bias_factor": -1.0}),
        ({"sink_factor": 0.5, "sink_count": 2.0}, {"sink_factor": 0.5, "sink_count": 2}),
        ({"lse_factor": 1 / np.log(2)}, {"log_base": 2}),
        ({"mask": "blocked"}, {"mask_reads": "blocked"}),
    ],
    ids=str,
)
def test_a_behaviour_is_the_attention_with_that_fault_planted(behaviour: Any, faults: Any) -> None:
    built = CASE.build()
    out, lse = Planted(**faults)(*built[:3], **built.options)
    expected = Behaviour(**behaviour).expected(built)
    assert expected.out == pytest.approx(out, abs=1e-12)
    assert expected.lse == pytest.approx(lse, abs=1e-12)


def test_sinks_can_be_left_out_of_the_lse() -> None:
    built = CASE.build()
    without = built._replace(options={name: x for name, x in built.options.items() if name != "sinks"})
    assert Behaviour(sink_in_lse=False).expected(built).lse == pytest.approx(Behaviour().expected(without).lse)


def test_the_first_entry_of_each_table_is_the_contract() -> None:
    fresh = Behaviour()
    assert (next(iter(HEAD_MAPS)), next(iter(SCALES)), next(iter(GIVEN))) == (
        fresh.key_map,
        fresh.scale,
        fresh.given,
    )
    assert all(0 <= rule(h, 6, 2) < 2 for rule in HEAD_MAPS.values() for h in range(6))
