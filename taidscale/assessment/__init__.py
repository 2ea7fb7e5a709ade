"""What the student lost and won, once exported, and how distilled of its teacher it is.

One process on the CPU or one GPU, on Hugging Face folders; nothing of a run is needed.
"""
