"""How raw text becomes shards of tokens."""
