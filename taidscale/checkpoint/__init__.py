"""What survives a crash, and what leaves as Hugging Face files."""
