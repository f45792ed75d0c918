"""What can be said without transformers; tests/peers/test_transformers_caches.py drives it."""

from importlib.util import find_spec
from typing import Any

import pytest

from kvattn.errors import ArgumentError, MissingExtraError
from kvattn.interop import transformers_caches as adapters
from kvattn.interop.transformers_caches import KERNEL, dynamic, encoder_decoder, layered, quantized, static
from kvattn.testing.conformance import Part


def test_the_parts_stand_in_the_order_of_the_layers() -> None:
    kinds = ["full_attention", "hybrid_sliding", "conv", "indexed_attention", "linear_attention"]
    assert layered(kinds, window=3).capabilities.parts == (
        *(Part(), Part(window=3), Part(window=KERNEL), Part(window=2)),
        *(Part(window=KERNEL), Part(), Part()),
        *(Part(window=KERNEL), Part(window=2)),
    )
    assert encoder_decoder().capabilities.parts == (Part(), Part(source=True))
    assert dynamic(3).capabilities.parts == (Part(),) * 3


def test_what_is_declared_goes_through() -> None:
    assert static(8, rollback=0).capabilities.capacity == 8
    assert static(8, ["sliding_attention"], window=4).capabilities.capacity is None
    assert static(8, ["sliding_attention"], window=9).capabilities.capacity == 8
    assert not quantized("fp8", select=False).capabilities.select


@pytest.mark.parametrize("build", [layered, lambda kinds: static(4, kinds)], ids=["layered", "static"])
def test_layers_that_cannot_be_made_are_refused(build: Any) -> None:
    with pytest.raises(ArgumentError, match=r"layer_types must be among conv, full_attention, .*, got 'other'"):
        build(["other"])
    with pytest.raises(ArgumentError, match="window must be given for sliding_attention, got None"):
        build(["sliding_attention"])


@pytest.mark.parametrize("absent", ["torch", "transformers"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None if name == absent else find_spec("numpy"))
    with pytest.raises(MissingExtraError, match=f"{absent} must be installed for this adapter, got no module {absent}"):
        dynamic().start(1)
