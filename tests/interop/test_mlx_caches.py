"""What can be said without mlx; tests/peers/test_mlx_caches.py drives it."""

from importlib.util import find_spec

import pytest

from kvattn.errors import MissingExtraError
from kvattn.interop import mlx_caches as adapters
from kvattn.interop.mlx_caches import arrays, batched_rotating, chunked, plain, rotating
from kvattn.testing.conformance import Part


def test_windows_and_sinks_are_parts() -> None:
    assert rotating(8, keep=3).capabilities.parts == (Part(window=5, sinks=3),)
    assert rotating(8, keep=3).mask_window == batched_rotating(8).mask_window == 8
    assert chunked(4).capabilities.parts == (Part(window=4),)
    assert arrays().capabilities.parts == (Part(window=2),)
    assert plain(select=False).capabilities.parts == (Part(),)


@pytest.mark.parametrize("absent", ["mlx", "mlx_lm"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None if name == absent else find_spec("numpy"))
    with pytest.raises(MissingExtraError, match=f"{absent} must be installed for this adapter, got no module {absent}"):
        plain().start(1)
