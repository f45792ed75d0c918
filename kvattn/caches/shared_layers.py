"""Layers that keep no rows of their own and read those of an earlier layer.

    layer l reads part ``reads[l]``;      the first layer that reads a part owns it, and alone appends to it

A view over `kvattn.caches.layered.Layered`: one part for each owner, and for every layer the number of the part that
it reads.  So a token costs what the owners' rows cost, however many layers there are, and rolling back, branching
and reordering beams are those of the parts, all or none.

A reader comes behind its owner in the same step, so its part already holds the new tokens: the positions of its
queries are those that the step began with, never those behind the part's end, and its mask hides what lies ahead.

Cached per token: the rows of the owners.  `SharedLayers.saved` is what caches of their own would have cost more.

Source: Brandon et al. 2024 (Cross-Layer Attention, 2405.12981) section 3: neighbours share, ``(0, 0, 1, 1, …)``;
Gemma 3n (Google 2025, model card and released code: ``num_kv_shared_layers``): the last layers read the last owner
of their kind, ``reads = (0, …, p - 1, then p - 2 or p - 1 by kind)``.
Where libraries differ: mlx-lm's readers took the offset that the owner had already advanced (mlx-lm #1702), and where
no cache was given nothing was shared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kvattn.arguments import integer, integers
from kvattn.caches.flattened import Header, Reader, Writer
from kvattn.caches.layered import Layered
from kvattn.errors import ArgumentError
from kvattn.typing import Positions


@dataclass(frozen=True, slots=True, eq=False)
class SharedLayers:
    """The caches of the layers that own one, and who reads which.

    Attributes
    ----------
    memory
        One part for each owner.
    reads
        For each layer the part that it reads; parts are numbered in the order of their owners.

    Raises
    ------
    ArgumentError
        A number that is not a part's, a part that nobody reads, or owners out of order.

    Examples
    --------
    >>> import numpy as np
    >>> from kvattn.caches.paged import Paged
    >>> from kvattn.caches.rows import latent
    >>> empty = SharedLayers(Layered((Paged.start(latent(2)), Paged.start(latent(2)))), reads=(0, 1, 0, 1))
    >>> cache = empty.append([[np.ones((1, 1, 3, 2))], [np.zeros((1, 1, 3, 2))]])
    >>> [cache.owns(layer) for layer in range(4)], cache.layer(2) is cache.layer(0), cache.saved == cache.nbytes
    ([True, True, False, False], True, True)
    """

    memory: Layered
    reads: tuple[int, ...]

    def __post_init__(self) -> None:
        reads, parts = integers("reads", self.reads, 0), len(self.memory.parts)
        if tuple(dict.fromkeys(reads)) != tuple(range(parts)):
            raise ArgumentError(
                f"reads must name each of {parts} parts, the first time in the order 0, 1, …, got {reads}"
            )
        object.__setattr__(self, "reads", reads)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> SharedLayers(Layered((Paged.start(latent(2), batch=2),)), (0, 0)).lengths
        (0, 0)
        """
        return self.memory.lengths

    @property
    def length(self) -> int:
        """Tokens of every sequence; an error where they differ.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> SharedLayers(Layered((Paged.start(latent(2)),)), (0, 0)).length
        0
        """
        return self.memory.length

    @property
    def batch(self) -> int:
        """Number of sequences.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> SharedLayers(Layered((Paged.start(latent(2), batch=2),)), (0, 0)).batch
        2
        """
        return self.memory.batch

    def layer(self, number: int) -> Any:
        """The cache that a layer reads, its own or another's.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> SharedLayers(Layered((Paged.start(latent(2)),)), (0, 0)).layer(1)
        Paged(Latent, page=256, lengths=(0,))
        """
        return self.memory.parts[self.reads[integer("number", number, 0, len(self.reads) - 1)]]

    def owns(self, number: int) -> bool:
        """Whether a layer appends to the cache that it reads.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> SharedLayers(Layered((Paged.start(latent(2)),)), (0, 0)).owns(1)
        False
        """
        number = integer("number", number, 0, len(self.reads) - 1)
        return self.reads[number] not in self.reads[:number]

    def append(self, rows: Sequence[Any]) -> "SharedLayers":
        """Add tokens: rows for each owner, in order, and for nobody else.

        Raises
        ------
        ArgumentError, ShapeError, DtypeError
            As `Layered.append`.

        Examples
        --------
        >>> import numpy as np
        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> SharedLayers(Layered((Paged.start(latent(2)),)), (0, 0)).append([[np.ones((1, 1, 3, 2))]]).length
        3
        """
        return replace(self, memory=self.memory.append(rows))

    def later(self, parts: Sequence[Any]) -> "SharedLayers":
        """What the owners' steps returned, put together: one cache for each owner, all of the same tokens.

        Raises
        ------
        ArgumentError
            Another number of caches, or caches that hold different numbers of tokens.

        Examples
        --------
        >>> import numpy as np
        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> cache = SharedLayers(Layered((Paged.start(latent(2)),)), (0, 0))
        >>> cache.later([cache.layer(0).append([np.ones((1, 1, 3, 2))])]).length
        3
        """
        if len(parts) != len(self.memory.parts):
            raise ArgumentError(f"parts must be one for each of {len(self.memory.parts)} owners, got {len(parts)}")
        return replace(self, memory=Layered(tuple(parts)))

    def truncate(self, length: int | Sequence[int]) -> "SharedLayers":
        """Forget everything from ``length`` on, in every part; one number, or one for each sequence.

        Raises
        ------
        ArgumentError, RollbackError
            As `Layered.truncate`.

        Examples
        --------
        >>> import numpy as np
        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> cache = SharedLayers(Layered((Paged.start(latent(2)),)), (0, 0)).append([[np.ones((1, 1, 3, 2))]])
        >>> cache.truncate(1).layer(1).length
        1
        """
        return replace(self, memory=self.memory.truncate(length))

    def select(self, indices: Sequence[int] | Positions) -> "SharedLayers":
        """Reorder, repeat or drop sequences in every part, by reference.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> SharedLayers(Layered((Paged.start(latent(2)),)), (0, 0)).select([0, 0]).layer(1).batch
        2
        """
        return replace(self, memory=self.memory.select(indices))

    def branch(self) -> "SharedLayers":
        """A second name for this value.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> cache = SharedLayers(Layered((Paged.start(latent(2)),)), (0, 0))
        >>> cache.branch() is cache
        True
        """
        return self

    def flatten_into(self, writer: Writer) -> Header:
        """What `kvattn.caches.flattened` has of this value.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> SharedLayers(Layered((Paged.start(latent(2)),)), (0, 0)).flatten_into(Writer("cache", {}))["reads"]
        [0, 0]
        """
        return {"reads": [*self.reads], "memory": writer.inner(self.memory)}

    def rebuild_from(self, reader: Reader) -> "SharedLayers":
        """Another cache that is read alike, as `kvattn.caches.flattened` has it.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> empty, writer = SharedLayers(Layered((Paged.start(latent(2)),)), (0, 0)), Writer("cache", {})
        >>> empty.rebuild_from(Reader("cache", empty.flatten_into(writer), writer.arrays)).reads
        (0, 0)
        """
        reader.agree(reads=[*self.reads])
        return replace(self, memory=reader.inner(reader.header["memory"], self.memory))

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held, each once, however many layers read it.

        >>> import numpy as np
        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> cache = SharedLayers(Layered((Paged.start(latent(2), page=4),)), (0, 0, 0))
        >>> list(cache.append([[np.ones((1, 1, 3, 2))]]).footprint().values())
        [64]
        """
        return self.memory.footprint()

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this value, shared pages once.

        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> SharedLayers(Layered((Paged.start(latent(2)),)), (0, 0)).nbytes
        0
        """
        return self.memory.nbytes

    @property
    def saved(self) -> int:
        """Bytes more that a cache for every layer would hold.

        >>> import numpy as np
        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> cache = SharedLayers(Layered((Paged.start(latent(2), page=4),)), (0, 0, 0))
        >>> cache.append([[np.ones((1, 1, 3, 2))]]).saved
        128
        """
        return sum(int(self.layer(n).nbytes) for n in range(len(self.reads)) if not self.owns(n))
