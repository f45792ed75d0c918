"""A finding becomes JSON without a bare NaN."""

import json
import math

import numpy as np

from kvattn.testing.diagnosis.finding import Finding, plain


def test_numpy_and_nan_become_what_json_can_hold() -> None:
    value = {"a": np.float32(0.5), "b": (np.int64(3), math.inf), "c": {"d": [math.nan, True, None]}}
    assert plain(value) == {"a": 0.5, "b": [3, "inf"], "c": {"d": ["nan", True, None]}}
    finding = Finding("empty-row", "convention", {"out": np.array([math.nan])}, "NaN.", "f()")
    assert json.loads(json.dumps(finding.as_dict(), allow_nan=False)) == {
        "class": "empty-row",
        "kind": "convention",
        "parameters": {"out": ["nan"]},
        "detail": "NaN.",
        "reproduce": "f()",
    }
