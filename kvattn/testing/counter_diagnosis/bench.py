"""The bench on which a counter is asked: sizes in, one exact number out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from kvattn.testing.counter_diagnosis.numbers import exact, shown
from kvattn.testing.counter_diagnosis.sizes import Sizes, flops, stored
from kvattn.testing.counter_targets import CounterTarget
from kvattn.testing.diagnosis.finding import Finding, Kind
from kvattn.testing.diagnosis.raised import Misshapen, Refused


@dataclass
class CounterBench:
    """A counter on the bench.

    Attributes
    ----------
    target, seed
        What is tested, seed of the drawn sizes.
    findings, notes, calls
        As in `kvattn.testing.diagnosis.lab.Lab`.
    unit
        What one of the returned numbers stands for: 10**9 for GFLOPs.
    without
        Sizes that it takes and refuses; they stay neutral.
    stopped
        Whether what was read so far makes further readings meaningless.
    compute
        What comparisons are made in: always integers.
    drawn
        How many drawn sizes were compared.
    own_bits
        Bits of a number, where a counter of bytes does not ask for them.
    last
        What was asked last.

    Examples
    --------
    >>> bench = bench_of(lambda *, queries, keys, width: 4 * queries * keys * width)
    >>> bench.count(bench.sizes(queries=2, keys=3, width=8))
    Fraction(192, 1)
    """

    target: CounterTarget
    seed: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    calls: int = 0
    unit: int = 1
    without: set[str] = field(default_factory=set)
    stopped: bool = False
    compute: str = "integers"
    drawn: int = 0
    own_bits: int = 16
    last: Sizes = field(default_factory=Sizes)

    @property
    def fault_class(self) -> str:
        """Return the class of what is wrong.

        >>> bench_of(lambda *, queries, keys, width: 0).fault_class
        'flop-count'
        """
        return "flop-count" if self.target.counts == "flops" else "byte-count"

    def can(self, *names: str) -> bool:
        """Say whether it takes all of these sizes.

        >>> bench_of(lambda *, queries, keys, width: 0).can("keys", "batch")
        False
        """
        return all(name in self.target.features and name not in self.without for name in names)

    @property
    def grouped(self) -> bool:
        """Say whether it is told of query heads and of key/value heads.

        >>> bench_of(lambda *, queries, keys, width: 0).grouped
        False
        """
        return self.can("query_heads", "kv_heads") and "grouped heads" not in self.without

    def sizes(self, **asked: Any) -> Sizes:
        """Return sizes that the counter can be asked for: what it does not take is neutral.

        >>> bench_of(lambda *, queries, width: 0).sizes(queries=5, keys=9, batch=4)  # doctest: +ELLIPSIS
        Sizes(batch=1, layers=1, kv_heads=1, group=1, queries=5, keys=5, ...)
        """
        plain = Sizes(**({"queries": 1, "keys": 1} if self.target.counts == "flops" else {}) | asked)
        change: dict[str, Any] = {name: 1 for name in ("batch", "layers") if not self.can(name)}
        if not (self.can("query_heads") or self.can("kv_heads")):
            change["kv_heads"] = 1
        if not self.grouped:
            change["group"] = 1
        if not self.can("hidden") or not self.can("width"):
            change["head"] = plain.width
        if not self.can("value_width"):
            change["value_width"] = plain.width
        if not self.can("keys") and self.target.counts == "flops":
            change["keys"] = plain.queries
        if not self.can("queries"):
            change["queries"] = plain.keys if self.target.counts == "flops" else 0
        if self.target.counts == "bytes" and not self.can("tokens"):
            change["keys"] = 1
        if not self.can("window"):
            change |= {"window": None, "window_layers": None}
        elif not self.can("window_layers"):
            change["window_layers"] = None
        neutral = {"causal": False, "bits": 0, "page": 1}
        change |= {name: value for name, value in neutral.items() if not self.can(name)}
        if self.can("bits"):
            change["bits"] = plain.bits or 16
        elif self.target.counts == "bytes" and not self.can("itemsize"):
            change["bits"] = self.own_bits
        if not self.can("group"):
            change["scale_group"] = None
        return plain.but(**change)

    def count(self, sizes: Sizes) -> Fraction:
        """Ask once.

        Raises
        ------
        Refused
            Where it raises, or returns something else than one number.

        Examples
        --------
        >>> bench_of(lambda *, queries, keys, width: (1, 2)).count(Sizes())
        Traceback (most recent call last):
        kvattn.testing.diagnosis.raised.Misshapen: returned tuple, expected one number
        """
        self.calls += 1
        self.last = sizes
        try:
            returned = self.target(sizes.given())
            number = exact(returned)
        except Misshapen:
            raise
        except Exception as error:
            raise Refused(f"{type(error).__name__}: {error}".splitlines()[0][:160]) from error
        except SystemExit as left:
            raise Refused(f"the function left the program with code {left.code}") from left
        if self.unit == 1:
            return number
        near = round(number * self.unit)  # a float in GFLOPs is some 1e-16 of it away from its integer
        return Fraction(near) if abs(number * self.unit - near) <= Fraction(1, 1000) else number * self.unit

    def expected(self, sizes: Sizes) -> Fraction:
        """Return the right number.

        >>> bench_of(lambda *, queries, keys, width: 0).expected(Sizes(queries=2, keys=3))
        Fraction(192, 1)
        """
        return Fraction(flops(sizes)) if self.target.counts == "flops" else stored(sizes)

    def wrong(self, asked: Iterable[Sizes]) -> Sizes:
        """Return the first sizes that are counted wrong, or the first of all.

        >>> bench = bench_of(lambda *, queries, width: 128)
        >>> bench.wrong([Sizes(queries=2, keys=2), Sizes(queries=3, keys=3)]).queries
        3
        """
        every = list(asked)
        return next((sizes for sizes in every if self.count(sizes) != self.expected(sizes)), every[0])

    def line(self, sizes: Sizes, wanted: Fraction | None = None) -> str:
        """One line of Python that prints what it counts and what was expected.

        >>> bench_of(lambda *, queries, keys, width: 0).line(Sizes(queries=2, keys=3))
        "print(f(queries=2, keys=3, width=8), 'expected', 192)"
        """
        given = ", ".join(f"{name}={value!r}" for name, value in self.target.keywords(sizes.given()).items())
        right = shown(self.expected(sizes) if wanted is None else wanted)
        setup = f"{self.target.setup}; " if self.target.setup else ""
        scale = "" if self.unit == 1 else f" * {self.unit}"
        return f"{setup}print(f({given}){scale}, 'expected', {right})"

    def add(
        self,
        parameters: dict[str, Any],
        detail: str,
        sizes: Sizes,
        *,
        kind: Kind = "fault",
        fault_class: str = "",
    ) -> None:
        """Record a finding once; sizes are those that show it.

        >>> bench = bench_of(lambda *, queries, keys, width: 0)
        >>> bench.add({"counts": 0}, "It counts nothing.", Sizes(queries=2, keys=3))
        >>> len(bench.findings)
        1
        """
        if any(f.parameters == parameters for f in self.findings):
            return
        self.findings.append(Finding(fault_class or self.fault_class, kind, parameters, detail, self.line(sizes)))

    def unexplained(self, sizes: Sizes, wanted: Fraction | None, why: str, **parameters: Any) -> None:
        """Record a number that no rule explains, and stop.

        >>> bench = bench_of(lambda *, queries, keys, width: 7)
        >>> bench.unexplained(Sizes(queries=2, keys=3), None, "No rule fits.")
        >>> bench.findings[0].fault_class, bench.findings[0].detail
        ('unclassified', 'No rule fits: it counts 7 for queries=2, keys=3, width=8; 192 was expected.')
        """
        self.stopped = True
        given = ", ".join(f"{name}={value!r}" for name, value in self.target.keywords(sizes.given()).items())
        right = self.expected(sizes) if wanted is None else wanted
        try:
            got = shown(self.count(sizes))
        except Refused as refused:
            got = f"nothing ({refused})"
        words = f"{why.rstrip('.')}: it counts {got} for {given}; {shown(right)} was expected."
        self.findings.append(
            Finding(
                "unclassified", "fault", {"counts": self.target.counts, **parameters}, words, self.line(sizes, right)
            )
        )


def bench_of(function: Any) -> CounterBench:
    """Put a function on the bench, for examples and tests.

    >>> bench_of(lambda *, tokens, width, itemsize: 0).target.counts
    'bytes'
    """
    from kvattn.testing.counter_targets import counter_target_of

    return CounterBench(counter_target_of(function))
