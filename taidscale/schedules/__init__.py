"""What changes with the step."""
