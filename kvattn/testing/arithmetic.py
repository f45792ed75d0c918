"""In which number formats, in which order and how carefully tested code computes: `Arithmetic`.

A tolerance can only be derived for a stated arithmetic.  The statement follows the way of the numbers::

    q, k, v          rounded to `inputs`                     (where they are not in that format already)
    q . k            products and running sums in `accumulate`
    s                scaled, capped, biased, shifted by the row's maximum, exponentiated in `compute`
    exp(s - max)     rounded to `probabilities` for the product with V
    total, weights·v running sums in `accumulate`; the total is taken of the rounded or the unrounded weights
    lse              in `compute`
    out              rounded to `store`

The formats are those of `kvattn.testing.formats`, by name.  The constants at the end are the arithmetics that one
meets; they are starting points: ``dataclasses.replace`` changes what differs, `Arithmetic.tiled` states the tiles.

Source: for sums that are cut off, Fasi, Higham, Mikaitis, Pranesh, *Numerical behavior of NVIDIA tensor cores*,
PeerJ Computer Science 7, e330 (2021).
"""

from dataclasses import dataclass, replace
from typing import Literal

from kvattn.arguments import integer, real
from kvattn.errors import ArgumentError
from kvattn.testing.formats import format_of


@dataclass(frozen=True)
class Arithmetic:
    """Number formats of the tested code.

    An empty format name stands for ``compute``'s, and is replaced by it.

    Attributes
    ----------
    compute
        Format of scores, exponentials and the log-sum-exp.
    accumulate
        Format of products and running sums: of q·k, of the total, of the mix.
    store
        Format of the output.
    probabilities
        Format to which the weights are rounded before their product with V.
    order
        Of the sums: ``"sequential"`` stands for any order, up to n - 1 additions one after the other;
        ``"pairwise"`` for blocks that are added in pairs, at most ``log2(n) + 11`` one after the other
        (NumPy's sum, halving, tree reductions).
    exp_ulp
        Largest error of its exp, tanh and log, in units in the last place of ``compute``.
    tiles
        Key tiles of an online softmax: after each the sums are rescaled, and the weights
        are divided by their total at the end; 1 for a single tile, 0 where the weights are divided by the total
        before they are rounded to ``probabilities`` and mixed (a softmax, then a product).
    inputs
        Format to which q, k and v are rounded before anything else.
    sum_ulp
        Largest error of one addition of a running sum, in units in the last place: 0.5 rounds to nearest, 1 is for
        sums that are cut off, as tensor cores do.
    merges
        How many partial results are weighed by ``exp`` of a difference of log-sum-exps (split keys, a ring);
        1 for probabilities taken as ``exp(s - lse)``, 0 for neither.
    totals
        Whether the total is of the weights that are ``"rounded"`` to ``probabilities``, or ``"unrounded"``;
        ``"either"`` where it is not known, and bounds are to hold for both.

    Raises
    ------
    ArgumentError
        For a format, an order or totals that are not known, an ulp below 0.5, a negative count.

    Examples
    --------
    >>> Arithmetic("float32").store
    'float32'
    >>> Arithmetic("float32", store="float16").accumulate
    'float32'
    >>> Arithmetic("float32", order="any")
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: order must be 'sequential' or 'pairwise', got 'any'
    """

    compute: str = "float64"
    accumulate: str = ""
    store: str = ""
    probabilities: str = ""
    order: Literal["sequential", "pairwise"] = "sequential"
    exp_ulp: float = 3.0
    tiles: int = 8
    inputs: str = ""
    sum_ulp: float = 0.5
    merges: int = 0
    totals: Literal["either", "rounded", "unrounded"] = "either"

    def __post_init__(self) -> None:
        for name in ("compute", "accumulate", "store", "probabilities", "inputs"):
            object.__setattr__(self, name, getattr(self, name) or self.compute)
            format_of(getattr(self, name))
        if self.order not in ("sequential", "pairwise"):
            raise ArgumentError(f"order must be 'sequential' or 'pairwise', got {self.order!r}")
        if self.totals not in ("either", "rounded", "unrounded"):
            raise ArgumentError(f"totals must be 'either', 'rounded' or 'unrounded', got {self.totals!r}")
        for name in ("exp_ulp", "sum_ulp"):
            object.__setattr__(self, name, real(name, getattr(self, name), least=0.5))
        for name in ("tiles", "merges"):
            object.__setattr__(self, name, integer(name, getattr(self, name), 0))

    def tiled(self, keys: int, tile: int) -> "Arithmetic":
        """Return the same arithmetic with as many tiles as it takes for so many keys.

        Parameters
        ----------
        keys, tile
            Number of keys, and how many a tile holds; both at least 1.

        Returns
        -------
        Arithmetic
            With ``tiles`` set.

        Raises
        ------
        ArgumentError
            Where a number is not a positive integer.

        Examples
        --------
        >>> BFLOAT16_TENSOR_CORE.tiled(8192, tile=64).tiles
        128
        """
        return replace(self, tiles=-(-integer("keys", keys, 1) // integer("tile", tile, 1)))

    def statements(self) -> "tuple[Arithmetic, ...]":
        """Return the arithmetics that this one stands for, with totals that are one or the other.

        Returns
        -------
        tuple of Arithmetic
            Two, where totals may be either, and weights are rounded; else this one alone.

        Examples
        --------
        >>> [at.totals for at in BFLOAT16_TENSOR_CORE.statements()]
        ['unrounded', 'rounded']
        >>> FLOAT32_BLAS.statements() == (FLOAT32_BLAS,)
        True
        """
        coarser = format_of(self.probabilities).roundoff > format_of(self.compute).roundoff
        if self.totals != "either" or not coarser:
            return (self,)
        return replace(self, totals="unrounded"), replace(self, totals="rounded")


FLOAT64 = Arithmetic("float64")
"""float64 throughout: NumPy, a reference."""

FLOAT32_BLAS = Arithmetic("float32")
"""float32 throughout, rounded to nearest: NumPy, torch and JAX on a CPU; CUDA cores."""

BFLOAT16_TENSOR_CORE = Arithmetic(
    "float32", store="bfloat16", probabilities="bfloat16", inputs="bfloat16", exp_ulp=2.0, sum_ulp=1.0
)
"""bfloat16 in and out, float32 scores and sums, bfloat16 weights: flash kernels."""

FLOAT16_TENSOR_CORE = Arithmetic(
    "float32", store="float16", probabilities="float16", inputs="float16", exp_ulp=2.0, sum_ulp=1.0
)
"""float16 in and out, float32 scores and sums, float16 weights: flash kernels."""

TF32_TENSOR_CORE = Arithmetic("float32", probabilities="tf32", inputs="tf32", exp_ulp=2.0, sum_ulp=1.0)
"""float32 in and out, products of numbers cut to TF32: torch with ``allow_tf32``."""

FLOAT8_PROBABILITIES = Arithmetic(
    "float32", store="bfloat16", probabilities="float8_e4m3", inputs="float8_e4m3", exp_ulp=2.0, sum_ulp=1.0
)
"""E4M3 queries, keys, values and weights, float32 sums, bfloat16 out; one scale for each tensor, applied before."""

BFLOAT16_SOFTMAX = Arithmetic("bfloat16", accumulate="float32", exp_ulp=1.0, tiles=0)
"""bfloat16 between the operations, float32 inside them: an eager framework under autocast."""

FLOAT16_SOFTMAX = Arithmetic("float16", accumulate="float32", exp_ulp=1.0, tiles=0)
"""float16 between the operations, float32 inside them."""

BFLOAT16_PURE = Arithmetic("bfloat16", exp_ulp=1.0)
"""bfloat16 throughout, running sums too."""

FLOAT16_PURE = Arithmetic("float16", exp_ulp=1.0)
"""float16 throughout, running sums too."""
