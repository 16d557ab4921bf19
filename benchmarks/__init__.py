"""Measured figures: scripts that write `results/`."""
