"""Wrong Gated DeltaNets, each rejected by the law that is there to see it; the right one passes them all.

Most are real: gates and norms in the wrong order, tiled heads and convolution states of the wrong length have all been
shipped.  The definition stays as it is; what is planted sits in the step, the chunks, or the cache.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvattn import ops
from kvattn.caches.snapshots import Snapshots
from kvattn.testing.laws import LAWS, Case, LawError
from kvattn.testing.recurrent_bounds import Trajectory, layer_bound
from kvattn.variants.dense.projections import join
from kvattn.variants.recurrent import gated_delta, gated_delta_rule
from kvattn.variants.recurrent.gated_delta import GatedDelta, weight_shapes
from kvattn.variants.recurrent.gated_delta_rule import recurrent
from kvattn.variants.recurrent.short_convolution import convolve


def a_case(kind: Any = GatedDelta, dtype: Any = np.float64, **changes: Any) -> Any:
    """B 2, T 9, M 4, Hk 2, Hv 4, Dk 3, Dv 2, three taps; two tokens can be taken back."""
    rng = np.random.default_rng(0)
    shapes = weight_shapes(hidden=4, key_heads=2, heads=4, width=3, value_width=2, taps=3)
    weights = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    layer = kind(**{**weights, **changes}, key_heads=2, rollback=2)
    x = rng.standard_normal((2, 9, 4)).astype(dtype)
    return Case(layer, x, (3, 4), lambda _: layer, None, 2, depth=300)


def forms_agree(case: Any, chunk: Any = 4) -> Any:
    """Step against definition, and chunks against step, within the derived bounds."""
    layer, x = case.variant, case.x
    found = layer.step(layer.start(len(x)), x)[0].out
    if not (np.abs(found - layer.definition(x, np.arange(x.shape[1])).out) <= layer_bound(layer, x)).all():
        raise LawError("step is definition")
    if not (np.abs(found - layer.chunked(x, chunk=chunk).out) <= layer_bound(layer, x, chunk)).all():
        raise LawError("chunks are steps")


CHECKS = {**LAWS, "forms_agree": forms_agree}


def broken(case: Any) -> Any:
    found = set()
    for name, law in CHECKS.items():
        try:
            law(case)
        except LawError:
            found.add(name)
    return found


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_right_one_passes(dtype: Any) -> None:
    assert broken(a_case(dtype=dtype)) == set()


def rule(change: Any, order: Any = "decay, delta", read: Any = "after", base: Any = np.e) -> Any:
    """The rule once more, token by token, with something wrong."""

    def wrong(
        q: Any, k: Any, v: Any, log_decay: Any, beta: Any, state: Any, *, scale: Any = None, keep: Any = 1
    ) -> Any:
        group, width = v.shape[1] // k.shape[1], k.shape[3]
        q, k = np.repeat(q, group, 1), np.repeat(k, group, 1)
        a = base ** log_decay[..., None, None]
        out, kept = np.empty_like(v), []
        for t in range(v.shape[2]):
            key, now = k[:, :, t, :, None], a[:, :, t]
            faded = now * state if order == "decay, delta" else state
            asked = {"old": state, "new": faded}[change.get("asked", "new")]
            u = v[:, :, t] - (key * asked).sum(2)
            u = u * beta[:, :, t, None] if change.get("beta", True) else u
            before, state = state, faded + key * u[:, :, None]
            state = now * state if order == "delta, decay" else state
            source = state if read == "after" else before
            out[:, :, t] = (q[:, :, t, :, None] * source).sum(2) * (width**-0.5 if scale is None else scale)
            kept.append(state)
        return out, kept[-keep:] if keep else []

    return wrong


RULES = {
    "no decay": rule({}, order="delta"),
    "decay after the delta": rule({}, order="delta, decay"),
    "the undecayed state is corrected": rule({"asked": "old"}),
    "no beta": rule({"beta": False}),
    "read before the update": rule({}, read="before"),
    "decay to base two": rule({}, base=2.0),
    "no scale": lambda *args, scale, keep: recurrent(*args, scale=1.0, keep=keep),
    "tiled heads": lambda q, k, v, *rest, **options: recurrent(
        np.tile(q, (1, v.shape[1] // q.shape[1], 1, 1)),
        np.tile(k, (1, v.shape[1] // k.shape[1], 1, 1)),
        v,
        *rest,
        **options,
    ),
    "one state for all rows": lambda q, k, v, g, beta, state, **options: recurrent(
        q, k, v, g, beta, np.broadcast_to(state[:1], state.shape), **options
    ),
}


def test_the_rule_written_once_more_is_right_where_nothing_is_planted(monkeypatch: Any) -> None:
    monkeypatch.setattr(gated_delta, "recurrent", rule({}))
    assert "forms_agree" not in broken(a_case())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_wrong_rule_is_rejected(monkeypatch: Any, name: Any, dtype: Any) -> None:
    monkeypatch.setattr(gated_delta, "recurrent", RULES[name])
    found = broken(a_case(dtype=dtype))
    if name == "one state for all rows":
        assert {"decode_is_recompute", "batch_mates_are_invisible", "beams_are_separate_caches"} <= found
    else:
        assert {"step_is_definition", "forms_agree"} <= found


class Unnormalised(GatedDelta):
    """Keys keep their length."""

    def _features(self, x: Any, carried: Any) -> Any:
        right = super()._features(x, carried)
        flat = ops.silu(convolve(carried, right.rows[:, carried.shape[1] :], np.asarray(self.convolution))[0])
        keys = flat[..., 6:12].reshape(*x.shape[:2], 2, 3).swapaxes(1, 2)
        return right._replace(k=keys)


class Inactive(GatedDelta):
    """No SiLU behind the convolution."""

    def _features(self, x: Any, carried: Any) -> Any:
        right = super()._features(x, carried)
        flat = convolve(carried, right.rows[:, carried.shape[1] :], np.asarray(self.convolution))[0]
        return right._replace(v=flat[..., 12:].reshape(*x.shape[:2], 4, 2).swapaxes(1, 2))


class GateFirst(GatedDelta):
    """The gate is normalised away with the rest."""

    def _outputs(self, x: Any, o: Any) -> Any:
        gate = ops.silu(ops.contract(x, self.gate, weights=True)).reshape(*x.shape[:2], 4, 2).swapaxes(1, 2)
        normed = ops.rms_norm(o * gate, self.norm, self.norm_epsilon)
        return super()._outputs(x, o)._replace(out=ops.contract(join(normed), self.output, weights=True))


class SigmoidGate(GatedDelta):
    """Another model's gate."""

    def _outputs(self, x: Any, o: Any) -> Any:
        gate = ops.sigmoid(ops.contract(x, self.gate, weights=True))
        normed = ops.rms_norm(o, self.norm, self.norm_epsilon)
        return super()._outputs(x, o)._replace(out=ops.contract(join(normed) * gate, self.output, weights=True))


class NormOverAllHeads(GatedDelta):
    """One root mean square for all heads."""

    def _outputs(self, x: Any, o: Any) -> Any:
        flat = ops.rms_norm(join(o), np.tile(self.norm, 4), self.norm_epsilon)
        gate = ops.silu(ops.contract(x, self.gate, weights=True))
        return super()._outputs(x, o)._replace(out=ops.contract(flat * gate, self.output, weights=True))


class DecayOfOneSign(GatedDelta):
    """exp(A) forgotten: every head fades alike."""

    def _features(self, x: Any, carried: Any) -> Any:
        right = super()._features(x, carried)
        return right._replace(log_decay=right.log_decay / np.exp(self.log_rate)[:, None])


@pytest.mark.parametrize(
    "kind", [Unnormalised, Inactive, GateFirst, SigmoidGate, NormOverAllHeads, DecayOfOneSign], ids=lambda k: k.__name__
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_wrong_layer_around_the_rule_is_rejected(kind: Any, dtype: Any) -> None:
    case = a_case(kind, dtype)
    assert "step_is_definition" in broken(case)
    found = case.variant.step(case.variant.start(2), case.x)[0].out
    wanted = case.variant.definition(case.x, np.arange(9)).out
    assert (np.abs(found - wanted) > layer_bound(case.variant, case.x)).any()


class LateRows(GatedDelta):
    """The convolution's rows are kept one token late."""

    def step(self, cache: Any, x: Any) -> Any:
        attended, later = super().step(cache, x)
        rows = np.concatenate([np.zeros((len(x), 1, 20), x.dtype), later.state.rows[:, :-1]], axis=1)
        histories = Snapshots.start(later.state._replace(rows=rows), self.rollback).histories
        moved = tuple(
            (*old[:-1], (old[-1][0], new[-1][1])) for old, new in zip(later.histories, histories, strict=True)
        )
        return attended, replace(later, histories=moved)


class ForgottenRows(GatedDelta):
    """A rollback that restores S and leaves the convolution's rows as they are."""

    def step(self, cache: Any, x: Any) -> Any:
        attended, later = super().step(cache, x)
        newest = [old[-1][1].arrays[1] for old in later.histories]
        for old, rows in zip(later.histories, newest, strict=True):
            for _, state in old[:-1]:
                state.arrays = (state.arrays[0], rows)
        return attended, later


class LeakyBatch(GatedDelta):
    """The state of the batch's first sequence is handed to all."""

    def step(self, cache: Any, x: Any) -> Any:
        return super().step(replace(cache, histories=cache.histories[:1] * cache.batch), x)


@pytest.mark.parametrize(
    ("kind", "law"),
    [(LateRows, "decode_is_recompute"), (ForgottenRows, "rollback_forgets"), (LeakyBatch, "batch_mates_are_invisible")],
    ids=lambda k: getattr(k, "__name__", k),
)
def test_a_wrong_memory_is_rejected(kind: Any, law: Any) -> None:
    assert law in broken(a_case(kind))


class ForgottenCost(GatedDelta):
    """The state's reading is free."""

    def cost(self, *, past: Any, new: Any, batch: Any = 1) -> Any:
        return replace(super().cost(past=past, new=new, batch=batch), kv_read=0)


def test_a_wrong_cost_is_rejected() -> None:
    assert broken(a_case(ForgottenCost)) == {"cost_is_count"}


def differences(log_decay: Any) -> Any:
    """Sums between two tokens as differences of sums from the start: the digits cancel."""
    total = np.cumsum(log_decay, axis=-1)
    return np.minimum(total[..., :, None] - total[..., None, :], 0)


def from_the_start(log_decay: Any) -> Any:
    """What came before the pair fades it too."""
    total = np.cumsum(log_decay, axis=-1)
    return np.broadcast_to(total[..., :, None], (*total.shape, total.shape[-1])).copy()


def one_too_many(log_decay: Any) -> Any:
    """The earlier token's own decay is counted for the pair."""
    return right_sums(log_decay) + log_decay[..., None, :]


right_sums = gated_delta_rule._sums_between


@pytest.mark.parametrize("sums", [from_the_start, one_too_many], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_wrong_decays_in_a_chunk_are_rejected(monkeypatch: Any, sums: Any, dtype: Any) -> None:
    monkeypatch.setattr(gated_delta_rule, "_sums_between", sums)
    assert broken(a_case(dtype=dtype)) == {"forms_agree"}


def test_differences_of_sums_are_rejected_where_one_token_wipes_the_state(monkeypatch: Any) -> None:
    """In float32, behind one decay of e^-30000: transformers forms its decays like this."""
    rng = np.random.default_rng(1)
    q, k = (gated_delta_rule.l2_norm(rng.standard_normal((1, 1, 16, 3))).astype(np.float32) for _ in range(2))
    v = rng.standard_normal((1, 1, 16, 2)).astype(np.float32)
    decay, beta = np.full((1, 1, 16), -0.01, np.float32), np.full((1, 1, 16), 0.5, np.float32)
    decay[..., 0] = -30000
    parts = q, k, v, decay, beta, np.zeros((1, 1, 3, 2), np.float32)
    run = Trajectory(*parts, scale=1.0, dtype="float32")
    bound = run.recurrent() + run.chunked(16)
    wanted = recurrent(*parts, scale=1.0)[0]
    assert (np.abs(gated_delta_rule.chunked(*parts, scale=1.0)[0] - wanted) <= bound).all()
    monkeypatch.setattr(gated_delta_rule, "_sums_between", differences)
    assert (np.abs(gated_delta_rule.chunked(*parts, scale=1.0)[0] - wanted) > bound).any()


FAULT_CLASSES = {"linear-state": [LateRows, ForgottenRows, LeakyBatch], "flop-count": [ForgottenCost]}
"""The mutants above that belong to a class of `kvattn.testing.fault_classes`."""
