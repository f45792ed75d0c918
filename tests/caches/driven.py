"""What the machine over all says of a storage that may be wrong."""

from hypothesis import Phase, settings
from hypothesis.stateful import RULE_MARKER, run_state_machine_as_test

from kvattn.errors import KvattnError
from kvattn.testing.machines import ServingMachine
from kvattn.testing.machines.storages import Storage

# Shrinking a failure that is expected only costs time; most are found within 5 examples, the rest need a longer look.
PROFILE = settings(phases=[Phase.generate], max_examples=400, stateful_step_count=15, report_multiple_bugs=False)

ALL = {name for name in dir(ServingMachine) if hasattr(getattr(ServingMachine, name), RULE_MARKER)}


def complaint(chosen: Storage, *verbs: str) -> str:
    """What the machine says of a storage, of these verbs and append; of what is right, nothing."""
    left = dict.fromkeys(ALL - {*verbs, "append"})
    machine = type("Machine", (ServingMachine,), {"storages": (chosen,), **left})
    try:
        run_state_machine_as_test(machine, settings=PROFILE)
    except (AssertionError, KvattnError, ExceptionGroup) as error:
        leaves = list(error.exceptions) if isinstance(error, ExceptionGroup) else [error]
        return " / ".join(map(str, leaves))
    return ""
