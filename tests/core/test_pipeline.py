"""A layer's fields are read once, copied where they could change, and refused by name."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from kvattn.core.pipeline import arguments_of, bends_of, mods_cost, settle
from kvattn.counting import Tally
from kvattn.errors import KvattnError
from kvattn.masks import Causal
from kvattn.mods import Softcap
from kvattn.positions import Rotary


@dataclass(frozen=True, eq=False)
class Layer:
    mask: Any = None
    mods: Any = ()
    query_key: Any = ()
    finish: Any = ()
    scale: Any = None
    softcap: Any = None
    sinks: Any = None

    def __post_init__(self) -> None:
        settle(self, heads=2, dtype=np.float32)


@dataclass(frozen=True)
class Narrow:
    scale: Any

    def __post_init__(self) -> None:
        settle(self, heads=2, dtype=np.float32)


def test_plain_values_are_kept() -> None:
    layer = Layer(Causal(), [Softcap(3.0)], [Rotary.of(2)], [], np.float64(0.5), np.int64(30), [0, 1])

    assert (layer.mask, layer.mods, layer.scale, layer.softcap) == (Causal(), (Softcap(3.0),), 0.5, 30.0)
    assert type(layer.scale) is type(layer.softcap) is float
    assert layer.sinks.dtype == np.float32
    assert (layer.query_key, layer.finish) == ((Rotary.of(2),), ())


def test_sinks_are_a_copy_that_nobody_writes() -> None:
    given = np.zeros(2, np.float32)
    layer = Layer(sinks=given)
    given[0] = 7

    assert layer.sinks.tolist() == [0, 0]
    with pytest.raises(ValueError, match="read-only"):
        layer.sinks[0] = 1


def test_a_layer_may_have_some_of_the_fields() -> None:
    assert arguments_of(Narrow(2)) == {"scale": 2.0}
    assert arguments_of(Narrow(2), scale=1.0, mask=None) == {"scale": 1.0, "mask": None}
    assert list(arguments_of(Layer())) == ["mask", "mods", "scale", "softcap", "sinks"]


def test_mods_that_state_a_cost_are_counted() -> None:
    mods = (Softcap(3.0), lambda scores, place: scores, Softcap(4.0))
    assert mods_cost(mods, pairs=5, width=3) == Tally(arithmetic=20, transcendental=10)
    assert bends_of(Layer(mods=mods, softcap=1)) == {"softcap": True, "sinks": False, "mods": mods}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mask": 3}, "mask must be a mask of kvattn.masks or None, got 3"),
        ({"mask": Causal}, "mask must be a mask of kvattn.masks or None, got <class 'kvattn.masks.causal.Causal'>"),
        ({"mask": np.ones((2, 2), bool)}, "mask must be a mask of kvattn.masks or None, got an array of shape (2, 2)"),
        ({"mods": Softcap(3.0)}, "mods must be a sequence of mods, got Softcap(cap=3.0)"),
        ({"mods": [3]}, "mods must be a sequence of mods, got [3]"),
        ({"query_key": Causal()}, "query_key must be a sequence of schemes and norms, got Causal()"),
        ({"query_key": [Softcap(3.0)]}, "query_key must be a sequence of schemes and norms, got [Softcap(cap=3.0)]"),
        ({"finish": [Causal()]}, "finish must be a sequence of gates, got [Causal()]"),
        ({"scale": "big"}, "scale must be a finite number, got 'big'"),
        ({"softcap": 0}, "softcap must be a finite number above 0, got 0"),
        ({"sinks": [0, 0, 0]}, "sinks must have shape [2], got (3,)"),
        ({"sinks": ["a", "b"]}, "sinks must be an array of real numbers, got dtype <U1"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(KvattnError) as raised:
        Layer(**fields)
    assert str(raised.value) == words
