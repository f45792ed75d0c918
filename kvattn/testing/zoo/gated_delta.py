"""Cases of `kvattn.variants.recurrent.gated_delta`: decays fast and slow, with and without a convolution."""

from typing import Any

from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import cuts_of, dtype_of, hidden_of, length_of
from kvattn.variants.recurrent.gated_delta import GatedDelta, weight_shapes


def layer_of(choices: Choices, **options: Any) -> GatedDelta:
    """Layers of any sizes, weights as they come out of training: products of order one.

    >>> from kvattn.testing.choices import Recorded
    >>> layer_of(Recorded()).rollback
    0
    """
    dtype = dtype_of(choices)
    key_heads = choices.integer(1, 3, "Hk")
    shapes = weight_shapes(
        hidden=choices.integer(1, 11, "M"),
        key_heads=key_heads,
        heads=key_heads * choices.integer(1, 3, "G"),
        width=choices.integer(1, 9, "Dk"),
        value_width=choices.integer(1, 9, "Dv"),
        taps=pick(choices, (4, None, 1, 2), "c"),
    )
    weights: dict[str, Any] = {
        name: numbers(choices, s, dtype, name, s[0] ** -0.5 if len(s) > 1 else 1) for name, s in shapes.items()
    }
    weights["log_rate"] += pick(choices, (0, 3, -6), "rate")
    return GatedDelta(
        **weights,
        key_heads=key_heads,
        negative_eigenvalues=choices.integer(0, 1, "negative") == 1,
        scale=pick(choices, (None, 1.0), "scale"),
        rollback=options.get("rollback", choices.integer(0, 5, "rollback")),
    )


def gated_delta(choices: Choices) -> Case:
    """Gated DeltaNet layers.

    >>> from kvattn.testing.choices import Recorded
    >>> gated_delta(Recorded()).rollback
    0
    """
    layer = layer_of(choices)
    batch, length = choices.integer(1, 3, "B"), length_of(choices)
    x = hidden_of(choices, batch, length, layer.query.shape[0], layer.query.dtype)
    chunk = choices.integer(1, max(length, 1) + 1, "chunk")
    return Case(
        layer,
        x,
        cuts_of(choices, length),
        lambda _: layer,
        None,
        layer.rollback,
        depth=200 + 8 * length,
        forms={f"chunks of {chunk}": lambda x: layer.chunked(x, chunk=chunk)},
        relative=True,
    )
