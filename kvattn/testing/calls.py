"""One call of an attention function: what goes in, what must come out, and how close.

A `Call` follows the contract of `kvattn.testing.targets`.  It is a value that prints the code which builds it, so
that a failing test shows everything that is needed to see it again.  `kvattn.testing.strategies.calls` draws them;
this module loads no NumPy until a call is built, since Hypothesis imports it with every test run
(`kvattn.testing.registered`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvattn.testing.arithmetic import Arithmetic
    from kvattn.testing.diagnosis.behaviour import Behaviour
    from kvattn.testing.diagnosis.recipe import Built, Recipe
    from kvattn.testing.tolerance import Bounds
    from kvattn.typing import Array, Attended, Visible


class DisagreementError(AssertionError):
    """What was found is farther from the exact answer than rounding explains.

    >>> issubclass(DisagreementError, AssertionError)
    True
    """


@dataclass(frozen=True, repr=False)
class Call:
    """Arrays and keywords for one call.

    Attributes
    ----------
    recipe
        The code that builds it.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.recipe import Recipe, Sizes
    >>> call = Call(Recipe(Sizes(T=2), options=(("causal", "True"),)))
    >>> call.q.shape, call.options["causal"]
    ((1, 1, 2, 4), True)
    >>> call.must_agree(call.expected())
    """

    recipe: "Recipe"

    @cached_property
    def _built(self) -> "Built":
        built = self.recipe.build()
        for array in built[:3]:
            array.setflags(write=False)
        return built

    @property
    def q(self) -> "Array":
        """Queries ``[B, Hq, T, D]``, read-only.

        >>> from kvattn.testing.diagnosis.recipe import Recipe, Sizes
        >>> Call(Recipe(Sizes(T=3))).q.shape
        (1, 1, 3, 4)
        """
        return self._built.q

    @property
    def k(self) -> "Array":
        """Keys ``[B, Hkv, S, D]``, read-only.

        >>> from kvattn.testing.diagnosis.recipe import Recipe, Sizes
        >>> Call(Recipe(Sizes(S=5))).k.shape
        (1, 1, 5, 4)
        """
        return self._built.k

    @property
    def v(self) -> "Array":
        """Values ``[B, Hkv, S, Dv]``, read-only.

        >>> from kvattn.testing.diagnosis.recipe import Recipe, Sizes
        >>> Call(Recipe(Sizes(Dv=2))).v.shape
        (1, 1, 4, 2)
        """
        return self._built.v

    @property
    def options(self) -> Mapping[str, Any]:
        """Keywords of the contract, with their values.

        >>> from kvattn.testing.diagnosis.recipe import Recipe, Sizes
        >>> Call(Recipe(Sizes(), options=(("scale", "0.5"),))).options
        {'scale': 0.5}
        """
        return self._built.options

    def run(self, function: Callable[..., Any], **others: Any) -> Any:
        """Return ``function(q, k, v, **options)``; what its floating-point arithmetic warns of is left alone.

        Parameters
        ----------
        function
            What to call.
        **others
            Keywords that it must have, with what they are where the call does not say.

        Examples
        --------
        >>> from kvattn.testing.diagnosis.recipe import Recipe, Sizes
        >>> Call(Recipe(Sizes())).run(lambda q, k, v, causal: f"called with causal={causal}", causal=False)
        'called with causal=False'
        """
        import numpy as np

        with np.errstate(all="ignore"):
            return function(self.q, self.k, self.v, **{**others, **self.options})

    @property
    def visible(self) -> "Visible":
        """Who sees whom by the contract, ``[B, Hq, T, S]``.

        >>> from kvattn.testing.diagnosis.recipe import Recipe, Sizes
        >>> Call(Recipe(Sizes(T=1, S=2))).visible[0, 0]
        array([[ True,  True]])
        """
        from kvattn.testing.diagnosis.behaviour import Behaviour

        return Behaviour().visible(self._built)

    def every_row_sees(self, behaviour: "Behaviour | None" = None) -> bool:
        """Say whether every query sees a key.

        Parameters
        ----------
        behaviour
            Conventions of the function, as a check has found them; the contract's if None.

        Examples
        --------
        >>> from kvattn.testing.diagnosis.recipe import Recipe, Sizes
        >>> Call(Recipe(Sizes(T=1, S=2), options=(("mask", "np.zeros((1, 1, 1, 2), bool)"),))).every_row_sees()
        False
        """
        from kvattn.testing.diagnosis.behaviour import Behaviour

        return bool((Behaviour() if behaviour is None else behaviour).visible(self._built).any(-1).all())

    def expected(self, behaviour: "Behaviour | None" = None) -> "Attended":
        """Return output and log-sum-exp by the definition, in float64.

        Parameters
        ----------
        behaviour
            Conventions of the function, as a check has found them; the contract's if None.

        Examples
        --------
        >>> from kvattn.testing.diagnosis.recipe import FLAT, ONE_HOT, Recipe, Sizes
        >>> Call(Recipe(Sizes(T=1, S=2, D=2, Dv=2), FLAT, ONE_HOT)).expected().out[0, 0]
        array([[0.5, 0.5]])
        """
        from kvattn.testing.diagnosis.behaviour import Behaviour

        return (Behaviour() if behaviour is None else behaviour).expected(self._built)

    def bounds(self, arithmetic: "Arithmetic | None" = None, behaviour: "Behaviour | None" = None) -> "Bounds":
        """Return how far from `expected` a function may be, by `kvattn.testing.tolerance`.

        Parameters
        ----------
        arithmetic
            Number formats of the function; plain arithmetic in the dtype of the call if None.
        behaviour
            Conventions of the function, as a check has found them; the contract's if None.

        Examples
        --------
        >>> from kvattn.testing.diagnosis.recipe import Recipe, Sizes
        >>> bool((Call(Recipe(Sizes())).bounds().worst < 1e-13).all())
        True
        """
        from kvattn.testing.arithmetic import Arithmetic
        from kvattn.testing.diagnosis.behaviour import Behaviour

        ways = Behaviour() if behaviour is None else behaviour
        return ways.bounds(self._built, Arithmetic(self.recipe.dtype) if arithmetic is None else arithmetic)

    def must_agree(
        self, found: Any, *, arithmetic: "Arithmetic | None" = None, behaviour: "Behaviour | None" = None
    ) -> None:
        """Compare what a function returned, ``out`` or ``(out, lse)``, with the definition.

        Parameters
        ----------
        found
            Anything that NumPy can read; the weights of ``return_weights``, which come last, are left alone.
        arithmetic
            Number formats of the function; if None, plain arithmetic in the dtype of the call, its weights taken as
            they are or as exp(score - lse).
        behaviour
            Conventions of the function, as a check has found them; the contract's if None.

        Raises
        ------
        DisagreementError
            An element is outside the worst-case bound of `kvattn.testing.tolerance`, or the shape is another.

        Examples
        --------
        >>> from kvattn.testing.diagnosis.recipe import Recipe, Sizes
        >>> call = Call(Recipe(Sizes(T=1, S=1)))
        >>> call.must_agree(call.v)
        >>> call.must_agree(call.v[:, :, :, :3])
        Traceback (most recent call last):
        kvattn.testing.calls.DisagreementError: out must have shape (1, 1, 1, 4), got (1, 1, 1, 3)
        """
        __tracebackhide__ = True
        import numpy as np

        near, wanted = self._within(arithmetic, behaviour), self.expected(behaviour)
        if self.options.get("return_weights") and isinstance(found, tuple) and len(found) > 1:
            found = found[:-1] if len(found) > 2 else found[0]
        out, lse = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        larger = 1.0 if behaviour is None else max(1.0, abs(behaviour.lse_factor))
        most_of_lse = larger * near.lse_worst
        for name, got, right, most in (("out", out, wanted.out, near.worst), ("lse", lse, wanted.lse, most_of_lse)):
            if got is None:
                continue
            read = np.asarray(got)
            if read.shape != right.shape:
                raise DisagreementError(f"{name} must have shape {right.shape}, got {read.shape}")
            with np.errstate(invalid="ignore", divide="ignore"):
                far = np.abs(read.astype(np.float64) - right)
                ratio = np.where((read == right) | (far <= most), 0.0, far / most)
            ratio = np.where(np.isnan(ratio), np.inf, ratio)
            if ratio.any():
                place = tuple(int(i) for i in np.unravel_index(int(np.argmax(ratio)), ratio.shape))
                raise DisagreementError(
                    f"{name}{list(place)} must be {right[place]:.12g} within {most[place]:.2g}, got {read[place]:.12g};"
                    f" {int((ratio > 0).sum())} of {ratio.size} elements are outside"
                )

    def _within(self, arithmetic: "Arithmetic | None", behaviour: "Behaviour | None") -> "Bounds":
        from kvattn.testing.arithmetic import Arithmetic

        dtype = self.recipe.dtype
        if arithmetic is None and dtype in {"float64", "float32"}:
            arithmetic = Arithmetic(dtype, merges=1)
        return self.bounds(arithmetic, behaviour)

    def __repr__(self) -> str:
        return f"Call({self.recipe.call()}, where {self.recipe.code()})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What Hypothesis prints of a failing example."""
        printer.text(repr(self))
