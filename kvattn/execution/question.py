"""Question: what attention is asked for, apart from how it is computed.

    answer  =  softmax(sinks(mask(mods(softcap(scale · q kᵀ))))) v

Every form of this group takes a question and gives `Question.attend`'s answer within a few roundings, or to the
bit where its page says so.  A part of a question, some of its queries and some of its keys, is a question too:
positions go along, so that masks and mods answer as in the whole.

Shapes: ``q [B, Hq, T, D]``, ``k [B, Hkv, S, D]``, ``v [B, Hkv, S, Dv]``, positions ``[B, T]`` and ``[B, S]``.
Cached per token: nothing; a key and a value are there or are not.
Source: Vaswani et al. 2017 (arXiv 1706.03762) §3.2.1; the order of the pipeline is `kvattn.core.pipeline`.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from kvattn.arrays import floating, positions
from kvattn.axes import sizes
from kvattn.caches.blocks import blocks_of
from kvattn.core import streaming
from kvattn.core.pipeline import arguments_of, settle
from kvattn.errors import ArgumentError, ShapeError
from kvattn.one_liners import check_heads
from kvattn.typing import Array, Attended, Indices, Mask, Mod, Visible


@dataclass(frozen=True, eq=False, repr=False)
class Question:
    """Arrays, positions and pipeline of one call.

    Parameters
    ----------
    q, k, v
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``; T and S may be 0.
    mask, mods, scale, softcap, sinks
        As fields of a layer: masks and mods are values of `kvattn.masks` and `kvattn.mods`.
    q_positions, k_positions
        ``[T]`` or ``[B, T]`` and ``[S]`` or ``[B, S]``; the keys are at ``0 .. S-1`` and the queries are the
        last T of them unless given.
    dtype
        To compute in, float64 or float32.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError, PositionError
        One sentence that names the argument.

    Examples
    --------
    >>> x = np.ones((1, 2, 3, 4))
    >>> Question(x, x, x)
    Question(B=1, Hq=2, Hkv=2, T=3, S=3, D=4, Dv=4)
    """

    q: Array
    k: Array
    v: Array
    mask: Mask | None = None
    mods: tuple[Mod, ...] = ()
    scale: float | None = None
    softcap: float | None = None
    sinks: Array | None = None
    q_positions: Any = None  # [B, T] once read, and k_positions [B, S]
    k_positions: Any = None
    dtype: DTypeLike = np.float64

    def __post_init__(self) -> None:
        found = {name: floating(name, getattr(self, name), self.dtype) for name in ("q", "k", "v")}
        bound = sizes(("q", found["q"], "B Hq T D"), ("k", found["k"], "B Hkv S D"), ("v", found["v"], "B Hkv S Dv"))
        check_heads(bound["Hq"], bound["Hkv"])
        for letter in ("B", "D", "Dv"):
            if not bound[letter]:
                raise ShapeError(f"{letter} must be at least 1, got shapes {[x.shape for x in found.values()]}")
        keys = np.arange(bound["S"]) if self.k_positions is None else self.k_positions
        asked = np.arange(bound["S"] - bound["T"], bound["S"]) if self.q_positions is None else self.q_positions
        at = {
            "q_positions": positions("q_positions", asked, bound["B"], bound["T"]),
            "k_positions": positions("k_positions", keys, bound["B"], bound["S"]),
        }
        for name, value in (found | at).items():
            object.__setattr__(self, name, value)
        settle(self, bound["Hq"], self.dtype)
        if self.sinks is not None and (np.isnan(self.sinks).any() or np.isposinf(self.sinks).any()):
            raise ArgumentError(f"sinks must be finite numbers or -inf, got {self.sinks.tolist()}")

    @property
    def sizes(self) -> dict[str, int]:
        """What each letter stands for.

        >>> Question(np.ones((1, 4, 1, 8)), np.ones((1, 2, 5, 8)), np.ones((1, 2, 5, 3))).sizes["Dv"]
        3
        """
        return sizes(("q", self.q, "B Hq T D"), ("k", self.k, "B Hkv S D"), ("v", self.v, "B Hkv S Dv"))

    @property
    def row_bytes(self) -> int:
        """Bytes of one token's keys and values, over all heads.

        >>> Question(np.ones((1, 4, 1, 8)), np.ones((1, 2, 5, 8)), np.ones((1, 2, 5, 3))).row_bytes
        176
        """
        _, heads, _, width = self.k.shape
        return int(heads * (width + self.v.shape[3]) * self.k.itemsize)

    def attend(self) -> Attended:
        """The answer: one streaming softmax over all keys.

        >>> x = np.ones((1, 1, 2, 1))
        >>> Question(x, x, x).attend().out.ravel()
        array([1., 1.])
        """
        held = [blocks_of(k, v, at) for k, v, at in zip(self.k, self.v, self.k_positions, strict=True)]
        return streaming.attend(self.q, self.q_positions, held, value_width=self.v.shape[3], **arguments_of(self))

    def part(self, queries: slice | Indices = slice(None), keys: slice | Indices = slice(None)) -> "Question":
        """The same question about some queries and some keys, by row number; the sinks stay.

        >>> x = np.ones((1, 1, 3, 1))
        >>> Question(x, x, x).part(slice(2, 3), np.array([2, 0])).k_positions
        array([[2, 0]])
        """
        return replace(
            self,
            q=self.q[:, :, queries],
            k=self.k[:, :, keys],
            v=self.v[:, :, keys],
            q_positions=self.q_positions[:, queries],
            k_positions=self.k_positions[:, keys],
        )

    def without_sinks(self) -> "Question":
        """The same question about keys alone.

        >>> x = np.ones((1, 1, 1, 1))
        >>> Question(x, x, x, sinks=np.zeros(1)).without_sinks().sinks is None
        True
        """
        return replace(self, sinks=None)

    def of_sinks(self) -> Attended:
        """The part of the answer that comes from the sinks: no value, and their logits as the lse.

        >>> x = np.ones((1, 1, 2, 1))
        >>> Question(x, x, x, sinks=np.array([3.0])).of_sinks().lse
        array([[[3., 3.]]])
        """
        batch, heads, length, _ = self.q.shape
        logits = np.full(heads, -np.inf, self.q.dtype) if self.sinks is None else self.sinks
        lse = np.broadcast_to(logits[:, None], (batch, heads, length)).copy()
        return Attended(np.zeros((batch, heads, length, self.v.shape[3]), self.q.dtype), lse)

    def visible(self) -> Visible:
        """Who may see whom, ``[B, Hq, T, S]``.

        >>> x = np.ones((1, 1, 2, 1))
        >>> int(Question(x, x, x).visible().sum())
        4
        """
        batch, heads, length, _ = self.q.shape
        seen = np.ones((batch, heads, length, self.k.shape[2]), np.bool_)
        every: Any = np.arange(heads)[:, None, None]
        if self.mask is not None:
            for b in range(batch):
                seen[b] = self.mask(b, every, self.q_positions[b][:, None], self.k_positions[b])
        return seen

    def __repr__(self) -> str:
        return f"Question({', '.join(f'{x}={self.sizes[x]}' for x in ('B', 'Hq', 'Hkv', 'T', 'S', 'D', 'Dv'))})"
