"""Policies that forget: scores say what a key is worth, a budget how many stay, and the witness is masked attention.

>>> import numpy as np
>>> from kvattn.eviction import kept_slots, negative_norms, top
>>> kept_slots(top(negative_norms(np.array([3.0, 1.0, 2.0]).reshape(1, 1, 3, 1)), budget=2))
array([[[1, 2]]])
"""

from kvattn.eviction.adaptive import adaptive_budgets, safeguarded_budgets
from kvattn.eviction.expected_attention import Moments, expected, query_moments, rotated
from kvattn.eviction.gathered import attend_kept
from kvattn.eviction.heavy_hitters import HeavyHitters, accumulated, averaged
from kvattn.eviction.kept import Kept
from kvattn.eviction.key_diff import key_difference
from kvattn.eviction.key_norm import negative_norms
from kvattn.eviction.observed import group_mean, group_sum, probabilities, query_sum
from kvattn.eviction.pyramid import pyramid_budgets
from kvattn.eviction.reindexed import reindex
from kvattn.eviction.selection import kept_slots, protect, shared, top
from kvattn.eviction.snap import MaxPool, MeanPool, window_votes
from kvattn.eviction.standing import Decoded, Standing, decode, untouched, witness
from kvattn.eviction.streaming import recency
from kvattn.eviction.tova import Tova, last_query

__all__ = [
    "probabilities",
    "query_sum",
    "group_sum",
    "group_mean",
    "top",
    "protect",
    "shared",
    "kept_slots",
    "Kept",
    "attend_kept",
    "Standing",
    "Decoded",
    "untouched",
    "decode",
    "witness",
    "recency",
    "accumulated",
    "averaged",
    "HeavyHitters",
    "window_votes",
    "MeanPool",
    "MaxPool",
    "last_query",
    "Tova",
    "pyramid_budgets",
    "adaptive_budgets",
    "safeguarded_budgets",
    "query_moments",
    "rotated",
    "expected",
    "Moments",
    "negative_norms",
    "key_difference",
    "reindex",
]
