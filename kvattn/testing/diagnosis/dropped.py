"""Dropout outside training: ``dropout=p`` must do nothing while ``training`` is false.

Method: one-hot values show the weights; dropped ones are 0, and those that are kept are 1 / (1 - p) times too large.
"""

import numpy as np

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.recipe import DRAWN, Sizes

_SIZES = Sizes(2, 4, 2, 6, 16, 16, 16)


def read_dropout(lab: Lab) -> None:
    """Read whether weights are dropped at evaluation.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(formulas={"dropped": "True"}))
    >>> read_dropout(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["applied"]
    ('dropout-eval', True)
    """
    case = lab.case(_SIZES, DRAWN, dropout="0.5", training="False")
    read = lab.weights(case)
    want = lab.behaviour.expected(case.build()).out[..., : case.sizes.S]
    if np.abs(read - want).max() <= 5 * lab.sharp:
        return
    lab.set_aside("dropout", "training")
    gone = np.abs(read) <= 1e-9
    share = float(gone.mean())
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = float(np.median((read / want)[~gone])) if not gone.all() else 0.0
    if 0 < share < 1:
        detail = (
            f"dropout=0.5 drops {share:.0%} of the weights at training=False; the rest is {factor:.4g} times as large."
        )
        lab.add("dropout-eval", {"applied": True, "factor": round(factor, 4)}, detail, case)
        return
    detail = f"dropout=0.5 multiplies the weights by {factor:.4g} although training=False."
    lab.add("dropout-eval", {"applied": False, "factor": round(factor, 4)}, detail, case)
