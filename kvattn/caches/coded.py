"""A paged cache that stores codes: rows are encoded when they come, and decoded when they are read.

    stored[j] = encode(k_j), encode(v_j)        read: k̂_j = decode(stored[j]),  v̂_j alike

Both codecs take each token alone (`kvattn.codecs.codec.Codec.tokens` is 1), so what is stored of a token depends on
that token alone: cached decoding equals recomputation to the bit, and both equal attention to the rounded rows.
Keys are encoded as a layer caches them, behind norms and rotation.

Against attention to the rows as they came: let ``|k̂ - k| <= e`` and ``|v̂ - v| <= f`` elementwise (`Codec.error`).  A
score of query q under scale c moves by at most ``c Σ_d |q_d| e_jd``; softcaps and added biases do not widen that.
Let δ be the largest of these over the keys that q sees.  Then the odds of any set of keys move by a factor of at most
``exp(2 δ)``, so weights move by at most ``tanh(δ / 2)`` in total variation, and weights sum to 1 either way::

    |Δ lse| <= δ        |Δ o_d| <= max_j f_jd + tanh(δ / 2) · (max_j v_jd - min_j v_jd)

A sink is one more key, exact, whose value is 0.

Shapes: k ``[B, Hkv, T, D]`` and v ``[B, Hkv, T, Dv]`` of the schema's dtype, in and out; stored, the codecs' parts.
Cached per token: the bytes of both codecs, scales included, whole pages of them, and 8 of its position where placed.
Cost: `Coded.append_cost` encodes and writes; `Coded.blocks_cost` decodes everything held, at every step; reading
counts codes and scales (``KeyBlock.stored``), not the numbers they become.

Source: none; per-token scales in the row are those of Liu et al. 2024 (KIVI, 2402.02750) §3 for values, and of vLLM's
and mlx-lm's quantised caches.
Where libraries differ: most attend to new tokens as they came and only later to their codes, so that results depend
on how tokens were cut into steps; here a token is its code from its own step on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple, cast

import numpy as np

from kvattn.arguments import shown
from kvattn.arrays import compute_dtype
from kvattn.caches.blocks import BLOCK, KeyBlock, blocks_of
from kvattn.caches.flattened import Header, Reader, Writer, described
from kvattn.caches.paged import Paged
from kvattn.caches.rows import Field, KeyValue, Schema, read_counts, read_places
from kvattn.codecs.codec import Codec, Part
from kvattn.counting import Tally
from kvattn.errors import ArgumentError
from kvattn.typing import Array, Positions


class _Side(NamedTuple):
    """A codec, the field that it encodes and the arrays that it stores for a token."""

    codec: Codec[Any]
    field: Field
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """A batch of sequences kept as codes; make one with `Coded.start`.

    Attributes
    ----------
    schema
        The rows that go in and come out: keys and values.
    keys, values
        The codecs.
    memory
        The codes and scales, ``k_codes``, ``k_scales``, … and ``v_codes``, ….

    Examples
    --------
    >>> from kvattn.caches.rows import key_value
    >>> from kvattn.codecs import Symmetric
    >>> empty = Coded.start(key_value(heads=2, width=4), keys=Symmetric(8), values=Symmetric(4), page=16)
    >>> cache = empty.append(KeyValue(np.ones((1, 2, 5, 4)), np.ones((1, 2, 5, 4))))
    >>> cache.length, cache.nbytes, 2 * ((4 + 4) + (2 + 4)) * 16  # codes and a scale, keys and values
    (5, 448, 448)
    """

    schema: Schema[KeyValue]
    keys: Codec[Any]
    values: Codec[Any]
    memory: Paged[Any]

    @classmethod
    def start(
        cls, schema: Schema[KeyValue], *, keys: Codec[Any], values: Codec[Any], batch: int = 1, page: int = BLOCK
    ) -> "Coded":
        """The empty cache.

        Parameters
        ----------
        schema
            Keys and values, as ``layer.start().schema`` has them.
        keys, values
            Codecs whose tokens stand alone.

        Raises
        ------
        ArgumentError
            A schema of anything else, a codec whose tokens share a number, batch or page below 1.
        ShapeError
            Rows that a codec does not take.
        DtypeError
            Rows neither float64 nor float32.

        Examples
        --------
        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import PER_CHANNEL, Symmetric
        >>> Coded.start(key_value(1, 4), keys=Symmetric(8, PER_CHANNEL), values=Symmetric(8))
        Traceback (most recent call last):
        kvattn.errors.ArgumentError: keys must be a codec that takes each token alone, tokens=1, got tokens=None
        """
        read_schema(schema)
        for name, codec in (("keys", keys), ("values", values)):
            if getattr(codec, "tokens", 0) != 1:
                came = f"tokens={codec.tokens}" if hasattr(codec, "tokens") else shown(codec)
                raise ArgumentError(f"{name} must be a codec that takes each token alone, tokens=1, got {came}")
        fields = [
            Field(f"{side.field.name}_{part.name}", part.shape[0], part.shape[2], part.dtype)
            for side in _sides(schema, keys, values)
            for part in side.parts
        ]
        coded = Schema(row_class(*(field.name for field in fields)), tuple(fields), schema.placed)
        return cls(schema, keys, values, Paged.start(coded, batch, page))

    def __repr__(self) -> str:
        return f"Coded(keys={self.keys!r}, values={self.values!r}, lengths={self.lengths})"

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Symmetric
        >>> Coded.start(key_value(1, 4), keys=Symmetric(8), values=Symmetric(8), batch=2).lengths
        (0, 0)
        """
        return self.memory.lengths

    @property
    def length(self) -> int:
        """Tokens of every sequence; refused where they differ.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Symmetric
        >>> Coded.start(key_value(1, 4), keys=Symmetric(8), values=Symmetric(8)).length
        0
        """
        return self.memory.length

    @property
    def batch(self) -> int:
        """Number of sequences.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Symmetric
        >>> Coded.start(key_value(1, 4), keys=Symmetric(8), values=Symmetric(8), batch=3).batch
        3
        """
        return self.memory.batch

    @property
    def ends(self) -> tuple[int, ...]:
        """The position behind each sequence's last token.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Symmetric
        >>> Coded.start(key_value(1, 4), keys=Symmetric(8), values=Symmetric(8)).ends
        (0,)
        """
        return self.memory.ends

    @property
    def token_bytes(self) -> int:
        """Bytes of codes and scales that reading a token takes; what storage keeps of its position is not read.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Q8_0, Symmetric
        >>> Coded.start(key_value(2, 32), keys=Q8_0(), values=Symmetric(4)).token_bytes
        108
        """
        return sum(field.nbytes for field in self.memory.schema.fields)

    def coming(self, new: int) -> Positions:
        """The positions that the next ``new`` tokens of each sequence will have, ``[B, new]``.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Symmetric
        >>> Coded.start(key_value(1, 4), keys=Symmetric(8), values=Symmetric(8)).coming(2)
        array([[0, 1]])
        """
        return self.memory.coming(new)

    def append(
        self,
        rows: KeyValue | Sequence[Any],
        positions: Positions | None = None,
        counts: Sequence[int] | Positions | None = None,
    ) -> "Coded":
        """Encode tokens and add them; arguments as those of `Paged.append`.

        Raises
        ------
        ShapeError, DtypeError, PositionError
            As `Paged.append`.
        ArgumentError
            As `Paged.append`; a real token with NaN or infinity, or beyond what the codec's scales hold.

        Examples
        --------
        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Symmetric
        >>> cache = Coded.start(key_value(1, 2), keys=Symmetric(8), values=Symmetric(8), batch=2)
        >>> cache.append([np.ones((2, 1, 3, 2))] * 2, counts=[3, 1]).lengths
        (3, 1)
        """
        arrays, new = self.schema.check(rows, self.batch)
        many = (new,) * self.batch if counts is None else read_counts(counts, self.batch, new)
        real = np.arange(new) < np.array(many)[:, None]  # [B, T]
        kept = [finite(field.name, x.swapaxes(1, 2)[real]) for field, x in zip(self.schema.fields, arrays, strict=True)]
        read_places(positions, self.ends, many, new, self.schema.placed)
        codes: list[Array] = []
        for side, flat in zip(self._sides(), kept, strict=True):
            codes += side.codec.encode(flat.swapaxes(0, 1))  # [Hkv, real tokens, width]
        return replace(self, memory=self.memory.append(self._spread(codes, real), positions, many))

    def truncate(self, length: int | Sequence[int]) -> "Coded":
        """Forget everything from slot ``length`` on, exactly; as `Paged.truncate`.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Symmetric
        >>> cache = Coded.start(key_value(1, 2), keys=Symmetric(8), values=Symmetric(8))
        >>> cache.append([np.ones((1, 1, 3, 2))] * 2).truncate(2).length
        2
        """
        return replace(self, memory=self.memory.truncate(length))

    def branch(self) -> "Coded":
        """A second name for this value.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Symmetric
        >>> cache = Coded.start(key_value(1, 2), keys=Symmetric(8), values=Symmetric(8))
        >>> cache.branch() is cache
        True
        """
        return self

    def select(self, indices: Sequence[int] | Positions) -> "Coded":
        """Reorder, repeat or drop sequences; pages are shared.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Symmetric
        >>> Coded.start(key_value(1, 2), keys=Symmetric(8), values=Symmetric(8)).select([0, 0]).batch
        2
        """
        return replace(self, memory=self.memory.select(indices))

    def rows(self, sequence: int = 0) -> KeyValue:
        """Keys and values of a sequence as their codes say, ``[1, Hkv, length, width]``, read-only.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Symmetric
        >>> cache = Coded.start(key_value(1, 2), keys=Symmetric(8), values=Symmetric(4))
        >>> cache.append([np.array([[[[127.0, 0.6]]]])] * 2).rows().k
        array([[[[127.,   1.]]]])
        """
        stored = list(self.memory.rows(sequence=sequence))
        found = []
        for side in self._sides():
            codes, stored = stored[: len(side.parts)], stored[len(side.parts) :]
            found.append(side.codec.decode(tuple(codes), np.dtype(side.field.dtype)))
            found[-1].flags.writeable = False
        return KeyValue(*found)

    def blocks(self, sequence: int) -> tuple[KeyBlock, ...]:
        """The blocks of one sequence, decoded, for the streaming softmax; they say how many bytes were stored.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Symmetric
        >>> cache = Coded.start(key_value(1, 2), keys=Symmetric(8), values=Symmetric(8))
        >>> [(block.key_count, block.stored) for block in cache.append([np.ones((1, 1, 300, 2))] * 2).blocks(0)]
        [(256, 3072), (44, 528)]
        """
        k, v = self.rows(sequence)
        found = blocks_of(k[0], v[0], self.memory.positions(sequence))
        return tuple(block._replace(stored=block.key_count * self.token_bytes) for block in found)

    def append_cost(self, *, past: int, new: int) -> Tally:
        """What appending ``new`` tokens to each sequence behind ``past`` counts, on pages that nobody shares.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Symmetric
        >>> cache = Coded.start(key_value(1, 2), keys=Symmetric(8), values=Symmetric(8), page=1)
        >>> cache.append_cost(past=0, new=1)
        Tally(arithmetic=26, kv_written=12, cache_live=12, cache_peak=12)
        """
        written = self.memory.schema.append_cost(past=past, new=new, batch=self.batch, page=self.memory.page)
        encoded = (
            side.codec.encode_cost((side.field.heads, self.batch * new, side.field.width)) for side in self._sides()
        )
        return sum(encoded, Tally()) + written

    def blocks_cost(self) -> Tally:
        """What one look at the blocks of every sequence counts: everything held is decoded.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Symmetric
        >>> cache = Coded.start(key_value(1, 2), keys=Symmetric(8), values=Symmetric(8))
        >>> cache.append([np.ones((1, 1, 3, 2))] * 2).blocks_cost()
        Tally(arithmetic=12)
        """
        decoded = (
            side.codec.decode_cost((side.field.heads, n, side.field.width))
            for side in self._sides()
            for n in self.lengths
        )
        return sum(decoded, Tally())

    def flatten_into(self, writer: Writer) -> Header:
        """What `kvattn.caches.flattened` has of this value: codes and scales, and the codecs as they name themselves.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Q8_0
        >>> Coded.start(key_value(1, 32), keys=Q8_0(), values=Q8_0()).flatten_into(Writer("cache", {}))["keys"]
        'Q8_0()'
        """
        codecs = {"keys": repr(self.keys), "values": repr(self.values)}
        return {"rows": described(self.schema), **codecs, "memory": writer.inner(self.memory)}

    def rebuild_from(self, reader: Reader) -> "Coded":
        """Another cache of these codecs and this schema, as `kvattn.caches.flattened` has it.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Q8_0
        >>> empty, writer = Coded.start(key_value(1, 32), keys=Q8_0(), values=Q8_0()), Writer("cache", {})
        >>> empty.rebuild_from(Reader("cache", empty.flatten_into(writer), writer.arrays))
        Coded(keys=Q8_0(), values=Q8_0(), lengths=(0,))
        """
        reader.agree(rows=described(self.schema), keys=repr(self.keys), values=repr(self.values))
        return replace(self, memory=reader.inner(reader.header["memory"], self.memory))

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held, each once; codes and scales.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Symmetric
        >>> Coded.start(key_value(1, 2), keys=Symmetric(8), values=Symmetric(8)).footprint()
        {}
        """
        return self.memory.footprint()

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this value, codes and scales, shared pages once.

        >>> from kvattn.caches.rows import key_value
        >>> from kvattn.codecs import Symmetric
        >>> Coded.start(key_value(1, 2), keys=Symmetric(8), values=Symmetric(8)).nbytes
        0
        """
        return self.memory.nbytes

    def _sides(self) -> tuple[_Side, ...]:
        return _sides(self.schema, self.keys, self.values)

    def _spread(self, codes: Sequence[Array], real: Any) -> list[Array]:
        """Codes ``[heads, real tokens, width]`` at their places, ``[B, heads, T, width]``; zeros in padding."""
        spread = []
        for field, flat in zip(self.memory.schema.fields, codes, strict=True):
            room = np.zeros((*real.shape, field.heads, field.width), field.dtype)
            room[real] = flat.swapaxes(0, 1)
            spread.append(cast(Array, room.swapaxes(1, 2)))
        return spread


def read_schema(schema: Any) -> None:
    """Refuse a schema of anything but keys and values in a dtype that codecs take.

    >>> from kvattn.caches.rows import latent
    >>> read_schema(latent(4))
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: schema must be of keys and values, as key_value makes it, got Latent
    """
    if getattr(schema, "row", None) is not KeyValue:
        came = schema.name if isinstance(schema, Schema) else shown(schema)
        raise ArgumentError(f"schema must be of keys and values, as key_value makes it, got {came}")
    for field in schema.fields:
        compute_dtype(field.dtype)


def finite(name: str, rows: Array) -> Array:
    """Rows that a codec may take.

    >>> finite("k", np.array([1.0, np.nan]))
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: k must be finite, got nan
    """
    if not np.isfinite(rows).all():
        raise ArgumentError(f"{name} must be finite, got {rows[~np.isfinite(rows)][0]}")
    return rows


@cache
def row_class(*names: str) -> Any:
    """A NamedTuple class of codes with these entries, the same for the same names.

    >>> row_class("k_codes", "v_codes")._fields
    ('k_codes', 'v_codes')
    """
    return NamedTuple("Codes", [(name, Any) for name in names])


def _sides(schema: Schema[KeyValue], keys: Codec[Any], values: Codec[Any]) -> tuple[_Side, ...]:
    return tuple(
        _Side(codec, field, codec.parts((field.heads, 1, field.width)))
        for codec, field in zip((keys, values), schema.fields, strict=True)
    )
