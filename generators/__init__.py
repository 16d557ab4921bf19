"""Generative models: each learns P(x, y) from a Dataset and samples new rows. Imports `data` only."""
