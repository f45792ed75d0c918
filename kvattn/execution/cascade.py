"""Cascade: a prefix that several sequences share is attended to once, for all of them together.

    out_b = merge over the segments of b of attention(q_b, segment)

A segment is a run of keys and the sequences that have it; a sequence's keys are its segments put together, so that
shared system prompts, shared few-shot examples behind them, and each sequence's own tokens are three levels.  The
queries of all members of a segment meet its keys in one product, and the log-sum-exps merge what they find::

    keys read:  Σ_segments S · Hkv (D + Dv)        against        Σ_segments members · S · Hkv (D + Dv)    flat

Shapes: ``q [B, Hq, T, D]``; a segment's ``k [Hkv, S, D]``, ``v [Hkv, S, Dv]`` at positions ``start … start + S - 1``.
Cached per token: a shared token once.  Cost: attention's pairs, a merge of a sequence's segments and its sink.
Source: Juravsky et al. 2024, Hydragen (arXiv 2402.05099) §3.1, §3.3 for several levels; Ye et al. 2024,
ChunkAttention (2402.15220) §3.2; Ye et al. 2025, FlashInfer (2501.01005) §3.1.2.

Where libraries differ: prefix kernels that ignore positions need a mask that shows the whole prefix; here mask and
mods see sequence and position as ever.  A sink belongs to neither part: it is merged once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer, integers
from kvattn.arrays import floating, positions
from kvattn.axes import sizes
from kvattn.core.merge import merge
from kvattn.errors import ArgumentError, ShapeError
from kvattn.execution._numbered import Numbers, numbered
from kvattn.execution.question import Question
from kvattn.typing import Array, Attended, Mask, Mod, Positions


@dataclass(frozen=True, eq=False, repr=False)
class Segment:
    """Keys and values in a row, and the sequences that have them.

    Parameters
    ----------
    k, v
        ``[Hkv, S, D]`` and ``[Hkv, S, Dv]``.
    members
        Numbers of the sequences, each once.
    start
        Position of the first key.

    Raises
    ------
    ArgumentError, ShapeError
        No member or one twice, a start below 0, arrays that do not fit.

    Examples
    --------
    >>> Segment(np.ones((1, 5, 2)), np.ones((1, 5, 2)), members=[0, 2])
    Segment(S=5, members=(0, 2), start=0)
    """

    k: Array
    v: Array
    members: Sequence[int]
    start: int = 0

    def __post_init__(self) -> None:
        k, v = (floating(name, getattr(self, name), _dtype(self.k)) for name in ("k", "v"))
        sizes(("k", k, "Hkv S D"), ("v", v, "Hkv S Dv"))
        members = integers("members", self.members, 0)
        if len(set(members)) < len(members):
            raise ArgumentError(f"members must name each sequence once, got {list(members)}")
        start = integer("start", self.start, 0)
        for name, value in (("k", k), ("v", v), ("members", members), ("start", start)):
            object.__setattr__(self, name, value)

    @property
    def nbytes(self) -> int:
        """Bytes of its keys and values.

        >>> Segment(np.ones((1, 5, 2)), np.ones((1, 5, 2)), members=[0]).nbytes
        160
        """
        return int(self.k.nbytes + self.v.nbytes)

    def __repr__(self) -> str:
        return f"Segment(S={self.k.shape[1]}, members={self.members}, start={self.start})"


def cascade_attend(
    q: Array,
    segments: Sequence[Segment],
    *,
    q_positions: Positions,
    mask: Mask | None = None,
    mods: Sequence[Mod] = (),
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
) -> Attended:
    """Attend for all sequences, each segment read once.

    Parameters
    ----------
    q
        ``[B, Hq, T, D]``, of the segments' dtype.
    segments
        All segments, in any order; no position may be in two segments of one sequence.
    q_positions
        ``[T]`` or ``[B, T]``.
    mask, mods, scale, softcap, sinks
        As in `kvattn.execution.question.Question`; a mask or mod that depends on the sequence is asked for each.

    Returns
    -------
    Attended
        ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        No segment, a member that is no sequence, positions twice, arrays that do not fit.

    Examples
    --------
    >>> x = np.arange(4.0).reshape(1, 4, 1)
    >>> prefix, left, right = Segment(x, x, [0, 1]), Segment(x, x, [0], 4), Segment(x + 9, x + 9, [1], 4)
    >>> cascade_attend(np.zeros((2, 1, 1, 1)), [prefix, left, right], q_positions=[7]).out.ravel()
    array([1.5, 6. ])
    """
    if not segments:
        raise ArgumentError("segments must hold at least one, got none")
    q = floating("q", q, _dtype(segments[0].k))
    if q.ndim != 4:
        raise ShapeError(f"q must have shape [B, Hq, T, D], got {q.shape}")
    batch, heads, length, _ = q.shape
    at = positions("q_positions", q_positions, batch, length)
    taken: set[tuple[int, int]] = set()
    for number, segment in enumerate(segments):
        here = {(b, segment.start + n) for b in segment.members for n in range(segment.k.shape[1])}
        if max(segment.members) >= batch:
            raise ArgumentError(f"members of segment {number} must be below {batch}, got {list(segment.members)}")
        if taken & here:
            b, place = min(taken & here)
            raise ArgumentError(f"segments must not overlap, got position {place} of sequence {b} twice")
        taken |= here
    whole = Question(
        q[:, :, :0], *_no_keys(segments[0], batch), mask, tuple(mods), scale, softcap, sinks, dtype=q.dtype
    )
    parts: list[list[Attended]] = [[] for _ in range(batch)]
    for segment in segments:
        members = np.array(segment.members)
        rows = q[members].swapaxes(0, 1).reshape(1, heads, -1, q.shape[3])  # all members' queries in one time axis
        numbers = Numbers(at[members].ravel(), sequences=members.repeat(length))
        asked, bent = numbered(whole.mask, whole.mods, numbers)
        found = Question(
            rows,
            segment.k[None],
            segment.v[None],
            asked,
            bent,
            whole.scale,
            whole.softcap,
            q_positions=np.arange(rows.shape[2]),
            k_positions=segment.start + np.arange(segment.k.shape[1]),
            dtype=q.dtype,
        ).attend()
        for place, b in enumerate(segment.members):
            own = slice(place * length, (place + 1) * length)
            parts[b].append(Attended(found.out[0, :, own], found.lse[0, :, own]))
    empty = Question(q, *_no_keys(segments[0], batch), sinks=whole.sinks, dtype=q.dtype).of_sinks()
    merged = [merge(*some, Attended(out, lse)) for some, out, lse in zip(parts, empty.out, empty.lse, strict=True)]
    return Attended(np.stack([part.out for part in merged]), np.stack([part.lse for part in merged]))


def bytes_read(segments: Sequence[Segment]) -> tuple[int, int]:
    """Bytes of keys and values that a cascade reads, and that each sequence for itself would read.

    Both hold where some query may see some key of every block of 256, as in decoding behind the segments.

    >>> x = np.zeros((1, 100, 4))
    >>> bytes_read([Segment(x, x, range(8)), Segment(x[:, :1], x[:, :1], [0], 100)])
    (6464, 51264)
    """
    return sum(s.nbytes for s in segments), sum(s.nbytes * len(s.members) for s in segments)


def _no_keys(segment: Segment, batch: int) -> tuple[Array, Array]:
    k, v = (np.zeros((batch, len(x), 0, x.shape[2]), x.dtype) for x in (segment.k, segment.v))
    return k, v


def _dtype(k: object) -> type[np.float32] | type[np.float64]:
    return np.float32 if getattr(k, "dtype", None) == np.float32 else np.float64
