"""Fewer numbers per token in the cache: one variant per file."""
