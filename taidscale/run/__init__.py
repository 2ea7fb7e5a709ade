"""A run on disk, over all its starts."""
