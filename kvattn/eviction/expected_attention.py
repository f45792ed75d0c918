"""Expected attention: what queries that have not come yet would give to a key, were they Gaussian.

    μ, Σ      mean and covariance of the queries so far, not rotated
    R         mean over the next n positions of the rotation there;   μ' = R μ,  Σ' = R Σ Rᵀ
    a(j)  =  softmax_j( c · k_j·μ'  +  c²/2 · k_jᵀ Σ' k_j )        the mean of exp(c · k·q), normalised
    score(j)  =  mean over the group's heads of a(j)  ·  |v_j|,     +inf for the first keys

Shapes: unrotated queries ``[B, Hq, T, D]`` to moments ``[B, Hq, D]`` and ``[B, Hq, D, D]``; cached keys
``[B, Hkv, S, D]`` and values ``[B, Hkv, S, Dv]`` to scores ``[B, Hkv, S]``.
Needs: queries before rotation, cached keys, values; no probabilities, so fused kernels do.
Cached per token: nothing of its own.  Cost: 2·D² + 2·D per query head and key.
Source: Devoto et al. 2025 (arXiv 2510.00636), as read in kvpress, which is the authors' code.

Where libraries differ: kvpress takes the norm of the value itself; to weigh with what it becomes behind the
output projection, hand in those vectors as values.  ``R Σ Rᵀ`` with the mean R is an approximation: the
covariance of turned queries also has the spread of their turned means.
"""

import math
from typing import NamedTuple

import numpy as np

from kvattn.arguments import integer, optional_real, real
from kvattn.arrays import positions as read_positions
from kvattn.axes import sizes
from kvattn.errors import ShapeError
from kvattn.eviction.observed import group_mean
from kvattn.eviction.selection import protect
from kvattn.positions.rotary import Rotary
from kvattn.typing import Array, Positions


class Moments(NamedTuple):
    """Mean ``[B, Hq, D]`` and covariance ``[B, Hq, D, D]`` of queries; zeros for a covariance that is left out."""

    mean: Array
    covariance: Array


def query_moments(q: Array, *, skip: int = 0) -> Moments:
    """Mean and covariance of queries that are not rotated yet.

    Parameters
    ----------
    q
        ``[B, Hq, T, D]``.
    skip
        First queries to leave out, which are often far from the others.

    Raises
    ------
    ShapeError
        When no query is left.

    Examples
    --------
    >>> query_moments(np.array([[1.0], [3.0]])[None, None])
    Moments(mean=array([[[2.]]]), covariance=array([[[[1.]]]]))
    """
    bound = sizes(("q", q, "B Hq T D"))
    skip = integer("skip", skip, 0)
    if bound["T"] <= skip:
        raise ShapeError(f"q must have more than skip={skip} queries, got {bound['T']}")
    rows = q[:, :, skip:]
    mean = rows.mean(axis=2)
    away = rows - mean[:, :, None]
    return Moments(mean, np.einsum("bhti,bhtj->bhij", away, away) / rows.shape[2])


def rotated(moments: Moments, rotation: Rotary, positions: Positions) -> Moments:
    """The moments turned by the mean rotation over some positions.

    Parameters
    ----------
    moments
        Of unrotated queries.
    rotation
        The layer's; its layout, width and magnitude are respected.
    positions
        ``[n]``, the positions that come next.

    Examples
    --------
    >>> one = Moments(np.array([[[1.0, 0.0]]]), np.zeros((1, 1, 2, 2)))
    >>> rotated(one, Rotary.of(2), np.array([0, 1])).mean.round(4)
    array([[[0.7702, 0.4207]]])
    """
    width = moments.mean.shape[-1]
    at = read_positions("positions", positions, 1, np.shape(positions)[-1])[0]
    turned = rotation.rotate(
        np.broadcast_to(np.eye(width, dtype=moments.mean.dtype)[:, None], (width, len(at), width)), at
    )
    matrix = turned.mean(axis=1)  # row i is where feature i goes
    mean = np.einsum("bhi,ij->bhj", moments.mean, matrix)
    return Moments(mean, np.einsum("ia,bhij,jc->bhac", matrix, moments.covariance, matrix))


def expected(
    keys: Array, values: Array, moments: Moments, *, sinks: int = 0, scale: float | None = None, epsilon: float = 0.0
) -> Array:
    """Scores ``[B, Hkv, S]``.

    Parameters
    ----------
    keys, values
        ``[B, Hkv, S, D]`` as cached, rotated, and ``[B, Hkv, S, Dv]``.
    moments
        Of rotated queries, ``[B, Hq, D]`` and ``[B, Hq, D, D]``.
    sinks
        First keys that are always kept and take no part in the softmax.
    scale
        c; ``1/sqrt(D)`` unless given.
    epsilon
        Added to the softmax before it meets the norm.

    Raises
    ------
    ShapeError, ArgumentError
        When shapes do not fit or a number is out of range.

    Examples
    --------
    >>> keys, values = np.zeros((1, 1, 4, 1)), np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 4, 1)
    >>> expected(keys, values, query_moments(keys), sinks=2)
    array([[[inf, inf, 1.5, 2. ]]])
    """
    bound = sizes(
        ("keys", keys, "B Hkv S D"),
        ("values", values, "B Hkv S Dv"),
        ("mean", moments.mean, "B Hq D"),
        ("covariance", moments.covariance, "B Hq D D"),
    )
    sinks, epsilon = integer("sinks", sinks, 0), real("epsilon", epsilon, least=0.0)
    factor = optional_real("scale", scale)
    factor = 1.0 / math.sqrt(bound["D"]) if factor is None else factor
    scores = np.zeros((bound["B"], bound["Hkv"], bound["S"]), keys.dtype)
    later = keys[:, :, sinks:]
    if later.shape[2]:
        if bound["Hq"] % bound["Hkv"]:
            raise ShapeError(f"mean must have a multiple of {bound['Hkv']} heads, got {bound['Hq']}")
        repeated = np.repeat(later, bound["Hq"] // bound["Hkv"], axis=1)
        logits = factor * np.einsum("bhsd,bhd->bhs", repeated, moments.mean)
        logits += factor**2 / 2 * np.einsum("bhsi,bhij,bhsj->bhs", repeated, moments.covariance, repeated)
        powers = np.exp(logits - logits.max(axis=2, keepdims=True))
        shares = group_mean(powers / powers.sum(axis=2, keepdims=True), bound["Hkv"])
        scores[:, :, sinks:] = (shares + epsilon) * np.sqrt((values[:, :, sinks:] ** 2).sum(axis=3))
    return protect(scores, first=sinks)
