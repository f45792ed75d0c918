"""One attention in plain NumPy into which known faults can be planted, to see a check name them.

Written apart from `kvattn.core`, as most people would write it: scores, cap, bias, mask, softmax,
mix.  Each field that differs from its default plants one fault; the names of the fields and their
values are what a finding's parameters are compared with.
"""

from dataclasses import dataclass
import math
from typing import Any, Literal

import numpy as np

from kvattn.typing import Array, Visible


@dataclass(frozen=True)
class Planted:
    """A callable of the contract's form (`kvattn.testing.targets`) with planted faults.

    Attributes
    ----------
    anchor
        Corner of the causal triangle: ``"bottom_right"`` (the contract's), ``"top_left"``.
    shift
        Positions added to every query before it is compared with the keys.
    extra_keys
        Keys that a window shows beyond W.
    head_map
        Key/value head of query head h, as Python.
    scale
        Default scale, as Python over the sizes B, Hq, Hkv, T, S, D.
    cap
        Capped score, as Python over the score s, the raw product x, the scale a and the cap c.
    cap_last
        Cap after the mask.
    mask_reads
        ``"may see"`` (the contract's), ``"blocked"``, ``"added"`` (0 or 1 added to the scores), ``"length"``.
    ignore
        Keywords that are accepted and ignored.
    guard_values
        Keep values that nobody sees out of the product, so that NaN there does not leak.
    empty
        Row without a visible key: ``"zero"`` (the contract's), ``"nan"``, ``"mean"``.
    log_base
        Base of the log-sum-exp.
    sink_factor, sink_count
        Factor on the sink logits, and how often each enters the denominator.
    bias_factor
        Factor on the bias.
    returns_lse
        Whether ``(out, lse)`` is returned.

    Examples
    --------
    >>> q = k = np.zeros((1, 1, 2, 2))
    >>> Planted(returns_lse=False)(q, k, np.eye(2)[None, None], causal=True)[0, 0]
    array([[1. , 0. ],
           [0.5, 0.5]])
    >>> Planted(shift=1, returns_lse=False)(q, k, np.eye(2)[None, None], causal=True)[0, 0]
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """

    anchor: Literal["bottom_right", "top_left"] = "bottom_right"
    shift: int = 0
    extra_keys: int = 0
    head_map: str = "h // (Hq // Hkv)"
    scale: str = "1 / sqrt(D)"
    cap: str = "c * tanh(s / c)"
    cap_last: bool = False
    mask_reads: Literal["may see", "blocked", "added", "length"] = "may see"
    ignore: tuple[str, ...] = ()
    guard_values: bool = True
    empty: Literal["zero", "nan", "mean"] = "zero"
    log_base: float = math.e
    sink_factor: float = 1.0
    sink_count: int = 1
    bias_factor: float = 1.0
    returns_lse: bool = True

    def __call__(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        causal: bool = False,
        window: int | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Array | None = None,
        bias: Array | None = None,
        mask: Visible | None = None,
    ) -> Any:
        """Attend; shapes as in `kvattn.testing.targets`."""
        given: dict[str, Any] = {"causal": causal, "window": window, "scale": scale, "softcap": softcap}
        given |= {"sinks": sinks, "bias": bias, "mask": mask}
        given |= dict.fromkeys(self.ignore)
        sizes = {"B": q.shape[0], "Hq": q.shape[1], "Hkv": k.shape[1], "T": q.shape[2], "S": k.shape[2]}
        sizes["D"] = q.shape[3]
        heads = [_formula(self.head_map, h=h, **sizes) for h in range(sizes["Hq"])]
        raw = np.einsum("bhtd,bhsd->bhts", q, k[:, heads])
        a = float(given["scale"] if given["scale"] is not None else _formula(self.scale, **sizes))
        scores = raw * a
        if given["softcap"] is not None and not self.cap_last:
            scores = _formula(self.cap, s=scores, x=raw, a=a, c=float(given["softcap"]))
        if given["bias"] is not None:
            scores = scores + self.bias_factor * given["bias"]
        if given["mask"] is not None and self.mask_reads == "added":
            scores = scores + given["mask"]
        keep = self._keep(given, scores.shape)
        scores = np.where(keep, scores, -np.inf)
        if given["softcap"] is not None and self.cap_last:
            scores = _formula(self.cap, s=scores, x=raw, a=a, c=float(given["softcap"]))
            keep = np.ones_like(keep)
        return self._mix(scores, keep, v[:, heads], given["sinks"])

    def _keep(self, given: dict[str, Any], shape: tuple[int, ...]) -> Visible:
        """Who sees whom, [B, Hq, T, S]."""
        length, count = shape[2:]
        i = np.arange(length)[:, None] + self.shift + (count - length if self.anchor == "bottom_right" else 0)
        j = np.arange(count)
        keep = np.ones(shape, np.bool_)
        if given["causal"]:
            keep &= j <= i
        if given["window"] is not None:
            keep &= i - j < given["window"] + self.extra_keys
        if given["mask"] is not None:
            seen = np.broadcast_to(given["mask"], shape)
            if self.mask_reads == "length":
                seen = j < seen.sum(-1, keepdims=True)
            keep &= ~seen if self.mask_reads == "blocked" else seen | (self.mask_reads == "added")
        return keep

    def _mix(self, scores: Array, keep: Visible, v: Array, sinks: Array | None) -> Any:
        """Softmax with sinks, and the mix of the values."""
        top = scores.max(-1, keepdims=True)
        logits = None if sinks is None else self.sink_factor * sinks[:, None, None]
        if logits is not None:
            top = np.maximum(top, logits)
        with np.errstate(invalid="ignore", divide="ignore"):
            weights = np.where(keep, np.exp(scores - np.where(np.isneginf(top), 0, top)), 0)
            total = weights.sum(-1, keepdims=True)
            if logits is not None:
                total = total + self.sink_count * np.exp(logits - top)
            lse = (top + np.log(total))[..., 0] / math.log(self.log_base)
            weights = weights / np.where((total == 0) & (self.empty != "nan"), 1, total)
        if self.empty == "mean":
            weights = np.where(keep.any(-1, keepdims=True) | (sinks is not None), weights, 1 / scores.shape[-1])
        if self.guard_values:  # [B, Hq, T, S, Dv], so that a key behind the mask is not even multiplied
            out = (weights[..., None] * np.where(weights[..., None] > 0, v[:, :, None], 0)).sum(-2)
            out = np.where(np.isnan(weights).any(-1, keepdims=True), np.nan, out)
        else:
            out = weights @ v
        return (out.astype(v.dtype), lse) if self.returns_lse else out.astype(v.dtype)


def _formula(text: str, **names: Any) -> Any:
    """Evaluate one of the small formulas above."""
    return eval(text, {"sqrt": np.sqrt, "tanh": np.tanh, "exp": np.exp, **names})  # noqa: S307 - our own text
