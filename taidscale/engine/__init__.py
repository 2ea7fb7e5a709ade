"""What DeepSpeed must hear: the only part that imports it."""

import os

import torch

# Read when deepspeed is imported: without the first it searches for accelerators and warns
# where there is none; the second keeps its INFO lines out of the training log.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("DS_LOG_LEVEL", "warning")
