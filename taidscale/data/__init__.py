"""Where tokens come from, and where we are in them."""
