"""What a run's files say, in curves and tables."""
