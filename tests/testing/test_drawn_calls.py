"""Drawn calls mix features, differ in their sizes, and stand at boundaries."""

from collections import Counter
import os

import numpy as np
import pytest

from kvattn.errors import ArgumentError, MissingExtraError
from kvattn.testing import drawn_calls
from kvattn.testing.choices import Recorded
from kvattn.testing.drawn_calls import FEATURES, PAGES, call_of, recipe_of
from kvattn.testing.planted import Planted
from kvattn.testing.shapes import Shapes
from kvattn.testing.targets import KEYWORDS

SOME = 1 if os.environ.get("KVATTN_PROFILE") == "deep" else 2
"""CI compares every second of some calls."""


def test_every_feature_is_a_keyword_of_the_contract() -> None:
    assert set(FEATURES) <= set(KEYWORDS)


def test_two_features_at_least_and_never_a_window_alone() -> None:
    seen: Counter[str] = Counter()
    for seed in range(400):
        options = call_of(Recorded(seed=seed), FEATURES).options
        assert len(options) >= 2
        assert "causal" in options or "window" not in options
        seen.update(options.keys())
    assert min(seen[name] for name in FEATURES) > 100


def test_sizes_differ_and_windows_meet_their_boundaries() -> None:
    calls = [call_of(Recorded(seed=seed), FEATURES) for seed in range(1000)]
    shapes = {(c.q.shape[0], c.q.shape[1], c.k.shape[1], c.q.shape[2], c.k.shape[2]) for c in calls}
    assert len(shapes) > 150
    assert any(hq > hkv > 1 for _, hq, hkv, _, _ in shapes)
    assert {t == 1 for *_, t, _ in shapes} == {t == s for *_, t, s in shapes} == {True, False}
    assert {15, 16, 17, 127, 128, 129} <= {s for *_, s in shapes}
    beside = {call.options["window"] - call.k.shape[2] for call in calls if "window" in call.options}
    assert {-1, 0, 1} <= beside
    assert any(not call.visible.any(-1).all() for call in calls)


def test_what_must_not_come_together_does_not() -> None:
    for seed in range(200):
        names = set(call_of(Recorded(seed=seed), FEATURES, apart=[("causal", "mask"), ("bias", "mask")]).options)
        assert not {"causal", "mask"} <= names
        assert not {"bias", "mask"} <= names
        assert "causal" in names or "window" not in names


def test_every_keyword_may_be_drawn_and_has_its_answer() -> None:
    seen: Counter[str] = Counter()
    for seed in range(150):
        call = call_of(Recorded(seed=seed), KEYWORDS)
        if seed % SOME == 0:
            call.must_agree(call.run(Planted()))
        seen.update(call.options.keys())
    assert seen.keys() == {*KEYWORDS}


def test_pages_are_odd_and_one_and_larger_than_the_sequence() -> None:
    calls = [call_of(Recorded(seed=seed), ("lengths", "block_table")) for seed in range(200)]
    paged = [call for call in calls if "block_table" in call.options]
    assert {call.k.shape[2] for call in paged} == {*PAGES}
    assert any(call.k.shape[2] > call.options["lengths"].max() for call in paged)
    for call in paged[: 40 // SOME]:
        call.must_agree(call.run(Planted()))


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (("causal", "drop"), "features must be from causal, window, .*, got drop"),
        (("window",), "features must have causal or ahead where they have window, got window alone"),
        (("block_table",), "features must have lengths where they have block_table, got block_table alone"),
    ],
)
def test_unknown_features_are_refused(features: tuple[str, ...], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        call_of(Recorded(), features)


KERNEL = Shapes(head_dims=(16, 32), batch_sizes=(1,), group_sizes=(1, 4), key_lengths=range(16, 257, 16))


def test_sizes_are_those_that_are_taken_and_boundaries_stand_at_them() -> None:
    features = ("causal", "window", "mask", "lengths")
    calls = [call_of(Recorded(seed=seed), features, shapes=KERNEL) for seed in range(300)]
    assert all(KERNEL.takes(call.recipe.sizes, call.options) for call in calls)
    assert {call.q.shape[3] for call in calls} == {16, 32}
    windows = [call.options["window"] - call.k.shape[2] for call in calls if "window" in call.options]
    assert {-1, 0, 1} <= {*windows}


def test_what_is_taken_at_any_size_is_drawn_as_before() -> None:
    for seed in range(20):
        plain = recipe_of(Recorded(seed=seed), ("causal", "window"))
        assert recipe_of(Recorded(seed=seed), ("causal", "window"), shapes=Shapes()) == plain


@pytest.mark.parametrize(("form", "hidden"), [("additive", -np.inf), ("zero-one", 0)])
def test_a_mask_is_written_in_its_form(form: str, hidden: float) -> None:
    calls = [call_of(Recorded(seed=seed), ("causal", "mask"), "float32", mask_form=form) for seed in range(30)]
    masks = [call.options["mask"] for call in calls if "mask" in call.options]
    assert all(mask.dtype == (np.float32 if form == "additive" else np.int64) for mask in masks)
    assert any((mask == hidden).any() for mask in masks)
    for call in calls:
        words = dict(call.options)
        if "mask" in words:
            words["mask"] = words["mask"] != hidden
        call.must_agree(Planted()(call.q, call.k, call.v, **words))


def test_another_form_of_a_mask_is_refused() -> None:
    with pytest.raises(ArgumentError, match="mask_form must be one of boolean, additive, zero-one, got 'words'"):
        call_of(Recorded(), ("mask",), mask_form="words")


def test_bfloat16_is_that_of_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn_calls, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="ml_dtypes must be installed for dtype bfloat16, got no module"):
        call_of(Recorded(), (), "bfloat16")
