"""Verify this installation: every variant against every law, on drawn cases.

`seeded` needs NumPy alone: it draws from a seed and makes a failing case smaller itself
(`kvattn.testing.choices.reduced`).  `kvattn.testing.strategies.drawn`, with the ``testing`` extra, lets
Hypothesis draw and shrink.  Either reports a failing case as the list of choices that replays it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import time
from typing import TypeAlias

from kvattn.testing.choices import Choices, Recorded, reduced
from kvattn.testing.laws import LAWS
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


Engine: TypeAlias = Callable[[str, str, int, int], Outcome]
"""Tries one variant under one law: ``engine(variant, law, examples, seed)``."""


def verify(
    examples: int = 20, seed: int = 0, tick: Callable[[str], None] = lambda _: None, engine: Engine | None = None
) -> Iterator[Outcome]:
    """Try every variant against every law.

    Parameters
    ----------
    examples
        Cases for each variant and law.
    seed
        Where they are drawn from.
    tick
        Called with what is being tried, for progress.
    engine
        Draws the cases; `seeded` unless given.

    Yields
    ------
    Outcome
        One for each variant and law.

    Examples
    --------
    >>> first = next(verify(examples=1))
    >>> first.variant, first.law, first.broken
    ('grouped', 'decode_is_recompute', '')
    """
    for variant in ZOO:
        for law in LAWS:
            tick(f"{variant}: {law}")
            yield (engine or seeded)(variant, law, examples, seed)


def seeded(variant: str, law: str, examples: int, seed: int) -> Outcome:
    """Try one variant under one law on cases drawn from a seed.

    >>> seeded("cross", "cost_is_count", 3, 0).tried
    3
    """
    began = time.perf_counter()
    for number in range(examples):
        choices = Recorded(seed=hash((seed, number)) & 0xFFFFFFFF)
        if broken(variant, law, choices):
            small = reduced(lambda attempt: bool(broken(variant, law, attempt)), choices.made)
            sentence = broken(variant, law, Recorded(small))
            return Outcome(variant, law, number + 1, time.perf_counter() - began, sentence, tuple(small))
    return Outcome(variant, law, examples, time.perf_counter() - began)


def broken(variant: str, law: str, choices: Choices) -> str:
    """The sentence of a failure, or nothing.

    >>> broken("grouped", "cost_is_count", Recorded())
    ''
    """
    try:
        LAWS[law](ZOO[variant](choices))
    except Exception as failure:  # noqa: BLE001 whatever a variant raises is a finding, not the end of the check
        return f"{type(failure).__name__}: {failure}"
    return ""
