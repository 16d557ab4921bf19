"""Real data in, synthetic releases out: schemas, sources, splits and releases. Imports nothing else of this project."""
