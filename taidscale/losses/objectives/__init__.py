"""The divergences that a student can minimise, one a file."""
