"""Labels of tokens."""

IGNORED = -100
"""Label of a token that has no loss, as everywhere in the field."""
