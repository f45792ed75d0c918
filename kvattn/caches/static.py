"""The cross-attention cache: keys and values of a source that is read at every step and never grows.

They are computed once.  Decoding does not add to them, so rolling back does not crop them: what
goes forward and back is only the number of decoded tokens, which positions of new queries need.
A new source is a new cache; select and branch share pages as `kvattn.caches.paged` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NoReturn

from kvattn.arguments import integer
from kvattn.caches.batches import one_length, per_sequence
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.flattened import Header, Reader, Writer
from kvattn.caches.paged import Paged
from kvattn.caches.rows import R, Schema
from kvattn.errors import ArgumentError, ShapeError
from kvattn.typing import Positions


@dataclass(frozen=True, slots=True, eq=False)
class Static(Generic[R]):
    """The rows of a source, and how many tokens have been decoded from it.

    Attributes
    ----------
    memory
        The source's rows, ``memory.lengths`` of them.
    lengths
        Tokens that each sequence has decoded.

    Examples
    --------
    >>> import numpy as np
    >>> from kvattn.caches.rows import latent
    >>> cache = Static.start(latent(2), [np.ones((1, 1, 7, 2))])
    >>> later = cache.advance(3)
    >>> later.length, later.truncate(1).length, later.truncate(1).memory is cache.memory
    (3, 1, True)
    """

    memory: Paged[R]
    lengths: tuple[int, ...]

    @classmethod
    def start(
        cls,
        schema: Schema[R],
        rows: R | Sequence[Any],
        *,
        lengths: Sequence[int] | Positions | None = None,
        page: int = BLOCK,
    ) -> "Static[R]":
        """Store a source.

        Parameters
        ----------
        rows
            ``[B, heads, S, width]`` per field; B is the batch.
        lengths
            Rows of each sequence that count; the padding behind them is not kept.

        Raises
        ------
        ShapeError, DtypeError
            Rows that do not fit the schema.
        ArgumentError
            A length above S.

        Examples
        --------
        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> Static.start(latent(2), [np.ones((2, 1, 7, 2))], lengths=[7, 4]).memory.lengths
        (7, 4)
        """
        first = rows[0] if len(rows) else None
        batch = int(getattr(first, "shape", (0,))[0]) if getattr(first, "ndim", 0) else 0
        if batch < 1:
            raise ShapeError(f"rows must be arrays [B, heads, S, width] with B >= 1, got {_shapes(rows)}")
        memory = Paged.start(schema, batch, page).append(rows)
        if lengths is not None:
            memory = memory.truncate(tuple(lengths))
        return cls(memory, (0,) * batch)

    @property
    def length(self) -> int:
        """Tokens that every sequence has decoded.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> Static.start(latent(2), [np.ones((1, 1, 7, 2))]).length
        0
        """
        return one_length(self.lengths)

    @property
    def batch(self) -> int:
        """Number of sequences.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> Static.start(latent(2), [np.ones((3, 1, 7, 2))]).batch
        3
        """
        return len(self.lengths)

    def append(self, rows: object) -> NoReturn:
        """Refuse: a source does not grow.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> Static.start(latent(2), [np.ones((1, 1, 7, 2))]).append([np.ones((1, 1, 1, 2))])
        Traceback (most recent call last):
        kvattn.errors.ArgumentError: rows must not be appended to a static cache, got [(1, 1, 1, 2)]; start another one
        """
        raise ArgumentError(f"rows must not be appended to a static cache, got {_shapes(rows)}; start another one")

    def advance(self, tokens: int) -> "Static[R]":
        """Note that every sequence has decoded so many tokens more.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> Static.start(latent(2), [np.ones((1, 1, 7, 2))]).advance(4).length
        4
        """
        tokens = integer("tokens", tokens, 0)
        return replace(self, lengths=tuple(n + tokens for n in self.lengths))

    def truncate(self, length: int | Sequence[int]) -> "Static[R]":
        """Go back to ``length`` decoded tokens; the source stays whole.

        Raises
        ------
        ArgumentError
            Negative, or more than have been decoded.

        Examples
        --------
        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> Static.start(latent(2), [np.ones((1, 1, 7, 2))]).advance(4).truncate(1).memory.length
        7
        """
        return replace(self, lengths=per_sequence("length", length, self.lengths))

    def select(self, indices: Sequence[int] | Positions) -> "Static[R]":
        """Reorder, repeat or drop sequences by reference.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> Static.start(latent(2), [np.ones((2, 1, 7, 2))], lengths=[7, 4]).select([1, 1]).memory.lengths
        (4, 4)
        """
        return replace(self, memory=self.memory.select(indices), lengths=tuple(self.lengths[i] for i in indices))

    def branch(self) -> "Static[R]":
        """A second name for this value.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> cache = Static.start(latent(2), [np.ones((1, 1, 7, 2))])
        >>> cache.branch() is cache
        True
        """
        return self

    def rows(self, *, sequence: int | None = None) -> R:
        """The source, ``[B, heads, S, width]``, read-only; `Paged.rows` of the memory.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> Static.start(latent(2), [np.ones((1, 1, 7, 2))]).rows().latent.shape
        (1, 1, 7, 2)
        """
        return self.memory.rows(sequence=sequence)

    def blocks(self, sequence: int) -> tuple[KeyBlock, ...]:
        """The source as the streaming softmax takes it.

        >>> import numpy as np
        >>> from kvattn.caches.rows import key_value
        >>> [block.key_count for block in Static.start(key_value(1, 2), [np.ones((1, 1, 7, 2))] * 2).blocks(0)]
        [7]
        """
        return self.memory.blocks(sequence)

    def flatten_into(self, writer: Writer) -> Header:
        """What `kvattn.caches.flattened` has of this value.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> Static.start(latent(2), [np.ones((1, 1, 7, 2))]).flatten_into(Writer("cache", {}))["lengths"]
        [0]
        """
        return {"lengths": [*self.lengths], "memory": writer.inner(self.memory)}

    def rebuild_from(self, reader: Reader) -> "Static[R]":
        """Another cache of this schema, as `kvattn.caches.flattened` has it.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> cache, writer = Static.start(latent(2), [np.ones((1, 1, 7, 2))]), Writer("cache", {})
        >>> cache.rebuild_from(Reader("cache", cache.flatten_into(writer), writer.arrays)).memory.lengths
        (7,)
        """
        memory = reader.inner(reader.header["memory"], self.memory)
        return Static(memory, reader.each("lengths", memory.batch))

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held, each once.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> list(Static.start(latent(2), [np.ones((1, 1, 7, 2))], page=8).footprint().values())
        [128]
        """
        return self.memory.footprint()

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this value, shared pages once.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> Static.start(latent(2), [np.ones((1, 1, 7, 2))], page=8).nbytes
        128
        """
        return self.memory.nbytes


def _shapes(rows: object) -> object:
    return [getattr(x, "shape", x) for x in rows] if isinstance(rows, Sequence) else rows
