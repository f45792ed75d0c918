"""The naming engine: read out what an attention function does, and say in a word where that differs.

One-hot values turn an output row into a row of probabilities; constant values per head turn it into the
head map.  From these the modules here fit heads, weights, sight, masks, bends, totals, edges and manners,
and what none of them asked is left to `differential`.
"""
