"""onnxruntime's Attention and GroupQueryAttention as plain callables of the check's contract.

Each call is a model of one node: its attributes are the scalars, its inputs the arrays.  `ATTENTION` is the operator of
ONNX (opset 23 to 25), `GROUP_QUERY_ATTENTION` that of ``com.microsoft``, which always is causal and works on a cache:
the last T keys are new, the others its past, and a call that is not causal runs query by query.

Both run in float32, or float16 where that comes in: the runtime has no float64 kernel, and the operator's function
body, which takes its place, mixes float32 into float64 where ``is_causal`` meets a mask of numbers.

Where they make other choices: ONNX ties the triangle to the top left corner unless there is a past; a row that sees
nothing is 0 in the operator's text, and the mean of the values where the runtime takes its finite -inf.

Source: ONNX operators, Attention-23; ONNX Runtime contrib operators, GroupQueryAttention (onnxruntime 1.31).
"""

from functools import cache
from importlib.util import find_spec
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.errors import ArgumentError, MissingExtraError
from kvattn.testing.targets import Target

CONVENTIONS = frozenset({"causal-align", "empty-row", "masked-nan", "precision"})
"""Classes in which the operators or their runtime have made another legal choice."""

_TYPES = {"float64": 11, "float32": 1, "float16": 10, "bool": 9, "int32": 6}
_OPSET = 23


def attention(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    *,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
    bias: NDArray[Any] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Run ONNX Attention in float32, or in float16 where that comes in.

    Parameters
    ----------
    q, k, v
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``.
    causal, scale, softcap
        The attributes ``is_causal``, ``scale`` and ``softcap``.
    bias, mask
        The input ``attn_mask``, as numbers to add and as booleans, True = may see.

    Returns
    -------
    array
        ``[B, Hq, T, Dv]``.

    Raises
    ------
    ArgumentError
        Where bias and mask are both given.
    MissingExtraError
        Where onnx or onnxruntime is not installed.

    Examples
    --------
    >>> one = np.ones((1, 1, 2, 4))
    >>> attention(one, one, one, bias=one, mask=one > 0)
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: ONNX takes one of bias and mask, got both
    """
    if bias is not None and mask is not None:
        raise ArgumentError("ONNX takes one of bias and mask, got both")
    attributes: dict[str, float | int] = {"is_causal": int(causal)}
    if scale is not None:
        attributes["scale"] = float(scale)
    if softcap is not None:
        attributes["softcap"] = float(softcap)
    kind = np.float16 if q.dtype == np.float16 else np.float32
    inputs: dict[str, NDArray[Any]] = {"q": q.astype(kind), "k": k.astype(kind), "v": v.astype(kind)}
    if bias is not None:
        inputs["attn_mask"] = np.asarray(bias).astype(kind)
    if mask is not None:
        inputs["attn_mask"] = np.asarray(mask)
    return _run("Attention", "", attributes, inputs, tuple(inputs))[0]


def group_query_attention(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Run GroupQueryAttention on a cache that holds all keys but the last T, in float32.

    Parameters
    ----------
    q, k, v
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``, T <= S.  The operator takes widths that are the same
        and a multiple of 8: others are filled up with zeros, and then the scale is given.
    causal
        What the operator does; without it each query is a sequence of its own, whose last key is the new one.
    window
        The attribute ``local_window_size``.
    scale, softcap
        The attributes of these names.
    sinks
        ``[Hq]``, the input ``head_sink``.

    Returns
    -------
    array
        ``[B, Hq, T, Dv]``, float32.

    Raises
    ------
    ArgumentError
        More queries than keys, or a scale of 0.
    MissingExtraError
        Where onnx or onnxruntime is not installed.

    Examples
    --------
    >>> one = np.ones((1, 1, 2, 8))
    >>> group_query_attention(one, one[:, :, :1], one[:, :, :1])
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: GroupQueryAttention needs T <= S, got T = 2, S = 1
    """
    batch, heads, queries, width = q.shape
    keys = k.shape[2]
    value_width = v.shape[3]
    if scale == 0:
        raise ArgumentError("GroupQueryAttention takes a scale of 0 for none, so it must not be 0, got 0")
    if queries > keys:
        raise ArgumentError(f"GroupQueryAttention needs T <= S, got T = {queries}, S = {keys}")
    full = -(-max(width, value_width) // 8) * 8
    if width != full or value_width != full:
        wide = (np.pad(x, [(0, 0)] * 3 + [(0, full - x.shape[3])]) for x in (q, k, v))
        scale = 1.0 / math.sqrt(width) if scale is None else scale
        found = group_query_attention(*wide, causal=causal, window=window, scale=scale, softcap=softcap, sinks=sinks)
        return found[..., :value_width]
    if not causal and queries > 1:
        alone = np.ascontiguousarray(np.swapaxes(q, 1, 2)).reshape(batch * queries, heads, 1, width)
        found = group_query_attention(
            alone,
            *(np.repeat(x, queries, axis=0) for x in (k, v)),
            causal=True,
            scale=scale,
            softcap=softcap,
            sinks=sinks,
        )
        return np.swapaxes(found.reshape(batch, queries, heads, width), 1, 2)
    if batch > 1 and 1 < queries < keys:  # the operator takes one sequence then
        each = (
            group_query_attention(
                *(x[b : b + 1] for x in (q, k, v)),
                causal=True,
                window=window,
                scale=scale,
                softcap=softcap,
                sinks=sinks,
            )
            for b in range(batch)
        )
        return np.concatenate([*each])
    attributes: dict[str, float | int] = {"num_heads": heads, "kv_num_heads": k.shape[1]}
    attributes |= {"scale": float(scale)} if scale is not None else {}
    attributes |= {"softcap": float(softcap)} if softcap is not None else {}
    attributes |= {"local_window_size": window} if window is not None else {}

    def folded(x: NDArray[Any]) -> NDArray[Any]:
        return np.swapaxes(x, 1, 2).reshape(batch, x.shape[2], -1).astype(np.float32)

    past = keys - queries
    inputs = {"query": folded(q), "key": folded(k[:, :, past:]), "value": folded(v[:, :, past:])}
    inputs |= {"past_key": k[:, :, :past].astype(np.float32), "past_value": v[:, :, :past].astype(np.float32)}
    inputs |= {
        "seqlens_k": np.full(batch, keys - 1, np.int32),
        "total_sequence_length": np.array([keys], np.int32),
    }
    places = tuple(inputs)
    if sinks is not None:
        inputs["head_sink"] = np.asarray(sinks, np.float32)
        places = (*places, "", "", "", "", "head_sink")
    out = _run("GroupQueryAttention", "com.microsoft", attributes, inputs, places, outputs=3)[0]
    return np.swapaxes(out.reshape(batch, queries, heads, width), 1, 2)


def _run(
    operator: str,
    domain: str,
    attributes: dict[str, float | int],
    inputs: dict[str, NDArray[Any]],
    places: tuple[str, ...],
    outputs: int = 1,
) -> list[NDArray[Any]]:
    for name in ("onnx", "onnxruntime"):
        if find_spec(name) is None:
            raise MissingExtraError(f"{name} must be installed for this adapter, got no module {name}")
    types = tuple((name, _TYPES[str(x.dtype)]) for name, x in inputs.items())
    session = _session(operator, domain, tuple(attributes.items()), types, places, outputs)
    found: list[NDArray[Any]] = session.run(None, {name: np.ascontiguousarray(x) for name, x in inputs.items()})
    return found


@cache
def _session(
    operator: str,
    domain: str,
    attributes: tuple[tuple[str, float | int], ...],
    types: tuple[tuple[str, int], ...],
    places: tuple[str, ...],
    outputs: int,
) -> Any:
    """A model of one node, ready to run; any shapes."""
    import onnx
    import onnxruntime

    helper: Any = onnx.helper
    names = ["out", "present_key", "present_value"][:outputs]
    node = helper.make_node(operator, list(places), names, domain=domain, **dict(attributes))
    given = [helper.make_tensor_value_info(name, kind, None) for name, kind in types]
    made = [helper.make_tensor_value_info(name, types[0][1], None) for name in names]
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "one", given, made)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


ATTENTION = Target(
    name="kvattn.interop.onnxruntime:ATTENTION",
    function=attention,
    features=frozenset({"causal", "scale", "softcap", "bias", "mask"}),
    setup="from kvattn.interop.onnxruntime import attention as f",
    conventions=CONVENTIONS,
    exclusive=frozenset({frozenset({"bias", "mask"})}),
)
"""ONNX Attention under onnxruntime, to be checked."""

GROUP_QUERY_ATTENTION = Target(
    name="kvattn.interop.onnxruntime:GROUP_QUERY_ATTENTION",
    function=group_query_attention,
    features=frozenset({"causal", "window", "scale", "softcap", "sinks"}),
    setup="from kvattn.interop.onnxruntime import group_query_attention as f",
    conventions=CONVENTIONS,
)
"""GroupQueryAttention under onnxruntime, to be checked."""
