"""The naming engine for caches: which one thing, done wrong, would show what this cache shows.

`scripts` says what a cache is asked to do, `observing` writes down what it shows as names of rows, `habits` has a model
of a cache in lists that can be given one habit; for caches that store codes `magnitudes` reads rows whose sizes differ,
and `scales` a row that is far larger than those before it; `storing` reads number formats from fractions.
`kvattn.testing.cache_checking.check_cache` puts them together.
"""
