"""Recurrent state of fixed size, with the states to which it can go back.

A recurrence overwrites what it remembers, so a length alone takes nothing back: the state itself
must have been kept.  `Snapshots` keeps the present state and those of the last ``rollback`` tokens,
as far as they were handed in, for each sequence by reference; returning to any other length is
refused, never approximated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Generic

import numpy as np

from kvattn.arguments import integer, integers
from kvattn.caches.batches import one_length, per_sequence, picked
from kvattn.caches.flattened import Header, Reader, Writer
from kvattn.caches.pages import SERIALS
from kvattn.caches.rows import R
from kvattn.counting import Tally, charge, charge_page
from kvattn.errors import ArgumentError, DtypeError, RollbackError, ShapeError
from kvattn.typing import Array, Positions


class State:
    """The arrays of one sequence at one length, copied and read-only.

    >>> state = State([np.ones((2, 3))])
    >>> state.nbytes, state.arrays[0].flags.writeable
    (48, False)
    """

    __slots__ = ("__weakref__", "arrays", "nbytes", "serial")

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.serial = next(SERIALS)
        self.arrays = tuple(np.array(x) for x in arrays)
        self.nbytes = sum(x.nbytes for x in self.arrays)
        for array in self.arrays:
            array.flags.writeable = False
        charge_page(self, self.nbytes)


History = tuple[tuple[int, State], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Snapshots(Generic[R]):
    """A batch of recurrent states; make one with `Snapshots.start`.

    Attributes
    ----------
    row
        The NamedTuple class of a state.
    rollback
        How many tokens back a state is kept.

    Examples
    --------
    >>> from typing import NamedTuple
    >>> class Memory(NamedTuple):
    ...     s: Array  # [B, width]
    >>> cache = Snapshots.start(Memory(np.zeros((1, 2))), rollback=1)
    >>> cache = cache.append([Memory(np.full((1, 2), 1.0)), Memory(np.full((1, 2), 2.0))])
    >>> cache.length, cache.state.s, cache.truncate(1).state.s
    (2, array([[2., 2.]]), array([[1., 1.]]))
    >>> cache.truncate(0)
    Traceback (most recent call last):
    kvattn.errors.RollbackError: length of sequence 0 must be one that is remembered, 1 or 2, got 0
    """

    row: Callable[..., R]
    rollback: int
    histories: tuple[History, ...]

    @classmethod
    def start(cls, state: R, rollback: int = 0) -> "Snapshots[R]":
        """The state before any token.

        Parameters
        ----------
        state
            A NamedTuple of arrays ``[B, ...]``.
        rollback
            How many tokens back `truncate` may go.

        Raises
        ------
        ShapeError
            No array, or arrays that do not begin with one B >= 1.
        DtypeError
            An array that is not floating or integer.

        Examples
        --------
        >>> from kvattn.caches.rows import Latent
        >>> Snapshots.start(Latent(np.zeros((2, 4)))).lengths
        (0, 0)
        """
        arrays = [np.asarray(x) for x in state]
        batch = arrays[0].shape[0] if arrays and arrays[0].ndim else 0
        if not batch or any(x.shape[:1] != (batch,) for x in arrays):
            raise ShapeError(f"state must be arrays [B, ...] of one B >= 1, got {[x.shape for x in arrays]}")
        for array in arrays:
            if array.dtype.kind not in "fiu":
                raise DtypeError(f"state must be floating or integer arrays, got {array.dtype}")
        kept = tuple(((0, State([x[b] for x in arrays])),) for b in range(batch))
        return cls(type(state), integer("rollback", rollback, 0), kept)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens that each sequence has seen.

        >>> from kvattn.caches.rows import Latent
        >>> Snapshots.start(Latent(np.zeros((1, 4)))).append([Latent(np.ones((1, 4)))], tokens=5).lengths
        (5,)
        """
        return tuple(history[-1][0] for history in self.histories)

    @property
    def length(self) -> int:
        """Tokens that every sequence has seen.

        >>> from kvattn.caches.rows import Latent
        >>> Snapshots.start(Latent(np.zeros((1, 4)))).length
        0
        """
        return one_length(self.lengths)

    @property
    def batch(self) -> int:
        """Number of sequences.

        >>> from kvattn.caches.rows import Latent
        >>> Snapshots.start(Latent(np.zeros((3, 4)))).batch
        3
        """
        return len(self.histories)

    @property
    def state(self) -> R:
        """The present state, arrays ``[B, ...]``, read-only.

        >>> from kvattn.caches.rows import Latent
        >>> Snapshots.start(Latent(np.zeros((1, 4)))).state.latent
        array([[0., 0., 0., 0.]])
        """
        present = [history[-1][1].arrays for history in self.histories]
        stacked = [xs[0][None] if len(xs) == 1 else np.stack(xs) for xs in zip(*present, strict=True)]
        for array in stacked:
            array.flags.writeable = False
        return self.row(*stacked)

    def append(self, states: Sequence[R], tokens: int | None = None) -> "Snapshots[R]":
        """Go forward by ``tokens`` tokens.

        Parameters
        ----------
        states
            The states after each of the last ``len(states)`` tokens, the last one being the new
            present; one is enough, but only those handed in can be returned to.
        tokens
            How many tokens were consumed; ``len(states)`` unless given.

        Raises
        ------
        ArgumentError
            Fewer tokens than states, or tokens without a state.
        ShapeError, DtypeError
            Arrays unlike those of the present state.

        Examples
        --------
        >>> from kvattn.caches.rows import Latent
        >>> cache = Snapshots.start(Latent(np.zeros((1, 4))), rollback=8)
        >>> cache.append([Latent(np.ones((1, 4)))], tokens=3).remembered(0)
        (0, 3)
        """
        tokens = integer("tokens", len(states) if tokens is None else tokens, len(states))
        if not tokens:
            return self
        if not states:
            raise ArgumentError(f"states must hold the state after {tokens} tokens, got none")
        taken = [self._check(state) for state in states[-1 - self.rollback :]]
        histories = []
        for b, history in enumerate(self.histories):
            end = history[-1][0] + tokens
            fresh = [(end - back, State([x[b] for x in arrays])) for back, arrays in _countdown(taken)]
            histories.append((*(entry for entry in history if entry[0] >= end - self.rollback), *fresh))
        written = sum(entry[1].nbytes for history in histories for entry in history[-len(taken) :])
        charge(Tally(kv_written=written))
        return replace(self, histories=tuple(histories))

    def _check(self, state: R) -> list[Array]:
        arrays = [np.asarray(x) for x in state]
        model = self.histories[0][-1][1].arrays
        wanted = [(self.batch, *x.shape) for x in model]
        if [x.shape for x in arrays] != wanted:
            raise ShapeError(f"states must have shapes {wanted}, got {[x.shape for x in arrays]}")
        if [x.dtype for x in arrays] != [x.dtype for x in model]:
            raise DtypeError(
                f"states must have dtypes {[str(x.dtype) for x in model]}, got {[str(x.dtype) for x in arrays]}"
            )
        return arrays

    def truncate(self, length: int | Sequence[int]) -> "Snapshots[R]":
        """Return to ``length`` tokens, exactly; one number, or one for each sequence.

        Raises
        ------
        ArgumentError
            Negative, or more than the cache has seen.
        RollbackError
            No state of that length was kept.

        Examples
        --------
        >>> from kvattn.caches.rows import Latent
        >>> cache = Snapshots.start(Latent(np.zeros((1, 4))), rollback=2).append([Latent(np.ones((1, 4)))])
        >>> cache.truncate(0).state.latent
        array([[0., 0., 0., 0.]])
        """
        histories = []
        for b, (history, n) in enumerate(
            zip(self.histories, per_sequence("length", length, self.lengths), strict=True)
        ):
            known = self.remembered(b)
            if n not in known:
                listed = " or ".join(filter(None, [", ".join(map(str, known[:-1])), str(known[-1])]))
                raise RollbackError(f"length of sequence {b} must be one that is remembered, {listed}, got {n}")
            histories.append(tuple(entry for entry in history if entry[0] <= n))
        return replace(self, histories=tuple(histories))

    def remembered(self, sequence: int) -> tuple[int, ...]:
        """The lengths that `truncate` can return to, the present one last.

        >>> from kvattn.caches.rows import Latent
        >>> Snapshots.start(Latent(np.zeros((1, 4)))).remembered(0)
        (0,)
        """
        sequence = integer("sequence", sequence, 0, self.batch - 1)
        return tuple(length for length, _ in self.histories[sequence])

    def select(self, indices: Sequence[int] | Positions) -> "Snapshots[R]":
        """Reorder, repeat or drop sequences by reference.

        >>> from kvattn.caches.rows import Latent
        >>> Snapshots.start(Latent(np.arange(3.0)[:, None])).select([2, 0]).state.latent.ravel()
        array([2., 0.])
        """
        chosen = picked(indices, self.batch)
        return replace(self, histories=tuple(self.histories[i] for i in chosen))

    def branch(self) -> "Snapshots[R]":
        """A second name for this value.

        >>> from kvattn.caches.rows import Latent
        >>> cache = Snapshots.start(Latent(np.zeros((1, 4))))
        >>> cache.branch() is cache
        True
        """
        return self

    def _names(self) -> list[str]:
        return list(getattr(self.row, "_fields", map(str, range(len(self.histories[0][-1][1].arrays)))))

    def _described(self) -> Header:
        model = self.histories[0][-1][1].arrays
        fields = [[name, x.dtype.str, [*x.shape]] for name, x in zip(self._names(), model, strict=True)]
        return {"row": str(getattr(self.row, "__name__", self.row)), "fields": fields}

    def flatten_into(self, writer: Writer) -> Header:
        """What `kvattn.caches.flattened` has of this value; a state that several sequences share stands once.

        >>> from kvattn.caches.rows import Latent
        >>> cache, writer = Snapshots.start(Latent(np.zeros((2, 4)))).select([0, 0, 1]), Writer("cache", {})
        >>> cache.flatten_into(writer)["histories"], writer.arrays["cache.latent"].shape
        ([[[0, 0]], [[0, 0]], [[0, 1]]], (2, 4))
        """
        states = {state.serial: state for history in self.histories for _, state in history}
        numbers = {serial: n for n, serial in enumerate(states)}
        for n, name in enumerate(self._names()):
            stacked = [state.arrays[n] for state in states.values()]
            writer.array(f".{name}", np.stack(stacked, dtype=stacked[0].dtype))
        histories = [[[length, numbers[state.serial]] for length, state in history] for history in self.histories]
        return {"state": self._described(), "rollback": self.rollback, "histories": histories}

    def rebuild_from(self, reader: Reader) -> "Snapshots[R]":
        """Another cache of such states, as `kvattn.caches.flattened` has it.

        >>> from kvattn.caches.rows import Latent
        >>> cache, writer = Snapshots.start(Latent(np.zeros((2, 4)))), Writer("cache", {})
        >>> cache.rebuild_from(Reader("cache", cache.flatten_into(writer), writer.arrays)).lengths
        (0, 0)
        """
        wanted, told = reader.header["state"], reader.header["histories"]
        if wanted != self._described():
            raise ArgumentError(f"like must have states {wanted}, got {self._described()}")
        reader.agree(rollback=self.rollback)
        count = len({number for history in told for _, number in history})
        model = self.histories[0][-1][1].arrays
        stacked = [
            reader.array(f".{name}", (count, *x.shape), x.dtype) for name, x in zip(self._names(), model, strict=True)
        ]
        states = [State([x[n] for x in stacked]) for n in range(count)]
        histories = []
        for history in told:
            lengths = integers("lengths of a history", [length for length, _ in history], 0)
            if any(low >= high for low, high in pairwise(lengths)):
                raise ArgumentError(f"lengths of a history must increase, got {lengths}")
            kept = [states[integer("state", number, 0, count - 1)] for _, number in history]
            histories.append(tuple(zip(lengths, kept, strict=True)))
        if not histories:
            raise ArgumentError("histories must be at least one, got none")
        return replace(self, histories=tuple(histories))

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every state kept, each once.

        >>> from kvattn.caches.rows import Latent
        >>> list(Snapshots.start(Latent(np.zeros((1, 4)))).footprint().values())
        [32]
        """
        return {state.serial: state.nbytes for history in self.histories for _, state in history}

    @property
    def nbytes(self) -> int:
        """Bytes of all states kept, shared ones once.

        >>> from kvattn.caches.rows import Latent
        >>> Snapshots.start(Latent(np.zeros((2, 4)))).nbytes
        64
        """
        return sum(self.footprint().values())


def _countdown(taken: Sequence[list[Array]]) -> list[tuple[int, list[Array]]]:
    return [(len(taken) - 1 - n, arrays) for n, arrays in enumerate(taken)]
