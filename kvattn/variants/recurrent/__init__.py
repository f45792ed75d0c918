"""A state of fixed size in place of keys: one variant per file."""
