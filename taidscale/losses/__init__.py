"""What compares distributions."""
