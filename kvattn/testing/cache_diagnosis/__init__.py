"""The naming engine for caches: which one thing, done wrong, would show what this cache shows.

`scripts` says what a cache is asked to do, `observing` writes down what it shows as names of rows, `habits` has a model
of a cache in lists that can be given one habit, and `magnitudes` reads rows whose sizes differ, for caches that store
codes.  `kvattn.testing.cache_checking.check_cache` puts them together.
"""
