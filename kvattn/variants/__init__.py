"""One attention variant per file, with the same verbs in the same order: definition, start, step, cost."""
