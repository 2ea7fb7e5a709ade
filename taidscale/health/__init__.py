"""Is every rank well, and may the run go on."""
