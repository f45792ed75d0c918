"""Several caches of the same tokens as one value: one for each layer of a stack, or for each part of a layer.

Whatever is done is done to all of them or to none: every verb makes its new parts first and only then the new
value, and the old one stays as it was.  Parts may be of any kind that has the verbs, and of different kinds: a
window beside pages beside a source that never grows.  How far back `Layered.truncate` can go is what the most
forgetful part says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvattn.arguments import integer
from kvattn.caches.accounting import live_bytes
from kvattn.caches.flattened import Header, Reader, Writer
from kvattn.errors import ArgumentError
from kvattn.typing import Positions


@dataclass(frozen=True, slots=True, eq=False)
class Layered:
    """Caches that go forward and back together.

    Attributes
    ----------
    parts
        The caches, in order; all hold the same tokens.

    Raises
    ------
    ArgumentError
        No part, or parts that hold different numbers of tokens.

    Examples
    --------
    >>> import numpy as np
    >>> from kvattn.caches.paged import Paged
    >>> from kvattn.caches.rows import latent
    >>> cache = Layered((Paged.start(latent(2)), Paged.start(latent(5))))
    >>> longer = cache.append([[np.ones((1, 1, 3, 2))], [np.ones((1, 1, 3, 5))]])
    >>> longer.length, longer.truncate(1).length, cache.length
    (3, 1, 0)
    """

    parts: tuple[Any, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        lengths = [tuple(part.lengths) for part in self.parts]
        if not lengths or any(each != lengths[0] for each in lengths):
            raise ArgumentError(f"parts must be caches of the same tokens, at least one, got lengths {lengths}")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> Layered((Paged.start(latent(2), batch=2),)).lengths
        (0, 0)
        """
        return tuple(self.parts[0].lengths)

    @property
    def length(self) -> int:
        """Tokens of every sequence; an error where they differ.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> Layered((Paged.start(latent(2)),)).length
        0
        """
        return int(self.parts[0].length)

    @property
    def batch(self) -> int:
        """Number of sequences.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> Layered((Paged.start(latent(2), batch=2),)).batch
        2
        """
        return len(self.lengths)

    def append(self, rows: Sequence[Any]) -> "Layered":
        """Add tokens to every part.

        Parameters
        ----------
        rows
            What each part's own ``append`` takes, in the order of the parts.

        Raises
        ------
        ArgumentError
            Rows for another number of parts, or of different numbers of tokens.
        ShapeError, DtypeError
            What a part refuses; where parts have a schema, before any of them takes a row.

        Examples
        --------
        >>> import numpy as np
        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> cache = Layered((Paged.start(latent(2)), Paged.start(latent(5))))
        >>> cache.append([[np.ones((1, 1, 3, 2))]])
        Traceback (most recent call last):
        kvattn.errors.ArgumentError: rows must be given for each of 2 parts, got 1
        """
        if len(rows) != len(self.parts):
            raise ArgumentError(f"rows must be given for each of {len(self.parts)} parts, got {len(rows)}")
        new = [
            part.schema.check(own, part.batch)[1]
            for part, own in zip(self.parts, rows, strict=True)
            if hasattr(part, "schema")
        ]
        if len(set(new)) > 1:
            raise ArgumentError(f"rows must be of the same number of tokens for every part, got {new}")
        return Layered(tuple(part.append(own) for part, own in zip(self.parts, rows, strict=True)))

    def truncate(self, length: int | Sequence[int]) -> "Layered":
        """Forget everything from ``length`` on, in every part; one number, or one for each sequence.

        Raises
        ------
        ArgumentError
            Negative, or more than the caches hold.
        RollbackError
            A length that some part no longer remembers.

        Examples
        --------
        >>> import numpy as np
        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> Layered((Paged.start(latent(2)).append([np.ones((1, 1, 3, 2))]),)).truncate(2).lengths
        (2,)
        """
        return Layered(tuple(part.truncate(length) for part in self.parts))

    def select(self, indices: Sequence[int] | Positions) -> "Layered":
        """Reorder, repeat or drop sequences in every part, by reference.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> Layered((Paged.start(latent(2), batch=2),)).select([1, 0, 0]).batch
        3
        """
        return Layered(tuple(part.select(indices) for part in self.parts))

    def branch(self) -> "Layered":
        """A second name for this value.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> cache = Layered((Paged.start(latent(2)),))
        >>> cache.branch() is cache
        True
        """
        return self

    def flatten_into(self, writer: Writer) -> Header:
        """What `kvattn.caches.flattened` has of this value; a part that stands in two places is written once.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> cache = Paged.start(latent(2))
        >>> [part["kind"] for part in Layered((cache, cache)).flatten_into(Writer("cache", {}))["parts"]]
        ['Paged', 'Same']
        """
        parts: list[Header] = []
        for n, part in enumerate(self.parts):
            same = next(m for m, other in enumerate(self.parts) if other is part)
            parts.append({"kind": "Same", "part": same} if same < n else writer.inner(part, f".{n}"))
        return {"parts": parts}

    def rebuild_from(self, reader: Reader) -> "Layered":
        """Another cache of such parts, as `kvattn.caches.flattened` has it.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> empty, writer = Layered((Paged.start(latent(2)),) * 2), Writer("cache", {})
        >>> one, two = empty.rebuild_from(Reader("cache", empty.flatten_into(writer), writer.arrays)).parts
        >>> one is two
        True
        """
        told = reader.header["parts"]
        if len(told) != len(self.parts):
            raise ArgumentError(f"like must have {len(told)} parts, got {len(self.parts)}")
        parts: list[Any] = []
        for n, (part, like) in enumerate(zip(told, self.parts, strict=True)):
            again = part["kind"] == "Same"
            parts.append(parts[integer("part", part["part"], 0, n - 1)] if again else reader.inner(part, like, f".{n}"))
        return Layered(tuple(parts))

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held by any part, each once.

        >>> import numpy as np
        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> cache = Paged.start(latent(2), page=4).append([np.ones((1, 1, 3, 2))])
        >>> list(Layered((cache, cache.branch())).footprint().values())
        [64]
        """
        pages: dict[int, int] = {}
        for part in self.parts:
            pages.update(part.footprint())
        return pages

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this value, shared pages once.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> Layered((Paged.start(latent(2)),)).nbytes
        0
        """
        return live_bytes(self)
