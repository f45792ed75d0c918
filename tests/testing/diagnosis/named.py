"""Mutants of the zoo given to one reader at a time."""

from collections.abc import Callable, Iterable

from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.planted import Mutant
from kvattn.testing.targets import target_of


def read(mutant: Mutant, *readers: Callable[[Lab], object]) -> Lab:
    """Give a mutant to readers."""
    lab = Lab(target_of(mutant.function))
    for reader in readers:
        reader(lab)
    return lab


def named(mutant: Mutant, *readers: Callable[[Lab], object]) -> bool:
    """Whether the readers alone name a mutant."""
    return any(mutant.is_named_by(finding) for finding in read(mutant, *readers).findings)


def silent(*readers: Callable[[Lab], object]) -> bool:
    """Whether the readers find nothing in the attention without a fault."""
    lab = Lab(planted())
    for reader in readers:
        reader(lab)
    return lab.findings == []


def of_class(mutants: Iterable[Mutant], *classes: str) -> list[Mutant]:
    """Those of some classes."""
    return [mutant for mutant in mutants if mutant.fault_class in classes]
