"""Which shapes a function takes: head dimensions, batch sizes, lengths; and the nearest that it takes to given ones.

A kernel that takes only some shapes says so in attributes, each a collection of integers (``range(8, 257, 8)`` for
the multiples of 8) or True::

    attend.head_dims = (64, 128)  # D, and Dv where value_head_dims says nothing else
    attend.value_head_dims = (128,)  # Dv
    attend.equal_head_dims = True  # Dv == D
    attend.batch_sizes = (1,)  # B
    attend.group_sizes = (1, 2, 4, 8)  # Hq // Hkv
    attend.query_lengths = (1,)  # T
    attend.key_lengths = range(128, 8193, 128)  # S
    attend.equal_lengths = True  # T == S; {"causal"}: beside these keywords

What is not said is found out by a check (`kvattn.testing.diagnosis.refusals`).
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from typing import Any

from kvattn.errors import ArgumentError
from kvattn.testing.diagnosis.recipe import Sizes
from kvattn.testing.keywords import KEYWORDS

Numbers = Collection[int] | None


@dataclass(frozen=True)
class Shapes:
    """Sizes that a function takes; None for any.

    Attributes
    ----------
    head_dims
        Widths of queries and keys, D; of values too where ``value_head_dims`` is None.
    value_head_dims
        Widths of values, Dv.
    batch_sizes
        Numbers of sequences, B.
    group_sizes
        Query heads to a key/value head, Hq // Hkv.
    query_lengths, key_lengths
        T and S.
    equal_head_dims
        Whether values must be as wide as keys.
    equal_lengths
        Whether T must be S: always, or in calls with one of these keywords.

    Examples
    --------
    >>> Shapes(head_dims=(64, 128)).fit(Sizes(D=26, Dv=26)).D
    64
    """

    head_dims: Numbers = None
    value_head_dims: Numbers = None
    batch_sizes: Numbers = None
    group_sizes: Numbers = None
    query_lengths: Numbers = None
    key_lengths: Numbers = None
    equal_head_dims: bool = False
    equal_lengths: bool | frozenset[str] = False

    def takes(self, sizes: Sizes, options: Iterable[str] = ()) -> bool:
        """Say whether a call of these sizes is taken, beside these keywords.

        >>> Shapes(batch_sizes=(1,)).takes(Sizes(B=2))
        False
        """
        return self.fit(sizes, options) == sizes

    def fit(self, sizes: Sizes, options: Iterable[str] = (), columns: int = 0) -> Sizes:
        """Return sizes that are taken, each the next larger one where there is one.

        Queries stay fewer than keys, as many or more, where the lengths that are taken allow it.

        Parameters
        ----------
        sizes
            What is wanted.
        options
            Keywords of the call.
        columns
            What Dv must hold.  Where no width that is taken does, Dv stays as wide as wanted, for a call in blocks of
            columns.

        Examples
        --------
        >>> Shapes(key_lengths=range(16, 129, 16)).fit(Sizes(T=4, S=9)).S
        16
        >>> Shapes(head_dims=(8, 16)).fit(Sizes(D=3, Dv=3), columns=40)
        Sizes(B=1, Hq=1, Hkv=1, T=4, S=4, D=8, Dv=40)
        """
        queries, keys = self._lengths(sizes.T, sizes.S, options)
        groups = sizes.Hq // sizes.Hkv
        if self.group_sizes is not None and groups not in self.group_sizes:
            groups = max((n for n in self.group_sizes if n <= groups), default=min(self.group_sizes))
        width, values = self._widths(sizes.D, max(sizes.Dv, columns), columns > 0)
        batch = _near(self.batch_sizes, sizes.B)
        return Sizes(batch, sizes.Hkv * groups, sizes.Hkv, queries, keys, width, values)

    def block(self, width: int, columns: int) -> int | None:
        """Return how many columns of values are given at once beside keys of a width; None for all of them.

        >>> Shapes(head_dims=(16, 32)).block(16, 40), Shapes(head_dims=(16, 32)).block(16, 16)
        (32, None)
        """
        values = self.head_dims if self.value_head_dims is None else self.value_head_dims
        taken = width if self.equal_head_dims else _near(values, columns)
        return None if taken == columns else taken

    def other_width(self, width: int, wanted: int) -> int:
        """Return the wanted head dimension, or where it comes out as this one another, where one is taken.

        >>> Shapes(head_dims=(64, 128)).other_width(64, 20), Shapes(head_dims=(64,)).other_width(64, 20)
        (128, 64)
        """
        if self.head_dims is None or _near(self.head_dims, wanted) != width:
            return wanted
        return min((n for n in self.head_dims if n > width), default=min(self.head_dims))

    def told(self) -> str:
        """Say in words what is taken.

        >>> Shapes(head_dims=(64, 128), batch_sizes=(1,)).told()
        'head_dims 64, 128; batch_sizes 1'
        """
        parts = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is True:
                parts.append(field.name)
            elif value is not None and value is not False:
                beside = "with " if field.name == "equal_lengths" else ""
                parts.append(f"{field.name} {beside}{_listed(value)}")
        return "; ".join(parts)

    def _lengths(self, queries: int, keys: int, options: Iterable[str]) -> tuple[int, int]:
        equal = self.equal_lengths if isinstance(self.equal_lengths, bool) else bool(self.equal_lengths & {*options})
        s = _near(self.key_lengths, max(queries, keys) if equal else keys)
        t = _near(self.query_lengths, s if queries == keys or equal else queries)
        if equal and t != s:
            both = {*(self.query_lengths or (s,))} & {*(self.key_lengths or (t,))}
            return 2 * (_near(both or {s}, max(queries, keys)),)
        if equal:
            return t, s
        if queries < keys and t >= s:
            s = _near(self.key_lengths, t + keys - queries)
        elif queries > keys and t <= s:
            t = _near(self.query_lengths, s + queries - keys)
        return t, s

    def _widths(self, width: int, values: int, wide: bool) -> tuple[int, int]:
        taken = self.head_dims if self.value_head_dims is None else self.value_head_dims
        if not self.equal_head_dims:
            near = _near(taken, values)
            return _near(self.head_dims, width), values if wide and near < values else near
        both = _near(self.head_dims, max(width, values))
        return (_near(self.head_dims, width), values) if wide and both < values else (both, both)


ANY = Shapes()
"""All sizes."""


def shapes_of(function: Any) -> Shapes:
    """Read what a function declares.

    Raises
    ------
    ArgumentError
        Where a declaration is no collection of positive integers, or no boolean.

    Examples
    --------
    >>> def attend(q, k, v): ...
    >>> attend.head_dims = (64, 128)
    >>> shapes_of(attend).head_dims
    (64, 128)
    """
    given = {field.name: getattr(function, field.name) for field in fields(Shapes) if hasattr(function, field.name)}
    for name, value in given.items():
        if name == "equal_lengths" and not isinstance(value, bool):
            given[name] = _keywords(value)
        elif name.startswith("equal"):
            if not isinstance(value, bool):
                raise ArgumentError(f"{name} of target must be True or False, got {value!r}")
        elif not _are_sizes(value):
            raise ArgumentError(f"{name} of target must be a collection of integers >= 1, got {value!r}")
    return Shapes(**given)


def _keywords(value: Any) -> frozenset[str]:
    if isinstance(value, set | frozenset | tuple | list) and all(name in KEYWORDS for name in value):
        return frozenset(value)
    raise ArgumentError(f"equal_lengths of target must be True, False or a set of keywords, got {value!r}")


def _are_sizes(value: Any) -> bool:
    if isinstance(value, str) or not isinstance(value, Collection) or not value:
        return False
    return all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in value)


def _near(taken: Numbers, wanted: int) -> int:
    """Return the smallest number that is taken and not below the wanted one; the largest where all are below."""
    if taken is None or wanted in taken:
        return wanted
    numbers = taken if isinstance(taken, range) and taken.step > 0 else sorted(taken)
    return numbers[min(bisect_left(numbers, wanted), len(numbers) - 1)]


def _listed(numbers: Iterable[Any]) -> str:
    if isinstance(numbers, range) and len(numbers) > 4:
        return f"{numbers[0]}, {numbers[1]}, …, {numbers[-1]}"
    return ", ".join(map(str, sorted(numbers)))
