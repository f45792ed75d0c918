"""In which number format rows are kept, read from what comes back of numbers with long fractions.

    once:     x̂ = round_f(x)
    cut:      x̂ = x towards zero, in f
    twice:    x̂ = round_g(round_f(x))
    read as:  x̂ = the number of g whose bits are those of round_f(x)

An explanation holds in every number, to the last bit; more than a thousand numbers of other fractions make an accident
impossible.  Which format is right is for the cache to say (``store`` of
`kvattn.testing.conformance.adapter.Capabilities`): rounding alone is no fault, bits of one format read as another are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kvattn.testing.cache_diagnosis.magnitudes import fetched, fitting
from kvattn.testing.conformance.adapter import CacheAdapter
from kvattn.testing.conformance.rows import HEADS, WIDTH
from kvattn.testing.formats import FORMATS, format_of
from kvattn.typing import Array

NUMPY = ("float64", "float32", "float16")
"""Formats in which rows can be given."""

ROUNDED = ("float32", "float16", "bfloat16", "float8_e4m3", "float8_e5m2")
"""Formats in which caches keep rows without a scale; others of as many bits of fraction round to the same numbers."""


@dataclass(frozen=True)
class Stored:
    """What became of one field.

    Attributes
    ----------
    field
        ``"k"`` or ``"v"``.
    formats
        What it was rounded to, one after another; none where it came back as it was given.
    cut
        Not rounded but cut, towards zero.
    read_as
        Format as which the bits of the last one were read; empty where as themselves.
    given, dtype
        What the rows were given in, and the dtype in which they came back.
    explained
        Whether all this is so; otherwise nothing is known of the numbers.

    Examples
    --------
    >>> Stored("k", ("float16", "bfloat16")).words
    'rounded to float16, then to bfloat16'
    """

    field: str
    formats: tuple[str, ...] = ()
    cut: bool = False
    read_as: str = ""
    given: str = "float32"
    dtype: str = "float32"
    explained: bool = True

    @property
    def words(self) -> str:
        """What became of it, in words.

        >>> Stored("v", ("bfloat16",), read_as="float16").words
        'rounded to bfloat16, whose bits are read as float16'
        """
        if not self.explained:
            return "as other numbers, which no format explains"
        if not self.formats:
            return f"as they were given, in {self.given}"
        told = "cut" if self.cut else "rounded"
        return f"{told} to {', then to '.join(self.formats)}" + (
            f", whose bits are read as {self.read_as}" if self.read_as else ""
        )


def fractions(given: str = "float32", tokens: int = 6, batch: int = 2) -> tuple[Array, Array]:
    """Keys and values ``[B, 2, T, 64]`` between 1/8 and 8 in size, whose fractions fill a format.

    >>> k, v = fractions("float16")
    >>> k.dtype.name, bool(abs(k).min() >= 0.125)
    ('float16', True)
    """
    generator = np.random.default_rng(0)
    shape = (2, batch, HEADS, tokens, WIDTH)
    rows = generator.choice((-1.0, 1.0), shape) * 2.0 ** generator.uniform(-2.9, 2.9, shape)
    k, v = rows.astype(given)
    return k, v


def read_formats(adapter: CacheAdapter) -> Iterator[Stored]:
    """Append numbers with long fractions, and say what became of all but the newest; keys, then values.

    Parameters
    ----------
    adapter
        The cache; its first part is read, rows are given in what it promises where NumPy has that.

    Raises
    ------
    ArgumentError
        A promise that is no format.

    Examples
    --------
    >>> from kvattn.testing.planted_caches import PlantedFormats
    >>> [one.words for one in read_formats(PlantedFormats(through=("bfloat16",)))]
    ['rounded to bfloat16', 'rounded to bfloat16']
    """
    promised = adapter.capabilities.store
    given = promised if promised in NUMPY else "float32"
    if promised:
        format_of(promised)
    most = fitting(adapter, 6)
    if most < 2:
        return
    for name, got, wanted, dtype in fetched(adapter, *fractions(given, most)):
        last = None if adapter.capabilities.parts[0].source else -1  # the newest may not have been stored yet
        for formats, cut, read_as, expected in _explanations(wanted[:, :, :last], promised):
            if np.array_equal(got[:, :, :last], expected, equal_nan=True):
                yield Stored(name, formats, cut, read_as, given, dtype)
                break
        else:
            yield Stored(name, given=given, dtype=dtype, explained=False)


def _explanations(rows: Array, promised: str) -> Iterator[tuple[tuple[str, ...], bool, str, Array]]:
    """Formats, whether cut, as what the bits are read, what should come; the simplest first."""
    yield (), False, "", np.asarray(rows, np.float64)
    once = {name: FORMATS[name].round(rows) for name in (*filter(None, [promised]), *ROUNDED)}
    for name, near in once.items():
        yield (name,), False, "", near
    for name in once:
        yield (name,), True, "", FORMATS[name].cut(rows)
    for name, near in once.items():
        for other in ROUNDED:
            yield (name, other), False, "", FORMATS[other].round(near)
    for name, near in once.items():
        for other in ROUNDED:
            one, two = FORMATS[name].kind, FORMATS[other].kind
            if one is not two and one.bits == two.bits:
                yield (name,), False, other, FORMATS[other].number(FORMATS[name].pattern(near))
