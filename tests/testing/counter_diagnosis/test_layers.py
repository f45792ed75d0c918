"""Which of the layers have the window."""

from typing import Any

import pytest

from kvattn.testing.counter_diagnosis.bench import bench_of
from kvattn.testing.counter_diagnosis.layers import read_layers


@pytest.mark.parametrize(
    ("layers_of", "name"),
    [
        (lambda n, near: (n - near, near), None),
        (lambda n, _: (n, 0), "none"),
        (lambda n, _: (0, n), "all"),
        (lambda n, near: (n - near, 0), "left out"),
        (lambda _, near: (0, near), "counted alone"),
        (lambda n, near: (near, n - near), "the other ones"),
    ],
)
def test_layers_are_named(layers_of: Any, name: str | None) -> None:
    def mine(
        *, layers: int, queries: int, width: int, window: int | None = None, window_layers: int | None = None
    ) -> Any:
        near = 0 if window is None else layers if window_layers is None else window_layers
        wide, narrow = (layers - near, near) if layers == 1 else layers_of(layers, near)
        seen = sum(min(i + 1, window or queries) for i in range(queries))
        return 4 * width * (wide * queries**2 + narrow * seen)

    bench = bench_of(mine)
    read_layers(bench)
    assert [f.parameters for f in bench.findings] == ([] if name is None else [{"window_layers": name}])


def test_what_is_none_of_them_is_told() -> None:
    def mine(
        *, layers: int, queries: int, width: int, window: int | None = None, window_layers: int | None = None
    ) -> Any:
        return 4 * width * queries**2 * (layers + 5 * (window_layers or 0) * (layers > 1))

    bench = bench_of(mine)
    read_layers(bench)
    assert bench.findings[0].detail.startswith("Which layers have the window does not read: it counts ")
