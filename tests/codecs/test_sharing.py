"""Which numbers share a scale: boxes by hand, names, and what does not divide."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.codecs import PER_CHANNEL, PER_HEAD, PER_TENSOR, PER_TOKEN, PER_TOKEN_HEAD, groups_of, token_groups_of
from kvattn.codecs.sharing import Sharing
from kvattn.errors import ArgumentError, ShapeError
from tests.codecs.cases import boxes


@pytest.mark.by_hand("codecs/sharing")
@pytest.mark.no_peer("codecs/sharing", "an axis and a size; the codecs that use it are compared")
@given(st.tuples(*[st.integers(1, 3)] * 3), st.tuples(*[st.integers(1, 3)] * 3), st.tuples(*[st.booleans()] * 3))
def test_boxes_by_hand(counts: Any, box: Any, whole: Any) -> None:
    shape = tuple(n * b for n, b in zip(counts, box, strict=True))
    box = tuple(n if all_of else b for n, b, all_of in zip(shape, box, whole, strict=True))
    sharing = Sharing(*(None if all_of else b for b, all_of in zip(box, whole, strict=True)))
    x = np.random.default_rng(sum(shape)).standard_normal((2, *shape))
    highest = sharing.reduce(np.maximum, x)
    spread = sharing.spread(highest, x.shape)
    assert highest.shape == sharing.shape(x.shape)
    for b in range(2):
        for place, members in boxes(shape, box):
            most = max(x[b][at] for at in members)
            assert highest[b][place] == most
            assert all(spread[b][at] == most for at in members)


def test_names_mean_what_they_say() -> None:
    shape = (8, 10, 64)
    assert PER_TOKEN_HEAD.shape(shape) == (8, 10, 1)
    assert PER_TOKEN.shape(shape) == (1, 10, 1)
    assert PER_CHANNEL.shape(shape) == (8, 1, 64)
    assert PER_HEAD.shape(shape) == (8, 1, 1)
    assert PER_TENSOR.shape(shape) == (1, 1, 1)
    assert groups_of(32).shape(shape) == (8, 10, 2)
    assert token_groups_of(5).shape(shape) == (8, 2, 64)
    assert PER_TENSOR.shape((8, 0, 64)) == (1, 0, 1)


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"^x must have a width that is a multiple of 32, got 48$"):
        groups_of(32).shape((1, 1, 48))
    with pytest.raises(ShapeError, match=r"^x must have tokens that are a multiple of 4, got 6$"):
        token_groups_of(4).shape((1, 6, 48))
    with pytest.raises(ShapeError, match=r"^x must have heads that are a multiple of 2, got 3$"):
        Sharing(heads=2).shape((3, 6, 48))
    with pytest.raises(ArgumentError, match=r"^width must be an integer >= 1, got 0$"):
        groups_of(0)
    with pytest.raises(ArgumentError, match=r"^tokens must be an integer >= 1, got True$"):
        Sharing(tokens=True)
