"""Every generator on real tables, side by side: one leaderboard a task, in benchmarks/results/.

    python -m benchmarks.tables [--minutes 60] [diamonds:cut diamonds:price adult:income]

Each generator gets the same share of the minutes as its bound. Adult is read from $ALFAR_BENCH_DATA (default ../shared/data).
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
DATA = Path(os.environ.get("ALFAR_BENCH_DATA", "../shared/data"))
TASKS = ("diamonds:cut", "diamonds:price", "adult:income")
FILES = {
    "adult": DATA / "tabular/adult/train.parquet",
    "beijing_pm25": DATA / "tabular/beijing_pm25/data.parquet",
    "diabetes130": DATA / "tabular/diabetes130/data.parquet",
}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("tasks", nargs="*", default=list(TASKS), help="dataset:target")
    options.add_argument("--minutes", default="60", help="of training for each task, shared by its generators")
    options.add_argument("--generators", default="all")
    given = options.parse_args()
    for task in given.tasks:
        name, _, target = task.partition(":")
        source = str(FILES.get(name, name))
        if name in FILES and not FILES[name].exists():
            sys.exit(f"{source} is missing: set ALFAR_BENCH_DATA to the folder of benchmark data")
        command = [
            sys.executable,
            "-m",
            "flows.cli",
            "compare",
            source,
            "--target",
            target,
            "--generators",
            given.generators,
            "--minutes",
            given.minutes,
        ]
        to = HERE / "results" / f"{name}-{target.replace('.', '')}"
        subprocess.run([*command, "--name", name, "--to", str(to)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
