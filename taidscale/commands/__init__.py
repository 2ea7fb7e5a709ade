"""What a person types: `taidscale train`, `taidscale plan` and the others."""
