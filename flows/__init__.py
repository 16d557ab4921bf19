"""Jobs, flows and the command line: the only package that imports Prefect."""

import os

# before any library with OpenMP is loaded: threads that wait by spinning make a busy machine many times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
