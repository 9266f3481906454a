"""The selectors: one file each with its source, except those that only rank by a score."""
