"""The caches of transformers: the machine over what holds, and the code of every remark of the page.

The page is docs/explain/caches-of-others.md, its data tests/interop/cache_table.py.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Self

from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
import pytest

torch = pytest.importorskip("torch", reason="runs transformers' caches, which need torch: kvattn[peers]")
pytest.importorskip("transformers", minversion="5.23", reason="runs its caches: kvattn[peers]")

from transformers import Cache  # noqa: E402 -- it skips without

from kvattn.interop.transformers_caches import (  # noqa: E402 -- it skips without torch
    TransformersCache,
    batch_selected,
    dynamic,
    encoder_decoder,
    layered,
    quantized,
    repeated,
    static,
)
from kvattn.testing.cache_checking import check_cache  # noqa: E402
from kvattn.testing.cache_diagnosis.storing import read_formats  # noqa: E402
from kvattn.testing.conformance import CacheAdapter, CacheFault, Capabilities, Session  # noqa: E402
from kvattn.testing.machines import CacheMachine  # noqa: E402
from tests.interop.cache_table import ROWS, TRANSFORMERS, H, printed  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of quanto's and torch's own imports


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ways(adapter: TransformersCache) -> list[TransformersCache]:
    """All three ways of selecting."""
    return [adapter, replace(adapter, selecting=batch_selected), replace(adapter, selecting=repeated)]


def recording(adapter: TransformersCache) -> TransformersCache:
    """It can take back what came with the last append, as `generate` uses it; more is tried where it is refused."""
    untried = frozenset({"rollback", "oversize"})
    can = replace(adapter.capabilities, rollback=40, untried=adapter.capabilities.untried | untried)
    return replace(adapter, capabilities=can, recording=True)


BRIEFLY = settings(phases=[Phase.generate], max_examples=12, stateful_step_count=12)

SLIDING = layered(["sliding_attention"], window=4, rollback=0, none=False)
BOTH = layered(["full_attention", "sliding_attention"], window=4)
FRAGILE: dict[str, Any] = {"rollback": 0, "recovers": False}


class Still:
    """A stream on which nothing waits: there is no GPU."""

    def wait_stream(self, other: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def offloaded(adapter: TransformersCache) -> TransformersCache:
    """The same cache, its layers taken to the CPU after each update, where they are; it holds a stream."""

    def make() -> Any:
        made = adapter.make()
        moved = Cache(layers=made.layers, offloading=True, offload_only_non_sliding=False)
        moved.__class__ = type(made)
        return moved

    return replace(adapter, make=make, capabilities=replace(adapter.capabilities, branch=False))


UNTRIED = frozenset({"rollback", "oversize", "negative", "none"})

HOLDING: dict[str, list[TransformersCache]] = {
    "DynamicCache": [*ways(dynamic()), dynamic(2)],
    "DynamicCache, sliding": [*ways(SLIDING), recording(SLIDING)],
    "DynamicCache, full and sliding": ways(recording(BOTH)),
    "DynamicCache, indexed": ways(layered(["indexed_attention", "full_attention"])),
    "StaticCache": [static(9, **FRAGILE), static(9, ["indexed_attention"], **FRAGILE)],
    "DynamicCache, offloaded": [
        *ways(offloaded(layered(["full_attention", "full_attention"]))),
        *ways(offloaded(recording(BOTH))),
    ],
    "StaticCache, offloaded": [offloaded(static(9, ["full_attention", "full_attention"], **FRAGILE))],
    "StaticCache, sliding": [
        static(12, ["sliding_attention"], window=w, rollback=0, untried=frozenset({"none"})) for w in (1, 2, 4)
    ],
    "QuantizedCache, fp8": [quantized("fp8", rollback=0, untried=frozenset({"rollback", "oversize", "scale"}))],
    "QuantizedCache, quanto": [quantized("quanto", rollback=0, branch=False, untried=UNTRIED)],
    "QuantizedCache, HQQ": [quantized("hqq", rollback=0, untried=UNTRIED)],
    "EncoderDecoderCache": ways(encoder_decoder()),
    "linear attention, convolution": [layered(["conv"], rollback=0), recording(layered(["conv"]))],
    "linear attention, both states": [layered(["linear_attention"], rollback=0)],
    "hybrid layers": [
        layered(["hybrid"], rollback=0),
        layered(["hybrid_sliding"], window=4, rollback=0),
        static(9, ["hybrid"], **FRAGILE),
    ],
}

CASES = [(name, adapter) for name, some in HOLDING.items() for adapter in some]


@pytest.mark.parametrize(("name", "adapter"), CASES, ids=[f"{name} {i}" for i, (name, _) in enumerate(CASES)])
def test_what_holds_is_driven(name: str, adapter: TransformersCache, monkeypatch: pytest.MonkeyPatch) -> None:
    if "quanto" in name:
        pytest.importorskip("optimum.quanto", reason="quantises for transformers; it is in no extra")
    if "HQQ" in name:
        pytest.importorskip("hqq", reason="quantises for transformers; it is in no extra, since importing it warns")
    if "offloaded" in name:
        monkeypatch.setattr(torch, "Stream", Still)
        monkeypatch.setattr(torch.cuda, "default_stream", lambda device: Still())
    tested = adapter

    class Machine(CacheMachine):
        adapter: CacheAdapter = tested

    run_state_machine_as_test(Machine, settings=BRIEFLY)


@pytest.mark.parametrize("name", [name for name in HOLDING if "offloaded" not in name and "HQQ" not in name])
def test_a_check_has_no_false_alarm(name: str) -> None:
    if "quanto" in name:
        pytest.importorskip("optimum.quanto", reason="quantises for transformers; it is in no extra")
    report = check_cache(HOLDING[name][-1], drawn=2)
    assert report.verdict == "pass", str(report)
    assert bool(report.notes) == (name == "QuantizedCache, fp8")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_dynamic_cache_keeps_the_format_of_its_rows(dtype: str) -> None:
    told = list(read_formats(replace(dynamic(), capabilities=Capabilities(store=dtype))))
    assert [(one.formats, one.dtype) for one in told] == [((), dtype)] * 2
    assert [one.explained for one in told] == [True, True]


def test_a_scale_that_is_frozen_after_the_first_update_is_told() -> None:
    """As its docstring says: what comes later and is larger is cut."""
    found = check_cache(quantized("fp8", rollback=0, untried=frozenset({"rollback", "oversize"})), drawn=0).findings
    assert [finding.parameters for finding in found] == [
        {"field": field, "scale": "of the first append", "shared": "tensor", "newest": "cut"} for field in "kv"
    ]


def test_every_row_is_driven_with_what_it_says() -> None:
    rows = {row.name: row for row in ROWS if row.project == "transformers"}
    assert rows.keys() == HOLDING.keys()
    for name, some in HOLDING.items():
        for column, declared in ((1, "rollback"), (3, "select"), (4, "resize"), (5, "branch")):
            if rows[name].cells[column] == H:
                assert any(getattr(a.capabilities, declared) is not False for a in some)
                assert any(a.capabilities.rollback != 0 for a in some) or declared != "rollback"


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_remark_prints_what_the_page_shows(name: str) -> None:
    if "quanto" in TRANSFORMERS[name].code:
        pytest.importorskip("optimum.quanto", reason="quantises for transformers; it is in no extra")
    assert printed("transformers", TRANSFORMERS[name]) == TRANSFORMERS[name].prints


@pytest.mark.parametrize("name", ["quanto-crop", "empty-residual", "quanto-select"])
def test_hqq_does_the_same_as_quanto(name: str) -> None:
    pytest.importorskip("hqq", reason="quantises for transformers; it is in no extra, since importing it warns")
    remark = TRANSFORMERS[name]
    code = remark.code.replace('"quanto"', '"hqq"').replace("q_group_size=8", "q_group_size=8, nbits=8")
    assert printed("transformers", remark._replace(code=code)) == remark.prints


def test_an_offloaded_cache_needs_a_gpu_and_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here, and what is refused without one works")
    with pytest.raises(CacheFault, match=r"^refused: append\(0, 2\) was refused"):
        Session(offloaded(layered(["full_attention"]))).follow("start 1, append 2")


SEEN: dict[str, tuple[TransformersCache, str]] = {
    "torn-crop": (layered(["full_attention", "sliding_attention"], window=4, rollback=0), "append 6, rollback 1"),
    "second-crop": (replace(SLIDING, recording=True), "append 8, rollback 1, rollback 1"),
    "window-of-one": (layered(["sliding_attention"], window=1), "append 3, append 1"),
    "counted": (static(4, rollback=0), "append 3, append 2"),
    "short-ring": (static(4, ["sliding_attention"], window=8, rollback=0), "append 4, append 1"),
    "empty-residual": (quantized("quanto"), "append 8, rollback 1"),
    "half-moved": (replace(layered(["hybrid"], rollback=0), selecting=batch_selected), "append 2, select 1 0"),
    "torn-select": (
        replace(layered(["full_attention", "linear_attention"], select=False), selecting=batch_selected),
        "append 2, select 1 0",
    ),
    "conv-second-crop": (replace(layered(["conv"], rollback=40), recording=True), "append 8, rollback 1, rollback 2"),
}


@pytest.mark.parametrize("name", SEEN)
def test_the_session_gives_a_fault_the_name_on_the_page(name: str) -> None:
    if "quanto" in TRANSFORMERS[name].code:
        pytest.importorskip("optimum.quanto", reason="quantises for transformers; it is in no extra")
    adapter, script = SEEN[name]
    with pytest.raises(CacheFault) as found:
        Session(adapter).follow(f"start 2, {script}")
    assert found.value.kind == TRANSFORMERS[name].kind
