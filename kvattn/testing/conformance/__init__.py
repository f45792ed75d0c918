"""Caches of any library beside a plain list of tokens: five methods to write, failures that have a name.

Write a `CacheAdapter` for your cache (`PagedAdapter` is a short one), say in its `Capabilities` what must work, and
drive it: step by step with a `Session`, or through anything with `kvattn.testing.machines.CacheMachine`::

    class Mine(CacheMachine):
        adapter = MyAdapter()


    TestMine = Mine.TestCase

Rows are recognisable (`kvattn.testing.conformance.rows`), so that what comes back can be named, and a `CacheFault` says
what it is: `FAULTS` lists the names.
"""

from kvattn.testing.conformance.adapter import CacheAdapter, Capabilities, Part, Seen
from kvattn.testing.conformance.lines import FAULTS, CacheFault, Held, Line
from kvattn.testing.conformance.paged import PagedAdapter
from kvattn.testing.conformance.rows import WIDTH, Name, Token, read, write
from kvattn.testing.conformance.session import Session

__all__ = [
    "FAULTS",
    "WIDTH",
    "CacheAdapter",
    "CacheFault",
    "Capabilities",
    "Held",
    "Line",
    "Name",
    "PagedAdapter",
    "Part",
    "Seen",
    "Session",
    "Token",
    "read",
    "write",
]
