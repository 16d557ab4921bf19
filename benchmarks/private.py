"""What privacy costs: generators fitted to Adult at epsilon 1, 3, 8 and without, judged on the same unseen rows.

    python -m benchmarks.private [--generators tabular/made] [--epsilons 1 3 8] [--to FILE]

TSTR is the boosted judge's ROC-AUC on test rows, learnt on as many synthetic rows as there are training rows; membership is the area of
guessing training rows by their distance to the nearest synthetic one, 0.5 a blind guess. Intervals are 95 %, over test rows and over the
guessed rows. Adult is read from $ALFAR_BENCH_DATA (default ../shared/data). One fit for each line, seed 0.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.tables import FILES
from data.schema import Dataset, Schema, Split
from data.split import split
from evaluators.privacy import privacy
from evaluators.protocol import interval, redraws
from evaluators.tabular import gradient_boosting
from flows.job import Job
from flows.planning import generator_of

HEADS = ("generator", "epsilon", "delta", "TSTR AUC", "membership AUC", "dcr %", "copies", "noise", "steps", "fit CPU s")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--generators", nargs="*", default=["tabular/made"])
    options.add_argument("--epsilons", nargs="*", type=float, default=[1.0, 3.0, 8.0, 0.0], help="0 for none")
    options.add_argument("--set", default="{}", help="fields of the recipe, as JSON")
    options.add_argument("--to", type=Path)
    given = options.parse_args()
    if not FILES["adult"].exists():
        sys.exit(f"{FILES['adult']} is missing: set ALFAR_BENCH_DATA to the folder of benchmark data")
    table = pq.read_table(FILES["adult"])
    real = split(Dataset.of(table, Schema.infer(table, target="income")))
    lines = [f"| {' | '.join(HEADS)} |", f"|{' --- |' * len(HEADS)}"]
    lines += [f"| real rows | - | - | {auc(real.train, real)} |{' - |' * 6}"]
    for name in given.generators:
        for epsilon in given.epsilons:
            lines.append(row(name, epsilon or None, real, given.set))
            print(lines[-1], flush=True)
    page = (
        f"# adult under differential privacy\n\n{len(real.train):,} training rows, {len(real.test):,} test rows.\n\n"
        + "\n".join(lines)
        + "\n"
    )
    (given.to or Path(__file__).parent / "results" / "private-adult.md").write_text(page)
    return 0


def row(name: str, epsilon: float | None, real: Split, settings: str) -> str:
    """One line of the table."""
    import json

    job = Job.of({"source": "adult", "generator": {"name": name, **json.loads(settings)}, "epsilon": epsilon})
    began = time.process_time()
    fitted = generator_of(job, real.train.schema).fit(real.train, seed=0, epsilon=epsilon)
    seconds = time.process_time() - began
    made = fitted.sample(len(real.train), seed=0)
    found = privacy(real.train, real.test, made)
    who, told = found["membership"], fitted.log.get("privacy")
    cells = [name, epsilon or "none", f"{told['delta']:.1e}" if told else "-", auc(made, real)]
    cells += [f"{who['auc']:.3f} ({who['low']:.3f} to {who['high']:.3f})", found["dcr"]["share"], found["copies"]["synthetic"]]
    cells += [told["mechanisms"][-1]["noise"] if told else "-", fitted.log["steps"], f"{seconds:.0f}"]
    return f"| {' | '.join(map(str, cells))} |"


def auc(train: Dataset, real: Split) -> str:
    """What a judge that learnt on these rows reaches on the test rows."""
    weights = redraws(len(real.test), np.random.default_rng(0))
    found = interval(gradient_boosting(train, real.test, 0)(weights)["roc_auc"])
    return f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


if __name__ == "__main__":
    sys.exit(main())
