"""Jobs, flows and the command line: the only package that imports Prefect."""

import os

# before any library with OpenMP is loaded: threads that wait by spinning for long make a busy machine many times slower, and threads
# that sleep at once make small steps slower than one thread does
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # which GNU's OpenMP heeds first
