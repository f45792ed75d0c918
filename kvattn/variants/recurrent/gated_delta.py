"""Gated DeltaNet: a state that fades, is corrected towards each new value, and never grows.

    q, k, v = SiLU(conv([x W_q, x W_k, x W_v])),    q and k divided by their length in each head
    g = -e^{A} softplus(x W_a + b_a),    β = sigmoid(x W_b)
    S_t = e^{g_t} (I - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ,    o_t = scale · S_tᵀ q_t
    y = concat_h(RMSNorm(o_h) · SiLU(x W_g)_h) W_o

The state fades first; what it then answers to the key is what the new value corrects.

Shapes: ``x [B, T, M]``, ``q, k [B, Hk, T, Dk]``, ``v [B, Hv, T, Dv]``, ``S [B, Hv, Dk, Dv]``; value head h reads query
and key head ``h // (Hv / Hk)``.
Cached, however many tokens: S and the last c - 1 inputs of the convolution, ``Hv Dk Dv + (c - 1)(2 Hk Dk + Hv Dv)``
numbers, once more for every earlier state that ``rollback`` asks to keep.
Cost of a token: projections ``2 M (2 Hk Dk + 3 Hv Dv + 2 Hv)``, state ``4 Hv Dk Dv`` in products and ``3 Hv Dk Dv``
elementwise.  A step reads the state once and writes every state that it keeps, however many tokens it takes in.

Exact: cached equals recomputed, to the bit.  `GatedDelta.chunked` agrees within a bound.

Source: Yang, Kautz & Hatamizadeh 2024 (2412.06464) §3; β up to 2: Grazzi et al. 2024 (2411.12537).
Where libraries differ: OLMo-Hybrid doubles β (``negative_eigenvalues``); transformers keeps c rows for the convolution
where c - 1 suffice; FLA and transformers add ε = 1e-6 under the root of the key's length, as here; the gate of
the output is a SiLU here and in Qwen3-Next, a sigmoid in some later models.
"""

from dataclasses import dataclass, field
import math
from typing import Any, NamedTuple

import numpy as np

from kvattn import ops
from kvattn.arguments import integer, real
from kvattn.arrays import positions as read_positions
from kvattn.axes import sizes
from kvattn.caches.snapshots import Snapshots
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.typing import Array, Attended, Positions
from kvattn.variants.dense.projections import check_hidden, join, split
from kvattn.variants.recurrent.gated_delta_rule import chunked, l2_norm, recurrent, recurrent_cost
from kvattn.variants.recurrent.short_convolution import convolve, convolve_cost


class Memory(NamedTuple):
    """What one sequence remembers.

    Attributes
    ----------
    state
        ``[B, Hv, Dk, Dv]``.
    rows
        ``[B, c - 1, 2 Hk Dk + Hv Dv]``: the last inputs of the convolution, queries, keys and values side by side.
    """

    state: Array
    rows: Array


class _Features(NamedTuple):
    """What the recurrence takes, and the convolution's rows, carried ones first."""

    q: Array
    k: Array
    v: Array
    log_decay: Array
    beta: Array
    rows: Array


def weight_shapes(
    *, hidden: int, key_heads: int = 1, heads: int = 1, width: int = 1, value_width: int = 1, taps: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Shapes of a layer's weights, by name, from M, Hk, Hv, Dk, Dv and c; c is None without a convolution.

    >>> weight_shapes(hidden=8, heads=2, width=3, value_width=4)["value"]
    (8, 8)
    """
    keys, values = key_heads * width, heads * value_width
    shapes: dict[str, tuple[int, ...]] = {
        "query": (hidden, keys),
        "key": (hidden, keys),
        "value": (hidden, values),
        "decay": (hidden, heads),
        "log_rate": (heads,),
        "decay_bias": (heads,),
        "beta": (hidden, heads),
        "gate": (hidden, values),
        "norm": (value_width,),
        "output": (values, hidden),
    }
    return shapes if taps is None else {**shapes, "convolution": (2 * keys + values, taps)}


_MATRICES = ("query", "key", "value", "decay", "beta", "gate", "output")
_VECTORS = ("log_rate", "decay_bias", "norm")


@dataclass(frozen=True, eq=False, kw_only=True)
class GatedDelta:
    """A Gated DeltaNet layer; its weights are kept as read-only copies.

    Parameters
    ----------
    query, key, value
        ``[M, Hk·Dk]``, ``[M, Hk·Dk]``, ``[M, Hv·Dv]``.
    decay, log_rate, decay_bias
        ``[M, Hv]``, ``[Hv]``, ``[Hv]``: W_a, A and b_a of the log decay.
    beta
        ``[M, Hv]``.
    gate, norm, output
        ``[M, Hv·Dv]``, ``[Dv]``, ``[Hv·Dv, M]``: the output's gate, the weight of its norm, and its projection.
    key_heads
        Hk, a divisor of Hv.
    convolution
        ``[2 Hk Dk + Hv Dv, c]``: taps for the channels of queries, keys and values, in this order, the last one for the
        token itself; None leaves the convolution out, not the SiLU.
    scale
        ``1 / sqrt(Dk)`` unless given.
    negative_eigenvalues
        Double β, so that a token can turn the sign of what its key holds.
    norm_epsilon, length_epsilon
        Added under the root of the output's norm, and of the length of q and k.
    rollback
        How many tokens back `Snapshots.truncate` may go.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        When weights or numbers do not fit.

    Examples
    --------
    >>> ones = {name: np.ones(shape) for name, shape in weight_shapes(hidden=1).items()}
    >>> layer = GatedDelta(**ones, key_heads=1, rollback=1)
    >>> x = np.array([[[1.0], [3.0]]])
    >>> attended, cache = layer.step(layer.start(), x)
    >>> bool(np.allclose(attended.out, layer.definition(x, np.arange(2)).out)), cache.truncate(1).length
    (True, 1)
    """

    query: Array = field(repr=False)
    key: Array = field(repr=False)
    value: Array = field(repr=False)
    decay: Array = field(repr=False)
    log_rate: Array = field(repr=False)
    decay_bias: Array = field(repr=False)
    beta: Array = field(repr=False)
    gate: Array = field(repr=False)
    norm: Array = field(repr=False)
    output: Array = field(repr=False)
    key_heads: int
    convolution: Array | None = field(default=None, repr=False)
    scale: float | None = None
    negative_eigenvalues: bool = False
    norm_epsilon: float = 1e-6
    length_epsilon: float = 1e-6
    rollback: int = 0

    def __post_init__(self) -> None:
        given = (*_MATRICES, *_VECTORS, *(() if self.convolution is None else ("convolution",)))
        for name in given:
            held = np.array(getattr(self, name), order="C")
            if held.dtype not in (np.dtype(np.float64), np.dtype(np.float32)) or held.dtype != self.query.dtype:
                raise DtypeError(f"{name} must be float64 or float32 like query, got {held.dtype}")
            held.flags.writeable = False
            object.__setattr__(self, name, held)
        object.__setattr__(self, "key_heads", integer("key_heads", self.key_heads, 1))
        object.__setattr__(self, "rollback", integer("rollback", self.rollback, 0))
        self._check_shapes()
        if self.scale is not None:
            object.__setattr__(self, "scale", real("scale", self.scale))
        if not isinstance(self.negative_eigenvalues, (bool, np.bool_)):
            raise ArgumentError(f"negative_eigenvalues must be True or False, got {self.negative_eigenvalues!r}")
        for name in ("norm_epsilon", "length_epsilon"):
            object.__setattr__(self, name, real(name, getattr(self, name), least=0.0))

    def _check_shapes(self) -> None:
        sizes(("query", self.query, "M keys"), ("log_rate", self.log_rate, "Hv"), ("norm", self.norm, "Dv"))
        hidden, keys = self.query.shape
        heads, value_width = self.log_rate.size, self.norm.size
        if not keys or keys % self.key_heads:
            raise ShapeError(f"query must have shape [M, Hk·Dk] with Hk={self.key_heads}, got {self.query.shape}")
        if not heads or heads % self.key_heads:
            raise ShapeError(f"log_rate must have shape [Hv], Hv a multiple of Hk={self.key_heads}, got ({heads},)")
        taps = None
        if self.convolution is not None:
            taps = sizes(("convolution", self.convolution, "C c"))["c"]
        wanted = weight_shapes(
            hidden=hidden,
            key_heads=self.key_heads,
            heads=heads,
            width=keys // self.key_heads,
            value_width=value_width,
            taps=taps,
        )
        for name, shape in wanted.items():
            held = getattr(self, name)
            if held.shape != shape or not held.size:
                raise ShapeError(f"{name} must have shape {shape}, nowhere 0, got {held.shape}")

    def definition(self, x: Array, positions: Positions) -> Attended:
        """The paper's equation on the whole sequence: every output as a sum over all values before it.

        With ``A_i = e^{g_i} (I - β_i k_i k_iᵀ)``, ``o_t = scale · Σ_{j<=t} (q_tᵀ A_t A_{t-1} … A_{j+1} k_j) β_j v_j``.

        Parameters
        ----------
        x
            ``[B, T, M]``.
        positions
            ``[T]`` or ``[B, T]``, each one more than the one before; where they begin does not matter.

        Raises
        ------
        PositionError
            Positions with a gap, or out of order.

        Examples
        --------
        >>> ones = {name: np.ones(shape) for name, shape in weight_shapes(hidden=1).items()}
        >>> layer = GatedDelta(**ones, key_heads=1)
        >>> layer.definition(np.zeros((1, 1, 1)), np.arange(1)).out
        array([[[0.]]])
        """
        x = check_hidden("x", x, None, *self._hidden)
        batch, length, _ = x.shape
        at = read_positions("positions", positions, batch, length)
        if (np.diff(at, axis=1) != 1).any():
            raise PositionError("positions must each be one more than the one before, got a gap or another order")
        width, heads = self.query.shape[1] // self.key_heads, self.log_rate.size

        def sigmoid(z: Array) -> Array:
            value: Array = np.exp(-np.logaddexp(0, -z))
            return value

        def directions(rows: Array) -> Array:  # [B, T, Hv, Dk]
            split = rows.reshape(batch, length, self.key_heads, width)
            unit: Array = split / np.sqrt((split**2).sum(-1, keepdims=True) + self.length_epsilon)
            return unit[:, :, np.arange(heads) // (heads // self.key_heads)]

        mixed = np.concatenate([np.einsum("btm,mc->btc", x, w) for w in (self.query, self.key, self.value)], axis=-1)
        if self.convolution is not None:
            raw, mixed = mixed, np.zeros_like(mixed)
            for back in range(min(self.convolution.shape[1], length)):  # the last tap is the token's own
                mixed[:, back:] += self.convolution[:, -1 - back] * raw[:, : length - back]
        mixed = mixed * sigmoid(mixed)
        edge = self.key_heads * width
        q, k = directions(mixed[..., :edge]), directions(mixed[..., edge : 2 * edge])
        v = mixed[..., 2 * edge :].reshape(batch, length, heads, self.norm.size)
        g = -np.exp(self.log_rate) * np.logaddexp(0, np.einsum("btm,mh->bth", x, self.decay) + self.decay_bias)
        beta = (1.0 + self.negative_eigenvalues) * sigmoid(np.einsum("btm,mh->bth", x, self.beta))
        erased = np.einsum("bth,bthd,bthe->bthde", beta, k, k)
        transition = np.exp(g)[..., None, None] * (np.eye(width, dtype=x.dtype) - erased)
        o = np.zeros_like(v)
        reader = q * (1.0 / math.sqrt(width) if self.scale is None else self.scale)
        for lag in range(length):  # reader: q_tᵀ A_t … A_{j+1} for all t >= lag, j = t - lag
            j = slice(0, length - lag)
            answer = np.einsum("bthd,bthd->bth", reader, k[:, j]) * beta[:, j]
            o[:, lag:] += answer[..., None] * v[:, j]
            reader = np.einsum("bthd,bthde->bthe", reader, transition[:, j])[:, 1:]
        normed = o / np.sqrt(np.mean(o**2, axis=-1, keepdims=True) + self.norm_epsilon) * self.norm
        gate = np.einsum("btm,mc->btc", x, self.gate)
        gated = normed.reshape(gate.shape) * gate * sigmoid(gate)
        return Attended(np.einsum("btc,cm->btm", gated, self.output), self._no_softmax(batch, length))

    def start(self, batch: int = 1) -> Snapshots[Memory]:
        """The state before any token, all zeros.

        >>> ones = {name: np.ones(shape) for name, shape in weight_shapes(hidden=1).items()}
        >>> layer = GatedDelta(**ones, key_heads=1)
        >>> layer.start(2).lengths
        (0, 0)
        """
        return Snapshots.start(self._blank(integer("batch", batch, 1)), self.rollback)

    def step(self, cache: Snapshots[Memory], x: Array) -> tuple[Attended, Snapshots[Memory]]:
        """Take in any number of new tokens, one after the other.

        Parameters
        ----------
        cache
            What `start` or an earlier step returned; it stays valid.
        x
            ``[B, T, M]``, T >= 0.

        Examples
        --------
        >>> ones = {name: np.ones(shape) for name, shape in weight_shapes(hidden=1).items()}
        >>> layer = GatedDelta(**ones, key_heads=1)
        >>> attended, cache = layer.step(layer.start(), np.ones((1, 3, 1)))
        >>> attended.out.shape, cache.length
        ((1, 3, 1), 3)
        """
        x = check_hidden("x", x, cache.batch, *self._hidden)
        memory = self._check_memory(cache.state)
        charge(Tally(kv_read=memory.state.nbytes + memory.rows.nbytes))
        f = self._features(x, memory.rows)
        o, states = recurrent(*f[:5], memory.state, scale=self.scale, keep=1 + self.rollback)
        length, carried = x.shape[1], memory.rows.shape[1]
        after = range(length - len(states) + 1, length + 1)
        kept = [Memory(state, f.rows[:, t : t + carried]) for t, state in zip(after, states, strict=True)]
        return self._outputs(x, o), cache.append(kept, length)

    def chunked(self, x: Array, *, chunk: int = 64) -> Attended:
        """The whole sequence from an empty state, in chunks: the form that accelerators train with.

        It adds in another order than `step` and agrees with it within a bound.

        Parameters
        ----------
        x
            ``[B, T, M]``.
        chunk
            Tokens per chunk.

        Examples
        --------
        >>> ones = {name: np.ones(shape) for name, shape in weight_shapes(hidden=1).items()}
        >>> layer = GatedDelta(**ones, key_heads=1)
        >>> x = np.array([[[1.0], [3.0], [-2.0]]])
        >>> bool(np.allclose(layer.chunked(x, chunk=2).out, layer.step(layer.start(), x)[0].out))
        True
        """
        x = check_hidden("x", x, None, *self._hidden)
        blank = self._blank(x.shape[0])
        o, _ = chunked(*self._features(x, blank.rows)[:5], blank.state, scale=self.scale, chunk=chunk)
        return self._outputs(x, o)

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form; ``past`` changes nothing, since the state does not grow.

        >>> ones = {name: np.ones(shape) for name, shape in weight_shapes(hidden=1).items()}
        >>> layer = GatedDelta(**ones, key_heads=1)
        >>> cost = layer.cost(past=9, new=2)
        >>> cost.matmul, cost.kv_read, cost.kv_written  # seven projections and two products with a state of one number
        (36, 8, 8)
        """
        integer("past", past, 0)
        rows = integer("batch", batch, 1) * integer("new", new, 0)
        heads, values = self.log_rate.size, self.value.shape[1]
        keys = self.query.shape[1]
        channels, taps = 2 * keys + values, 0 if self.convolution is None else self.convolution.shape[1]
        item = self.query.itemsize
        matrices = (ops.contract_cost(rows, getattr(self, name).shape, item) for name in _MATRICES)
        state = batch * item * (heads * keys // self.key_heads * self.norm.size + max(taps - 1, 0) * channels)
        written = state * min(new, 1 + self.rollback)
        total = sum(matrices, Tally())
        if taps:
            total += convolve_cost(rows, channels, taps) + Tally(weights_read=channels * taps * item)
        total += recurrent_cost(rows * heads, keys // self.key_heads, self.norm.size)
        return total + Tally(
            arithmetic=rows * (3 * channels)  # SiLU
            + rows * 2 * (3 * keys + self.key_heads)  # lengths of q and k
            + rows * heads * (1 + 2 + 1)  # the decay's bias, softplus, rate
            + heads  # the rate's sign
            + rows * heads * (2 + self.negative_eigenvalues)  # beta
            + rows * (4 * values + 2 * heads)  # norm
            + rows * 4 * values,  # gate: SiLU and product
            transcendental=rows * (channels + 2 * self.key_heads + 3 * heads + heads + values) + heads,
            weights_read=item * (2 * heads + self.norm.size),
            kv_read=state,
            kv_written=written,
            cache_live=written,
            cache_peak=written,
        )

    @property
    def _hidden(self) -> tuple[int, "np.dtype[Any]"]:
        return self.query.shape[0], self.query.dtype

    def _check_memory(self, memory: Memory) -> Memory:
        """Refuse the state of another layer."""
        wanted, shapes = ([a.shape for a in m] for m in (self._blank(len(memory.state)), memory))
        dtype, held = self.query.dtype, memory.state.dtype
        words = f"cache must hold states of shapes {wanted} and dtype {dtype}, got {shapes} and {held}"
        if shapes != wanted:
            raise ShapeError(words)
        if held != dtype:
            raise DtypeError(words)
        return memory

    def _blank(self, batch: int) -> Memory:
        heads, width = self.log_rate.size, self.query.shape[1] // self.key_heads
        carried = 0 if self.convolution is None else self.convolution.shape[1] - 1
        channels = 2 * self.query.shape[1] + self.value.shape[1]
        dtype = self.query.dtype
        return Memory(
            np.zeros((batch, heads, width, self.norm.size), dtype), np.zeros((batch, carried, channels), dtype)
        )

    def _features(self, x: Array, carried: Array) -> _Features:
        """Project, convolve, normalise: everything about a token but what the state says."""
        raw = np.concatenate([ops.contract(x, w, weights=True) for w in (self.query, self.key, self.value)], axis=-1)
        mixed, rows = (raw, carried) if self.convolution is None else convolve(carried, raw, self.convolution)
        q, k, v = np.split(ops.silu(mixed), [self.query.shape[1], 2 * self.query.shape[1]], axis=-1)
        q, k = (l2_norm(split(part, self.key_heads), self.length_epsilon) for part in (q, k))
        fading = ops.contract(x, self.decay, weights=True) + self.decay_bias
        log_decay = ops.softplus(fading) * -ops.exp(self.log_rate)
        beta = ops.sigmoid(ops.contract(x, self.beta, weights=True))
        if self.negative_eigenvalues:
            beta = 2.0 * beta
        charge(
            Tally(
                arithmetic=2 * fading.size + self.log_rate.size + self.negative_eigenvalues * beta.size,
                weights_read=self.log_rate.nbytes + self.decay_bias.nbytes,
            )
        )
        v = split(v, self.log_rate.size)
        return _Features(q, k, v, log_decay.swapaxes(1, 2), beta.swapaxes(1, 2), rows)

    def _outputs(self, x: Array, o: Array) -> Attended:
        """Norm in each head, gate, projection."""
        normed = ops.rms_norm(o, self.norm, self.norm_epsilon)
        gate = ops.silu(ops.contract(x, self.gate, weights=True))
        charge(Tally(arithmetic=gate.size, weights_read=self.norm.nbytes))
        out = ops.contract(join(normed) * gate, self.output, weights=True)
        return Attended(out, self._no_softmax(*x.shape[:2]))

    def _no_softmax(self, batch: int, length: int) -> Array:
        return np.full((batch, self.log_rate.size, length), np.nan, self.query.dtype)
