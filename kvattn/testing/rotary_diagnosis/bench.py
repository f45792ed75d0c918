"""The bench on which a rotation is run: unit vectors in, one matrix for each position out."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.errors import KvattnError
from kvattn.positions.rotary import Rotary
from kvattn.testing.diagnosis.finding import Finding, Kind
from kvattn.testing.diagnosis.raised import Misshapen, Refused
from kvattn.testing.rotary_diagnosis.model import Model
from kvattn.testing.rotary_targets import RotaryTarget, Scheme, Turned
from kvattn.typing import Array, Positions

WIDTHS = (32, 64, 128, 16, 8, 80, 96, 256)
"""Head widths that are tried in turn where none is declared."""

NARROW: Mapping[str, float] = MappingProxyType({"float16": 2.0**-11, "bfloat16": 2.0**-8})
"""Unit roundoff of the element types of 16 bits."""

FORMS = ("[B, T]", "[B, 1, T]", "[T]")
"""Shapes of positions, the contract's first; with the last, rows run one by one."""

NEAR = 12
"""Length of the first run: positions 0 to 11."""


@dataclass
class RotaryBench:
    """A rotation on the bench.

    Attributes
    ----------
    target, seed, dtype
        What is tested, seed of the cases, element type of the inputs.
    width, form
        D that is used, 0 as long as none is settled; the shape in which it takes positions.
    known
        What is known of the rotation of ``"q"`` and of ``"k"``.
    findings, notes, calls
        As in `kvattn.testing.diagnosis.lab.Lab`.
    compute
        Number format of the angles, for the bounds.
    reach
        How many positions it takes, at most the context.
    stopped
        Whether what was read so far makes further readings meaningless.

    Examples
    --------
    >>> bench = bench_of(Rotary.of(4).rotate, width=4)
    >>> bench.matrices(np.arange(2))[1].round(2)
    array([[ 0.54,  0.  , -0.84,  0.  ],
           [ 0.  ,  1.  ,  0.  , -0.01],
           [ 0.84,  0.  ,  0.54,  0.  ],
           [ 0.  ,  0.01,  0.  ,  1.  ]])
    """

    target: RotaryTarget
    seed: int = 0
    dtype: str = "float64"
    width: int = 0
    form: str = FORMS[0]
    known: dict[str, Model] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    calls: int = 0
    compute: str = "float64"
    reach: int = 0
    stopped: bool = False

    @property
    def sharp(self) -> float:
        """How closely, relatively, a fitted frequency must agree.

        A frequency in float32 is off by up to 23 roundings (`Model.bound` says of what), 1.4e-6.

        >>> RotaryBench(RotaryTarget("mine", Rotary.of(4).rotate)).sharp
        3e-06
        """
        return 3e-6

    @property
    def sides(self) -> tuple[str, ...]:
        """Return what is read apart: queries and keys, where the target takes both at once.

        >>> RotaryBench(RotaryTarget("mine", Rotary.of(4).rotate)).sides
        ('q',)
        """
        return ("q", "k") if self.target.pair else ("q",)

    def expected(self, length: int) -> Rotary:
        """Return what is expected for a sequence of this length.

        >>> bench_of(Rotary.of(4).rotate, width=4).expected(9) == Rotary.of(4)
        True
        """
        return self.target.rotary_at(length, self.width)

    def run(self, q: Array, k: Array, positions: Positions) -> Turned:
        """Run the target once on its own copies.

        Raises
        ------
        Refused
            Where it raises, or returns something of another shape.

        Examples
        --------
        >>> bench, x = bench_of(Rotary.of(4).rotate), np.ones((1, 1, 1, 4))
        >>> bench.run(x, x, np.zeros((1, 1), int)).q[0, 0, 0]
        array([1., 1., 1., 1.])
        """
        self.calls += 1
        q, k = q.astype(self.dtype), k.astype(self.dtype)
        try:
            if self.form == "[T]":
                rows = [
                    self.target(q[b : b + 1].copy(), k[b : b + 1].copy(), p.copy()) for b, p in enumerate(positions)
                ]
                turned = Turned(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))
            else:
                turned = self.target(q.copy(), k.copy(), self._formed(positions))
        except Exception as error:
            raise Refused(f"{type(error).__name__}: {error}".splitlines()[0][:160]) from error
        for name, x, wanted in zip("qk", turned, (q, k), strict=True):
            if x.shape != wanted.shape:
                raise Misshapen(f"rotated {name} has shape {x.shape}, expected {wanted.shape}")
        return Turned(*(x.astype(np.float64) for x in turned))

    def settle(self) -> None:
        """Find a head width and a shape of positions that the target takes.

        Raises
        ------
        Refused
            Where it takes none of `WIDTHS`.

        Examples
        --------
        >>> bench = RotaryBench(RotaryTarget("mine", Rotary.of(64).rotate))
        >>> bench.settle()
        >>> bench.width, bench.form
        (64, '[B, 1, T]')
        """
        expects = self.target.expects
        declared = self.width or self.target.width
        if not declared and expects is not None:
            declared = self.target.rotary_at(NEAR, 0).width
        refusal: Refused | None = None
        for width in (declared,) if declared else WIDTHS:
            q = np.zeros((3, 2, 5, width))  # sizes that differ: a shape that fits by chance is none
            for form in FORMS:
                self.form = form
                try:
                    self.run(q, q[:, :1], np.arange(5) + np.zeros((3, 1), np.int64))
                except Refused as refused:
                    refusal = refusal or refused
                else:
                    self.width = width
                    return
        self.form = FORMS[0]
        raise refusal or Refused("no width is left to try")

    def writes(self, q: Array, k: Array, positions: Positions) -> bool:
        """Say whether a call leaves other queries or keys behind than it was given.

        >>> bench, x = bench_of(Rotary.of(4).rotate, width=4), np.ones((2, 1, 1, 4))
        >>> bench.writes(x, x, np.ones((2, 1), int))
        False
        """
        self.calls += 1
        count = 1 if self.form == "[T]" else len(positions)
        held = q[:count].astype(self.dtype), k[:count].astype(self.dtype)
        before = held[0].copy(), held[1].copy()
        self.target(*held, positions[0].copy() if self.form == "[T]" else self._formed(positions))
        return any(not np.array_equal(x, y) for x, y in zip(held, before, strict=True))

    def _formed(self, positions: Positions) -> Positions:
        return positions[:, None].copy() if self.form == "[B, 1, T]" else positions.copy()

    def matrices(self, positions: Positions, side: str = "q") -> NDArray[np.float64]:
        """Read ``[T, D, D]``: what the rotation at each of ``positions [T]`` does to a column of features.

        >>> bench_of(Rotary.of(2).rotate, width=2).matrices(np.array([0]))
        array([[[1., 0.],
                [0., 1.]]])
        """
        size = self.width
        unit = np.zeros((size, 2, len(positions), size)) + np.eye(size)[:, None, None]
        turned = self.run(unit, unit[:, :1], np.broadcast_to(positions, (size, len(positions))))
        return np.moveaxis(getattr(turned, side)[:, 0], 0, -1)

    def angles(self, positions: Positions, side: str = "q") -> NDArray[np.float64]:
        """Read the angle ``[B, T, pairs]`` of each known pair at ``positions [B, T]``.

        >>> bench = bench_of(Rotary.of(4).rotate)
        >>> bench.known["q"] = Model.of(Rotary.of(4), 4)
        >>> bench.angles(np.array([[3]])).round(2)
        array([[[3.  , 0.03]]])
        """
        cosine, sine = self.hands(positions, side)
        return np.asarray(np.arctan2(sine, cosine))

    def hands(self, positions: Positions, side: str = "q") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Read cosine and sine ``[B, T, pairs]``, magnitude included, of each known pair.

        >>> bench = bench_of(Rotary.of(2).rotate)
        >>> bench.known["q"] = Model.of(Rotary.of(2), 2)
        >>> [float(x.round(3).item()) for x in bench.hands(np.array([[1]]))]
        [0.54, 0.841]
        """
        known = self.known[side]
        x = np.zeros((*positions.shape, self.width))
        x[..., known.first] = 1
        x = x[:, None]
        turned = getattr(self.run(np.repeat(x, 2, 1), x, positions), side)[:, 0]
        return turned[..., known.first], known.direction * turned[..., known.second]

    def add(
        self, fault_class: str, parameters: dict[str, Any], detail: str, *, kind: Kind = "fault", reproduce: str = ""
    ) -> None:
        """Record a finding once.

        >>> bench = RotaryBench(RotaryTarget("mine", Rotary.of(4).rotate))
        >>> bench.add("rope-offset", {"offset": 1}, "Positions count from 1.")
        >>> len(bench.findings)
        1
        """
        if not any(f.fault_class == fault_class and f.parameters == parameters for f in self.findings):
            self.findings.append(Finding(fault_class, kind, parameters, detail, reproduce or self.line([0, 1, 2, 3])))

    @property
    def roundoff(self) -> tuple[float, float]:
        """Unit roundoff of the angles and of the features; angles are float32's at least where features have 16 bits.

        >>> bench_of(Rotary.of(4).rotate).roundoff == (2.0**-53, 2.0**-53)
        True
        """
        if self.dtype in NARROW:
            return 2.0**-24, NARROW[self.dtype]
        single = "float32" in (self.compute, self.dtype)
        return (2.0**-24 if self.compute == "float32" else 2.0**-53), (2.0**-24 if single else 2.0**-53)

    @property
    def legal(self) -> Kind:
        """Return the kind of a difference that is somebody's choice: a fault only where another was declared.

        >>> RotaryBench(RotaryTarget("mine", Rotary.of(4).rotate)).legal
        'convention'
        """
        return "convention" if self.target.expects is None else "fault"

    def line(self, positions: list[int], side: str = "") -> str:
        """Return Python that prints the row that differs most at some positions, and what was expected there.

        >>> bench = bench_of(lambda x, positions: x, width=2)
        >>> bench.line([1]).split("; ")[-1]
        "print(np.round(np.asarray(f(x, p))[0, 0, 0, [0, 1]], 4).tolist(), 'expected', [-0.8415, 0.5403])"
        """
        size, at = self.width or WIDTHS[0], np.array([positions])
        names = "import numpy as np, ml_dtypes" if self.dtype == "bfloat16" else "import numpy as np"
        opening = [names, *([self.target.setup] if self.target.setup else [])]
        cast = {"float64": "", "bfloat16": ", ml_dtypes.bfloat16"}.get(self.dtype, f", np.{self.dtype}")
        taken = "np.asarray({}, float)" if self.dtype in NARROW else "np.asarray({})"
        off, side, feature, t = max(self._differences(at, size, side), default=(-1.0, side or "q", 0, 0))
        text = {"[B, T]": f"[{positions}]", "[B, 1, T]": f"[[{positions}]]", "[T]": f"{positions}"}[self.form]
        built = f"x = np.zeros((1, 1, {len(positions)}, {size}){cast}); x[..., {feature}] = 1; p = np.array({text})"
        call = "f(x, p)" if not self.target.pair else f"f(x, x, p)[{'qk'.index(side)}]"
        if off < 0:
            return "; ".join([*opening, built, f"print({call})"])
        unit = np.eye(size)[feature : feature + 1]
        digits = 4 if off > 1e-3 else 12
        right = self.expected(max(positions) + 1).rotate(unit, np.array([positions[t]]))[0]
        x = np.zeros((1, 1, len(positions), size))
        x[..., feature] = 1
        got = getattr(self.run(x, x, at), side)[0, 0, t]
        most = sorted(np.argsort(-np.maximum(np.abs(got), np.abs(right)), kind="stable")[:4].tolist())
        show = f"print(np.round({taken.format(call)}[0, 0, {t}, {most}], {digits}).tolist(), 'expected', "
        return "; ".join([*opening, built, show + f"{(np.round(right[most], digits) + 0.0).tolist()})"])

    def _differences(self, at: Positions, size: int, only: str) -> Iterator[tuple[float, str, int, int]]:
        """Yield how far each row is off for each unit vector: distance, side, feature, row; nothing if it raises."""
        for feature in range(size):
            x = np.zeros((1, 1, at.shape[1], size))
            x[..., feature] = 1
            try:
                turned = self.run(x, x, at)
                wanted = self.expected(int(at.max()) + 1).rotate(x, at[:, None])
            except (Refused, KvattnError):
                return
            for side in (only,) if only else self.sides:
                far = np.abs(getattr(turned, side) - wanted).max(-1)[0, 0]
                t = int(np.argmax(np.where(np.isnan(far), np.inf, far)))
                yield round(float(far[t]), 9) if not np.isnan(far[t]) else np.inf, side, feature, t


def bench_of(
    function: Callable[..., Any], expects: Rotary | Scheme | None = None, width: int = 0, **more: Any
) -> RotaryBench:
    """Return a function on a bench, its width and the shape of its positions settled: something to try a reading on.

    >>> bench_of(Rotary.of(4).rotate).form
    '[B, 1, T]'
    """
    bench = RotaryBench(RotaryTarget("mine", function, expects, width or None, **more))
    bench.settle()
    return bench
