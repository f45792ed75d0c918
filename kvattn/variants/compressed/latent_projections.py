"""The matrices of latent attention: down to one latent per token, and up again for every head.

    c = RMSNorm(x W_dkv),   k_r = x W_kr,   k_h = [c W_uk,h ; k_r],   v_h = c W_uv,h
    a = RMSNorm(x W_dq) or x,   [q_n ; q_r]_h = a W_q,h,   y = concat_h(o_h) W_o

Shapes: ``x [B, T, M]``; ``W_dkv [M, r]``, ``W_kr [M, Dr]``, ``W_uk [r, Hq·Dn]``, ``W_uv [r, Hq·Dv]``,
``W_dq [M, rq]``, ``W_q [M or rq, Hq·(Dn + Dr)]``, ``W_o [Hq·Dv, M]``.  Head ``h`` owns the ``h``-th
run of columns, the Dn unrotated query features before the Dr rotated ones.

Since ``q_n · (c W_uk,h) = (q_n W_uk,hᵀ) · c``, a head's up-projection can move to the query side
(`LatentProjections.absorb`), and ``Σ p (c W_uv,h) = (Σ p c) W_uv,h`` to the output side
(`LatentProjections.release`): then the latent itself is the key and the value of every head.

Source: DeepSeek-V2 (2405.04434) §2.1.2 eq. 9-13 and §2.1.3 eq. 14-19; RMSNorm of both latents: §3.1.2.
Where libraries differ: checkpoints fuse W_dkv with W_kr, and W_uk with W_uv head by head; MiniCPM3 and
LongCat multiply latents by a constant, which folds into the norms' weights.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kvattn import ops
from kvattn.arguments import integer, real
from kvattn.axes import sizes
from kvattn.counting import Tally
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.typing import Array
from kvattn.variants.dense.projections import join, split


@dataclass(frozen=True, eq=False)
class LatentProjections:
    """Weights of one latent attention layer, read-only.

    Parameters
    ----------
    kv_down, kv_norm
        W_dkv ``[M, r]``, and the weight of its RMSNorm ``[r]``.
    key_rope
        W_kr ``[M, Dr]``: the rotated part of the key, one for all heads.
    key_up, value_up
        W_uk ``[r, Hq·Dn]`` and W_uv ``[r, Hq·Dv]``.
    query
        W_q ``[M, Hq·(Dn + Dr)]``, or ``[rq, …]`` behind a low-rank path.
    output
        W_o ``[Hq·Dv, M]``.
    heads
        Hq.
    query_down, query_norm
        W_dq ``[M, rq]`` and the weight of its RMSNorm ``[rq]``, or None both.
    eps
        Under the root of both norms.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        When they do not fit each other.

    Examples
    --------
    >>> w = LatentProjections(
    ...     np.ones((3, 4)),
    ...     np.ones(4),
    ...     np.ones((3, 2)),
    ...     np.ones((4, 10)),
    ...     np.ones((4, 6)),
    ...     np.ones((3, 14)),
    ...     np.ones((6, 3)),
    ...     heads=2,
    ... )
    >>> w.rank, w.nope_width, w.rope_width, w.value_width
    (4, 5, 2, 3)
    """

    kv_down: Array
    kv_norm: Array
    key_rope: Array
    key_up: Array
    value_up: Array
    query: Array
    output: Array
    heads: int
    query_down: Array | None = None
    query_norm: Array | None = None
    eps: float = 1e-6

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", integer("heads", self.heads, 1))
        object.__setattr__(self, "eps", real("eps", self.eps, least=0.0))
        if (self.query_down is None) != (self.query_norm is None):
            raise ArgumentError("query_down and query_norm must be given together, got only one of them")
        _hold(
            self, "kv_down", "kv_norm", "key_rope", "key_up", "value_up", "query", "output", "query_down", "query_norm"
        )
        for name, letters in (("key_up", "[r, Hq·Dn]"), ("value_up", "[r, Hq·Dv]")):
            matrix = getattr(self, name)
            if matrix.ndim != 2 or matrix.shape[1] % self.heads:
                raise ShapeError(f"{name} must have shape {letters} with Hq={self.heads}, got {matrix.shape}")
        sizes(
            ("kv_down", self.kv_down, "M r"),
            ("kv_norm", self.kv_norm, "r"),
            ("key_rope", self.key_rope, "M Dr"),
            ("key_up", self.key_up, f"r {self.key_up.shape[1]}"),
            ("value_up", self.value_up, f"r {self.value_up.shape[1]}"),
            *(
                (("query_down", self.query_down, "M rq"), ("query_norm", self.query_norm, "rq"))
                if self.query_down is not None
                else ()
            ),
            ("query", self.query, f"{'M' if self.query_down is None else 'rq'} {self.heads * self.width}"),
            ("output", self.output, f"{self.heads * self.value_width} M"),
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the weights and of everything computed with them.

        >>> one = np.ones((1, 1))
        >>> LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1).dtype
        dtype('float64')
        """
        return self.kv_down.dtype

    @property
    def hidden(self) -> int:
        """M.

        >>> one = np.ones((1, 1))
        >>> LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1).hidden
        1
        """
        return int(self.kv_down.shape[0])

    @property
    def rank(self) -> int:
        """Width of the latent, r.

        >>> one = np.ones((1, 1))
        >>> LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1).rank
        1
        """
        return int(self.kv_down.shape[1])

    @property
    def rope_width(self) -> int:
        """Features that turn, Dr.

        >>> one = np.ones((1, 1))
        >>> LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1).rope_width
        1
        """
        return int(self.key_rope.shape[1])

    @property
    def nope_width(self) -> int:
        """Features of a head's query and key that do not turn, Dn.

        >>> one = np.ones((1, 1))
        >>> LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1).nope_width
        1
        """
        return int(self.key_up.shape[1] // self.heads)

    @property
    def width(self) -> int:
        """Width of a head's query and key, D = Dn + Dr: the default scale is ``1 / sqrt(D)``.

        >>> one = np.ones((1, 1))
        >>> LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1).width
        2
        """
        return self.nope_width + self.rope_width

    @property
    def value_width(self) -> int:
        """Dv.

        >>> one = np.ones((1, 1))
        >>> LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1).value_width
        1
        """
        return int(self.value_up.shape[1] // self.heads)

    @cached_property
    def key_matrices(self) -> Array:
        """W_uk transposed for each head, ``[Hq, Dn, r]``: what a query goes through when absorbed.

        >>> one = np.ones((1, 1))
        >>> LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1).key_matrices.shape
        (1, 1, 1)
        """
        return np.ascontiguousarray(self.key_up.reshape(self.rank, self.heads, self.nope_width).transpose(1, 2, 0))

    @cached_property
    def value_matrices(self) -> Array:
        """W_uv for each head, ``[Hq, r, Dv]``: what a mixed latent goes through when absorbed.

        >>> one = np.ones((1, 1))
        >>> LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1).value_matrices.shape
        (1, 1, 1)
        """
        return np.ascontiguousarray(self.value_up.reshape(self.rank, self.heads, self.value_width).swapaxes(0, 1))

    def latents(self, x: Array) -> Array:
        """Latents c ``[B, T, r]`` from ``x [B, T, M]``, after its norm.

        >>> one = np.ones((1, 1))
        >>> w = LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1, eps=0)
        >>> w.latents(np.full((1, 1, 1), 5.0))
        array([[[1.]]])
        """
        return ops.rms_norm(ops.contract(x, self.kv_down, weights=True), self.kv_norm, self.eps)

    def rope_keys(self, x: Array) -> Array:
        """The part of the key that will turn, ``[B, T, Dr]`` from ``x [B, T, M]``.

        >>> one = np.ones((1, 1))
        >>> w = LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1)
        >>> w.rope_keys(np.full((1, 1, 1), 5.0))
        array([[[5.]]])
        """
        return ops.contract(x, self.key_rope, weights=True)

    def query_latents(self, x: Array) -> Array:
        """Query latents a ``[B, T, rq]`` from ``x [B, T, M]``, after its norm; ``x`` itself without a low-rank path.

        >>> one = np.ones((1, 1))
        >>> w = LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1)
        >>> w.query_latents(np.full((1, 1, 1), 5.0))
        array([[[5.]]])
        """
        if self.query_down is None:
            return x
        return ops.rms_norm(ops.contract(x, self.query_down, weights=True), self.query_norm, self.eps)

    def queries(self, a: Array) -> tuple[Array, Array]:
        """q_n ``[B, Hq, T, Dn]`` and q_r ``[B, Hq, T, Dr]``, not yet turned, from what `query_latents` gave.

        >>> one = np.ones((1, 1))
        >>> w = LatentProjections(one, np.ones(1), one, one, one, np.array([[1.0, 2.0]]), one, heads=1)
        >>> w.queries(np.ones((1, 1, 1)))
        (array([[[[1.]]]]), array([[[[2.]]]]))
        """
        both = split(ops.contract(a, self.query, weights=True), self.heads)
        return both[..., : self.nope_width], both[..., self.nope_width :]

    def expand(self, c: Array) -> tuple[Array, Array]:
        """Keys without their rotated part ``[B, Hq, T, Dn]`` and values ``[B, Hq, T, Dv]`` from c ``[B, T, r]``.

        >>> one = np.ones((1, 1))
        >>> w = LatentProjections(one, np.ones(1), one, 2 * one, 3 * one, np.ones((1, 2)), one, heads=1)
        >>> w.expand(np.ones((1, 1, 1)))
        (array([[[[2.]]]]), array([[[[3.]]]]))
        """
        k = split(ops.contract(c, self.key_up, weights=True), self.heads)
        return k, split(ops.contract(c, self.value_up, weights=True), self.heads)

    def absorb(self, q: Array) -> Array:
        """``q_n W_uk,hᵀ``: unrotated queries ``[B, Hq, T, Dn]`` as queries to latents ``[B, Hq, T, r]``.

        >>> one = np.ones((1, 1))
        >>> w = LatentProjections(one, np.ones(1), one, 2 * one, one, np.ones((1, 2)), one, heads=1)
        >>> w.absorb(np.ones((1, 1, 1, 1)))
        array([[[[2.]]]])
        """
        return ops.contract(q, self.key_matrices, weights=True)

    def release(self, mixed: Array) -> Array:
        """``o_c W_uv,h``: mixed latents ``[B, Hq, T, r]`` as mixed values ``[B, Hq, T, Dv]``.

        >>> one = np.ones((1, 1))
        >>> w = LatentProjections(one, np.ones(1), one, one, 3 * one, np.ones((1, 2)), one, heads=1)
        >>> w.release(np.ones((1, 1, 1, 1)))
        array([[[[3.]]]])
        """
        return ops.contract(mixed, self.value_matrices, weights=True)

    def outputs(self, mixed: Array) -> Array:
        """``[B, T, M]`` from mixed values ``[B, Hq, T, Dv]``.

        >>> one = np.ones((1, 1))
        >>> w = LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), 4 * one, heads=1)
        >>> w.outputs(np.ones((1, 1, 1, 1)))
        array([[[4.]]])
        """
        return ops.contract(join(mixed), self.output, weights=True)

    def cost(self, rows: int, *verbs: str) -> Tally:
        """What the named methods count for ``rows`` tokens, in closed form.

        >>> one = np.ones((1, 1))
        >>> w = LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1)
        >>> w.cost(3, "rope_keys", "outputs").matmul
        12
        """
        return sum((self._costs(rows)[verb] for verb in verbs), Tally())

    def _costs(self, rows: int) -> dict[str, Tally]:
        def product(*matrices: Array | None) -> Tally:
            found = [m for m in matrices if m is not None]
            return sum((ops.contract_cost(rows, m.shape, m.itemsize) for m in found), Tally())

        def norm(width: int) -> Tally:
            return Tally(arithmetic=rows * (4 * width + 2), transcendental=rows)

        low_rank = Tally() if self.query_down is None else norm(self.query_down.shape[1])
        return {
            "latents": product(self.kv_down) + norm(self.rank),
            "rope_keys": product(self.key_rope),
            "query_latents": product(self.query_down) + low_rank,
            "queries": product(self.query),
            "expand": product(self.key_up, self.value_up),
            "absorb": product(*self.key_matrices),
            "release": product(*self.value_matrices),
            "outputs": product(self.output),
        }


def _hold(owner: Any, *names: str) -> None:
    """Replace the named weights of a frozen dataclass by read-only copies, all of the first one's dtype."""
    first = np.asarray(getattr(owner, names[0])).dtype
    for name in names:
        if getattr(owner, name) is None:
            continue
        held = np.array(getattr(owner, name))
        if held.dtype not in (np.dtype(np.float64), np.dtype(np.float32)) or held.dtype != first:
            raise DtypeError(f"{name} must be float64 or float32 like {names[0]}, got {held.dtype}")
        if held.size == 0:
            raise ShapeError(f"{name} must not be empty, got {held.shape}")
        held.flags.writeable = False
        object.__setattr__(owner, name, held)
