"""Short causal depthwise convolution: each channel is mixed with its own last c - 1 inputs.

    y_t = Σ_i taps[:, i] · x_{t - c + 1 + i},    i = 0 .. c - 1

so the last tap weighs the token itself, and what lies before the sequence is 0.

Shapes: ``x [B, T, C]``, ``taps [C, c]``, ``y [B, T, C]``.
Cached: the last ``c - 1`` inputs of each channel as they came in, ``(c - 1) · C`` numbers, however long the sequence.
Cost of a token: ``(2 c - 1) · C`` FLOPs, elementwise.

Source: Fu et al. 2022 (2212.14052), the shift before a recurrence; Poli et al. 2023 (2302.10866), short filters on
projections.
Where libraries differ: c - 1 rows suffice (mlx); transformers keeps c, the oldest of which is never read again.
"""

import numpy as np

from kvattn.axes import sizes
from kvattn.counting import Tally, charge
from kvattn.errors import ShapeError
from kvattn.typing import Array


def convolve(carried: Array, x: Array, taps: Array) -> tuple[Array, Array]:
    """Convolve new rows behind carried ones.

    Bits do not depend on the cut: every output adds the same c products in the order of the taps.

    Parameters
    ----------
    carried
        ``[B, c - 1, C]``: the inputs just before the new ones, zeros where there were none.
    x
        ``[B, T, C]``, T >= 0, of the same dtype.
    taps
        ``[C, c]``, c >= 1.

    Returns
    -------
    tuple
        ``y [B, T, C]`` and ``rows [B, c - 1 + T, C]``: the carried inputs and the new ones.  What is to be
        carried behind the first t new tokens is ``rows[:, t : t + c - 1]``.

    Raises
    ------
    ShapeError
        Arrays that do not fit each other, or no tap.

    Examples
    --------
    >>> y, rows = convolve(np.array([[[1.0]]]), np.array([[[2.0], [4.0]]]), np.array([[0.5, 1.0]]))
    >>> y[0, :, 0], rows[:, 2:].ravel()
    (array([2.5, 5. ]), array([4.]))
    """
    size = sizes(("taps", taps, "C c"), ("x", x, "B T C"))
    if size["c"] < 1:
        raise ShapeError(f"taps must have shape [C, c] with c >= 1, got {taps.shape}")
    sizes(("x", x, "B T C"), ("carried", carried, f"B {size['c'] - 1} C"))
    rows = np.concatenate([carried, x], axis=1)
    y = taps[:, 0] * rows[:, : size["T"]]
    for i in range(1, size["c"]):
        y = y + taps[:, i] * rows[:, i : i + size["T"]]
    charge(Tally(weights_read=taps.nbytes) + convolve_cost(size["B"] * size["T"], size["C"], size["c"]))
    return y, rows


def convolve_cost(tokens: int, channels: int, taps: int) -> Tally:
    """FLOPs of `convolve` in closed form, for so many tokens in all.

    >>> convolve_cost(tokens=3, channels=2, taps=4).arithmetic
    42
    """
    return Tally(arithmetic=(2 * taps - 1) * tokens * channels)
