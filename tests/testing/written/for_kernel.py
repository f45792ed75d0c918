"""tests.testing.written.kernel:attend against kvattn.

Written by ``kvattn check --write-test``.
"""

from collections.abc import Callable

from hypothesis import given, settings

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.calls import Call
from kvattn.testing.diagnosis.behaviour import Behaviour
from kvattn.testing.shapes import Shapes
from kvattn.testing.strategies import calls
from tests.testing.written.kernel import attend as f

FEATURES = ("causal", "window", "sinks", "mask", "lengths", "block_table")
APART = (("mask", "window"),)
SHAPES = Shapes(head_dims=(16, 32))
# the arithmetic that was found
INSIDE = Arithmetic(compute="float32")
# conventions that were found
WAYS = Behaviour(anchor="top_left", lse_factor=1.4426950408889634)
# what it must be given always
OTHERS = {"causal": False}
CALLS = calls(FEATURES, apart=APART, shapes=SHAPES, mask_form="additive")


def test_it_is_what_the_contract_says(kvattn_check: Callable[..., object]) -> None:
    kvattn_check(f)


@settings(max_examples=24, deadline=None)
@given(CALLS.filter(lambda call: call.every_row_sees(WAYS)))
def test_it_agrees_with_the_definition(call: Call) -> None:
    call.must_agree(call.run(f, **OTHERS), arithmetic=INSIDE, behaviour=WAYS)
