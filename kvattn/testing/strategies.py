"""Hypothesis strategies: the same cases as `kvattn check`, drawn and shrunk by Hypothesis.

Needs the ``testing`` extra.
"""

from collections.abc import Callable

from hypothesis import strategies as st

from kvattn.testing.laws import Case
from kvattn.testing.zoo import ZOO


class Drawn:
    """`kvattn.testing.choices.Choices` from a Hypothesis ``draw``.

    >>> from hypothesis import given
    >>> @given(st.data())
    ... def integers_keep_their_bounds(data):
    ...     assert 1 <= Drawn(data.draw).integer(1, 3, "n") <= 3
    >>> integers_keep_their_bounds()
    """

    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
        self._draw = draw

    def integer(self, low: int, high: int, label: str) -> int:
        """An integer in ``low .. high``.

        >>> Drawn(lambda strategy: 2).integer(1, 3, "n")
        2
        """
        return self._draw(st.integers(low, high))


@st.composite
def cases(draw: st.DrawFn, variant: str) -> Case:
    """Cases of one variant, for `kvattn.testing.laws`.

    >>> from hypothesis import given
    >>> from kvattn.testing.laws import cost_is_count
    >>> given(cases("grouped"))(cost_is_count)()
    """
    return ZOO[variant](Drawn(draw))
