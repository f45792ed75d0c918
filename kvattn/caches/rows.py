"""What one token leaves in a cache: named fields of fixed size, and nothing about where they are kept.

A `Schema` is a NamedTuple class and one `Field` for each of its entries.  One token of one sequence
stores ``[heads, width]`` numbers per field; a batch of T new tokens arrives as ``[B, heads, T, width]``,
and storage turns each field so that products need no transpose: ``[heads, width, slots]`` for keys,
``[heads, slots, width]`` for everything else.

A token's position is its slot, and nobody stores it.  Where the two may differ (after eviction, shifting or a
tree) the schema is `placed`: storage then keeps each token's position beside its row, 8 bytes more.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Generic, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike

from kvattn.arguments import integer, shown
from kvattn.counting import Tally
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.typing import Array, Positions

R = TypeVar("R", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True)
class Field:
    """One named part of a token's row.

    Attributes
    ----------
    name
        Name of the entry in the NamedTuple.
    heads, width
        One token stores ``[heads, width]`` numbers.
    dtype
        A floating or integer dtype; rows are stored in it and never cast to it.
    keys
        Whether storage puts time last, so that ``queries @ keys`` needs no transpose.

    Raises
    ------
    ArgumentError
        Heads or width below 1.
    DtypeError
        A dtype that is neither floating nor integer.

    Examples
    --------
    >>> Field("k", heads=2, width=8, dtype=np.float32, keys=True).nbytes
    64
    """

    name: str
    heads: int
    width: int
    dtype: DTypeLike = np.float64
    keys: bool = False

    def __post_init__(self) -> None:
        dtype = np.dtype(self.dtype)
        if dtype.kind not in "fiu":
            raise DtypeError(f"dtype of field {self.name} must be floating or integer, got {dtype}")
        object.__setattr__(self, "heads", integer(f"heads of field {self.name}", self.heads, 1))
        object.__setattr__(self, "width", integer(f"width of field {self.name}", self.width, 1))
        object.__setattr__(self, "dtype", dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of one token in one sequence.

        >>> Field("latent", 1, 10).nbytes
        80
        """
        return self.heads * self.width * np.dtype(self.dtype).itemsize

    def layout(self, slots: int) -> tuple[int, int, int]:
        """Shape of a stored array with room for so many tokens.

        >>> Field("k", 2, 8, keys=True).layout(256), Field("v", 2, 8).layout(256)
        ((2, 8, 256), (2, 256, 8))
        """
        return (self.heads, self.width, slots) if self.keys else (self.heads, slots, self.width)


POSITION = Field("position", 1, 1, np.int64)
"""What storage keeps beside a token's row where its schema is `placed`."""


@dataclass(frozen=True)
class Schema(Generic[R]):
    """The row of a cache: a NamedTuple class and a `Field` for each of its entries, in the same order.

    Attributes
    ----------
    row
        The NamedTuple class.
    fields
        One for each entry.
    placed
        Whether storage keeps every token's position too; the row itself is the same.

    Raises
    ------
    ArgumentError
        Fields whose names are not those of the NamedTuple.

    Examples
    --------
    >>> schema = key_value(heads=2, width=8)
    >>> schema.nbytes  # a token: (8 + 8) numbers for each of 2 heads, 8 bytes each
    256
    """

    row: Callable[..., R]
    fields: tuple[Field, ...]
    placed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        expected, came = getattr(self.row, "_fields", None), tuple(f.name for f in self.fields)
        if not came or expected != came:
            raise ArgumentError(f"fields must be named as the entries of the row, {expected}, got {came}")

    @property
    def name(self) -> str:
        """Name of the NamedTuple class.

        >>> key_value(1, 4).name
        'KeyValue'
        """
        return str(getattr(self.row, "__name__", self.row))

    @property
    def stored(self) -> tuple[Field, ...]:
        """What a page has room for: the row's fields, and behind them `POSITION` where the schema is placed.

        >>> [f.name for f in placed(latent(10)).stored]
        ['latent', 'position']
        """
        return (*self.fields, POSITION) if self.placed else self.fields

    @property
    def nbytes(self) -> int:
        """Bytes of one token in one sequence, over all that is stored.

        >>> latent(10).nbytes, placed(latent(10)).nbytes
        (80, 88)
        """
        return sum(f.nbytes for f in self.stored)

    def check(self, rows: Sequence[Any], batch: int) -> tuple[list[Array], int]:
        """Read new rows, ``[batch, heads, T, width]`` per field, without casting or copying.

        Returns
        -------
        tuple
            The arrays in the order of the fields, and T.

        Raises
        ------
        ShapeError
            A field is missing, or an array has the wrong rank or sizes.
        DtypeError
            An array has another dtype than its field.

        Examples
        --------
        >>> key_value(1, 4).check(KeyValue(np.zeros((2, 1, 3, 4)), np.zeros((2, 1, 3, 4))), batch=2)[1]
        3
        """
        if len(rows) != len(self.fields):
            names = ", ".join(f.name for f in self.fields)
            raise ShapeError(f"rows must have {len(self.fields)} entries ({names}), got {len(rows)}")
        arrays = [np.asarray(x) for x in rows]
        new = arrays[0].shape[2] if arrays[0].ndim == 4 else 0
        for field, array in zip(self.fields, arrays, strict=True):
            if array.shape != (batch, field.heads, new, field.width):
                raise ShapeError(
                    f"{field.name} must have shape [B={batch}, heads={field.heads}, T"
                    + (f"={new}" if array is not arrays[0] else "")
                    + f", width={field.width}], got {array.shape}"
                )
            if array.dtype != field.dtype:
                raise DtypeError(f"{field.name} must have dtype {field.dtype}, got {array.dtype}")
        return arrays, new

    def append_cost(self, *, past: int, new: int, batch: int = 1, page: int = 256) -> Tally:
        """What appending to unshared pages writes and allocates, in closed form.

        Parameters
        ----------
        past, new
            Tokens already held and tokens appended, per sequence.
        batch
            Number of sequences.
        page
            Tokens per page.

        Examples
        --------
        >>> key_value(1, 4).append_cost(past=15, new=2, page=16)  # the second token opens a page
        Tally(kv_written=128, cache_live=1024, cache_peak=1024)
        """
        pages = -(-(past + new) // page) - -(-past // page)
        opened = prod((batch, pages, page, self.nbytes))
        return Tally(kv_written=batch * new * self.nbytes, cache_live=opened, cache_peak=opened)


class KeyValue(NamedTuple):
    """Keys ``[B, Hkv, T, D]`` and values ``[B, Hkv, T, Dv]``."""

    k: Array
    v: Array


class Latent(NamedTuple):
    """One compressed vector per token, ``[B, 1, T, width]``: MLA's latent with its rotary key behind it."""

    latent: Array


def key_value(
    heads: int, width: int, value_width: int | None = None, dtype: DTypeLike = np.float64
) -> Schema[KeyValue]:
    """Schema of ordinary attention: a key and a value for each KV head.

    Examples
    --------
    >>> [f.name for f in key_value(heads=2, width=8, value_width=4).fields]
    ['k', 'v']
    """
    values = width if value_width is None else value_width
    return Schema(KeyValue, (Field("k", heads, width, dtype, keys=True), Field("v", heads, values, dtype)))


def latent(width: int, dtype: DTypeLike = np.float64) -> Schema[Latent]:
    """Schema of latent attention: one vector per token, shared by all heads.

    Examples
    --------
    >>> latent(576, np.float32).nbytes
    2304
    """
    return Schema(Latent, (Field("latent", 1, width, dtype),))


def placed(schema: Schema[R]) -> Schema[R]:
    """The same rows, each stored with its position, which may then differ from its slot.

    >>> schema = placed(key_value(heads=2, width=8))
    >>> schema.row is KeyValue, schema.nbytes - key_value(heads=2, width=8).nbytes
    (True, 8)
    >>> placed(schema) == schema
    True
    """
    return replace(schema, placed=True)


def left_aligned(rows: Sequence[Array], counts: Sequence[int]) -> list[Array]:
    """Left-padded rows turned into right-padded ones, as `Paged.append` takes them with ``counts``.

    Parameters
    ----------
    rows
        ``[B, heads, T, width]`` per field; the real tokens of sequence b are its last ``counts[b]``.
    counts
        One in ``0 .. T`` for each sequence.

    Returns
    -------
    list
        Arrays of the same shapes: each sequence's real tokens first, its padding behind them.

    Raises
    ------
    ShapeError
        An array that has not four axes.
    ArgumentError
        Counts that do not fit.

    Examples
    --------
    >>> padded = np.array([[0.0, 0.0, 1.0], [2.0, 3.0, 4.0]]).reshape(2, 1, 3, 1)
    >>> left_aligned([padded], [1, 3])[0][:, 0, :, 0]
    array([[1., 0., 0.],
           [2., 3., 4.]])
    """
    found = []
    for array in map(np.asarray, rows):
        if array.ndim != 4:
            raise ShapeError(f"rows must be arrays [B, heads, T, width], got {[np.shape(x) for x in rows]}")
        real = read_counts(counts, array.shape[0], array.shape[2])
        order = (np.arange(array.shape[2]) + [[array.shape[2] - n] for n in real]) % max(1, array.shape[2])
        found.append(np.take_along_axis(array, order[:, None, :, None], axis=2))
    return found


def read_counts(counts: object, batch: int, new: int) -> tuple[int, ...]:
    """How many of T tokens are real, for each sequence.

    >>> read_counts([0, 3], batch=2, new=3)
    (0, 3)
    """
    values = list(counts) if isinstance(counts, Iterable) and np.ndim(cast(Any, counts)) == 1 else []
    if len(values) != batch:
        raise ArgumentError(f"counts must be one for each of {batch} sequences, got {shown(counts)}")
    return tuple(integer(f"counts[{b}]", value, 0, new) for b, value in enumerate(values))


def coming(ends: Sequence[int], new: int) -> Positions:
    """Positions of the next ``new`` tokens behind each sequence's end, ``[B, new]``.

    >>> coming((3, 0), 2)
    array([[3, 4],
           [0, 1]])
    """
    return np.array(ends, np.int64)[:, None] + np.arange(integer("new", new, 0))


def read_places(positions: object, ends: Sequence[int], counts: Sequence[int], new: int, free: bool) -> Positions:
    """Positions of T new tokens, ``[B, T]``: those that come next where None is given.

    Parameters
    ----------
    ends, counts
        For each sequence the position behind its last token, and how many of the T tokens are real.
    new
        T.
    free
        Whether they may differ from those that come next.

    Raises
    ------
    ShapeError, DtypeError
        Other than ``[B, T]`` integers.
    PositionError
        A position below 0, or one that is not next where that must be.

    Examples
    --------
    >>> read_places(None, (3,), (2,), 2, free=False), read_places([[7, 9]], (3,), (2,), 2, free=True)
    (array([[3, 4]]), array([[7, 9]]))
    """
    following = coming(ends, new)
    if positions is None:
        return following
    given = np.asarray(positions)
    if given.shape != following.shape:
        raise ShapeError(f"positions must have shape [B={len(ends)}, T={new}], got {given.shape}")
    if given.dtype.kind not in "iu":
        raise DtypeError(f"positions must be integers, got {given.dtype}")
    wrong = (given < 0) if free else given != following
    if wrong.any():
        for b, (first, n) in enumerate(zip(ends, counts, strict=True)):
            if wrong[b, :n].any():
                came = int(given[b, wrong[b, :n].argmax()])
                slots = f"{first} .. {first + n - 1}, the slots, since the schema is not placed"
                wanted = "at least 0" if free else slots
                raise PositionError(f"positions of sequence {b} must be {wanted}, got {came}")
    return given.astype(np.int64)
