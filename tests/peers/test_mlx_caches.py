"""The caches of mlx-lm: the machine over what holds, and the code of every remark of the page.

The page is docs/explain/caches-of-others.md, its data tests/interop/cache_table.py.
"""

from typing import Any

from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
import pytest

REASON = "runs the caches of mlx-lm, which are in no extra: pip install mlx mlx-cpu mlx-lm"
pytest.importorskip("mlx.core", reason=REASON)
pytest.importorskip("mlx_lm.models.cache", reason=REASON)

from kvattn.interop import mlx_caches as mlx  # noqa: E402 -- it skips without mlx
from kvattn.interop.mlx_caches import MlxCache  # noqa: E402
from kvattn.testing.cache_checking import check_cache  # noqa: E402
from kvattn.testing.conformance import CacheAdapter, CacheFault, Session  # noqa: E402
from kvattn.testing.machines import CacheMachine  # noqa: E402
from tests.interop.cache_table import MLX, ROWS, printed  # noqa: E402

BRIEFLY = settings(phases=[Phase.generate], max_examples=15, stateful_step_count=12)

NEGATIVE = frozenset({"negative"})
TRIM = frozenset({"negative", "rollback", "oversize"})
ONE: dict[str, Any] = {"select": False, "resize": False}
RING: dict[str, Any] = {"rollback": 0, "untried": frozenset({"negative", "none"})}

HOLDING: dict[str, MlxCache] = {
    "KVCache": mlx.plain(**ONE, untried=NEGATIVE),
    "ConcatenateKVCache": mlx.concatenated(**ONE, rollback=0, untried=TRIM),
    "QuantizedKVCache": mlx.quantized(**ONE, untried=NEGATIVE),
    "RotatingKVCache": mlx.rotating(4, **ONE, **RING),
    "RotatingKVCache, keep": mlx.rotating(5, 2, **ONE, rollback=0, untried=frozenset({"negative", "none", "many"})),
    "ChunkedKVCache": mlx.chunked(4, **ONE, rollback=40, untried=TRIM),
    "BatchKVCache": mlx.batched(untried=NEGATIVE),
    "BatchRotatingKVCache": mlx.batched_rotating(4, **RING),
    "ArraysCache": mlx.arrays(),
}


@pytest.mark.parametrize("name", HOLDING)
def test_what_holds_is_driven(name: str) -> None:
    class Machine(CacheMachine):
        adapter: CacheAdapter = HOLDING[name]

    run_state_machine_as_test(Machine, settings=BRIEFLY)


@pytest.mark.parametrize("name", HOLDING)
def test_a_check_has_no_false_alarm(name: str) -> None:
    report = check_cache(HOLDING[name], drawn=2)
    if name == "RotatingKVCache, keep":
        assert report.findings[0].parameters == {"failure": MLX["sinks-hidden-in-prompt"].kind}
        assert report.findings[0].reproduce == "start 0 1, append 0 6"
    else:
        assert report.verdict == "pass", str(report)


def test_every_row_is_driven() -> None:
    assert [row.name for row in ROWS if row.project == "mlx-lm"] == list(HOLDING)


@pytest.mark.parametrize("name", MLX)
def test_a_remark_prints_what_the_page_shows(name: str) -> None:
    assert printed("mlx-lm", MLX[name]) == MLX[name].prints


def test_the_session_sees_rows_come_back() -> None:
    session = Session(mlx.concatenated(**ONE))
    line = session.start(1)
    session.append(line, 4)
    with pytest.raises(CacheFault) as found:
        session.rollback(line, 2)
    assert found.value.kind == MLX["trim-is-forgotten"].kind


def test_the_session_sees_that_sinks_are_hidden_from_several_queries() -> None:
    session = Session(mlx.rotating(5, 2, **ONE, rollback=0, untried=frozenset({"negative", "none"})))
    line = session.start(1)
    for _ in range(5):
        session.append(line, 1)
    with pytest.raises(CacheFault) as found:
        session.append(line, 2)
    assert found.value.kind == MLX["sinks-hidden"].kind
