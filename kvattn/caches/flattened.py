"""Caches as a header of plain numbers and a few plain arrays, and back: what file formats and wires can carry.

The header is JSON's kind of value and says everything but the rows: the kind of cache, its schema, page and lengths,
and which pages each sequence has.  A page that several sequences share stands there once and is shared again when the
cache is rebuilt; what nobody holds any more is not there.  A `Layered` that has one and the same value in two places
gets one value in two places; pages that different parts share are kept once for each part.

A class is no plain number, so `rebuilt` asks for a cache of the kind that is expected, such as the empty one that a
layer starts with, and compares: a file never decides what is made of it.

Known kinds: `Paged`, `Static`, `SinkWindow`, `Snapshots`, and `Layered` of these.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np

from kvattn.arguments import integer, integers, shown
from kvattn.caches.layered import Layered
from kvattn.caches.paged import Paged, PagedParts
from kvattn.caches.rows import Schema
from kvattn.caches.sink_window import SinkWindow
from kvattn.caches.snapshots import Snapshots, State
from kvattn.caches.static import Static
from kvattn.errors import ArgumentError, DtypeError, KvattnError, ShapeError
from kvattn.typing import Array

Header = dict[str, Any]
"""Texts, integers, truth values, lists and headers."""

K = TypeVar("K")


class Flat(NamedTuple):
    """A cache in parts that have no classes: a header, and arrays by their names."""

    header: Header
    arrays: dict[str, Array]


def flatten(cache: Any) -> Flat:
    """Take a cache apart.

    Raises
    ------
    ArgumentError
        A kind of cache that is not known here.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> flat = flatten(Paged.start(latent(2), page=4).append([np.ones((1, 1, 5, 2))]))
    >>> flat.header["kind"], flat.header["tables"], flat.header["counts"]
    ('Paged', [[0, 1]], [4, 1])
    >>> {name: array.shape for name, array in flat.arrays.items()}
    {'cache.latent': (1, 5, 2)}
    """
    arrays: dict[str, Array] = {}
    return Flat(_header("cache", cache, arrays), arrays)


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
    >>> from kvattn.caches.rows import latent
    >>> cache = Paged.start(latent(2), page=4).append([np.ones((1, 1, 5, 2))])
    >>> rebuilt(flatten(cache), Paged.start(latent(2)))
    Paged(Latent, page=4, lengths=(5,))
    >>> rebuilt(flatten(cache), Paged.start(latent(3)))
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: like must store [['latent', 1, 2, '<f8', False]], got [['latent', 1, 3, '<f8', False]]
    """
    left = dict(flat.arrays)
    try:
        made = _made("cache", flat.header, left, like)
    except KvattnError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ArgumentError(f"header must describe a cache, got {type(error).__name__} at {error}") from error
    if left:
        raise ArgumentError(f"arrays must be those that the header describes, got {', '.join(sorted(left))} as well")
    return made  # type: ignore[no-any-return]


def _described(schema: Schema[Any]) -> Header:
    fields = [[f.name, f.heads, f.width, np.dtype(f.dtype).str, f.keys] for f in schema.fields]
    return {"row": schema.name, "placed": schema.placed, "fields": fields}


def _header(name: str, cache: Any, arrays: dict[str, Array]) -> Header:
    if type(cache) is Paged:
        return _paged_header(name, cache, arrays)
    if type(cache) is Static:
        return {"kind": "Static", "lengths": [*cache.lengths], "memory": _header(name, cache.memory, arrays)}
    if type(cache) is SinkWindow:
        sizes = {"sinks": cache.sinks, "window": cache.window, "rollback": cache.rollback}
        memory = _header(name, cache.memory, arrays)
        return {"kind": "SinkWindow", **sizes, "forgotten": [*cache.forgotten], "memory": memory}
    if type(cache) is Snapshots:
        return _snapshots_header(name, cache, arrays)
    if type(cache) is Layered:
        parts: list[Header] = []
        for n, part in enumerate(cache.parts):
            same = next(m for m, other in enumerate(cache.parts) if other is part)
            parts.append({"kind": "Same", "part": same} if same < n else _header(f"{name}.{n}", part, arrays))
        return {"kind": "Layered", "parts": parts}
    raise ArgumentError(f"cache must be Paged, Static, SinkWindow, Snapshots or Layered, got {shown(cache)}")


def _paged_header(name: str, cache: Paged[Any], arrays: dict[str, Array]) -> Header:
    parts = cache.parts()
    for n, field in enumerate(cache.schema.stored):
        nothing = np.empty((field.heads, 0, field.width), field.dtype)
        whole = [nothing, *(rows[n] for rows in parts.rows)]
        arrays[_place(name, cache.schema, n)] = np.concatenate(whole, axis=1, dtype=field.dtype)
    return {
        "kind": "Paged",
        "schema": _described(cache.schema),
        "page": parts.page,
        "lengths": [*parts.lengths],
        "ends": [*parts.ends],
        "marks": [[*mark] for mark in parts.marks],
        "tables": [[*table] for table in parts.tables],
        "counts": [rows[0].shape[1] for rows in parts.rows],
    }


def _place(name: str, schema: Schema[Any], n: int) -> str:
    """The name of the array of a stored field; positions are no field of the row, whatever its fields are called."""
    return f"{name}.{schema.fields[n].name}" if n < len(schema.fields) else f"{name}@positions"


def _names(cache: Snapshots[Any]) -> list[str]:
    model = cache.histories[0][-1][1].arrays
    return list(getattr(cache.row, "_fields", map(str, range(len(model)))))


def _state(cache: Snapshots[Any]) -> Header:
    model = cache.histories[0][-1][1].arrays
    fields = [[name, x.dtype.str, [*x.shape]] for name, x in zip(_names(cache), model, strict=True)]
    return {"row": str(getattr(cache.row, "__name__", cache.row)), "fields": fields}


def _snapshots_header(name: str, cache: Snapshots[Any], arrays: dict[str, Array]) -> Header:
    states = {state.serial: state for history in cache.histories for _, state in history}
    numbers = {serial: n for n, serial in enumerate(states)}
    for n, field in enumerate(_names(cache)):
        first = next(iter(states.values())).arrays[n]
        arrays[f"{name}.{field}"] = np.stack([state.arrays[n] for state in states.values()], dtype=first.dtype)
    histories = [[[length, numbers[state.serial]] for length, state in history] for history in cache.histories]
    return {"kind": "Snapshots", "state": _state(cache), "rollback": cache.rollback, "histories": histories}


def _made(name: str, header: Mapping[str, Any], arrays: dict[str, Array], like: Any) -> Any:
    kind = header["kind"]
    if kind != type(like).__name__:
        raise ArgumentError(f"like must be a {shown(kind)} as in the header, got {type(like).__name__}")
    if kind == "Paged":
        return _made_paged(name, header, arrays, like)
    if kind == "Static":
        memory = _made(name, header["memory"], arrays, like.memory)
        return Static(memory, _as_many("lengths", header["lengths"], memory.lengths))
    if kind == "SinkWindow":
        sizes = [integer(size, header[size], 0) for size in ("sinks", "window", "rollback")]
        if sizes != [like.sinks, like.window, like.rollback]:
            raise ArgumentError(
                f"like must have sinks, window and rollback {sizes}, got {[like.sinks, like.window, like.rollback]}"
            )
        memory = _made(name, header["memory"], arrays, like.memory)
        forgotten = _as_many("forgotten", header["forgotten"], memory.lengths)
        for b, (first, length) in enumerate(zip(forgotten, memory.lengths, strict=True)):
            held = memory.held(b)
            if not sizes[0] <= first <= max(sizes[0], length) or not (held[: sizes[0]].all() and held[first:].all()):
                raise ArgumentError(f"forgotten[{b}] must lie before slots that are all held, got {first} of {length}")
        return SinkWindow(like.sinks, like.window, like.rollback, memory, forgotten)
    if kind == "Snapshots":
        return _made_snapshots(name, header, arrays, like)
    if kind == "Layered":
        if len(header["parts"]) != len(like.parts):
            raise ArgumentError(f"like must have {len(header['parts'])} parts, got {len(like.parts)}")
        parts: list[Any] = []
        for n, (part, model) in enumerate(zip(header["parts"], like.parts, strict=True)):
            again = part["kind"] == "Same"
            parts.append(
                parts[integer("part", part["part"], 0, n - 1)] if again else _made(f"{name}.{n}", part, arrays, model)
            )
        return Layered(tuple(parts))
    raise ArgumentError(f"like must be Paged, Static, SinkWindow, Snapshots or Layered, got {kind}")


def _as_many(name: str, values: Sequence[int], lengths: Sequence[int]) -> tuple[int, ...]:
    found = integers(name, values, 0)
    if len(found) != len(lengths):
        raise ArgumentError(f"{name} must be given for each of {len(lengths)} sequences, got {len(found)}")
    return found


def _taken(arrays: dict[str, Array], name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if name not in arrays:
        raise ArgumentError(f"arrays must hold {name}, got {', '.join(sorted(arrays)) or 'none'}")
    array = arrays.pop(name)
    if array.shape != shape:
        raise ShapeError(f"{name} must have shape {shape} as in the header, got {array.shape}")
    if array.dtype != dtype:
        raise DtypeError(f"{name} must have dtype {dtype} as in the header, got {array.dtype}")
    return array


def _made_paged(name: str, header: Mapping[str, Any], arrays: dict[str, Array], like: Paged[Any]) -> Paged[Any]:
    wanted, came = header["schema"], _described(like.schema)
    if wanted["fields"] != came["fields"]:
        raise ArgumentError(f"like must store {wanted['fields']}, got {came['fields']}")
    if wanted != came:
        raise ArgumentError(f"like must have the schema {wanted}, got {came}")
    counts = [integer("counts", n, 1) for n in header["counts"]]
    stops = [0, *accumulate(counts)]
    whole = [
        _taken(arrays, _place(name, like.schema, n), (f.heads, stops[-1], f.width), np.dtype(f.dtype))
        for n, f in enumerate(like.schema.stored)
    ]
    parts = PagedParts(
        header["page"],
        header["lengths"],
        header["ends"],
        tuple((at, end) for at, end in header["marks"]),
        tuple(map(tuple, header["tables"])),
        tuple(tuple(x[:, low:high] for x in whole) for low, high in pairwise(stops)),
    )
    return Paged.of_parts(like.schema, parts)


def _made_snapshots(
    name: str, header: Mapping[str, Any], arrays: dict[str, Array], like: Snapshots[Any]
) -> Snapshots[Any]:
    if header["state"] != _state(like):
        raise ArgumentError(f"like must have states {header['state']}, got {_state(like)}")
    if integer("rollback", header["rollback"], 0) != like.rollback:
        raise ArgumentError(f"like must have rollback {header['rollback']}, got {like.rollback}")
    numbers = {number for history in header["histories"] for _, number in history}
    model = like.histories[0][-1][1].arrays
    stacked = [
        _taken(arrays, f"{name}.{field}", (len(numbers), *x.shape), x.dtype)
        for field, x in zip(_names(like), model, strict=True)
    ]
    states = [State([x[n] for x in stacked]) for n in range(len(numbers))]
    histories = []
    for history in header["histories"]:
        lengths = integers("lengths of a history", [length for length, _ in history], 0)
        if any(low >= high for low, high in pairwise(lengths)):
            raise ArgumentError(f"lengths of a history must increase, got {lengths}")
        kept = [states[integer("state", number, 0, len(states) - 1)] for _, number in history]
        histories.append(tuple(zip(lengths, kept, strict=True)))
    if not histories:
        raise ArgumentError("histories must be at least one, got none")
    return Snapshots(like.row, like.rollback, tuple(histories))
