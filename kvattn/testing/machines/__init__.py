"""State machines that drive a cache through anything, beside a plain list of tokens.

`PagedMachine` is for caches that are values: it keeps every value ever made together with the tokens
that it must hold, lets any of them be used again, and compares **at birth**: each new value is read
as soon as it exists, and what it was made from is read once more.  A value that changes later shows
at the end, when all are read again.  `PoolMachine` is for mutable pools with reference counts: after
every step each live sequence equals a `Paged` value and a list of tokens, the counts equal a plain
model, and every slot that nobody owns is NaN.

`ServingMachine` is over all: caches of every kind that kvattn has, alive at once, and everything that serving systems
do to them, saving and the reuse of prefixes included; `kvattn.testing.machines.storages` says how each is driven.

`CacheMachine` is for the caches of others, whatever they are: five methods, and a declaration of what must work
(`kvattn.testing.conformance`).

Each token is a whole number, and each number of its row says which token, field, head and column it
is, so that a swap, a shift and a mix-up of any two of them show.

To drive another cache that is a value, derive a class and say how to start one::

    class Mine(PagedMachine):
        def start_cache(self, schema, batch, page):
            return MyCache(schema, batch, page)


    TestMine = Mine.TestCase

It needs ``lengths``, ``append``, ``truncate``, ``select`` and ``rows(sequence=b)``; ``branch``,
``release``, ``repeat``, ``merge``, ``split``, ``commit``, ``raw_blocks``, ``pages`` and ``nbytes`` are
exercised where they exist.  With ``coming`` it must take positions and counts in ``append``; with
``evict`` and ``shift`` it is started with `kvattn.caches.placed` schemas too.  A refusal is a
`ValueError`, and leaves everything as it was.
"""

from kvattn.testing.machines.tokens import Known, Tokens, encode, must, refused  # first: it says what is missing

from kvattn.testing.machines.conformance import CacheMachine  # isort: skip
from kvattn.testing.machines.paged import PagedMachine  # isort: skip
from kvattn.testing.machines.pool import PoolMachine  # isort: skip
from kvattn.testing.machines.serving import ServingMachine  # isort: skip

__all__ = [
    "CacheMachine",
    "Known",
    "PagedMachine",
    "PoolMachine",
    "ServingMachine",
    "Tokens",
    "encode",
    "must",
    "refused",
]
