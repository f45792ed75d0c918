"""A drawn case of a layer as the code that builds it, so that what was run and what is printed are one text."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kvattn.testing.layer_diagnosis.reading import Case
from kvattn.testing.layer_targets import Weights

NARROW = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoff of the element types of 16 bits."""

POSITIONS = {
    "": "",
    "rows": "np.arange({T}) + np.zeros(({B}, 1), int)",
    "later": "np.arange({T}) + 3 + 4 * np.arange({B})[:, None]",
    "far": "np.arange({T}) + 300 + 211 * np.arange({B})[:, None]",
    "gaps": "np.cumsum(r.integers(1, 6, ({B}, {T})), 1)",
    "axes": "np.cumsum(r.integers(0, 4, ({A}, {B}, {T})), 2)",
}
"""Positions that are handed over, as Python; none where empty."""

VALID = {
    "": "",
    "none": "np.ones(({B}, {T}), bool)",
    "left": "np.arange({T}) >= (2 * np.arange({B})[:, None] + 1) % {T}",
    "right": "np.arange({T}) < {T} - (2 * np.arange({B})[:, None] + 1) % {T}",
}
"""Padding that is handed over, as Python; none where empty."""


@dataclass(frozen=True)
class Drawing:
    """One case.

    Attributes
    ----------
    B, T, Hq, Hkv, D, M
        Sizes.
    A
        Coordinates of a position.
    positions, valid
        Names in `POSITIONS` and `VALID`.
    cuts
        Where the tokens are handed over in parts.
    norms, shares
        Whether norms have weights; whether the layer has matrices of its own that it does not use.
    small
        Whether every second token is a thousand times smaller.
    seed
        Of the generator.

    Examples
    --------
    >>> Drawing(T=2, M=4).code().split("; ")[-1]
    'x = r.standard_normal((2, 2, 4))'
    """

    B: int = 2
    T: int = 5
    Hq: int = 4
    Hkv: int = 2
    D: int = 8
    M: int = 32
    A: int = 3
    positions: str = ""
    valid: str = ""
    cuts: tuple[int, ...] = ()
    norms: bool = False
    shares: bool = False
    small: bool = False
    seed: int = 0

    def code(self, own: bool = True, dtype: str = "float64") -> str:
        """Return the statements that build weights (where they are not the layer's own), x, positions and padding.

        >>> "w_q" in Drawing().code(own=False)
        False
        """
        n = "r.standard_normal"
        cast = {"float64": "", "bfloat16": ".astype('bfloat16')"}.get(dtype, f".astype(np.{dtype})")
        lines = [f"r = np.random.default_rng({self.seed})"]
        if own:
            shapes = {"w_q": (self.M, self.Hq * self.D), "w_k": (self.M, self.Hkv * self.D)}
            shapes |= {"w_v": (self.M, self.Hkv * self.D), "w_o": (self.Hq * self.D, self.M)}
            if self.shares:
                shapes |= dict.fromkeys(("own_k", "own_v"), (self.M, self.Hkv * self.D))
            form = "{0}=({1}({2}) / {3} ** 0.5){4}" if dtype in NARROW else "{0}={1}({2}){4} / {3} ** 0.5"
            parts = [form.format(name, n, shape, shape[0], cast) for name, shape in shapes.items()]
            if self.norms:
                parts += [f"{name}=r.uniform(0.3, 3, {self.D}){cast}" for name in ("q_norm", "k_norm")]
            lines.append(f"w = dict({', '.join(parts)}, heads={self.Hq}, kv_heads={self.Hkv})")
        lines.append(f"x = {n}(({self.B}, {self.T}, {self.M})){cast}")
        if self.small:
            lines.append("x[:, 1::2] /= 1000")
        for name, table in (("p", POSITIONS[self.positions]), ("m", VALID[self.valid])):
            if table:
                lines.append(f"{name} = {table.format(B=self.B, T=self.T, A=self.A)}")
        return "; ".join(lines)

    def build(self, own: Any = None, dtype: str = "float64") -> tuple[Any, Case]:
        """Run the code.

        >>> weights, case = Drawing().build()
        >>> weights.width, case.x.shape
        (8, (2, 5, 32))
        """
        names: dict[str, Any] = {"np": np}
        exec(self.code(own is None, dtype), names)  # noqa: S102 - our own text
        x = names["x"].astype(np.float64) if dtype in NARROW else names["x"]
        weights = Weights(**names["w"]) if own is None else own
        return weights, Case(x, names.get("p"), names.get("m"), self.cuts)

    def call(self, features: frozenset[str], own: bool = True) -> str:
        """Return the statements that run ``f`` on what `code` builds, into ``y``.

        >>> Drawing().call(frozenset({"w_q", "w_k", "w_v", "w_o", "heads"}))
        "y = f(x, **{n: w[n] for n in ['heads', 'w_k', 'w_o', 'w_q', 'w_v']})"
        """
        names = sorted(features - {"positions", "valid", "cache"}) if own else []
        if not self.norms:
            names = [name for name in names if not name.endswith("_norm")]
        if not self.shares:
            names = [name for name in names if not name.startswith("own_")]
        given = f", **{{n: w[n] for n in {names}}}" if names else ""

        def part(begin: int, end: int | None, cache: str) -> str:
            whole = begin == 0 and end is None
            span = f"{begin or ''}:{'' if end is None else end}"
            words = f"f(x{given}" if whole else f"f(x[:, {span}]{given}"
            if self.positions:
                words += ", positions=p" if whole else f", positions=p[..., {span}]"
            cut = "" if whole else f"[:, {span}]"
            words += f", valid=m{cut}" if self.valid else ""
            return words + (f", cache={cache})" if "cache" in features else ")")

        if not self.cuts:
            return f"y = {part(0, None, 'None')}{'[0]' if 'cache' in features else ''}"
        ends = (*self.cuts, None)
        lines = [f"y, c = {part(0, ends[0], 'None')}; y = [y]"]
        for begin, end in zip(self.cuts, ends[1:], strict=True):
            lines.append(f"z, c = {part(begin, end, 'c')}; y.append(z)")
        return "; ".join([*lines, "y = np.concatenate(y, 1)"])

    def smaller(self) -> list["Drawing"]:
        """Return smaller cases of the same kind, the smallest first.

        >>> [case.T for case in Drawing().smaller()][:2]
        [1, 2]
        """
        found = []
        for batch in sorted({1, 2, self.B}):
            for length in range(1, self.T + 1):
                for hkv, group in ((1, 1), (1, self.Hq // self.Hkv), (self.Hkv, self.Hq // self.Hkv)):
                    padded = self.valid in {"left", "right"}
                    if any(cut >= length for cut in self.cuts) or (padded and (batch < 2 or length < 3)):
                        continue
                    heads = hkv * group
                    width = heads * self.D + (0 if self.Hq * self.D == self.M else 2)
                    found.append(replace(self, B=batch, T=length, Hq=heads, Hkv=hkv, M=width))
        return sorted(dict.fromkeys(found), key=lambda c: (c.B * c.T * c.Hq, c.M))
