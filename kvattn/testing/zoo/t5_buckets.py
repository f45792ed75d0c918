"""Cases of `kvattn.positions.t5_buckets`."""

from kvattn.positions.t5_buckets import BothWays, BucketBias, Buckets, OneWay
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo._bent import bent
from kvattn.typing import Mod
from kvattn.variants.dense.projections import Projections


def t5_buckets(choices: Choices) -> Case:
    """Grouped-query attention with a bias for buckets of distances.

    >>> from kvattn.testing.choices import Recorded
    >>> t5_buckets(Recorded()).variant.mods[0].buckets
    OneWay(count=4, farthest=9)
    """

    def scheme(weights: Projections) -> Mod:
        rules: tuple[Buckets, ...] = (OneWay(4, 9), OneWay(32, 128), BothWays(8, 20))
        buckets = pick(choices, rules, "buckets")
        return BucketBias(numbers(choices, (buckets.count, weights.heads), float, "table"), buckets)

    return bent(choices, scheme)
