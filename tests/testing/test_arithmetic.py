"""An arithmetic completes itself from its compute format, and refuses what it does not know."""

from dataclasses import FrozenInstanceError, replace

import pytest

from kvattn.errors import ArgumentError
from kvattn.testing import arithmetic
from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.formats import FORMATS

PRESETS = {name: value for name, value in vars(arithmetic).items() if isinstance(value, Arithmetic)}


@pytest.mark.parametrize("name", ["accumulate", "store", "probabilities", "inputs"])
def test_what_is_not_said_is_as_compute(name: str) -> None:
    assert getattr(Arithmetic("bfloat16"), name) == "bfloat16"
    said = replace(Arithmetic("bfloat16"), **{name: "float32"})  # type: ignore[arg-type]
    assert getattr(said, name) == "float32"
    others = {"accumulate", "store", "probabilities", "inputs"} - {name}
    assert {getattr(said, other) for other in others} == {"bfloat16"}


def test_a_preset_stands_for_each_name_and_none_is_another() -> None:
    assert len(PRESETS) >= 8
    assert len(set(PRESETS.values())) == len(PRESETS)
    for name, value in PRESETS.items():
        coarse = FORMATS[value.store].roundoff >= FORMATS[value.accumulate].roundoff
        assert coarse, f"{name} stores more finely than it adds"


def test_only_tensor_cores_cut_their_sums_off() -> None:
    cut = {name for name, value in PRESETS.items() if value.sum_ulp > 0.5}
    assert cut == {name for name in PRESETS if name.endswith("TENSOR_CORE") or name == "FLOAT8_PROBABILITIES"}


@pytest.mark.parametrize(("keys", "tiles"), [(1, 1), (63, 1), (64, 1), (65, 2), (8192, 128)])
def test_tiles_are_rounded_up(keys: int, tiles: int) -> None:
    assert Arithmetic().tiled(keys, tile=64).tiles == tiles


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"compute": "half"}, "got half"),
        ({"store": "int8"}, "got int8"),
        ({"order": "any"}, "order must be 'sequential' or 'pairwise', got 'any'"),
        ({"totals": "all"}, "totals must be 'either', 'rounded' or 'unrounded', got 'all'"),
        ({"exp_ulp": 0.25}, "exp_ulp must be a finite number >= 0.5, got 0.25"),
        ({"sum_ulp": float("nan")}, "sum_ulp must be a finite number >= 0.5, got nan"),
        ({"tiles": -1}, "tiles must be an integer >= 0, got -1"),
        ({"merges": True}, "merges must be an integer >= 0, got True"),
    ],
)
def test_what_is_not_known_is_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        replace(Arithmetic(), **wrong)  # type: ignore[arg-type]


def test_it_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Arithmetic().tiles = 3  # type: ignore[misc]
