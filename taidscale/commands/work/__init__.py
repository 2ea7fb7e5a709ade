"""What the commands do, once their arguments are read: here torch and the others are imported."""
