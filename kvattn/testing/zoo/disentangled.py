"""Cases of `kvattn.positions.disentangled`."""

from kvattn.positions.disentangled import Disentangled, LogBuckets
from kvattn.positions.distance_table import DistanceTable
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo._bent import bent
from kvattn.typing import Mod
from kvattn.variants.dense.projections import Projections


def disentangled(choices: Choices) -> Case:
    """Grouped-query attention with DeBERTa's cross products: either or both, with and without buckets.

    >>> from kvattn.testing.choices import Recorded
    >>> disentangled(Recorded()).variant.mods[0].terms
    2
    """

    def scheme(weights: Projections) -> Mod:
        span = choices.integer(4, 6, "span")
        bucket = LogBuckets(span, 40) if choices.integer(0, 1, "bucket") else None
        keys, queries = (
            DistanceTable(numbers(choices, (weights.heads, 2 * span, weights.width), float, "vectors"), span, bucket)
            for _ in range(2)
        )
        products = pick(choices, ((keys, queries), (keys, None), (None, queries)), "products")
        return Disentangled(*products)

    return bent(choices, scheme, vectors=True)
