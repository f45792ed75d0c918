"""Hypothesis strategies: calls of attention functions, cuts, masks, and the cases of every variant.

For the tests of other projects: `calls_for` a function, or `calls`, with `kvattn.testing.calls.Call`, which knows its
answer; `cuts` for anything that may be fed in pieces; `masks` for anything that takes a mask.  `cases` and `drawn` are
what ``kvattn check`` uses on the installation.  Needs the ``testing`` extra.
"""

from collections.abc import Callable, Iterable, Sequence
import time
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded_with
from hypothesis import strategies as st

from kvattn.testing.calls import Call
from kvattn.testing.drawn_calls import FEATURES, call_of
from kvattn.testing.installation import Outcome, broken
from kvattn.testing.keywords import KEYWORDS
from kvattn.testing.laws import Case, LawError
from kvattn.testing.shapes import ANY, Shapes
from kvattn.testing.targets import Target, target_of
from kvattn.testing.zoo import ZOO
from kvattn.testing.zoo.parts import cuts_of, mask_of
from kvattn.typing import Mask


class Drawn:
    """`kvattn.testing.choices.Choices` from a Hypothesis ``draw``.

    >>> from hypothesis import given
    >>> @given(st.data())
    ... def integers_keep_their_bounds(data):
    ...     assert 1 <= Drawn(data.draw).integer(1, 3, "n") <= 3
    >>> integers_keep_their_bounds()
    """

    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
        self.made: list[int] = []
        self._draw = draw

    def integer(self, low: int, high: int, label: str) -> int:
        """An integer in ``low .. high``.

        >>> Drawn(lambda strategy: 2).integer(1, 3, "n")
        2
        """
        number = self._draw(st.integers(low, high))
        self.made.append(number - low)
        return number


@st.composite
def calls(
    draw: st.DrawFn,
    features: Sequence[str] = FEATURES,
    dtype: str = "float64",
    apart: Iterable[Iterable[str]] = (),
    *,
    shapes: Shapes = ANY,
    mask_form: str = "boolean",
) -> Call:
    """Calls of an attention function that takes these keywords, two at least at once where there are two.

    Parameters
    ----------
    features
        Keywords of the contract, those of `kvattn.testing.keywords` too; the plain contract's unless given.
    dtype
        Element type of the arrays.
    apart
        Pairs of features that never come together.
    shapes
        Sizes that the function takes.
    mask_form
        How it takes a mask: ``"boolean"``, ``"additive"`` or ``"zero-one"``.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> from kvattn.testing.contract import attend
    >>> @settings(max_examples=5, database=None)
    ... @given(calls(["causal", "scale"]))
    ... def agrees(call):
    ...     call.must_agree(call.run(attend))
    >>> agrees()
    """
    return call_of(Drawn(draw), features, dtype, apart, shapes=shapes, mask_form=mask_form)


def calls_for(function: Callable[..., Any] | Target, dtype: str = "float64") -> st.SearchStrategy[Call]:
    """Calls that a function takes: its keywords, and the sizes, the form of a mask and the pairs that it declares.

    Parameters
    ----------
    function
        Of the contract of `kvattn.testing.targets`, with its attributes.
    dtype
        Element type of the arrays.

    Raises
    ------
    ArgumentError
        Where it is not of the contract's form.

    Examples
    --------
    >>> from hypothesis import find
    >>> def attend(q, k, v, *, sinks=None): ...
    >>> attend.head_dims = (64, 128)
    >>> find(calls_for(attend), lambda call: "sinks" in call.options).q.shape
    (1, 1, 1, 64)
    """
    target = function if isinstance(function, Target) else target_of(function)
    features = tuple(name for name in KEYWORDS if name in target.features)
    return calls(features, dtype, target.exclusive, shapes=target.shapes, mask_form=target.mask_form)


@st.composite
def cuts(draw: st.DrawFn, length: int) -> tuple[int, ...]:
    """Where to cut ``length`` tokens into pieces: up to four places, the ends and repeated ones included.

    >>> from hypothesis import find
    >>> find(cuts(5), lambda places: len(places) > 1)
    (0, 0)
    """
    return cuts_of(Drawn(draw), length)


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """Masks of `kvattn.masks` and combinations of them.

    >>> from hypothesis import find
    >>> find(masks(), lambda mask: mask is not None)
    Causal()
    """
    return mask_of(Drawn(draw))


@st.composite
def cases(draw: st.DrawFn, variant: str) -> Case:
    """Cases of one variant, for `kvattn.testing.laws`.

    >>> from hypothesis import given
    >>> from kvattn.testing.laws import cost_is_count
    >>> given(cases("grouped"))(cost_is_count)()
    """
    return ZOO[variant](Drawn(draw))


def drawn(variant: str, law: str, examples: int, seed: int) -> Outcome:
    """Try one variant under one law on cases that Hypothesis draws and shrinks: an engine of `verify`.

    >>> drawn("cross", "cost_is_count", 3, 0).broken
    ''
    """
    began = time.perf_counter()
    tried = 0
    failing: list[tuple[str, list[int]]] = []  # the last one is the smallest: Hypothesis runs it once more in the end

    @seeded_with(seed)
    # Without Phase.explain: it traces every line of every try, takes ten times as long, and nobody reads what it says.
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        nonlocal tried
        tried += not failing
        choices = Drawn(data.draw)
        sentence = broken(variant, law, choices)
        if sentence:
            failing.append((sentence, choices.made))
            raise LawError(sentence)

    try:
        holds()
    except LawError:
        sentence, made = failing[-1]
        return Outcome(variant, law, tried, time.perf_counter() - began, sentence, tuple(made))
    return Outcome(variant, law, tried, time.perf_counter() - began)
