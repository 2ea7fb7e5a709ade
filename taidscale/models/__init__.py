"""What has weights."""
