"""A command as a whole process: wall seconds, CPU seconds and peak memory of it and its children.

python -m benchmarks.measure alfar sample releases/diamonds --rows 5000000 --to big
"""

import resource
import subprocess
import sys
import time


def measure(command: list[str]) -> dict[str, float]:
    """Run it; {"exit", "wall_s", "cpu_s", "peak_mb"}; the peak is that of the largest single process."""
    began = time.perf_counter()
    code = subprocess.run(command, check=False).returncode
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "exit": code,
        "wall_s": round(time.perf_counter() - began, 2),
        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "peak_mb": round(used.ru_maxrss / 1024),
    }


if __name__ == "__main__":
    print(measure(sys.argv[1:]))
