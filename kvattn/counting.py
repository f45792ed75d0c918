"""FLOPs, bytes and pairs: what a computation did, as a value.

``with counting() as tally:`` collects what `kvattn.ops`, `kvattn.core.streaming` and the caches
report while the block runs; outside such a block a report costs one look at a context variable.
What each number means is defined once, in ``docs/explain/what-we-count.md``.

A `Tally` is a monoid under ``+``: counts add; live cache bytes add; the peak of ``a + b`` is
``max(a.cache_peak, a.cache_live + b.cache_peak)``, the highest water of doing *a* and then *b*.
Blocks nest: an inner block's counts are also the outer block's.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from threading import Lock
import weakref

_FLOPS = ("matmul", "arithmetic", "transcendental")
_BYTES = ("weights_read", "kv_read", "kv_written", "kv_copied", "tables_read", "activations")
_PENDING = 256


@dataclass(frozen=True, slots=True)
class Tally:
    """What was done: all integers, exact.

    Attributes
    ----------
    matmul
        FLOPs of matrix products, ``2 m k n`` each (a multiply-add is 2).
    arithmetic
        Elementwise additions, multiplications, comparisons and divisions.
    transcendental
        Calls of exp, log, tanh, sin, cos, sqrt.
    weights_read, kv_read, kv_written, kv_copied, tables_read, activations
        Bytes by stream.
    pairs_computed, pairs_visible
        (query, key) pairs, summed over sequences and query heads: whose score was computed; that
        the mask lets through.
    cache_live, cache_peak
        Bytes of cache pages allocated here and still alive, and their highest sum.

    Examples
    --------
    >>> Tally(matmul=6) + Tally(matmul=4, kv_read=8)
    Tally(matmul=10, kv_read=8)
    """

    matmul: int = 0
    arithmetic: int = 0
    transcendental: int = 0
    weights_read: int = 0
    kv_read: int = 0
    kv_written: int = 0
    kv_copied: int = 0
    tables_read: int = 0
    activations: int = 0
    pairs_computed: int = 0
    pairs_visible: int = 0
    cache_live: int = 0
    cache_peak: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        if not isinstance(other, Tally):
            return NotImplemented
        totals = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        totals["cache_peak"] = max(self.cache_peak, self.cache_live + other.cache_peak)
        return Tally(**totals)

    def __repr__(self) -> str:
        shown = ((f.name, getattr(self, f.name)) for f in fields(self))
        return f"Tally({', '.join(f'{name}={value}' for name, value in shown if value)})"

    @property
    def flops(self) -> int:
        """All FLOPs: matrix products, elementwise arithmetic and transcendentals.

        >>> Tally(matmul=6, transcendental=2).flops
        8
        """
        return sum(getattr(self, name) for name in _FLOPS)

    @property
    def bytes(self) -> int:
        """All bytes moved, over every stream.

        >>> Tally(kv_read=16, kv_written=8).bytes
        24
        """
        return sum(getattr(self, name) for name in _BYTES)


class Recorder:
    """What `counting` yields: it reads as the `Tally` so far.

    >>> with counting() as recorder:
    ...     charge(Tally(matmul=6))
    >>> recorder.tally
    Tally(matmul=6)
    """

    def __init__(self, outer: "Recorder | None") -> None:
        self._outer = outer
        self._total = Tally()
        # A page may die in the middle of an addition, and another thread may charge: they only append.
        self._charges: deque[Tally] = deque()
        self._adding = Lock()

    @property
    def tally(self) -> Tally:
        """Everything charged since the block was entered.

        >>> with counting() as recorder:
        ...     recorder.tally
        Tally()
        """
        with self._adding:
            return self._sum()

    def charge(self, tally: Tally) -> None:
        """Add a tally here and in every block around this one; any thread may.

        >>> with counting() as outer, counting() as inner:
        ...     inner.charge(Tally(matmul=2))
        >>> outer.tally == inner.tally == Tally(matmul=2)
        True
        """
        self._charges.append(tally)
        if len(self._charges) > _PENDING and self._adding.acquire(blocking=False):
            try:
                self._sum()
            finally:
                self._adding.release()
        if self._outer is not None:
            self._outer.charge(tally)

    def _sum(self) -> Tally:
        while self._charges:
            self._total += self._charges.popleft()
        return self._total

    def __getattr__(self, name: str) -> int:
        if name.startswith("_"):
            raise AttributeError(name)
        return int(getattr(self.tally, name))


_RECORDER: ContextVar[Recorder | None] = ContextVar("kvattn_recorder", default=None)


@contextmanager
def counting() -> Iterator[Recorder]:
    """Count what happens inside the block.

    Yields
    ------
    Recorder
        Reads as a `Tally`: ``recorder.matmul``, ``recorder.flops``, or ``recorder.tally`` for the value.

    Examples
    --------
    >>> import numpy as np
    >>> from kvattn import ops
    >>> with counting() as tally:
    ...     _ = ops.contract(np.ones((3, 4)), np.ones((4, 5)))
    >>> tally.matmul
    120
    """
    recorder = Recorder(_RECORDER.get())
    token = _RECORDER.set(recorder)
    try:
        yield recorder
    finally:
        _RECORDER.reset(token)


def charge(tally: Tally) -> None:
    """Report work to the innermost counting block, if there is one.

    >>> charge(Tally(matmul=2))  # nobody counts: nothing happens
    """
    recorder = _RECORDER.get()
    if recorder is not None:
        recorder.charge(tally)


def is_counting() -> bool:
    """Whether a counting block is open, for callers whose report is itself work.

    >>> is_counting()
    False
    """
    return _RECORDER.get() is not None


def charge_page(page: object, nbytes: int) -> None:
    """Report an allocated cache page; its bytes leave the live count when the page is collected.

    >>> class Page: ...
    >>> with counting() as tally:
    ...     page = Page()
    ...     charge_page(page, 64)
    ...     del page
    >>> tally.cache_live, tally.cache_peak
    (0, 64)
    """
    recorder = _RECORDER.get()
    if recorder is not None:
        recorder.charge(Tally(cache_live=nbytes, cache_peak=nbytes))
        weakref.finalize(page, recorder.charge, Tally(cache_live=-nbytes)).atexit = False
