"""The bench on which a layer is run and compared with what it should give."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.finding import Finding, Kind
from kvattn.testing.diagnosis.raised import Misshapen, Refused
from kvattn.testing.layer_diagnosis.drawing import NARROW, Drawing
from kvattn.testing.layer_diagnosis.latent_reading import LatentReading
from kvattn.testing.layer_diagnosis.narrow import narrow_bound, rounded
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.testing.layer_diagnosis.reading import Case, Reading
from kvattn.testing.layer_targets import LayerTarget, layer_target_of

Numbers = NDArray[np.float64]

_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24}


@dataclass
class LayerBench:
    """A layer on the bench.

    Attributes
    ----------
    target, seed, dtype
        What is tested, seed of the cases, element type of the hidden states and weights.
    reading, legal
        What is known by now, a `Reading` or a latent layer's `LatentReading`; the same without its faults: the plan,
        and what was found to be a convention.
    compute
        Number format of the layer's arithmetic, for the bounds.
    findings, notes, calls
        As in `kvattn.testing.diagnosis.lab.Lab`.
    square, grouped
        Whether it takes only M = Hq·D; whether it takes fewer key/value heads than query heads.
    stopped
        Whether what was read so far makes further readings meaningless.

    Examples
    --------
    >>> bench = layer_bench(lambda x, *, w_q, w_k, w_v, w_o, heads, kv_heads: x)
    >>> bench.run(*Drawing().build()).shape
    (2, 5, 32)
    """

    target: LayerTarget
    seed: int = 0
    dtype: str = "float64"
    reading: Any = None
    legal: Any = None
    compute: str = "float64"
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    calls: int = 0
    square: bool = False
    grouped: bool = True
    stopped: bool = False

    def __post_init__(self) -> None:
        self.reading = self.legal = self.plan
        if self.dtype == "float32":
            self.compute = "float32"

    @property
    def plan(self) -> Any:
        """What the layer should be, as a reading.

        >>> layer_bench(lambda x, *, w_q, w_k, w_v, w_o, heads, kv_heads: x).plan == Reading(Plan())
        True
        """
        latent = self.target.latent
        return Reading(self.target.expects, shared=self.can("own_k")) if latent is None else LatentReading(latent)

    def can(self, *features: str) -> bool:
        """Say whether the layer takes these keywords.

        >>> layer_bench(lambda x, *, w_q, w_k, w_v, w_o, heads, kv_heads: x).can("cache")
        False
        """
        return self.target.features.issuperset(features)

    def drawing(self, **given: Any) -> Drawing:
        """Return a case of sizes that the layer takes.

        >>> layer_bench(lambda x, *, w_q, w_k, w_v, w_o, heads: x).drawing(Hq=6).Hkv
        6
        """
        own = self.target.own
        norms = own is None and self.can("q_norm") and self.target.expects.norm is not None
        shares = own is None and self.can("own_k")
        case = Drawing(seed=self.seed, norms=norms, shares=shares, A=max(self.target.expects.axes, 1))
        case = replace(case, **given)
        if "positions" in self.target.required and not case.positions:
            case = replace(case, positions="rows")
        if "valid" in self.target.required and not case.valid:
            case = replace(case, valid="none")
        if own is not None:
            return replace(case, Hq=own.heads, Hkv=getattr(own, "kv_heads", own.heads), D=own.width, M=own.hidden)
        if self.target.expects.axes and self.can("positions") and case.positions in {"", "rows"}:
            case = replace(case, positions="axes")
        rotary = self.target.expects.rotary_at(1)
        width = self.target.width or max(case.D, 0 if rotary is None else rotary.width)
        hkv = case.Hkv if self.grouped and self.can("kv_heads") else case.Hq
        hidden = case.Hq * width if self.square else case.Hq * width - 6
        return replace(case, D=width, Hkv=hkv, M=hidden)

    def run(self, weights: Any, case: Case) -> Numbers:
        """Run the layer on its own copies, in as many parts as the case has.

        Raises
        ------
        Refused
            Where it raises, or returns something of another shape.

        Examples
        --------
        >>> bench = layer_bench(lambda x, *, w_q, w_k, w_v, w_o, heads, kv_heads: x[:, :1])
        >>> bench.run(*Drawing().build())
        Traceback (most recent call last):
        kvattn.testing.diagnosis.raised.Misshapen: the output has shape (2, 1, 32), expected (2, 5, 32)
        """
        parts, cache, begin = [], None, 0
        for end in (*case.cuts, case.x.shape[1]):
            self.calls += 1
            options: dict[str, Any] = {"cache": cache} if self.can("cache") else {}
            if case.positions is not None:
                options["positions"] = case.positions[..., begin:end].copy()
            if case.valid is not None:
                options["valid"] = case.valid[:, begin:end].copy()
            x = case.x[:, begin:end].astype(self.dtype)
            try:
                out, cache = self.target(x.copy(), weights, options)
            except Exception as error:
                raise Refused(f"{type(error).__name__}: {error}".splitlines()[0][:160]) from error
            if out.shape != x.shape:
                raise Misshapen(f"the output has shape {out.shape}, expected {x.shape}")
            parts.append(out.astype(np.float64))
            begin = end
        return np.concatenate(parts, 1)

    def limit(self, weights: Any, case: Case, reading: Any = None) -> float:
        """Return how far the layer may be off.

        >>> bench = layer_bench(lambda x, *, w_q, w_k, w_v, w_o, heads, kv_heads: x)
        >>> bench.limit(*Drawing().build()) < 1e-10
        True
        """
        return float((reading or self.reading).bound(weights, case, _ROUNDOFF[self.compute]))

    def apart(self, got: Numbers, wanted: Numbers, case: Case) -> float:
        """Return the largest distance, rows of padding left out; infinite for NaN.

        >>> bench = layer_bench(lambda x, *, w_q, w_k, w_v, w_o, heads, kv_heads: x)
        >>> bench.apart(np.array([[[1.0]]]), np.array([[[np.nan]]]), Case(np.zeros((1, 1, 1))))
        inf
        """
        off = np.abs(got - wanted)
        off = np.where(np.isnan(off), np.inf, off)
        if case.valid is not None:
            off = off[case.valid]
        return float(off.max(initial=0.0))

    def differs(self, drawing: Drawing, reading: Any = None) -> float:
        """Return how far the layer is from a reading in a case, in units of the bound.

        >>> bench = layer_bench(lambda x, *, w_q, w_k, w_v, w_o, heads, kv_heads: x)
        >>> bench.differs(Drawing()) > 1e6
        True
        """
        weights, case = drawing.build(self.target.own, self.dtype)
        reading = reading or self.reading
        got = self.run(weights, case)
        if self.dtype in NARROW:
            weights = rounded(weights, self.dtype)
            far = np.abs(got - reading.predict(weights, case))
            return self.apart(
                far / narrow_bound(self.legal, weights, case, NARROW[self.dtype]), np.zeros_like(far), case
            )
        return self.apart(got, reading.predict(weights, case), case) / self.limit(weights, case, reading)

    def add(
        self,
        fault_class: str,
        parameters: dict[str, Any],
        detail: str,
        drawing: Drawing | None = None,
        *,
        kind: Kind = "fault",
        reproduce: str = "",
    ) -> None:
        """Record a finding once, with the smallest case that shows it.

        >>> bench = layer_bench(lambda x, *, w_q, w_k, w_v, w_o, heads, kv_heads: x)
        >>> bench.add("scale", {"rule": "1"}, "The scores are not scaled.", Drawing())
        >>> len(bench.findings)
        1
        """
        if any(f.fault_class == fault_class and f.parameters == parameters for f in self.findings):
            return
        if drawing is not None and not reproduce:
            reproduce = self.line(self.smallest(drawing))
        self.findings.append(Finding(fault_class, kind, parameters, detail, reproduce))

    def smallest(self, drawing: Drawing) -> Drawing:
        """Return the smallest case of this kind in which the layer is visibly not its plan.

        >>> bench = layer_bench(lambda x, *, w_q, w_k, w_v, w_o, heads, kv_heads: x)
        >>> bench.smallest(Drawing()).T
        1
        """
        if self.target.own is not None or self.dtype in NARROW:
            return drawing
        plan = self.plan
        for least in (1e-2, 1e-5):
            for case in drawing.smaller():
                if self._shows(case, plan, least):
                    return case
        return drawing

    def line(self, drawing: Drawing) -> str:
        """Return Python that prints the row that differs most, and what the plan gives there.

        >>> bench = layer_bench(lambda x, *, w_q, w_k, w_v, w_o, heads, kv_heads: x)
        >>> bench.line(Drawing(B=1, T=1, Hq=1, Hkv=1, D=2, M=2)).split("; ")[-1]
        "print(np.round(y[0, 0], 4).tolist(), 'expected', [-1.0953, -0.3108])"
        """
        own = self.target.own is None
        names = "import numpy as np, ml_dtypes" if self.dtype == "bfloat16" else "import numpy as np"
        opening = [names, *([self.target.setup] if self.target.setup else [])]
        text = [*opening, drawing.code(own, self.dtype), drawing.call(self.target.features, own)]
        weights, case = drawing.build(self.target.own, self.dtype)
        wanted = self.plan.predict(weights, case)
        try:
            got = self.run(weights, case)
        except Refused:
            return "; ".join([*text, "print(y.shape)"])
        off = np.abs(got - wanted).max(-1)
        off = np.where(np.isnan(off), np.inf, off)
        if case.valid is not None:
            off = np.where(case.valid, off, -1)
        b, t = (int(i) for i in np.unravel_index(int(off.argmax()), off.shape))
        digits = 4 if off.max() > 1e-3 else 12
        some = wanted[b, t, :8]
        cut = "" if wanted.shape[2] <= 8 else ", :8"
        right = (np.round(some, digits) + 0.0).tolist()
        row = f"y[{b}, {t}{cut}]"
        row = f"np.asarray({row}, float)" if self.dtype in NARROW else row
        return "; ".join([*text, f"print(np.round({row}, {digits}).tolist(), 'expected', {right})"])

    def _shows(self, drawing: Drawing, plan: Reading, least: float) -> bool:
        try:
            weights, case = drawing.build(self.target.own, self.dtype)
            wanted = plan.predict(weights, case)
            return self.apart(self.run(weights, case), wanted, case) > least
        except (Refused, ValueError):
            return False


def layer_bench(function: Any, expects: Plan | None = None, **more: Any) -> LayerBench:
    """Return a function on a bench: something to try a reading on.

    >>> layer_bench(lambda x, *, w_q, w_k, w_v, w_o, heads: x).target.expects
    Plan(rotary=None, norm=None, eps=1e-06, alibi=False, causal=True, window=None, scale=None, softcap=None)
    """
    target = layer_target_of(function)
    return LayerBench(target if expects is None else replace(target, expects=expects), **more)
