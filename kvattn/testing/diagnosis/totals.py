"""The denominator: what a sink adds to it, and what the log-sum-exp says of it.

Method: with one-hot values the keys' shares of a row sum to less than 1 where a sink takes part; what is
missing gives the sink's logit back.  The lse is compared with a line through the true one.
"""

from dataclasses import replace
import math

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.behaviour import Behaviour
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.recipe import DRAWN, MILD, RANDOM, Recipe, Sizes
from kvattn.testing.diagnosis.tails import TILES
from kvattn.testing.formats import FORMATS

_SIZES = Sizes(3, 6, 2, 4, 7, 26, 26)
SINKS = "r.standard_normal({Hq})"
"""A sink logit for each query head."""

Rows = NDArray[np.float64]


def read_sinks(lab: Lab) -> None:
    """Fit factor and count of ``sinks=``.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(sink_count=2))
    >>> read_sinks(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters
    ('sink', {'factor': 1.0, 'count': 2.0})
    """
    case = lab.case(_SIZES, MILD, sinks=SINKS)
    seen = lab.see(case)
    kept = seen.out[..., : case.sizes.S].sum(-1)  # [B, Hq, T]
    sinks = np.asarray(seen.built.options["sinks"], np.float64)
    plain = seen.built._replace(options={})
    lse = lab.behaviour.expected(plain).lse
    if np.abs(kept - 1).max() <= lab.sharp:
        lab.set_aside("sinks")
        lab.add("sink", {"count": 0}, "sinks= changes nothing: a row of probabilities still sums to 1.", case)
        return
    if not (kept.min() > 0 and kept.max() <= 1):
        lab.set_aside("sinks")
        worst = float(kept.flat[np.argmax(np.abs(kept - 0.5))])
        detail = f"With sinks a row of probabilities sums to {worst:.6g}, expected between 0 and 1."
        lab.add("sink", {"row_sum": round(worst, 6)}, detail, case)
        return
    clear = (kept > 1e-4) & (kept < 1 - 1e-4)  # elsewhere the missing share has no digits
    if clear.sum() < clear.size // 4:
        return
    with np.errstate(divide="ignore"):
        logit = np.log1p(-kept) - np.log(kept) + lse
    close = 1e-3 if lab.sharp < 1e-3 else 0.2
    factor, count = _line(np.broadcast_to(sinks[:, None], logit.shape)[clear], logit[clear], close)
    if factor is not None and abs(factor - 1) <= 5 * lab.sharp and abs(count - 1) <= 5 * lab.sharp:
        return
    if factor is None:
        lab.set_aside("sinks")
        if np.abs(logit - (sinks[:, None] + lse - lse / math.log(2)))[clear].max() <= 10 * lab.sharp:
            detail = "The sink is compared with a base-2 lse: out * sigmoid(lse2 - sink), expected the natural lse."
            lab.add("sink", {"form": "sigmoid(lse - sink)", "base": 2}, detail, case)
            return
        rows = np.round(logit[0, :, 0], 4).tolist()
        detail = f"The sink logits in the denominator are {rows} for {np.round(sinks, 4).tolist()} given."
        lab.add("sink", {"read": rows}, detail, case)
        return
    scale = lab.behaviour.used_scale(case.sizes, None)
    if abs(factor - scale) <= 5 * lab.sharp and abs(count - 1) <= 5 * lab.sharp and abs(scale - 1) > 0.1:
        lab.set_aside("sinks")  # a factor that follows D is none of the behaviour's
        detail = f"The sinks are multiplied by the scale of the scores, {scale:.4g}, expected exp(sink)."
        lab.add("sink", {"factor": round(factor, 5), "count": 1.0, "rule": "the scale"}, detail, case)
        return
    lab.behaviour = replace(lab.behaviour, sink_factor=factor, sink_count=count)
    detail = f"The sinks enter the denominator as {count:.4g} * exp({factor:.4g} * sink), expected exp(sink)."
    lab.add("sink", {"factor": round(factor, 5), "count": round(count, 5)}, detail, case)


def _line(x: Rows, y: Rows, close: float) -> tuple[float | None, float]:
    """Fit y = factor x + log(count); None where no line comes close."""
    x, y = x.ravel(), y.ravel()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    shift = float(y.mean() - slope * x.mean())
    if np.abs(y - slope * x - shift).max() > close:
        return None, 0.0
    return slope, math.exp(shift)


def read_own_sink(lab: Lab) -> bool:
    """Name a sink that stands in every call, as in softmax_one, and say whether there is one; the rest is not read.

    Examples
    --------
    >>> from kvattn.testing.planted.wrapped import OwnSink
    >>> from kvattn.testing.targets import target_of
    >>> lab = Lab(target_of(OwnSink(0.0)))
    >>> read_own_sink(lab), lab.findings[0].parameters["logit"], lab.findings[0].parameters["in_lse"]
    (True, 0.0, True)
    """
    case = lab.case(_SIZES, MILD)
    seen = lab.see(case)
    exact = lab.behaviour.expected(seen.built)
    kept = seen.out[..., : case.sizes.S].sum(-1)  # [B, Hq, T]
    shares = np.asarray(exact.out[..., : case.sizes.S], np.float64)
    if not ((kept > 1e-4) & (kept < 1 - 1e-4)).all():
        return False
    if np.abs(seen.out[..., : case.sizes.S] - kept[..., None] * shares).max() > 5 * lab.sharp:
        return False
    lse = np.asarray(exact.lse, np.float64)
    logit = np.log1p(-kept) - np.log(kept) + lse
    heads = logit.mean((0, 2))
    close = 20 * lab.sharp
    top = lse + np.log(shares.max(-1))  # the largest score
    if np.abs(logit - top).max() <= close:
        said = "the row's largest score"
        detail = "1 is added to the denominator after the maximum was taken off: exp(s - max) / (1 + sum)"
        parameters: dict[str, object] = {"logit": said}
    elif np.abs(logit - heads[:, None]).max() > close:
        return False
    elif np.ptp(heads) <= close and (tile := _padded(lab, case.sizes, float(heads.mean()), close)):
        words = f"Keys are filled up with zeros to a multiple of {tile}, and these are not masked"
        detail = f"{words}: {case.sizes.S} keys leave {kept.min():.4g} of a row's weight to them, expected all of it."
        lab.add("tile-tail", {"axis": "keys", "tile": tile, "tail": "zero keys are seen"}, detail, case)
        lab.stopped = True
        return True
    elif np.ptp(heads) <= close:
        value = 0.0 if abs(heads.mean()) <= close else round(float(heads.mean()), 5)
        form = "exp(s) / (1 + sum), softmax_one" if value == 0 else f"exp(s) / ({np.exp(value):.5g} + sum)"
        detail = f"Without sinks= a logit of {value:g} stands in every denominator: {form}"
        parameters = {"logit": value}
    else:
        parameters = {"logit": np.round(heads, 5).tolist()}
        detail = f"Without sinks= logits {np.round(heads, 4).tolist()} stand in the heads' denominators"
    if seen.lse is not None:
        forms = {"counts it": np.logaddexp(lse, logit), "does not count it": lse}
        far = {words: float(np.abs(seen.lse - want).max()) for words, want in forms.items()}
        words = min(far, key=lambda form: far[form])  # the nearer of two that few bits may not tell apart
        words = words if far[words] <= close else "is another one"
        parameters["in_lse"] = {"counts it": True, "does not count it": False}.get(words, "other")
        detail += f"; its lse {words}"
    lab.add("sink", {"always": True, **parameters}, f"{detail}. Expected softmax over the keys alone.", case)
    lab.stopped = True
    return True


def _padded(lab: Lab, sizes: Sizes, logit: float, close: float) -> int:
    """Return the tile to which keys are filled up with zeros, which weigh exp(0) each; 0 where that is not seen."""
    for tile in (t for t in TILES if abs(logit - math.log(-sizes.S % t or 1)) <= close):
        more = lab.see(lab.case(replace(sizes, S=sizes.S + 2), MILD))
        keys = more.built.k.shape[2]
        lse = np.asarray(lab.behaviour.expected(more.built).lse, np.float64)
        shares = more.out[..., :keys].sum(-1)
        filled, sink = (np.abs(shares - 1 / (1 + many * np.exp(-lse))).max() for many in (-keys % tile, np.exp(logit)))
        if filled <= close < sink:  # in few bits both may be near
            return tile
    return 0


def read_lse(lab: Lab) -> None:
    """Fit base and content of the log-sum-exp.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(log_base=2))
    >>> read_lse(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["base"]
    ('lse-merge', 2)
    """
    case = lab.case(_SIZES, DRAWN, RANDOM)
    seen = lab.see(case)
    if seen.lse is None:
        return
    built = seen.built
    true = np.asarray(lab.behaviour.expected(built).lse, np.float64)
    if np.abs(seen.lse - true).max() <= 10 * lab.sharp:
        if not _in_few_bits(lab, case, seen.lse, true):
            _with_sinks(lab)
        return
    slope = float((seen.lse * true).sum() / (true**2).sum())
    for base, words in ((2, "base-2"), (10, "base-10")):
        if np.abs(seen.lse - true / math.log(base)).max() <= 10 * lab.sharp:
            lab.behaviour = replace(lab.behaviour, lse_factor=1 / math.log(base))
            detail = (
                f"The lse is {words} (times {1 / math.log(base):.6g}), expected natural: merged, it weighs wrongly."
            )
            lab.add("lse-merge", {"base": base, "factor": round(slope, 6)}, detail, case, channel="lse")
            _with_sinks(lab)
            return
    top = (lab.scores(built) * lab.behaviour.used_scale(case.sizes, None)).max(-1)
    contents = {
        "log of the sum without the maximum": true - top,
        "the maximum alone": top,
        "the sum, not its logarithm": np.exp(true),
        "the sum without the maximum, not its logarithm": np.exp(true - top),
        "of unscaled scores": replace(lab.behaviour, scale="1", factor=1.0).expected(built).lse,
        "negated": -true,
        "mean in place of sum": true - math.log(case.sizes.S),
    }
    lab.set_aside("lse")
    for content, wanted in contents.items():
        if np.abs(seen.lse - wanted).max() <= 10 * lab.sharp:
            detail = f"The lse is {content}, expected log sum exp of the scores."
            lab.add("lse-merge", {"content": content}, detail, case, channel="lse")
            return
    if _in_few_bits(lab, case, seen.lse, true):
        return
    got, want = np.round(seen.lse[0, 0, :3], 4).tolist(), np.round(true[0, 0, :3], 4).tolist()
    detail = f"The lse of the first rows is {got}, expected {want}."
    lab.add("lse-merge", {"read": got, "expected": want}, detail, case, channel="lse")


def _in_few_bits(lab: Lab, case: Recipe, lse: Rows, true: Rows) -> bool:
    """Say whether the lse alone stands on a coarser grid than what it is computed in."""
    computed = lab.stated[0].compute if lab.stated else lab.dtype
    for name in ("bfloat16", "float16"):
        unit = FORMATS[name].roundoff
        if unit < 64 * FORMATS[computed].roundoff:
            continue
        near = np.abs(lse - true) <= 1.1 * unit * np.abs(true) + 10 * lab.sharp
        if near.all() and np.array_equal(FORMATS[name].round(lse), lse):
            detail = f"The lse is rounded to {name}, expected {lab.dtype}: parts that are merged by it are off."
            lab.add("lse-merge", {"content": f"rounded to {name}"}, detail, case, channel="lse")
            lab.set_aside("lse")
            return True
    return False


def _with_sinks(lab: Lab) -> None:
    if not lab.can("sinks"):
        return
    case = lab.case(_SIZES, DRAWN, RANDOM, sinks=SINKS)
    seen = lab.see(case)

    def fits(behaviour: Behaviour) -> bool:
        return seen.lse is not None and bool(
            np.abs(seen.lse - behaviour.expected(seen.built).lse).max() <= 10 * lab.sharp
        )

    if fits(lab.behaviour):
        return
    outside = replace(lab.behaviour, sink_in_lse=False)
    if fits(outside):
        lab.behaviour = outside
        detail = "The lse leaves the sinks out, expected log(exp(sink) + sum of exp(score))."
        lab.add("sink", {"in_lse": False}, detail, case, channel="lse")
