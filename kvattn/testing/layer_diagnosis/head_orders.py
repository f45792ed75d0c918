"""Heads that stand in another order in a matrix or where they are joined, by name or read out.

With everything else known, what a layer gives is a sum over the places at which heads stand:

    y  =  Σ_h Σ_c  P[h, c] · y[h, c]        y[h, c]: what place h adds where it holds head c

so that P is the solution of linear equations, and a layer that moves whole heads has one 1 in each row of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.layer_diagnosis.bench import LayerBench
from kvattn.testing.layer_diagnosis.changes import Change
from kvattn.testing.layer_diagnosis.drawing import Drawing
from kvattn.testing.layer_diagnosis.naming import Ran, explains, ran
from kvattn.testing.layer_diagnosis.reading import HEAD_ORDERS, Reading

WORDS = {
    ("o_heads",): "Place h of the joined heads holds head {} of the mix",
    ("q_heads",): "Query head h has the columns of head {} of w_q",
    ("key_map", "value_map"): "Query head h reads head {} of k and v",
    ("key_map",): "Query head h reads head {} of k",
    ("value_map",): "Query head h reads head {} of v",
}
"""What is said of each place where heads have an order."""

WITHIN = {"reversed in each group"}
"""Orders in which no head leaves its group, which are the same for ``w_q`` and for the joined heads."""

OF = {"o_heads": "w_o", "q_heads": "w_q", "key_map": "k", "value_map": "v"}
"""Whose order each field of a `Reading` is."""


def orders(now: Reading) -> Iterator[Change]:
    """Yield other orders of the heads in ``w_q``, and of the heads that are joined before ``w_o``.

    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> next(orders(Reading(Plan()))).parameters
    {'heads': 'reversed', 'of': ['w_o']}
    """
    for name in list(HEAD_ORDERS)[1:]:
        words = f"Place h of the joined heads holds another head than h: {name}"
        if name in WITHIN:
            words += "; the same as w_q's heads in that order"
        yield Change("gqa-map", {"heads": name, "of": ["w_o"]}, words, replace(now, o_heads=name))
        if name not in WITHIN:
            words = f"Query head h has the columns of another head of w_q than h: {name}"
            yield Change("gqa-map", {"heads": name, "of": ["w_q"]}, words, replace(now, q_heads=name))


def read_orders(bench: LayerBench, drawings: Sequence[Drawing]) -> bool:
    """Read which head stands at each place, where no order that has a name explains a layer.

    Returns
    -------
    bool
        Whether moved heads explain every case.  The reading then holds for the numbers of heads of these cases alone,
        so that a layer that takes others is not read further.

    Examples
    --------
    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> bench = layer_bench(PlantedLayer(joined_place=lambda h, hq, hkv: (2, 0, 3, 1)[h]))
    >>> read_orders(bench, [bench.drawing()])
    True
    >>> bench.findings[0].detail
    'Place h of the joined heads holds head [2, 0, 3, 1][h] of the mix, where Hq=4, Hkv=2.'
    """
    now = bench.reading
    if now.output != "w_o" or now.o_rows != "heads first":
        return False
    cases = ran(bench, drawings)
    for names, words in WORDS.items():
        read: dict[tuple[int, int], tuple[int, ...]] = {}
        for one in cases:
            heads = _heads(bench, names, one)
            if heads is None or read.setdefault(heads[:2], heads[2]) != heads[2]:
                break
        else:
            found = tuple((hq, hkv, heads) for (hq, hkv), heads in read.items())
            reading = replace(now, **dict.fromkeys(names, found))
            if explains(bench, reading, cases):
                _say(bench, names, words, found, drawings[0])
                bench.reading = reading
                bench.stopped = bench.target.own is None
                return True
    return False


def _say(bench: LayerBench, names: Sequence[str], words: str, found: Any, drawing: Drawing) -> None:
    texts = [words.format(f"{[*heads]}[h]") + f", where Hq={hq}, Hkv={hkv}" for hq, hkv, heads in found]
    parameters: dict[str, Any] = {"of": [OF[name] for name in names]}
    parameters["heads"] = [{"Hq": hq, "Hkv": hkv, "order": [*heads]} for hq, hkv, heads in found]
    bench.add(
        "gqa-map", parameters, f"{'; '.join((texts[0], *(f'{t[0].lower()}{t[1:]}' for t in texts[1:])))}.", drawing
    )


def _heads(bench: LayerBench, names: Sequence[str], one: Ran) -> tuple[int, int, tuple[int, ...]] | None:
    """Numbers of heads, and the head at each place; None where it is no head, or parts of several."""
    weights, case, got = one
    hq, hkv = weights.heads, weights.kv_heads
    choices = hkv if "map" in names[0] else hq
    columns: list[NDArray[np.float64]] = []
    rows = np.arange(hq * weights.width) // weights.width
    for c in range(choices):
        alike = replace(bench.reading, **dict.fromkeys(names, ((hq, hkv, (c,) * hq),)))
        for h in range(hq):
            alone = replace(weights, w_o=np.where((rows == h)[:, None], weights.w_o, 0))
            columns.append(alike.predict(alone, case))
    seen = np.ones(case.x.shape[:2], np.bool_) if case.valid is None else case.valid
    table = np.stack([column[seen].ravel() for column in columns], 1)
    shares, _, rank, _ = np.linalg.lstsq(table, got[seen].ravel(), rcond=1e-9)
    shares = shares.reshape(choices, hq).T
    picked = np.rint(shares)
    if rank < table.shape[1] or not np.isfinite(shares).all() or np.abs(shares - picked).max() > 0.01:
        return None
    if picked.min() < 0 or (picked.sum(1) != 1).any():
        return None
    return hq, hkv, tuple(int(c) for c in picked.argmax(1))
