"""StreamingLLM: the first n and the last W, for every length around their sum."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches.rows import latent
from kvattn.caches.sink_window import SinkWindow
from kvattn.errors import ArgumentError
from kvattn.eviction import recency, top
from tests.eviction.drawn import listed


@pytest.mark.by_hand("eviction/streaming")
@given(st.integers(0, 12), st.integers(0, 4), st.integers(0, 5))
def test_it_keeps_the_first_and_the_last(length: int, sinks: int, window: int) -> None:
    wanted = [slot for slot in range(length) if slot < sinks or slot >= length - window]
    found = listed(top(recency(length, sinks=sinks, batch=2, kv_heads=3), sinks + window))
    assert found == [[wanted] * 3] * 2


@pytest.mark.law("eviction/streaming", "what the sink and window cache remembers for the next token", "integers")
@given(st.integers(1, 20), st.integers(0, 4), st.integers(1, 5))
def test_it_is_what_the_storage_remembers(length: int, sinks: int, window: int) -> None:
    """The next query sees itself too, so W - 1 of the keys before it."""
    cache = SinkWindow.start(latent(1), sinks=sinks, window=window, page=1).append([np.zeros((1, 1, length, 1))])
    remembered = cache.append([np.zeros((1, 1, 1, 1))]).remembered(0).tolist()
    assert listed(top(recency(length, sinks=sinks), sinks + window - 1)) == [[remembered[:-1]]]


def test_a_budget_below_the_sinks_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"^budget must be at least 4, the keys of head 0 that are always kept, got 3$"
    ):
        top(recency(9, sinks=4), 3)
    with pytest.raises(ArgumentError, match=r"^sinks must be an integer >= 0, got -1$"):
        recency(9, sinks=-1)
    with pytest.raises(ArgumentError, match=r"^length must be an integer >= 0, got -1$"):
        recency(-1, sinks=1)
