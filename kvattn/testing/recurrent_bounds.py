"""How far forms of the gated delta rule may stand apart: worst-case bounds from the data and the arithmetic.

With ``|k| <= 1``, ``0 <= β <= 2`` and ``a = e^g <= 1``, a transition ``a (I - β k kᵀ)`` has the norm a, so **an
error in the state never grows**: what enters at token j is at most multiplied by ``a_{j+1} … a_t``.  Errors of
all tokens add; without decay they add over all of them, and the state itself may grow with their number: the
bound grows with T² at most (chunked: once more with C), and stops growing where states fade.

Letters, per value column: σ is the length of the state's column, σ' = a σ before the correction, u the correction
``β (v - S'ᵀk)``; ε is the roundoff, half an ulp of 1; an exponential errs by at most 4 ulp, 8 ε.  To first order
(Higham, *Accuracy and Stability*, 2nd ed., §3.1: n products added in any order err by ``n ε Σ|·|``):

- **recurrent**: ``E_t = a_t E_{t-1} + ε (9 + β (Dk + 9)) σ' + 3 ε |u| + ε σ_t``, and ``o`` errs by
  ``scale |q| (E_t + (Dk + 2) ε σ_t)``.  The terms: exponential and product for S'; the dot product with k, and S'
  in it, times β; the difference, the product with β and the one with k; the sum.
- **unrolled** (the definition): a transition matrix errs by ``ε a (10 + 13 β)`` in norm, a product with it by
  ``ε a Dk (1 + β)``; with τ_t = ``a_t τ_{t-1} + β_t |v_t|``, which unlike σ nothing corrects,
  ``E_t = a_t (E_{t-1} + ε (10 + 13 β + Dk (1 + β)) τ_{t-1})``, and ``o`` errs by
  ``scale |q| (E_t + (Dk + 5 + t) ε τ_t)``.
- **chunked**: the pair (i, j) of a chunk of C tokens has the weight ``e^D (k_i·k_j)`` with the relative error
  ``ρ = ε (Dk + C |D| + 11)``.  Row i of the triangular solve errs by
  ``β ε (C + 1) |v| + Σ_{j<i} β e^{D_ij} (ρ + C ε) |ũ_j|`` in Ũ, likewise in W with ``|k| <= 1`` for ``|v|``, and
  ``Ũ - W S_0`` by ``Dk ε β e^{D_i0} σ_0 + ε |u|``; here ``|ũ_j| <= |u_j| + β_j e^{D_j0} σ_0``.  An error of u_j enters
  the state at token j, and is carried as above.  Reading out, and carrying the state, err by ``ρ + C ε + 3 ε`` for
  each pair and for the start.

`Trajectory.sensitivity` gives what errors in q, k, v, g and β themselves do, by the same recursion; `layer_bound`
adds what a layer does before and behind the rule, each step by its derivative: a product of n terms errs by
``(n + 1) ε |x| |W|``; SiLU has a slope of at most 1.1, softplus of 1, sigmoid of 1/4; dividing a vector by its
length divides its error by that length, and dividing by the root mean square likewise.
All are raised by a tenth for what is not of first order, and by 10⁴ of the smallest normal numbers for underflow.
What they cannot see: on small random layers, 10⁻¹² of the output in float64, 10⁻³ in float32.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvattn.typing import Array
from kvattn.variants.recurrent.gated_delta import GatedDelta

Floats = NDArray[np.float64]


class Errors(NamedTuple):
    """Absolute errors of what the rule is given.

    Attributes
    ----------
    q, k
        ``[B, Hv, T]``: lengths of the error vectors.
    v
        ``[B, Hv, T, Dv]``.
    log_decay, beta
        ``[B, Hv, T]``.
    """

    q: Floats
    k: Floats
    v: Floats
    log_decay: Floats
    beta: Floats


class Trajectory:
    """One run of the rule in float64, and the sizes that its bounds are made of.

    Parameters
    ----------
    q, k, v, log_decay, beta, state
        As in `kvattn.variants.recurrent.gated_delta_rule.recurrent`, query and key heads repeated.
    scale
        A number.
    dtype
        What the tested forms compute in.

    Examples
    --------
    >>> one = np.ones((1, 1, 2, 1))
    >>> rate, blank = np.ones((1, 1, 2)), np.zeros((1, 1, 1, 1))
    >>> run = Trajectory(one, one, 4 * one, 0 * rate, rate, blank, scale=1.0, dtype="float32")
    >>> run.out.ravel(), bool((run.recurrent() < 1e-5).all())
    (array([4., 4.]), True)
    """

    def __init__(
        self, q: Array, k: Array, v: Array, log_decay: Array, beta: Array, state: Array, *, scale: float, dtype: str
    ) -> None:
        self._q, self._k, self._v, self._g, self._beta, start = (
            np.asarray(x, np.float64) for x in (q, k, v, log_decay, beta, state)
        )
        info = np.finfo(dtype)
        self._unit, self._tiny = float(info.eps) / 2, 1e4 * float(info.smallest_normal)
        self._scale = abs(scale)
        length, self._width = self._k.shape[2:]
        self.out = np.zeros(self._v.shape)
        self._lengths = [np.sqrt((start**2).sum(-2))]  # σ_0, σ_1, …: each [B, Hv, Dv]
        self._changes: list[Floats] = []
        state = start
        for t in range(length):
            key = self._k[:, :, t, :, None]
            state = np.exp(self._g[:, :, t])[..., None, None] * state
            change = self._beta[:, :, t, None] * (self._v[:, :, t] - (key * state).sum(-2))
            state = state + key * change[:, :, None]
            self.out[:, :, t] = scale * (self._q[:, :, t, :, None] * state).sum(-2)
            self._lengths.append(np.sqrt((state**2).sum(-2)))
            self._changes.append(np.abs(change))
        self._size = np.sqrt((self._q**2).sum(-1))[..., None] * self._scale  # scale |q|: [B, Hv, T, 1]

    def recurrent(self) -> Floats:
        """Bound for the token-by-token form, ``[B, Hv, T, Dv]``.

        >>> one = np.ones((1, 1, 1, 1))
        >>> run = Trajectory(one, one, one, one[0], one[0], one, scale=1.0, dtype="float64")
        >>> bool(0 < run.recurrent()[0, 0, 0, 0] < 1e-13)
        True
        """
        unit, width = self._unit, self._width
        error, rows = np.zeros_like(self._lengths[0]), []
        for t, change in enumerate(self._changes):
            a, beta = self._at(t)
            error = a * error + unit * (
                (9 + beta * (width + 9)) * a * self._lengths[t] + 3 * change + self._lengths[t + 1]
            )
            rows.append(error + (width + 2) * unit * self._lengths[t + 1])
        return self._read_out(rows)

    def unrolled(self) -> Floats:
        """Bound for the sum over products of transitions, from an empty state.

        >>> one = np.ones((1, 1, 1, 1))
        >>> run = Trajectory(one, one, one, one[0], one[0], 0 * one, scale=1.0, dtype="float64")
        >>> bool(0 < run.unrolled()[0, 0, 0, 0] < 1e-13)
        True
        """
        unit, width = self._unit, self._width
        error = heap = np.zeros_like(self._lengths[0])
        rows = []
        for t in range(len(self._changes)):
            a, beta = self._at(t)
            error = a * (error + unit * (10 + 13 * beta + width * (1 + beta)) * heap)
            heap = a * heap + beta * np.abs(self._v[:, :, t])
            rows.append(error + (width + 5 + t) * unit * heap)
        return self._read_out(rows)

    def chunked(self, chunk: int) -> Floats:
        """Bound for the chunked form.

        >>> one = np.ones((1, 1, 1, 1))
        >>> run = Trajectory(one, one, one, one[0], one[0], one, scale=1.0, dtype="float64")
        >>> bool(0 < run.chunked(4)[0, 0, 0, 0] < 1e-13)
        True
        """
        rows: list[Floats] = []
        error = np.zeros_like(self._lengths[0])
        for start in range(0, len(self._changes), chunk):
            stop = min(start + chunk, len(self._changes))
            error = self._chunk(start, stop, error, rows)
        return self._read_out(rows)

    def _chunk(self, start: int, stop: int, error: Floats, rows: list[Floats]) -> Floats:
        unit, width, count = self._unit, self._width, stop - start
        size = self._lengths[start]
        since = [self._g[:, :, start : i + 1].sum(-1)[..., None] for i in range(start, stop)]
        betas = [self._beta[:, :, i, None] for i in range(start, stop)]
        changes = self._changes[start:stop]
        alone = [u + b * np.exp(s) * size for u, b, s in zip(changes, betas, since, strict=True)]  # |ũ|
        entering: list[Floats] = []
        final = error
        for i in range(count):
            here = unit * ((count + 1) * betas[i] * np.abs(self._v[:, :, start + i]) + changes[i])
            fading = betas[i] * np.exp(since[i]) * size
            here = here + unit * (2 * count + count * np.abs(since[i]) + 11 + width) * fading
            carried = np.exp(since[i]) * (error + unit * (width + count * np.abs(since[i]) + 14) * size)
            for j in range(i + 1):
                gap = self._g[:, :, start + j + 1 : start + i + 1].sum(-1)[..., None]
                fade, each = np.exp(gap), unit * (width + count * np.abs(gap) + count + 14)
                if j < i:
                    here = here + betas[i] * fade * each * (alone[j] + betas[j] * np.exp(since[j]) * size)
                    carried = carried + fade * entering[j]
                carried = carried + fade * each * changes[j]
            entering.append(here)
            final = carried + here
            rows.append(final)
        return final

    def sensitivity(self, errors: Errors) -> Floats:
        """What errors in the rule's inputs move its output by, ``[B, Hv, T, Dv]``.

        >>> one = np.ones((1, 1, 1, 1))
        >>> run = Trajectory(one, one, one, 0 * one[0], one[0], 0 * one, scale=1.0, dtype="float64")
        >>> nothing = Errors(0 * one[0], 0 * one[0], 1e-3 * one, 0 * one[0], 0 * one[0])
        >>> run.sensitivity(nothing).round(6)
        array([[[[0.0011]]]])
        """
        error, rows = np.zeros_like(self._lengths[0]), []
        for t, change in enumerate(self._changes):
            a, beta = self._at(t)
            faded = a * self._lengths[t]
            dk, dg, db = (x[:, :, t, None] for x in (errors.k, errors.log_decay, errors.beta))
            missing = np.abs(self._v[:, :, t]) + faded
            error = a * error + dg * faded + db * missing + beta * (errors.v[:, :, t] + dk * faded) + dk * change
            rows.append(error)
        moved = self._scale * errors.q[..., None] * np.stack(self._lengths[1:], axis=2) if rows else 0.0
        return self._read_out(rows) + 1.1 * moved

    def _at(self, t: int) -> tuple[Floats, Floats]:
        return np.exp(self._g[:, :, t, None]), self._beta[:, :, t, None]

    def _read_out(self, rows: list[Floats]) -> Floats:
        if not rows:
            return np.zeros_like(self._v)
        bound: Floats = 1.1 * self._size * np.stack(rows, axis=2) + self._tiny
        return bound


def layer_bound(layer: GatedDelta, x: Array, chunk: int | None = None) -> Floats:
    """How far two forms of a layer may stand apart at ``x``, elementwise.

    Parameters
    ----------
    layer
        Its weights, and their dtype, count.
    x
        ``[B, T, M]``.
    chunk
        Compare `GatedDelta.chunked` with one step; None compares one step with `GatedDelta.definition`.

    Returns
    -------
    array
        ``[B, T, M]``.

    Examples
    --------
    >>> from kvattn.variants.recurrent.gated_delta import weight_shapes
    >>> ones = {name: np.ones(shape) for name, shape in weight_shapes(hidden=1).items()}
    >>> layer, x = GatedDelta(**ones, key_heads=1), np.ones((1, 3, 1))
    >>> bool(
    ...     (
    ...         np.abs(layer.step(layer.start(), x)[0].out - layer.definition(x, range(3)).out) <= layer_bound(layer, x)
    ...     ).all()
    ... )
    True
    """
    unit = float(np.finfo(layer.query.dtype).eps) / 2
    x, heads, groups = np.asarray(x, np.float64), layer.log_rate.size, layer.key_heads

    def project(weight: Array) -> tuple[Floats, Floats]:
        held = weight.astype(np.float64)
        return x @ held, (x.shape[-1] + 1) * unit * (np.abs(x) @ np.abs(held))

    def sigmoid(z: Floats, moved: Floats, slope: float, factor: Floats | float) -> tuple[Floats, Floats]:
        value = factor * np.exp(-np.logaddexp(0, -z))
        return value, slope * moved + (20 + 8 * np.abs(z)) * unit * np.abs(value)

    def by_head(rows: Floats, count: int) -> Floats:
        split = rows.reshape(*rows.shape[:2], count, rows.shape[2] // count).swapaxes(1, 2)
        return np.repeat(split, heads // count, axis=1)

    pairs = [project(w) for w in (layer.query, layer.key, layer.value)]
    mixed, moved = (np.concatenate(part, axis=-1) for part in zip(*pairs, strict=True))
    if layer.convolution is not None:
        taps = layer.convolution.astype(np.float64)
        count, length = taps.shape[1], x.shape[1]
        before = [
            np.pad(a, ((0, 0), (count - 1, 0), (0, 0))) for a in (mixed, moved + (count + 1) * unit * np.abs(mixed))
        ]
        mixed = sum((taps[:, i] * before[0][:, i : i + length] for i in range(count)), np.zeros_like(mixed))
        moved = sum((np.abs(taps[:, i]) * before[1][:, i : i + length] for i in range(count)), np.zeros_like(moved))
    mixed, moved = sigmoid(mixed, moved, 1.1, mixed)
    edge = layer.query.shape[1]
    units, lengths = [], []
    for part in (slice(0, edge), slice(edge, 2 * edge)):
        rows, errors = by_head(mixed[..., part], groups), by_head(moved[..., part], groups)
        size = np.sqrt((rows**2).sum(-1) + layer.length_epsilon)
        units.append(rows / size[..., None])
        lengths.append(np.sqrt((errors**2).sum(-1)) / size + (rows.shape[-1] + 6) * unit)
    v, v_moved = (by_head(a[..., 2 * edge :], heads) for a in (mixed, moved))
    fading, fading_moved = project(layer.decay)
    bias = layer.decay_bias.astype(np.float64)
    rate = np.exp(layer.log_rate.astype(np.float64))
    log_decay = -rate * np.logaddexp(0, fading + bias)
    decay_moved = rate * (fading_moved + unit * np.abs(fading + bias)) + 30 * unit * np.abs(log_decay)
    beta, beta_moved = sigmoid(*project(layer.beta), 0.25, 1.0)
    beta, beta_moved = (a * (1 + layer.negative_eigenvalues) for a in (beta, beta_moved))
    scale = 1 / math.sqrt(edge // groups) if layer.scale is None else layer.scale
    blank = np.zeros((len(x), heads, edge // groups, layer.norm.size))
    across = [a.swapaxes(1, 2) for a in (log_decay, beta, decay_moved, beta_moved)]
    run = Trajectory(units[0], units[1], v, across[0], across[1], blank, scale=scale, dtype=str(layer.query.dtype))
    if chunk is None:
        inputs = Errors(*(2 * e for e in (*lengths, v_moved, across[2], across[3])))
        apart = run.recurrent() + run.unrolled() + run.sensitivity(inputs)
    else:
        apart = run.recurrent() + run.chunked(chunk)

    mean = (run.out**2).mean(-1, keepdims=True) + layer.norm_epsilon
    weight = np.abs(layer.norm.astype(np.float64))
    normed = weight * np.abs(run.out) / np.sqrt(mean)
    turned = (np.abs(run.out) * apart).mean(-1, keepdims=True) / mean
    behind = weight * apart / np.sqrt(mean) + normed * (turned + 2 * (layer.norm.size + 8) * unit)
    gate, gate_moved = project(layer.gate)
    gate, gate_moved = sigmoid(gate, gate_moved, 1.1, gate)
    normed, behind = (a.swapaxes(1, 2).reshape(gate.shape) for a in (normed, behind))
    output = np.abs(layer.output.astype(np.float64))
    gated = normed * np.abs(gate)
    moved = behind * np.abs(gate) + 2 * normed * gate_moved + (4 + 2 * (len(output) + 1)) * unit * gated
    bound: Floats = 1.1 * (moved @ output) + 1e4 * float(np.finfo(layer.query.dtype).smallest_normal)
    return bound
