"""Hypothesis knows a `Call` by its type, and learning it costs no NumPy."""

from importlib.metadata import entry_points
import subprocess
import sys

from hypothesis import given, settings

from kvattn.testing.calls import Call
from kvattn.testing.planted import Planted
from kvattn.testing.registered import register

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
