"""Heads and projections: one variant per file."""
