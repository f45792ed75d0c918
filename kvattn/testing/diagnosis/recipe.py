"""A case as the code that builds it, so that what was run and what is printed to reproduce it are one text.

Sizes stand in the letters of `kvattn.axes`.  Options, scores and values are Python expressions in
which ``{B}``, ``{Hq}``, ``{Hkv}``, ``{T}``, ``{S}``, ``{D}``, ``{Dv}`` stand for sizes; shrinking a case changes
the sizes and leaves the text alone.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from kvattn.testing.keywords import ARRAYS, FLOATING
from kvattn.typing import Array

ONE_HOT = "np.zeros(({B}, {Hkv}, {S}, {Dv})) + np.eye({S}, {Dv})"
"""Value of key j is the unit vector j: an output row *is* the row of probabilities."""

BY_HEAD = "np.zeros(({B}, {Hkv}, {S}, {Dv})) + np.eye({Hkv}, {Dv})[:, None]"
"""Every value of key/value head g is the unit vector g: an output row says which heads were read."""

BY_BATCH = "np.zeros(({B}, {Hkv}, {S}, {Dv})) + np.eye({B}, {Dv})[:, None, None]"
"""Every value of sequence b is the unit vector b: an output row says which sequences were read."""

RANDOM = "r.standard_normal(({B}, {Hkv}, {S}, {Dv}))"
"""Values without structure."""

FLAT = ("np.zeros(({B}, {Hq}, {T}, {D}))", "np.zeros(({B}, {Hkv}, {S}, {D}))")
"""Scores that are all 0: every visible key weighs the same, whatever the scale."""

DRAWN = ("0.7 * r.standard_normal(({B}, {Hq}, {T}, {D}))", "0.7 * r.standard_normal(({B}, {Hkv}, {S}, {D}))")
"""Scores of a moderate size, so that no weight vanishes."""

MILD = (DRAWN[0].replace("0.7", "0.35"), DRAWN[1].replace("0.7", "0.35"))
"""Smaller scores still, which stay readable when they come out several times too large."""

LOUD = (DRAWN[0].replace("0.7", "2.5"), DRAWN[1].replace("0.7", "1.5"))
"""Larger scores, in which a wrong factor shows."""


PAGE = 4
"""Keys in a page, where a case has a ``block_table`` and says nothing else."""

TABLE = "r.permutation({B} * -(-{S} // {page}) + 3)[3:].reshape({B}, -1)"
"""Pages in any order, three of the pool owned by nobody."""

POOL = (
    "from kvattn.testing.diagnosis.places import paged; k, v = (paged(x, block_table, lengths, {page}) for x in (k, v))"
)
"""Statements that lay keys and values out in pages."""


MASK_FORMS = {"boolean": "mask", "additive": "np.where(mask, 0.0, -np.inf)", "zero-one": "mask.astype(int)"}
"""Ways to write a mask: True = may see; 0 or -inf to be added; 1 = may see."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of one case.

    >>> Sizes(Hq=4, Hkv=2).Hq
    4
    """

    B: int = 1
    Hq: int = 1
    Hkv: int = 1
    T: int = 4
    S: int = 4
    D: int = 4
    Dv: int = 4


class Built(NamedTuple):
    """The arrays of a case, and the keywords that go with them."""

    q: Array
    k: Array
    v: Array
    options: dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """One case.

    Attributes
    ----------
    sizes
        Numbers for the letters.
    scores
        Expressions for q and for k.
    values
        Expression for v.
    options
        Keyword and expression, in order.
    edits
        Statements that run last, such as ``"v[:, :, 0] = np.nan"``.
    dtype
        Element type of q, k, v, bias and sinks.
    seed
        Seed of the generator ``r``.
    mask_form
        A name in `MASK_FORMS`: how a boolean mask is written before it is given.
    page
        Keys in a page, which ``{page}`` stands for.

    Examples
    --------
    >>> case = Recipe(Sizes(), scores=FLAT, values=ONE_HOT, options=(("causal", "True"),))
    >>> case.build().options
    {'causal': True}
    >>> case.call()
    'f(q, k, v, causal=True)'
    """

    sizes: Sizes
    scores: tuple[str, str] = DRAWN
    values: str = RANDOM
    options: tuple[tuple[str, str], ...] = ()
    edits: tuple[str, ...] = ()
    dtype: str = "float64"
    seed: int = 0
    mask_form: str = "boolean"
    page: int = PAGE

    def code(self) -> str:
        """Return the statements that build q, k, v and the array options, on one line.

        >>> Recipe(Sizes(B=1, T=1, S=1, D=2, Dv=2), FLAT, "np.ones((1, 1, 1, {Dv}))").code()
        'q = np.zeros((1, 1, 1, 2)); k = np.zeros((1, 1, 1, 2)); v = np.ones((1, 1, 1, 2))'
        """
        name = "'bfloat16'" if self.dtype == "bfloat16" else f"np.{self.dtype}"  # ml_dtypes registers its own
        cast = "" if self.dtype == "float64" else f".astype({name})"
        lines = [
            f"{name} = ({text}){cast}" if cast else f"{name} = {text}"
            for name, text in zip("qkv", (*self.scores, self.values), strict=True)
        ]
        for name, text in self.options:
            if name in ARRAYS:
                lines.append(f"{name} = ({text}){cast}" if cast and name in FLOATING else f"{name} = {text}")
        if self.mask_form != "boolean" and "mask" in dict(self.options):
            lines.append(f"mask = {MASK_FORMS[self.mask_form]}{cast if self.mask_form == 'additive' else ''}")
        paged = [POOL] if "block_table" in dict(self.options) else []
        text = "; ".join([*lines, *paged, *self.edits]).format(**self._letters())
        return f"r = np.random.default_rng({self.seed}); {text}" if "r." in text else text

    def call(self, function: str = "f") -> str:
        """Return the call of the target on what `code` builds.

        >>> Recipe(Sizes(), options=(("scale", "0.5"),)).call("attend")
        'attend(q, k, v, scale=0.5)'
        """
        words = [f", {name}={name if name in ARRAYS else text}" for name, text in self.options]
        return f"{function}(q, k, v{''.join(words)})".format(**self._letters())

    def build(self) -> Built:
        """Run the code, and return the arrays and keywords.

        >>> Recipe(Sizes(T=3)).build().q.shape
        (1, 1, 3, 4)
        """
        names: dict[str, Any] = {"np": np}
        words = "".join(f"{name}={name if name in names else text}, " for name, text in self.scalars())
        exec(f"{self.code()}; scalars = dict({words})".format(**self._letters()), names)  # noqa: S102 - our own text
        options = {name: names[name] if name in names else names["scalars"][name] for name, _ in self.options}
        return Built(names["q"], names["k"], names["v"], options)

    def _letters(self) -> dict[str, int]:
        return {**vars(self.sizes), "page": self.page}

    def scalars(self) -> tuple[tuple[str, str], ...]:
        """Return the options that are no arrays.

        >>> Recipe(Sizes(), options=(("sinks", "np.ones(1)"), ("scale", "0.5"))).scalars()
        (('scale', '0.5'),)
        """
        return tuple(item for item in self.options if item[0] not in ARRAYS)

    def with_option(self, name: str, text: str) -> "Recipe":
        """Return the recipe with one option more, or with another text for it.

        >>> Recipe(Sizes()).with_option("causal", "True").options
        (('causal', 'True'),)
        """
        kept = tuple(item for item in self.options if item[0] != name)
        return replace(self, options=(*kept, (name, text)))

    def smaller(self) -> Iterator["Recipe"]:
        """Yield the recipe with one size made smaller, the smallest first.

        >>> [r.sizes.S for r in Recipe(Sizes(T=1, S=3, D=1, Dv=1)).smaller()]
        [1, 2]
        """
        size = self.sizes
        onehot = self.values == ONE_HOT
        for name, value in asdict(size).items():
            lowest = max(size.T, 1) if name == "S" and size.T <= size.S else 1
            if name == "Hq":
                choices = list(range(size.Hkv, value, size.Hkv))
            elif name == "Hkv":
                choices = [n for n in range(1, value) if size.Hq % n == 0]
            else:
                choices = list(range(lowest, value))
            for choice in choices:
                other = replace(size, **{name: choice})
                if name == "T" and size.T == size.S:
                    yield replace(self, sizes=replace(other, S=choice))
                if name in {"D", "Dv"} and size.Dv == size.D:
                    other = replace(other, D=choice, Dv=choice)
                if onehot and other.Dv < other.S:
                    continue
                if self.values in {BY_HEAD, BY_BATCH} and other.Dv < max(other.Hkv, other.B):
                    continue
                yield replace(self, sizes=other)
