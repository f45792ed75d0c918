"""A vector for each distance, and its product with queries or with keys: what several relative schemes are made of.

    row(q - k)   =  clip(bucket(q - k), -ahead, N - 1 - ahead) + ahead
    with queries:  q · vectors[h, row(q - k)],        with keys:  k · vectors[h, row(q - k)]

Row ``ahead`` belongs to distance 0, those below it to keys ahead of the query; beyond either end the last
vector serves.  `kvattn.positions.shaw`, `transformer_xl` and `disentangled` say what the vectors mean.

Shapes: ``vectors [H, N, D]``, or ``[1, N, D]`` for all heads alike; products ``[..., rows, columns]``.

Exactness: products have 8 rows and up to 256 distances, aligned to the table (`kvattn.blas`), so a pair's
bits depend on its query or key, its head and its distance alone.
Cost of a pair, as the algorithm has it: ``2·D`` FLOPs; a program that first multiplies with the whole
table and then looks up, as this one, does N/S as many.

Source: the vectors: Shaw et al. 2018 (arXiv 1803.02155) §3.2; the lookup instead of S·S vectors: §3.3.
Where libraries differ: Transformer-XL and XLNet multiply with all distances and shift rows into place.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvattn.arguments import integer, shown
from kvattn.blas import ROWS, tile_product
from kvattn.errors import ArgumentError, ShapeError
from kvattn.positions._heads import distances, frozen_table, heads_of
from kvattn.typing import Array, Indices, Place, Positions

CHUNK = 256
"""Distances that one product takes."""


@dataclass(frozen=True, eq=False)
class DistanceTable:
    """Vectors by distance.

    Parameters
    ----------
    vectors
        ``[H, N, D]`` or ``[1, N, D]``.
    ahead
        How many rows are for keys ahead of the query, in 0 .. N - 1.
    bucket
        Makes signed distances smaller before they are clipped, as `kvattn.positions.disentangled.LogBuckets` does.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        When a parameter is not of its kind; later, when a head has no vectors, or rows have another width.

    Examples
    --------
    >>> table = DistanceTable(np.array([[[0.0], [1.0], [2.0]]]), ahead=1)
    >>> table.rows(np.array([-5, -1, 0, 1, 5])).tolist()
    [0, 0, 1, 2, 2]
    """

    vectors: Array
    ahead: int = 0
    bucket: Callable[[Positions], Positions] | None = None
    _columns: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        vectors = frozen_table("vectors", self.vectors, "H N D")
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "ahead", integer("ahead", self.ahead, 0, vectors.shape[1] - 1))
        if self.bucket is not None and not callable(self.bucket):
            raise ArgumentError(f"bucket must be a function of distances or None, got {shown(self.bucket)}")
        heads, count, width = vectors.shape
        columns = np.zeros((heads, width, -(-count // ROWS) * ROWS))
        columns[:, :, :count] = vectors.swapaxes(1, 2)
        object.__setattr__(self, "_columns", columns)

    @property
    def width(self) -> int:
        """D.

        >>> DistanceTable(np.zeros((1, 3, 2))).width
        2
        """
        return int(self.vectors.shape[2])

    def rows(self, apart: Positions) -> Indices:
        """The table row of each signed distance, query less key.

        >>> DistanceTable(np.zeros((1, 3, 2))).rows(np.array([-1, 0, 7])).tolist()
        [0, 0, 2]
        """
        near = np.asarray(apart if self.bucket is None else self.bucket(apart), np.int64)
        found: Indices = np.clip(near, -self.ahead, self.vectors.shape[1] - 1 - self.ahead) + self.ahead
        return found

    def with_queries(self, queries: Array, place: Place) -> Array:
        """Query times vector, for every pair.

        Parameters
        ----------
        queries
            ``[..., rows, D]``, in the order of the score rows.
        place
            Where the scores stand.

        Examples
        --------
        >>> at = np.zeros((1, 1, 1), np.int64)
        >>> table = DistanceTable(np.array([[[0.5], [2.0]]]))
        >>> table.with_queries(np.array([[[3.0]]]), Place(0, at, None, at + 4, np.array([[[0, 4]]])))
        array([[[6. , 1.5]]])
        """
        index, first, tables = self._wanted(place, queries)
        owner = np.broadcast_to(self._owner(place)[..., 0], queries.shape[:-1])
        products = np.empty((*queries.shape[:-1], tables.shape[2]), queries.dtype)
        for head in np.unique(owner):
            mine = owner == head
            products[mine] = _multiplied(queries[mine], tables[head])
        wide = np.broadcast_to(index - first, (*queries.shape[:-1], index.shape[-1]))
        return np.take_along_axis(products, wide, axis=-1)

    def with_keys(self, keys: Array, place: Place) -> Array:
        """Key times vector, for every pair.

        Parameters
        ----------
        keys
            ``[h, D, columns]``, the keys that the scores' first axis reads.
        place
            Where the scores stand.

        Examples
        --------
        >>> at = np.zeros((1, 1, 1), np.int64)
        >>> table = DistanceTable(np.array([[[0.5], [2.0]]]))
        >>> table.with_keys(np.array([[[3.0, 5.0]]]), Place(0, at, None, at + 4, np.array([[[0, 4]]])))
        array([[[6. , 2.5]]])
        """
        rows = np.ascontiguousarray(keys.swapaxes(-1, -2))  # [h, columns, D]
        index, first, tables = self._wanted(place, rows)
        shape = np.broadcast_shapes(np.shape(place.heads), index.shape)
        owner = np.broadcast_to(self._owner(place)[..., 0], shape[:-1])
        wide = np.broadcast_to(index - first, shape)
        out = np.empty(shape, rows.dtype)
        for n, own in enumerate(rows):
            for head in np.unique(owner[n]):
                mine = owner[n] == head
                products = _multiplied(own, tables[head])  # [columns, N]
                out[n, mine] = products[np.arange(len(own)), wide[n, mine]]
        return out

    def _wanted(self, place: Place, rows: Array) -> tuple[Indices, int, Array]:
        """The table row of every pair, the first row that is needed, and the tables from there on."""
        if rows.shape[-1] != self.width:
            raise ShapeError(f"vectors must have the width of what they meet, {rows.shape[-1]}, got {self.width}")
        index = self.rows(distances(place))
        low, high = (int(index.min()), int(index.max())) if index.size else (0, 0)
        first = low // CHUNK * CHUNK
        stop = min((high // CHUNK + 1) * CHUNK, self._columns.shape[2])
        return index, first, self._columns[:, :, first:stop].astype(rows.dtype, copy=False)

    def _owner(self, place: Place) -> Indices:
        """Which table each score row reads."""
        if len(self.vectors) == 1:
            return np.zeros(np.shape(place.heads), np.int64)
        return heads_of("vectors", len(self.vectors), place)


def _multiplied(rows: Array, table: Any) -> Array:
    """Rows ``[n, D]`` times a table ``[D, N]``, by 8 rows and chunks of distances."""
    count, width = rows.shape
    tiles = np.zeros((-(-count // ROWS), ROWS, width), rows.dtype)
    tiles.reshape(-1, width)[:count] = rows
    out = np.empty((*tiles.shape[:2], table.shape[1]), rows.dtype)
    for start in range(0, table.shape[1], CHUNK):
        part = np.ascontiguousarray(table[:, start : start + CHUNK])
        out[:, :, start : start + CHUNK] = tile_product(tiles, part)
    return out.reshape(-1, table.shape[1])[:count]
