"""Cases of `kvattn.positions.transformer_xl`."""

from kvattn.positions.transformer_xl import TransformerXL
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo._bent import bent
from kvattn.variants.dense.projections import Projections


def transformer_xl(choices: Choices) -> Case:
    """Grouped-query attention with Transformer-XL's two biases and its distances, far enough or clamped.

    >>> from kvattn.testing.choices import Recorded
    >>> layer = transformer_xl(Recorded()).variant
    >>> layer.mods == layer.query_key
    True
    """

    def scheme(weights: Projections) -> TransformerXL:
        projection = numbers(choices, (4, weights.heads * weights.width), float, "W_R")
        content, position = numbers(choices, (2, weights.heads, weights.width), float, "u, v")
        farthest, ahead = pick(choices, (300, 5), "farthest"), pick(choices, (0, 2), "ahead")
        return TransformerXL.of(projection, content, position, farthest, ahead)

    return bent(choices, scheme, vectors=True, both=True)
