"""What caches hold, in bytes, as whole pages: live, shared by several sequences, and padding.

    live    = bytes of every page held, each once             (`live_bytes`)
    shared  = bytes of the pages that more than one of the sequences holds
    padded  = bytes of the slots of live pages in which no sequence has a token: never written, or left over

All are statements about some caches that somebody still has, so a page's count here is the number of sequences whose
table names it; two names of one cache are two holders.  What was written, copied or moved is an event, not a state:
`kvattn.counting.counting` has it as ``kv_written`` (new rows) and ``kv_copied`` (rows that were there already: the
page copied before it is extended, and what `commit`, `evict` and `shift` write again).

Cost: one look at every page of every sequence.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from kvattn.caches.paged import Paged


class Holder(Protocol):
    """Anything that keeps pages: it can list them with their bytes."""

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held, each once."""


class Batch(Protocol):
    """A `Holder` of sequences that can be picked, as every storage is."""

    @property
    def batch(self) -> int:
        """Number of sequences."""

    def select(self, indices: Sequence[int]) -> "Batch":
        """Some of them, by reference."""

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of everything held, each once."""


def live_bytes(*caches: Holder) -> int:
    """Bytes that several caches hold together; a shared page counts once.

    >>> import numpy as np
    >>> from kvattn.caches import Paged, latent
    >>> cache = Paged.start(latent(2), page=4).append([np.ones((1, 1, 3, 2))])
    >>> cache.nbytes, live_bytes(cache, cache.branch(), cache.truncate(1))
    (64, 64)
    """
    pages: dict[int, int] = {}
    for cache in caches:
        pages.update(cache.footprint())
    return sum(pages.values())


def shared_bytes(*caches: Batch) -> int:
    """Bytes of the pages that more than one sequence of these caches holds, each page once; of any storage.

    >>> import numpy as np
    >>> from kvattn.caches import Paged, latent
    >>> cache = Paged.start(latent(2), page=4).append([np.ones((1, 1, 6, 2))])
    >>> shared_bytes(cache), shared_bytes(cache.repeat(2)), shared_bytes(cache, cache.truncate(3))
    (0, 128, 64)
    """
    holders: Counter[int] = Counter()
    sizes: dict[int, int] = {}
    for cache in caches:
        for b in range(cache.batch):
            held = cache.select([b]).footprint()
            sizes.update(held)
            holders.update(held.keys())
    return sum(sizes[serial] for serial, count in holders.items() if count > 1)


def padded_bytes(*caches: "Paged[Any]") -> int:
    """Bytes of slots in which no sequence of these caches has a token, though their page is held.

    >>> import numpy as np
    >>> from kvattn.caches import Paged, latent
    >>> cache = Paged.start(latent(2), page=4).append([np.ones((1, 1, 6, 2))])
    >>> padded_bytes(cache), padded_bytes(cache.truncate(1)), padded_bytes(cache, cache.truncate(1))
    (32, 48, 32)
    """
    spare: dict[int, int] = {}
    for cache in caches:
        for b in range(cache.batch):
            for n, serial in enumerate(cache.pages(b)):
                if serial is not None:
                    free = max(0, (n + 1) * cache.page - cache.lengths[b]) * cache.schema.nbytes
                    spare[serial] = min(free, spare.get(serial, free))
    return sum(spare.values())
