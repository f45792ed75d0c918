"""What kvattn tells Hypothesis when both are installed: how to draw a `Call`.

Hypothesis imports this with every test run (entry point group ``hypothesis``), so it loads neither NumPy nor any
strategy until one is asked for: ``from_type(Call)``, or an argument annotated with `Call` under ``@given(...)``.

Such a call is of the plain contract, in any sizes.  Whose call it is says the annotation
``Annotated[Call, calls_for(my_attention)]`` (`kvattn.testing.strategies.calls_for`), which Hypothesis reads by itself.
"""

from typing import Any

from kvattn.testing.calls import Call


def register() -> None:
    """Register the strategy of `Call`.

    >>> register()
    >>> from hypothesis import strategies as st
    >>> st.from_type(Call).validate()
    """
    from hypothesis import strategies as st

    def drawn(_: type[Call]) -> Any:
        from kvattn.testing.strategies import calls

        return calls()

    st.register_type_strategy(Call, drawn)
