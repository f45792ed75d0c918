"""Every wrong reading of a boolean mask has a name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kvattn.testing.diagnosis.bends import read_bias
from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.diagnosis.masks import read_mask
from kvattn.testing.planted import Planted
from kvattn.testing.planted.wrapped import Turns
from kvattn.testing.shapes import Shapes
from kvattn.testing.targets import target_of

CORE = Planted(returns_lse=False)


def reading(change: Callable[[Any], Any]) -> Lab:
    def function(q: Any, k: Any, v: Any, *, mask: Any = None) -> Any:
        shape = (*q.shape[:3], k.shape[2])
        full = None if mask is None else np.broadcast_to(change(mask), shape)
        return CORE(q, k, v, mask=full)

    return Lab(target_of(function))


@pytest.mark.parametrize(
    ("change", "parameters"),
    [
        (lambda m: m[:, :1], {"reads": "head 0 of the mask for all heads"}),
        (lambda m: m[:1], {"reads": "sequence 0 of the mask for all sequences"}),
        (lambda m: m[:, :, :1], {"reads": "row 0 of the mask for all rows"}),
        (lambda m: np.roll(m, 1, -1), {"reads": "the mask moved by one key"}),
        (lambda m: m | (np.arange(m.shape[-1]) == 3), {"argument": "mask"}),
        (lambda m: m[:1] if m.ndim == 4 and m.shape[1] == 1 else m, {"shape": "[B, 1, T, S]"}),
    ],
)
def test_a_mask_read_wrongly_is_named(change: Callable[[Any], Any], parameters: dict[str, Any]) -> None:
    lab = reading(change)
    read_mask(lab)
    (finding,) = lab.findings
    assert finding.fault_class == "mask-compose"
    assert {name: finding.parameters[name] for name in parameters} == parameters


def test_a_shape_that_is_refused_is_no_fault() -> None:
    def strict(q: Any, k: Any, v: Any, *, mask: Any = None) -> Any:
        if mask is not None and mask.shape != (*q.shape[:3], k.shape[2]):
            raise ValueError("the full mask, please")
        return CORE(q, k, v, mask=mask)

    for lab in (Lab(target_of(strict)), Lab(planted())):
        read_mask(lab)
        assert lab.findings == []


def test_a_mask_that_is_added_shows_the_number_it_adds() -> None:
    lab = Lab(target_of(lambda q, k, v, *, mask=None: CORE(q, k, v, bias=None if mask is None else -0.25 * mask)))
    read_mask(lab)
    assert lab.findings[0].parameters == {"encoding": "added", "true": -0.25}


def test_a_mask_that_is_transposed_where_it_can_be_is_named() -> None:
    lab = Lab(target_of(Turns("mask")))
    read_mask(lab)
    assert lab.findings[0].parameters == {"argument": "mask", "reads": "the mask transposed", "when": "T = S"}


@pytest.mark.parametrize(("which", "name"), [("bias", "of"), ("mask", "reads")])
def test_what_is_transposed_has_its_name_where_there_are_only_squares(which: str, name: str) -> None:
    lab = Lab(target_of(Turns(which)), shapes=Shapes(equal_lengths=True))
    (read_bias if which == "bias" else read_mask)(lab)
    assert lab.findings[0].fault_class == "mask-compose"
    assert "transposed" in lab.findings[0].parameters[name]
