"""In the place of torch, for commands that need none."""

raise ImportError("this command is to need no torch")
