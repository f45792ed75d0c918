"""What is tried on a latent layer: each change is another layer, in every call or in some."""

from dataclasses import replace

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.masks import Window
from kvattn.testing import check
from kvattn.testing.layer_diagnosis.latent import changes, fits, parts
from kvattn.testing.layer_diagnosis.latent_reading import CALLS, LatentReading
from kvattn.testing.layer_diagnosis.reading import Case
from kvattn.testing.layer_targets import LayerTarget
from kvattn.testing.planted_latent import PlantedLatent, declared

LATENT = declared(4, (6, 4, 3, 9, 12), scale=0.45)


def test_every_change_is_another_layer() -> None:
    now, w = LatentReading(LATENT), LATENT.projections
    x = Case(np.random.default_rng(2).standard_normal((1, 8, 12)), cuts=(3, 4, 6))
    right = now.predict(w, x)
    tried = [*changes(now), *parts(now)]
    assert len({str(change.parameters) for change in tried}) == len(tried)
    for change in tried:
        assert np.abs(change.reading.predict(w, x) - right).max() > 1e-4, change


def test_words_and_numbers() -> None:
    assert [fit.parameter for fit in fits(LatentReading(LATENT))] == [f"factor in {calls}" for calls in CALLS]
    assert next(iter(changes(LatentReading(LATENT)))).words.endswith("expected 0.45")


def test_a_layer_that_raises_is_told() -> None:
    def layer(x: np.ndarray, *, cache: object = None) -> object:
        raise RuntimeError("not today")

    layer.latent = LATENT  # type: ignore[attr-defined]
    assert check(layer).findings[0].detail == "It raises RuntimeError: not today, where sizes were read."


def test_a_layer_that_is_not_the_same_twice_is_told() -> None:
    noise, planted = np.random.default_rng(0), PlantedLatent(LATENT)

    def layer(x: np.ndarray) -> np.ndarray:
        return planted(x)[0] + noise.standard_normal(x.shape)

    layer.latent = LATENT  # type: ignore[attr-defined]
    (finding,) = check(layer).findings
    assert finding.parameters == {"random": True}


@pytest.mark.parametrize(
    ("latent", "words"),
    [
        (3, "latent must be an Absorbed or Expanded layer, got 3"),
        (replace(LATENT, mask=Window(3)), "latent must be a layer without mods and sinks, causal or without a mask"),
    ],
)
def test_what_cannot_be_declared_is_refused(latent: object, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        LayerTarget("mine", print, latent=latent)  # type: ignore[arg-type]
