"""Verify this installation: every variant against every law, on cases drawn from a seed.

It needs NumPy alone.  A failing case is made smaller (`kvattn.testing.choices.reduced`) and reported
as the list of choices that replays it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import time

from kvattn.testing.choices import Recorded, reduced
from kvattn.testing.laws import LAWS, Case
from kvattn.testing.zoo import ZOO


@dataclass(frozen=True)
class Outcome:
    """What came of one variant under one law.

    Attributes
    ----------
    variant, law
        Their names in `kvattn.testing.zoo.ZOO` and `kvattn.testing.laws.LAWS`.
    tried
        Cases that were run.
    seconds
        Time they took.
    broken
        The first failure, made smaller, in one sentence; empty when the law held.
    choices
        The choices that replay it.

    Examples
    --------
    >>> Outcome("grouped", "cost_is_count", 3, 0.1).broken
    ''
    """

    variant: str
    law: str
    tried: int
    seconds: float
    broken: str = ""
    choices: tuple[int, ...] = ()

    @property
    def reproduce(self) -> str:
        """A line of Python that shows the failure again.

        >>> Outcome("grouped", "cost_is_count", 3, 0.1, "…", (0, 1)).reproduce
        "from kvattn.testing.installation import replay; replay('grouped', 'cost_is_count', [0, 1])"
        """
        return (
            "from kvattn.testing.installation import replay; "
            f"replay({self.variant!r}, {self.law!r}, {list(self.choices)})"
        )


def replay(variant: str, law: str, choices: list[int]) -> None:
    """Run one law on one recorded case; it raises if the law does not hold.

    >>> replay("grouped", "cost_is_count", [])
    """
    LAWS[law](ZOO[variant](Recorded(choices)))


def verify(examples: int = 20, seed: int = 0, tick: Callable[[str], None] = lambda _: None) -> Iterator[Outcome]:
    """Try every variant against every law.

    Parameters
    ----------
    examples
        Cases for each variant and law.
    seed
        Where they are drawn from.
    tick
        Called with what is being tried, for progress.

    Yields
    ------
    Outcome
        One for each variant and law.

    Examples
    --------
    >>> outcomes = list(verify(examples=1))
    >>> {outcome.broken for outcome in outcomes}
    {''}
    """
    for variant in ZOO:
        for law in LAWS:
            tick(f"{variant}: {law}")
            yield _try(variant, law, examples, seed)


def _try(variant: str, law: str, examples: int, seed: int) -> Outcome:
    began = time.perf_counter()
    for number in range(examples):
        choices = Recorded(seed=hash((seed, number)) & 0xFFFFFFFF)
        if _broken(LAWS[law], variant, choices):
            small = reduced(lambda attempt: bool(_broken(LAWS[law], variant, attempt)), choices.made)
            sentence = _broken(LAWS[law], variant, Recorded(small))
            return Outcome(variant, law, number + 1, time.perf_counter() - began, sentence, tuple(small))
    return Outcome(variant, law, examples, time.perf_counter() - began)


def _broken(law: Callable[[Case], None], variant: str, choices: Recorded) -> str:
    """The sentence of a failure, or nothing."""
    try:
        law(ZOO[variant](choices))
    except Exception as failure:  # noqa: BLE001 whatever a variant raises is a finding, not the end of the check
        return f"{type(failure).__name__}: {failure}"
    return ""
