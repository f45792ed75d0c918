"""PyramidKV: lower layers keep more, upper layers less, the model as much as with equal budgets.

    past = budget - window,   least = past / beta,   most = 2 · past - least
    layer l of m keeps  window + most - l · (most - least) / (m - 1)

If ``most`` exceeds the S - window earlier keys that there are, it becomes that, and ``least`` grows so that
the mean stays.  The layers' numbers are rounded down, and what is missing to ``m · budget`` goes to the
lowest of the layers that were rounded, one each; so the sum is kept exactly and no layer keeps more than one below it.

Shapes: m integers, one for each layer.  Needs: lengths only; which keys stay is SnapKV's choice
(`kvattn.eviction.snap`).  Cached per token: nothing.  Cost: none.
Source: Cai et al. 2024 (arXiv 2406.02069), as the authors' code has it (``PyramidKVCluster``).

Where libraries differ: the authors' code rounds ``least`` and the step down, so the sum falls short.  kvpress
rounds each layer to nearest, leaves the window's keys inside ``window + S · (1 - ratio)`` but not in the
sum, and keeps equal budgets where the upper layers would get less than a window.
"""

from fractions import Fraction

from kvattn.arguments import integer, real


def pyramid_budgets(layers: int, budget: int, *, length: int, window: int = 0, beta: float = 20.0) -> tuple[int, ...]:
    """How many keys each layer keeps.

    Parameters
    ----------
    layers
        m >= 1.
    budget
        Keys per layer on average, the window's included.
    length
        S: no layer keeps more.
    window
        Keys that every layer always keeps.
    beta
        How flat it is not: the top layer keeps ``1 / beta`` of the average, >= 1.

    Raises
    ------
    ArgumentError
        When a number is out of range.

    Examples
    --------
    >>> pyramid_budgets(4, 24, length=1000, window=4, beta=10)
    (42, 30, 18, 6)
    >>> pyramid_budgets(4, 24, length=30, window=4)  # 26 earlier keys: the bottom layer keeps them all
    (30, 26, 22, 18)
    """
    layers, length = integer("layers", layers, 1), integer("length", length, 0)
    window = integer("window", window, 0)
    budget, beta = integer("budget", budget, window), real("beta", beta, least=1.0)
    if budget >= length:
        return (length,) * layers
    past = Fraction(budget - window)
    least = past / Fraction(repr(beta))
    most = 2 * past - least
    if most > length - window:
        most = Fraction(length - window)
        least = 2 * past - most
    if layers == 1:
        return (budget,)
    shares = [window + most - layer * (most - least) / (layers - 1) for layer in range(layers)]
    floors = [int(share // 1) for share in shares]
    rounded = [layer for layer, share in enumerate(shares) if share.denominator > 1]
    for layer in rounded[: layers * budget - sum(floors)]:
        floors[layer] += 1
    return tuple(floors)
