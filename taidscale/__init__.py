"""Distil a big language model into a small one, at scale."""

__version__ = "0.1.0"
