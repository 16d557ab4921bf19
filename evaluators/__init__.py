"""Judges and checks: what is a synthetic Dataset worth? Imports `data` only."""
