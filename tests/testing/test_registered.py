"""Hypothesis knows a `Call` by its type, and learning it costs no NumPy."""

from importlib.metadata import entry_points
import subprocess
import sys
from typing import Annotated, Any

from hypothesis import given, settings

from kvattn.testing.calls import Call
from kvattn.testing.planted import Planted
from kvattn.testing.registered import register
from kvattn.testing.strategies import calls_for

register()


@settings(max_examples=5)
@given(...)
def test_a_call_is_drawn_by_its_type(call: Call) -> None:
    call.must_agree(call.run(Planted()))


def test_it_stands_among_the_entry_points() -> None:
    found = [point.value for point in entry_points(group="hypothesis") if point.name == "kvattn"]
    assert found in ([], ["kvattn.testing.registered:register"])  # none where kvattn is not installed


def test_registering_loads_no_numpy() -> None:
    code = "import sys; from kvattn.testing.registered import register; register(); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def wide(q: Any, k: Any, v: Any, *, softcap: float | None = None) -> Any:
    """A function that takes one head dimension."""
    return Planted()(q, k, v, softcap=softcap)


wide.head_dims = (32,)  # type: ignore[attr-defined]


@settings(max_examples=10)
@given(...)
def test_an_annotation_may_say_whose_call(call: Annotated[Call, calls_for(wide)]) -> None:
    assert call.q.shape[3] == 32
    call.must_agree(call.run(wide))
