"""Caches as a header of plain numbers and a few plain arrays, and back: what file formats and wires can carry.

The header is JSON's kind of value and says everything but the rows: the kind of cache, its schema, page and lengths,
and which pages each sequence has.  A page that several sequences share stands there once and is shared again when the
cache is rebuilt; what nobody holds any more is not there.  A `kvattn.caches.layered.Layered` that has one and the same
value in two places gets one value in two places; pages that different parts share are kept once for each part.

Every storage says itself what it is made of: it writes its header and arrays to a `Writer` in ``flatten_into`` and
makes its like from a `Reader` in ``rebuild_from``.  So this file knows no storage, and another one needs those two.

A class is no plain number, so `rebuilt` asks for a cache of the kind that is expected, such as the empty one that a
layer starts with, and compares: a file never decides what is made of it.

Not here: `kvattn.caches.pool.BlockPool`, whose handles are names in one process; its sequences go as tables
(`kvattn.caches.block_tables`).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from kvattn.arguments import integers, shown
from kvattn.caches.rows import Schema
from kvattn.errors import ArgumentError, DtypeError, KvattnError, ShapeError
from kvattn.typing import Array

Header = dict[str, Any]
"""Texts, integers, truth values, lists and headers."""

K = TypeVar("K")


class Flat(NamedTuple):
    """A cache in parts that have no classes: a header, and arrays by their names."""

    header: Header
    arrays: dict[str, Array]


@runtime_checkable
class Flattens(Protocol):
    """A cache that says what it is made of; nothing needs to inherit from it."""

    def flatten_into(self, writer: "Writer") -> Header:
        """Write arrays and caches inside, and say everything else."""

    def rebuild_from(self, reader: "Reader") -> Any:
        """Another cache of this kind, as the reader has it; this one only says what is expected."""


class Writer:
    """Takes the arrays of a cache, and of the caches inside it, under names that begin with the cache's own.

    >>> writer = Writer("cache", {})
    >>> writer.array(".k", np.ones(3))
    >>> list(writer.arrays)
    ['cache.k']
    """

    def __init__(self, name: str, arrays: dict[str, Array]) -> None:
        self.name, self.arrays = name, arrays

    def array(self, suffix: str, array: Array) -> None:
        """Add an array; the suffix begins with a point, or with @ where it is no field of a row.

        >>> Writer("cache", {}).array("@positions", np.arange(3))
        """
        self.arrays[f"{self.name}{suffix}"] = array

    def rows(self, schema: Schema[Any], pieces: Sequence[Sequence[Array]]) -> None:
        """Add one array for each stored field: the rows ``[heads, n, width]`` of all pieces, one after the other.

        >>> from kvattn.caches.rows import latent
        >>> writer = Writer("cache", {})
        >>> writer.rows(latent(2), [[np.ones((1, 3, 2))], [np.ones((1, 1, 2))]])
        >>> writer.arrays["cache.latent"].shape
        (1, 4, 2)
        """
        for n, field in enumerate(schema.stored):
            nothing = np.empty((field.heads, 0, field.width), field.dtype)
            whole = [nothing, *(piece[n] for piece in pieces)]
            self.array(_suffix(schema, n), np.concatenate(whole, axis=1, dtype=field.dtype))

    def inner(self, cache: Any, suffix: str = "") -> Header:
        """Write a cache inside this one, and give its header.

        Raises
        ------
        ArgumentError
            Something that does not say what it is made of.

        Examples
        --------
        >>> from kvattn.caches import Paged, latent
        >>> Writer("cache", {}).inner(Paged.start(latent(2)), ".sums")["kind"]
        'Paged'
        """
        if not isinstance(cache, Flattens):
            raise ArgumentError(f"cache must be a storage that can be flattened, such as Paged, got {shown(cache)}")
        return {"kind": type(cache).__name__, **cache.flatten_into(Writer(f"{self.name}{suffix}", self.arrays))}


class Reader:
    """Gives the header of a cache and, once each, the arrays and the caches inside it.

    >>> reader = Reader("cache", {"window": 4}, {"cache.k": np.ones(3)})
    >>> reader.header["window"], reader.array(".k", (3,), np.float64)
    (4, array([1., 1., 1.]))
    """

    def __init__(self, name: str, header: Mapping[str, Any], arrays: dict[str, Array]) -> None:
        self.name, self.header, self.arrays = name, header, arrays

    def array(self, suffix: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Take an array, of the shape and dtype that the header promises.

        Raises
        ------
        ArgumentError
            It is not there.
        ShapeError, DtypeError
            It is another one.

        Examples
        --------
        >>> Reader("cache", {}, {"cache.k": np.ones(3)}).array(".k", (4,), np.float64)
        Traceback (most recent call last):
        kvattn.errors.ShapeError: cache.k must have shape (4,) as in the header, got (3,)
        """
        name = f"{self.name}{suffix}"
        if name not in self.arrays:
            raise ArgumentError(f"arrays must hold {name}, got {', '.join(sorted(self.arrays)) or 'none'}")
        array = self.arrays.pop(name)
        if array.shape != shape:
            raise ShapeError(f"{name} must have shape {shape} as in the header, got {array.shape}")
        if array.dtype != np.dtype(dtype):
            raise DtypeError(f"{name} must have dtype {np.dtype(dtype)} as in the header, got {array.dtype}")
        return array

    def rows(self, schema: Schema[Any], counts: Sequence[int]) -> list[tuple[Array, ...]]:
        """Take the arrays of every stored field, cut into pieces of so many rows.

        >>> from kvattn.caches.rows import latent
        >>> reader = Reader("cache", {}, {"cache.latent": np.ones((1, 4, 2))})
        >>> [piece[0].shape for piece in reader.rows(latent(2), [3, 1])]
        [(1, 3, 2), (1, 1, 2)]
        """
        stops = np.cumsum([0, *counts]).tolist()
        whole = [
            self.array(_suffix(schema, n), (f.heads, stops[-1], f.width), f.dtype) for n, f in enumerate(schema.stored)
        ]
        return [tuple(x[:, low:high] for x in whole) for low, high in pairwise(stops)]

    def inner(self, header: Mapping[str, Any], like: Any, suffix: str = "") -> Any:
        """Make the cache inside this one that a header tells of.

        Raises
        ------
        ArgumentError
            Another kind than that of ``like``, and whatever that kind refuses.

        Examples
        --------
        >>> from kvattn.caches import Paged, latent
        >>> Reader("cache", {}, {}).inner({"kind": "Ring"}, Paged.start(latent(2)))
        Traceback (most recent call last):
        kvattn.errors.ArgumentError: like must be a 'Ring' as in the header, got Paged
        """
        if header["kind"] != type(like).__name__:
            raise ArgumentError(f"like must be a {shown(header['kind'])} as in the header, got {type(like).__name__}")
        if not isinstance(like, Flattens):
            raise ArgumentError(f"like must be a storage that can be rebuilt, such as Paged, got {shown(like)}")
        return like.rebuild_from(Reader(f"{self.name}{suffix}", header, self.arrays))

    def agree(self, **mine: object) -> None:
        """Refuse a header that says something else than these numbers or texts of ``like``.

        >>> Reader("cache", {"window": 4, "rollback": 0}, {}).agree(window=4, rollback=1)
        Traceback (most recent call last):
        kvattn.errors.ArgumentError: like must have window and rollback [4, 0], got [4, 1]
        """
        wanted, came = [self.header[name] for name in mine], list(mine.values())
        if [(type(x), x) for x in wanted] != [(type(x), x) for x in came]:
            *names, last = mine
            both = (wanted, came) if names else (wanted[0], came[0])
            raise ArgumentError(
                f"like must have {', '.join(names)}{' and ' if names else ''}{last} {both[0]}, got {both[1]}"
            )

    def each(self, name: str, batch: int) -> tuple[int, ...]:
        """Numbers >= 0 of the header, one for each sequence.

        >>> Reader("cache", {"lengths": [3, 1]}, {}).each("lengths", 2)
        (3, 1)
        """
        found = integers(name, self.header[name], 0)
        if len(found) != batch:
            raise ArgumentError(f"{name} must be given for each of {batch} sequences, got {len(found)}")
        return found

    def fits(self, schema: Schema[Any]) -> None:
        """Refuse a header whose schema is another one.

        >>> from kvattn.caches.rows import latent
        >>> Reader("cache", {"schema": described(latent(2))}, {}).fits(latent(2))
        """
        wanted, came = self.header["schema"], described(schema)
        if wanted["fields"] != came["fields"]:
            raise ArgumentError(f"like must store {wanted['fields']}, got {came['fields']}")
        if wanted != came:
            raise ArgumentError(f"like must have the schema {wanted}, got {came}")


def flatten(cache: Any) -> Flat:
    """Take a cache apart.

    Raises
    ------
    ArgumentError
        Something that is no storage, or one that cannot be flattened.

    Examples
    --------
    >>> from kvattn.caches import Paged, latent
    >>> flat = flatten(Paged.start(latent(2), page=4).append([np.ones((1, 1, 5, 2))]))
    >>> flat.header["kind"], flat.header["tables"], flat.header["counts"]
    ('Paged', [[0, 1]], [4, 1])
    >>> {name: array.shape for name, array in flat.arrays.items()}
    {'cache.latent': (1, 5, 2)}
    """
    writer = Writer("cache", {})
    return Flat(writer.inner(cache), writer.arrays)


def rebuilt(flat: Flat, like: K) -> K:
    """Put a cache together again, on memory of its own.

    Parameters
    ----------
    flat
        What `flatten` gave.
    like
        A cache of the kind that is expected, with the same schema; of any length, page and batch.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError, PositionError
        A header that says something else than ``like``, or that does not describe a cache; arrays that are not those
        of the header, too many or too few.

    Examples
    --------
    >>> from kvattn.caches import Paged, latent
    >>> cache = Paged.start(latent(2), page=4).append([np.ones((1, 1, 5, 2))])
    >>> rebuilt(flatten(cache), Paged.start(latent(2)))
    Paged(Latent, page=4, lengths=(5,))
    >>> rebuilt(flatten(cache), Paged.start(latent(3)))
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: like must store [['latent', 1, 2, '<f8', False]], got [['latent', 1, 3, '<f8', False]]
    """
    reader = Reader("cache", flat.header, dict(flat.arrays))
    try:
        made = reader.inner(flat.header, like)
    except KvattnError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ArgumentError(f"header must describe a cache, got {type(error).__name__} at {error}") from error
    if reader.arrays:
        left = ", ".join(sorted(reader.arrays))
        raise ArgumentError(f"arrays must be those that the header describes, got {left} as well")
    return made  # type: ignore[no-any-return]


def described(schema: Schema[Any]) -> Header:
    """A schema as a header has it.

    >>> from kvattn.caches.rows import latent
    >>> described(latent(2))
    {'row': 'Latent', 'placed': False, 'fields': [['latent', 1, 2, '<f8', False]]}
    """
    fields = [[f.name, f.heads, f.width, np.dtype(f.dtype).str, f.keys] for f in schema.fields]
    return {"row": schema.name, "placed": schema.placed, "fields": fields}


def _suffix(schema: Schema[Any], n: int) -> str:
    """What the array of a stored field is called; positions are no field of the row, whatever its fields are called."""
    return f".{schema.fields[n].name}" if n < len(schema.fields) else "@positions"
