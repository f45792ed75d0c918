"""What a layer should be: the plan that it is compared with.

The defaults are a causal layer without positions, norms or anything that bends a score.
"""

from dataclasses import dataclass
from typing import Any, Literal

from kvattn.arguments import integer, optional_real, real, shown
from kvattn.errors import ArgumentError
from kvattn.positions.rotary import Rotary


@dataclass(frozen=True)
class Plan:
    """A declared layer.

    Attributes
    ----------
    rotary
        A `kvattn.positions.Rotary`, or anything with ``rotary_at(length)``; None for no rotation.
    norm
        RMS norms of queries and keys, weighted by ``q_norm`` and ``k_norm``: ``"before"`` or ``"after"`` the
        rotation; None for none.
    eps
        Of those norms.
    alibi
        Whether scores are bent by ALiBi's slopes (`kvattn.positions.alibi.slopes`).
    causal, window
        A query sees keys up to its own, and of these the last ``window``.
    scale, softcap
        As in `kvattn.attend`.

    Raises
    ------
    ArgumentError
        When an attribute is not of its kind.

    Examples
    --------
    >>> Plan(rotary=Rotary.of(8), norm="before").causal
    True
    """

    rotary: Any = None
    norm: Literal["before", "after"] | None = None
    eps: float = 1e-6
    alibi: bool = False
    causal: bool = True
    window: int | None = None
    scale: float | None = None
    softcap: float | None = None

    def __post_init__(self) -> None:
        if self.rotary is not None and not isinstance(self.rotary, Rotary) and not hasattr(self.rotary, "rotary_at"):
            raise ArgumentError(f"rotary must be a Rotary or have rotary_at, got {shown(self.rotary)}")
        if self.norm not in (None, "before", "after"):
            raise ArgumentError(f"norm must be 'before', 'after' or None, got {shown(self.norm)}")
        real("eps", self.eps, least=0.0)
        if self.window is not None:
            integer("window", self.window, 1)
        optional_real("scale", self.scale)
        optional_real("softcap", self.softcap, above=0.0)

    def rotary_at(self, length: int) -> Rotary | None:
        """The rotation for a sequence of ``length`` tokens.

        >>> Plan().rotary_at(3) is None
        True
        """
        if self.rotary is None or isinstance(self.rotary, Rotary):
            return self.rotary
        found: Rotary = self.rotary.rotary_at(length)
        return found

    @property
    def axes(self) -> int:
        """How many coordinates a position has, 0 for plain positions.

        >>> Plan(rotary=Rotary((1.0, 0.1), axes=(0, 2))).axes
        3
        """
        axes = getattr(self.rotary, "axes", None)
        return 0 if axes is None else max(axes) + 1
