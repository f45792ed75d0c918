"""Fewer keys per query: one variant per file."""
