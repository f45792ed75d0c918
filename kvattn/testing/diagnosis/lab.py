"""The bench on which a target is run, read and compared.

`Lab` runs recipes, reads probabilities out of the outputs, keeps what has been learned about the
target, and turns a difference into a `Finding`: it makes the case small and writes the line that
shows it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
import re
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.behaviour import Behaviour, bounds_of, built_of, expected_of
from kvattn.testing.diagnosis.conventions import whose
from kvattn.testing.diagnosis.differences import Difference, farthest, place_of
from kvattn.testing.diagnosis.finding import Finding, Kind
from kvattn.testing.diagnosis.raised import Misshapen, Refused, Untaken, told
from kvattn.testing.diagnosis.recipe import BY_BATCH, BY_HEAD, DRAWN, ONE_HOT, Built, Recipe, Sizes
from kvattn.testing.keywords import fed, whole
from kvattn.testing.planted import Planted
from kvattn.testing.shapes import ANY, Shapes
from kvattn.testing.targets import Result, Target, target_of
from kvattn.testing.tolerance import Arithmetic
from kvattn.typing import Visible

CONTRACT = Behaviour()


class Seen(NamedTuple):
    """A case and what the target made of it, in float64."""

    built: Built
    out: NDArray[np.float64]
    lse: NDArray[np.float64] | None
    dtype: str
    weights: NDArray[Any] | None = None


@dataclass
class Lab:
    """A target on the bench.

    Attributes
    ----------
    target
        What is tested.
    seed
        Seed of every case.
    dtype
        Element type of the inputs.
    behaviour
        What is known by now.
    arithmetic
        Number formats that the bounds are computed for.
    coarser
        Those that are tried on a case that is outside them, before it counts.
    stated, grain
        Number formats that were read out of the target, and how closely a fit can agree under them.
    findings, notes
        What was found, and what the reader should know besides.
    calls, seconds
        How often the target ran, and how long.
    grouped
        Whether it takes fewer key/value heads than query heads.
    shapes
        Sizes that it takes.
    last
        The case that ran last.
    apart
        Pairs of keywords that are known to go wrong together: left out of later cases.
    stopped
        Whether what was read so far makes further readings meaningless.
    slow
        Whether a call takes so long that fewer are made.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.recipe import FLAT
    >>> lab = Lab(planted())
    >>> lab.weights(lab.case(Sizes(T=1, S=2), FLAT))[0, 0]
    array([[0.5, 0.5]])
    """

    target: Target
    seed: int = 0
    dtype: str = "float64"
    behaviour: Behaviour = CONTRACT
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    coarser: tuple[Arithmetic, ...] = ()
    stated: tuple[Arithmetic, ...] = ()
    grain: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    calls: int = 0
    seconds: float = 0.0
    grouped: bool = True
    shapes: Shapes = ANY
    stopped: bool = False
    slow: bool = False
    last: Recipe | None = None
    apart: set[frozenset[str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.shapes = self.target.shapes if self.shapes == ANY else self.shapes

    @property
    def same_width(self) -> bool:
        """Whether it takes values only as wide as the keys.

        >>> Lab(planted()).same_width
        False
        """
        return self.shapes.equal_head_dims

    def case(
        self, sizes: Sizes, scores: tuple[str, str] | None = None, values: str = ONE_HOT, **options: str
    ) -> Recipe:
        """Return a recipe in this lab's dtype and seed, of the sizes that the target takes next to these.

        ``D`` and ``Dv`` are raised so that one-hot values fit; where the target takes none so wide, they are given in
        blocks of columns.

        >>> Lab(planted()).case(Sizes(S=9), causal="True").sizes.Dv
        9
        """
        if not self.grouped:
            sizes = replace(sizes, Hkv=sizes.Hq)
        sizes = self.shapes.fit(sizes, options)
        columns = {ONE_HOT: sizes.S, BY_HEAD: sizes.Hkv, BY_BATCH: sizes.B}.get(values, 0)
        if values == ONE_HOT and sizes.Dv < sizes.S:
            sizes = replace(sizes, D=max(sizes.D, sizes.S))
        sizes = self.shapes.fit(sizes, options, columns)
        given, form = tuple(options.items()), self.target.mask_form
        drawn = DRAWN if scores is None else scores
        return Recipe(sizes, drawn, values, given, dtype=self.dtype, seed=self.seed, mask_form=form)

    def each(
        self, sizes: Sizes, scores: tuple[str, str] | None = None, values: str = ONE_HOT, **options: str
    ) -> list[Recipe]:
        """Return the case, or where the target takes no such batch one for each of its parts.

        A part is made of the options that end in ``[:{B}]``.

        >>> from kvattn.testing.diagnosis.recipe import FLAT
        >>> lab = Lab(planted(), shapes=Shapes(batch_sizes=(1,)))
        >>> cases = lab.each(Sizes(B=2), FLAT, lengths="np.array([4, 3])[:{B}]")
        >>> [case.build().options["lengths"].tolist() for case in cases]
        [[4], [3]]
        """
        taken = self.case(sizes, scores, values, **options).sizes.B
        parts = (f"[{n}:{n} + {{B}}" if n else "[:{B}" for n in range(max(1, sizes.B - taken + 1)))
        return [
            self.case(sizes, scores, values, **{name: text.replace("[:{B}", part) for name, text in options.items()})
            for part in parts
        ]

    @property
    def sharp(self) -> float:
        """How closely a fit must agree with what it is fitted to.

        >>> Lab(planted()).sharp
        1e-05
        """
        return max(self.grain, {"float64": 1e-5, "float32": 1e-4}.get(self.dtype, 2e-2))

    def coarsen(self, unit: float, arithmetic: Arithmetic) -> None:
        """Take note that the target's numbers are coarser than its inputs.

        >>> lab = Lab(planted())
        >>> lab.coarsen(2.0**-8, Arithmetic("float64", probabilities="bfloat16"))
        >>> lab.sharp
        0.015625
        """
        self.grain = 4 * unit
        self.stated = (arithmetic,)

    def set_aside(self, *keywords: str) -> None:
        """Leave keywords out of all later cases.

        >>> lab = Lab(planted())
        >>> lab.set_aside("bias")
        >>> lab.can("bias")
        False
        """
        self.behaviour = replace(self.behaviour, without=self.behaviour.without | set(keywords))

    def can(self, *keywords: str) -> bool:
        """Say whether the target takes these keywords, together with what they need, and none is set aside.

        >>> Lab(planted()).can("causal", "window")
        True
        """
        if not self.target.features.issuperset(keywords):
            return False
        keywords = fed(keywords, self.target.features)
        pairs = (frozenset((a, b)) for a in keywords for b in keywords if a != b)
        return (
            whole(keywords)
            and not self.behaviour.without & set(keywords)
            and not any(pair in self.target.exclusive or pair in self.apart for pair in pairs)
        )

    def run(self, built: Built) -> Result:
        """Run the target on its own copies of the arrays: once, or on blocks of columns of values that are too wide.

        Raises
        ------
        Refused
            With what the target raised.

        Examples
        --------
        >>> Lab(planted()).run(Recipe(Sizes()).build()).out.shape
        (1, 1, 4, 4)
        """
        columns = built.v.shape[-1]
        block = self.shapes.block(built.q.shape[-1], columns)
        if block is None:
            return self._call(built, built.v.copy())
        parts = []
        for start in range(0, columns, block):
            values = np.zeros((*built.v.shape[:-1], block), built.v.dtype)
            taken = built.v[..., start : start + block]
            values[..., : taken.shape[-1]] = taken
            parts.append(self._call(built, values))
            if parts[-1].out.shape != (*built.q.shape[:3], block):
                return parts[-1]
        out = np.concatenate([part.out for part in parts], -1)[..., :columns]
        return parts[0]._replace(out=out)

    def _call(self, built: Built, values: NDArray[Any]) -> Result:
        self.calls += 1
        options = {name: x.copy() if isinstance(x, np.ndarray) else x for name, x in built.options.items()}
        began = time.perf_counter()
        try:
            return self.target(built.q.copy(), built.k.copy(), values, options)
        except Exception as error:
            raise Refused(told(error)) from error
        finally:
            self.seconds += time.perf_counter() - began

    def see(self, recipe: Recipe) -> Seen:
        """Build and run a case.

        Raises
        ------
        Refused
            Where the target raises, returns something of another shape, or takes no such sizes.

        Examples
        --------
        >>> Lab(planted()).see(Recipe(Sizes(), dtype="float32")).dtype
        'float32'
        """
        if not self.takes(recipe):
            raise Untaken(f"sizes that it does not take: {recipe.sizes}")
        built = built_of(recipe)
        self.last = recipe
        result = self.run(built)
        wanted = (*built.q.shape[:3], built.v.shape[3])
        if result.out.shape != wanted:
            raise Misshapen(f"out has shape {result.out.shape}, expected {wanted}")
        if result.lse is not None and result.lse.shape != wanted[:3]:
            raise Misshapen(f"lse has shape {result.lse.shape}, expected {wanted[:3]}")
        lse = None if result.lse is None else result.lse.astype(np.float64)
        return Seen(built, result.out.astype(np.float64), lse, str(result.out.dtype), result.weights)

    def takes(self, recipe: Recipe) -> bool:
        """Say whether a case has sizes that the target takes, but for the width of its values.

        >>> Lab(planted(), shapes=Shapes(batch_sizes=(1,))).takes(Recipe(Sizes(B=2)))
        False
        """
        sizes, options = recipe.sizes, [name for name, _ in recipe.options]
        return self.shapes.fit(sizes, options, columns=sizes.Dv) == sizes

    def weights(self, recipe: Recipe) -> NDArray[np.float64]:
        """Read the probabilities ``[B, Hq, T, S]`` of a case with one-hot values.

        >>> from kvattn.testing.diagnosis.recipe import FLAT
        >>> lab = Lab(planted())
        >>> lab.weights(lab.case(Sizes(T=1, S=4), FLAT))[0, 0]
        array([[0.25, 0.25, 0.25, 0.25]])
        """
        return self.see(recipe).out[..., : recipe.sizes.S]

    def support(self, recipe: Recipe) -> Visible:
        """Read who sees whom, ``[B, Hq, T, S]``: weights that are not negligible in their row, and NaN.

        >>> from kvattn.testing.diagnosis.recipe import FLAT
        >>> lab = Lab(planted())
        >>> lab.support(lab.case(Sizes(T=2, S=2), FLAT, causal="True"))[0, 0]
        array([[ True, False],
               [ True,  True]])
        """
        weights = self.weights(recipe)
        top = np.nanmax(np.abs(weights), axis=-1, keepdims=True, initial=0)
        return np.asarray(~(np.abs(weights) <= 1e-6 * top))

    def scores(self, built: Built) -> NDArray[np.float64]:
        """Return q·k ``[B, Hq, T, S]`` under the known head map, unscaled.

        >>> ones = Recipe(Sizes(T=1, S=2), scores=("np.ones((1, 1, 1, 4))", "np.ones((1, 1, 2, 4))"))
        >>> Lab(planted()).scores(ones.build())[0, 0]
        array([[4., 4.]])
        """
        heads = self.behaviour.heads("key", built.q.shape[1], built.k.shape[1])
        q, k = built.q.astype(np.float64), built.k.astype(np.float64)
        return np.asarray(np.einsum("bhtd,bhsd->bhts", q, k[:, heads]))

    def distance(self, recipe: Recipe) -> float:
        """Run a case, and return how far out or lse is from what is known, relative to 1 + size; no bound is computed.

        >>> Lab(planted()).distance(Recipe(Sizes())) < 1e-14
        True
        """
        seen, expected = self.see(recipe), expected_of(recipe, self.behaviour)
        pairs = [(seen.out, expected.out)]
        if seen.lse is not None and "lse" not in self.behaviour.without:
            pairs.append((seen.lse, expected.lse))
        with np.errstate(invalid="ignore"):
            far = [np.where(got == want, 0, np.abs(got - want) / (1 + np.abs(want))) for got, want in pairs]
        return max(float(np.where(np.isnan(x), np.inf, x).max(initial=0)) for x in far)

    def compare(self, recipe: Recipe, behaviour: Behaviour | None = None) -> Difference:
        """Run a case and compare it with what the behaviour (what is known by now) gives.

        >>> Lab(planted()).compare(Recipe(Sizes())).ratio < 1
        True
        """
        behaviour = self.behaviour if behaviour is None else behaviour
        seen = self.see(recipe)
        expected, limit = expected_of(recipe, behaviour), bounds_of(recipe, behaviour, self.arithmetic)
        right = np.asarray(expected.out, np.float64), np.asarray(expected.lse, np.float64)
        found = farthest("out", seen.out, right[0], limit.worst, limit.statistical)
        if seen.lse is None or "lse" in behaviour.without:
            return found
        factor = max(1.0, abs(behaviour.lse_factor))
        lse = farthest("lse", seen.lse, right[1], factor * limit.lse_worst, factor * limit.lse_statistical)
        return max(found, lse, key=lambda difference: difference.ratio)

    def add(
        self,
        fault_class: str,
        parameters: dict[str, Any],
        detail: str,
        recipe: Recipe | None = None,
        *,
        channel: str = "out",
        kind: Kind | None = None,
        reproduce: str = "",
    ) -> None:
        """Record a finding, with the smallest case that still shows it.

        A finding that was recorded before, with the same parameters, is not repeated.

        >>> lab = Lab(planted())
        >>> lab.add("scale", {"used": 1.0}, "The scores are not scaled.", reproduce="f(q, k, v)")
        >>> len(lab.findings)
        1
        """
        legal = whose(fault_class, parameters)
        if kind is None:
            kind = "convention" if legal and fault_class in self.target.conventions else "fault"
            if legal and kind == "fault":
                detail += (
                    f' Elsewhere a convention ({legal}), and here where f.conventions = {{"{fault_class}"}} says so.'
                )
        if any(f.fault_class == fault_class and f.parameters == parameters for f in self.findings):
            return
        if recipe is not None:
            for step in (2e-2, 1e-3, 1e-9):  # a difference that the eye can see, where there is one
                if self._shows(recipe, channel, step):
                    recipe = self.shrink(recipe, lambda case, step=step: self._shows(case, channel, step))  # type: ignore[misc]
                    break
            reproduce = self.line(recipe, channel)
        self.findings.append(Finding(fault_class, kind, parameters, detail, reproduce))

    def shrink(self, recipe: Recipe, still: Callable[[Recipe], bool]) -> Recipe:
        """Make the sizes smaller for as long as the case still shows what it showed.

        >>> Lab(planted()).shrink(Recipe(Sizes(T=4, S=4)), lambda case: case.sizes.S > 2).sizes.S
        3
        """
        if not still(recipe):
            return recipe
        budget = 300
        again = True
        while again and budget > 0:
            again = False
            for smaller in recipe.smaller():
                budget -= 1
                if still(smaller):
                    recipe, again = smaller, True
                    break
        return recipe

    def line(self, recipe: Recipe, channel: str = "out") -> str:
        """Return Python that prints the row that differs most, and what the contract expects there.

        >>> from kvattn.testing.diagnosis.recipe import FLAT
        >>> Lab(planted()).line(Recipe(Sizes(T=1, S=1, D=1, Dv=1), FLAT, "np.ones((1, 1, 1, 1))")).split("; ")[-1]
        "print(np.round(np.asarray(f(q, k, v)[0])[0, 0, 0].astype(float), 17).tolist(), 'expected', [1.0])"
        """
        recipe = self._in_one_call(recipe, channel)
        try:
            seen = self.see(recipe)
        except Misshapen:
            sizes = recipe.sizes
            wanted = (sizes.B, sizes.Hq, sizes.T, sizes.Dv)
            show = f"print([np.shape(x) for x in ({recipe.call()},)], 'expected', {wanted})"
            return "; ".join([*self._opening(), recipe.code(), show])
        except Refused:
            return "; ".join([*self._opening(), recipe.code(), recipe.call()])
        expected = expected_of(recipe, CONTRACT)
        got, right = (seen.out, expected.out) if channel == "out" or seen.lse is None else (seen.lse, expected.lse)
        want = np.asarray(right, np.float64)
        place = place_of(got, want)
        row = place[:3]
        with np.errstate(invalid="ignore"):
            distance = np.abs(got[row] - want[row])
        digits = 4 if (distance > 1e-3).any() or np.isnan(got[row]).any() else 17
        index = "" if seen.lse is None else "[0]" if channel == "out" else "[1]"
        call = f"np.asarray({recipe.call()}{index})[{', '.join(map(str, row))}]"
        wanted = np.round(want[row], digits).tolist()
        show = f"print(np.round({call}.astype(float), {digits}).tolist(), 'expected', {_literal(wanted)})"
        return "; ".join([*self._opening(), recipe.code(), show])

    def last_line(self) -> str:
        """Return Python that runs the case that ran last.

        >>> Lab(planted()).last_line()
        ''
        """
        return "" if self.last is None else self.line(self.last)

    def script(self, text: str) -> str:
        """Put the imports in front of statements that use ``f``.

        >>> Lab(planted()).script("print(f)")
        'import numpy as np; print(f)'
        """
        return "; ".join([*self._opening(), text])

    def _in_one_call(self, recipe: Recipe, channel: str) -> Recipe:
        """Return a case that the target takes without cutting its values, with the element that differs most."""
        sizes = recipe.sizes
        block = self.shapes.block(sizes.D, sizes.Dv)
        if block is None or not self.takes(recipe):
            return recipe
        if block >= sizes.Dv:
            return replace(recipe, sizes=replace(sizes, Dv=block))
        try:
            seen = self.see(recipe)
        except Refused:
            return replace(recipe, sizes=replace(sizes, Dv=block))
        place = place_of(seen.out, np.asarray(expected_of(recipe, CONTRACT).out, np.float64))
        start = place[3] // block * block if channel == "out" else 0
        values = re.sub(r"(np\.eye\(\{\w+\}, \{Dv\})", rf"\1, {-start}", recipe.values) if start else recipe.values
        return replace(recipe, sizes=replace(sizes, Dv=block), values=values)

    def _opening(self) -> list[str]:
        more = ["import ml_dtypes"] if self.dtype == "bfloat16" else []
        return ["import numpy as np", *more, *([self.target.setup] if self.target.setup else [])]

    def _shows(self, recipe: Recipe, channel: str, step: float) -> bool:
        """Say whether the target is off the contract by more than a step."""
        try:
            seen = self.see(recipe)
        except (Refused, IndexError, ValueError):  # an edit or an option may not go with smaller sizes
            return False
        expected = expected_of(recipe, CONTRACT)
        got, want = (seen.out, expected.out) if channel == "out" else (seen.lse, expected.lse)
        if got is None:
            return False
        with np.errstate(invalid="ignore"):
            fine = (np.abs(got - want) <= step * (1 + np.abs(want))) | (got == want) | np.isnan(want)
            return not bool(fine.all())


def planted(**faults: Any) -> Target:
    """Return a `kvattn.testing.planted.Planted` as a target: something to try a bench on.

    >>> planted(extra_keys=1).name
    'Planted(extra_keys=1)'
    """
    return target_of(Planted(**faults))


def _literal(value: Any) -> str:
    """Write a nested list of floats as Python that evaluates to it."""
    text = repr(value)
    return text.replace("nan", "np.nan").replace("inf", "np.inf")
