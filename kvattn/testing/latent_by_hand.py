"""Latent attention and its indexer in Python floats and loops: the third witness of both.

Nothing is shared with `kvattn.variants` but the weights' names; lists go in and come out.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any

from kvattn.positions.rotary import Rotary

Row = list[float]


def times(row: Sequence[float], matrix: Any) -> Row:
    """A row times a matrix.

    >>> times([1.0, 2.0], [[1.0, 0.0], [3.0, 1.0]])
    [7.0, 2.0]
    """
    columns = len(matrix[0])
    return [math.fsum(float(a) * float(matrix[i][j]) for i, a in enumerate(row)) for j in range(columns)]


def rms(row: Row, weight: Sequence[float], eps: float) -> Row:
    """RMSNorm of a row.

    >>> rms([3.0, -3.0], [1.0, 2.0], eps=0.0)
    [1.0, -2.0]
    """
    size = math.sqrt(math.fsum(a * a for a in row) / len(row) + eps)
    return [a / size * float(g) for a, g in zip(row, weight, strict=True)]


def layer(row: Row, weight: Sequence[float], bias: Sequence[float], eps: float) -> Row:
    """LayerNorm of a row.

    >>> layer([1.0, 3.0], [1.0, 1.0], [0.0, 0.5], eps=0.0)
    [-1.0, 1.5]
    """
    mean = math.fsum(row) / len(row)
    size = math.sqrt(math.fsum((a - mean) ** 2 for a in row) / len(row) + eps)
    return [(a - mean) / size * float(g) + float(b) for a, g, b in zip(row, weight, bias, strict=True)]


def turn(row: Row, rotation: Rotary | None, position: int) -> Row:
    """A row with its leading pairs turned.

    >>> turn([1.0, 0.0, 5.0], Rotary((math.pi / 2,)), 1)[2]
    5.0
    """
    if rotation is None:
        return row
    out, half = list(row), len(rotation.frequencies)
    for pair, frequency in enumerate(rotation.frequencies):
        i, j = (pair, pair + half) if rotation.layout == "half" else (2 * pair, 2 * pair + 1)
        cosine, sine = math.cos(position * frequency), math.sin(position * frequency)
        out[i] = rotation.magnitude * (row[i] * cosine - row[j] * sine)
        out[j] = rotation.magnitude * (row[i] * sine + row[j] * cosine)
    return out


def query_source(w: Any, row: Sequence[float]) -> Row:
    """What queries of a token are made of.

    >>> from types import SimpleNamespace
    >>> query_source(SimpleNamespace(query_down=None), [1.0])
    [1.0]
    """
    if w.query_down is None:
        return [float(a) for a in row]
    return rms(times(row, w.query_down), w.query_norm, w.eps)


def latent_by_hand(
    w: Any,
    x: Sequence[Sequence[float]],
    positions: Sequence[int],
    sees: Callable[[int, int, int], bool],
    *,
    rotation: Rotary | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Sequence[float] | None = None,
) -> tuple[list[Row], list[Row]]:
    """One sequence through expanded latent attention: ``(out [T][M], lse [Hq][T])``.

    Parameters
    ----------
    w
        Weights under the names of `kvattn.variants.compressed.latent_projections.LatentProjections`.
    x, positions
        ``[T][M]`` and ``[T]``.
    sees
        ``sees(head, t, s)`` on places, not positions.
    rotation, scale, softcap, sinks
        As in `kvattn.variants.compressed.latent.Expanded`.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> one = [[1.0]]
    >>> w = SimpleNamespace(
    ...     kv_down=one,
    ...     kv_norm=[1.0],
    ...     key_rope=one,
    ...     key_up=one,
    ...     value_up=one,
    ...     query=[[1.0, 1.0]],
    ...     output=one,
    ...     query_down=None,
    ...     heads=1,
    ...     eps=0.0,
    ... )
    >>> latent_by_hand(w, [[4.0]], [0], lambda h, t, s: True)[0]
    [[1.0]]
    """
    tokens, heads = range(len(x)), w.heads
    nope, rope, dv = len(w.key_up[0]) // heads, len(w.key_rope[0]), len(w.value_up[0]) // heads
    scale = 1 / math.sqrt(nope + rope) if scale is None else scale
    latents = [rms(times(row, w.kv_down), w.kv_norm, w.eps) for row in x]
    shared = [turn(times(row, w.key_rope), rotation, int(p)) for row, p in zip(x, positions, strict=True)]
    keys, values = [times(c, w.key_up) for c in latents], [times(c, w.value_up) for c in latents]
    queries = [times(query_source(w, row), w.query) for row in x]
    joined: list[Row] = [[] for _ in tokens]
    lses: list[Row] = []
    for h in range(heads):
        lses.append([])
        for t in tokens:
            own = queries[t][h * (nope + rope) : (h + 1) * (nope + rope)]
            q = own[:nope] + turn(own[nope:], rotation, int(positions[t]))
            logits: dict[int, float] = {}
            for s in tokens:
                if sees(h, t, s):
                    k = keys[s][h * nope : (h + 1) * nope] + shared[s]
                    logits[s] = scale * math.fsum(a * b for a, b in zip(q, k, strict=True))
            if softcap is not None:
                logits = {s: softcap * math.tanh(a / softcap) for s, a in logits.items()}
            ends = [] if sinks is None else [float(sinks[h])]
            total = math.fsum(math.exp(a) for a in [*logits.values(), *ends])
            lses[h].append(math.log(total) if total else -math.inf)
            for d in range(h * dv, (h + 1) * dv):
                mixed = math.fsum(math.exp(a) * values[s][d] for s, a in logits.items())
                joined[t].append(mixed / total if total else 0.0)
    return [times(row, w.output) for row in joined], lses


def index_by_hand(
    indexer: Any, w: Any, x: Sequence[Sequence[float]], positions: Sequence[int], rotation: Rotary | None
) -> list[Row]:
    """The lightning indexer's scores of one sequence, ``[T][T]``, query by key.

    >>> from types import SimpleNamespace
    >>> one = [[1.0]]
    >>> indexer = SimpleNamespace(query=one, key=one, weight=one, norm_weight=[1.0], norm_bias=[7.0], heads=1, eps=1.0)
    >>> index_by_hand(indexer, SimpleNamespace(query_down=None), [[1.0]], [0], None)
    [[7.0]]
    """
    width = len(indexer.key[0])
    keys = [
        turn(layer(times(row, indexer.key), indexer.norm_weight, indexer.norm_bias, indexer.eps), rotation, int(p))
        for row, p in zip(x, positions, strict=True)
    ]
    scores: list[Row] = []
    for row, p in zip(x, positions, strict=True):
        every = times(query_source(w, row), indexer.query)
        weights = times(row, indexer.weight)
        scores.append([0.0] * len(x))
        for j in range(indexer.heads):
            q = turn(every[j * width : (j + 1) * width], rotation, int(p))
            for s, k in enumerate(keys):
                product = math.fsum(a * b for a, b in zip(q, k, strict=True))
                scores[-1][s] += weights[j] / math.sqrt(indexer.heads * width) * max(product, 0.0)
    return scores
