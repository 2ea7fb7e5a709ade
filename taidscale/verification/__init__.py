"""Whether this cluster, with this build, computes what it should: before a run."""
