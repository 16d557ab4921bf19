"""Alfar beside its peers: every generator on the same split, in a process and an environment of its own, before the same judge.

    make bench-peers                                                  everything (many hours of one core)
    python -m benchmarks.peers --datasets adult --only tabular/made --seeds 3
    python -m benchmarks.peers --tables                               only write the tables again

A peer's environment is made from the package index on first use, in $ALFAR_HOME/peers (default .alfar/peers). A peer reads
train.parquet and writes as many rows (never fewer than the test rows); it sees no test row. CPU seconds are those of its process and
children without imports; each has a limit. A result is one line of results/peers.jsonl and is kept: `--again` measures anew. Tables:
results/peers-<dataset>.md, and between the lines `<!-- peers -->` and `<!-- /peers -->` of the READMEs the one of adult.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "peers.jsonl"
DATASETS = ("adult", "adult_1k", "beijing_pm25", "diabetes130", "diamonds")
TORCH = "torch==2.13.0"
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")} | {"LOKY_MAX_CPU_COUNT": "1"}
REAL, FLOOR = "real rows", "columns shuffled"


@dataclass(frozen=True)
class Peer:
    """A generator to measure. `packages` make its environment (none: this one), less `without`; `special` are parameters by dataset."""

    name: str
    driver: str
    package: str
    packages: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    special: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    datasets: tuple[str, ...] = DATASETS
    limit: int = 900  # CPU seconds of the whole process
    note: str = ""

    @property
    def own(self) -> bool:
        return not self.packages


def sdv(kind: str, note: str = "", **more: Any) -> Peer:
    packages = ("sdv==2.0.0", TORCH, "numpy==2.4.6", "pandas==2.3.3", "scikit-learn==1.9.1", "pyarrow==26.0.1")
    return Peer(
        f"SDV {kind}", "sdv_models", "sdv", packages, parameters={"kind": f"{kind}Synthesizer"} | more.pop("base", {}), note=note, **more
    )


def own(name: str) -> Peer:
    return Peer(name, "own", "alfar", parameters={"generator": name}, limit=1800)


OLD = ("numpy==1.26.4", "scikit-learn==1.5.2", "pandas==2.2.3", "pyarrow==19.0.1")  # arfpy and utrees call what later ones removed
PEERS = (
    Peer(
        "mostlyai-engine TabularARGN",
        "argn",
        "mostlyai-engine",
        ("mostlyai-engine==2.7.3", TORCH, "pyarrow==26.0.1"),
        without=("torchvision", "torchaudio"),  # they do not import beside a CPU torch
        limit=3000,
    ),
    sdv("GaussianCopula"),
    sdv("TVAE", "300 epochs; diamonds 250, diabetes130 20", special={"diamonds": {"epochs": 250}, "diabetes130": {"epochs": 20}}),
    sdv("CTGAN", "60 of its 300 epochs", base={"epochs": 60}, datasets=("adult",)),
    Peer("arfpy", "arf", "arfpy", ("arfpy==0.1.1", *OLD), datasets=("adult", "adult_1k")),
    Peer(
        "UnmaskingTrees",
        "unmasking",
        "utrees",
        ("utrees==0.3.0", "xgboost==3.2.0", *OLD),
        parameters={"duplicate_K": 1},
        special={"adult_1k": {"duplicate_K": 10}},
        datasets=("adult", "adult_1k"),
        note="K = 1; adult_1k 10",
    ),
    Peer(
        "ForestDiffusion", "forest", "ForestDiffusion", ("ForestDiffusion==1.0.6", "xgboost==3.2.0", *OLD), datasets=("adult_1k", "adult")
    ),
    *map(own, ("tabular/made", "tabular/transformer", "tabular/diffusion", "tabular/vae", "tabular/gan")),
)


def folder() -> Path:
    """Where environments and splits are kept."""
    return Path(os.environ.get("ALFAR_HOME") or ".alfar").absolute() / "peers"


def environment(peer: Peer) -> Path:
    """The peer's python, made on first use. RuntimeError with pip's last word when it does not install."""
    if peer.own:
        return Path(sys.executable)
    key = hashlib.sha256(json.dumps([peer.packages, peer.without]).encode()).hexdigest()[:8]
    home = folder() / f"{peer.package}-{key}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(home)],
            [str(python), "-m", "pip", "install", "--quiet", *peer.packages],
            *([[str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *peer.without]] if peer.without else []),
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"does not install: {last_line(done.stderr)}")
        (home / "ready").touch()
    return python


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("WARNING", "[notice]"))]
    return lines[-1][:200] if lines else "no message"


def measure(peer: Peer, dataset: str, seed: int) -> dict[str, Any]:
    """One fit, one sample and its scores, or one `error`."""
    work = folder() / "work" / dataset
    truth = split(dataset, work)
    paths = {
        part: made(dataset, peer.name, seed, end) for part, end in (("order", "order.json"), ("out", "parquet"), ("result", "result.json"))
    }
    order = {
        "train": str(work / "train.parquet"),
        "out": paths["out"],
        "result": paths["result"],
        "rows": truth["rows"],
        "seed": seed,
        "target": truth["target"],
        "package": peer.package,
        "parameters": {**peer.parameters, **peer.special.get(dataset, {})},
    }
    Path(paths["order"]).write_text(json.dumps(order))
    Path(paths["result"]).unlink(missing_ok=True)
    found: dict[str, Any] = {"dataset": dataset, "generator": peer.name, "seed": seed, "parameters": order["parameters"]}
    try:
        command = [str(environment(peer)), "-W", "ignore", str(HERE / "drivers" / f"{peer.driver}.py"), paths["order"]]
    except RuntimeError as error:
        return found | {"error": str(error)}
    error = limited(command, peer.limit, work)
    if Path(paths["result"]).exists():
        found |= json.loads(Path(paths["result"]).read_text())
    if error and "rate" in found:  # only the second sample, drawn for the rate, did not end
        error = ""
    if error:
        spent = f" (fit: {found['fit_s']:.0f} CPU s; it was sampling)" if "fit_s" in found else ""
        return found | {"error": error + spent}
    return found | judged(dataset, paths["out"])


def made(dataset: str, name: str, seed: int, end: str = "parquet") -> str:
    """A generator's file in the work folder: its rows, its order, its result."""
    return str(folder() / "work" / dataset / f"{name.replace('/', '-').replace(' ', '-')}-{seed}.{end}")


def limited(command: Sequence[str], seconds: int, work: Path) -> str:
    """Run a driver on one thread; what went wrong in one line, or nothing."""
    env = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(HERE.parent)} if command[0] == sys.executable else {**os.environ, **ONE_THREAD}

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))

    try:
        done = subprocess.run(command, env=env, cwd=work, capture_output=True, text=True, preexec_fn=bound, timeout=8 * seconds)
    except subprocess.TimeoutExpired:
        return f"stopped after {8 * seconds} s"
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"stopped at the limit of {seconds} CPU s"
    return f"exit {done.returncode}: {last_line(done.stderr)}" if done.returncode else ""


def split(dataset: str, work: Path) -> dict[str, Any]:
    """train.parquet in the work folder; how many rows to make, and the target."""
    from benchmarks.protocol import real

    truth = real(dataset)
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "train.parquet").exists():
        truth.train.to_parquet(work / "train.parquet")
    return {"rows": max(len(truth.train), len(truth.test)), "target": truth.target}


def judged(dataset: str, path: str) -> dict[str, Any]:
    """The scores, by the judge in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.protocol", path, "--real", dataset]
    done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True)
    return {"error": f"not judged: {last_line(done.stderr)}"} if done.returncode else json.loads(done.stdout)


def yardsticks(dataset: str) -> list[dict[str, Any]]:
    """Two lines: real rows (train against test; shape and trend of two bootstraps of train), and train with its columns shuffled."""
    from benchmarks.protocol import Real, detector, real, shape_and_trend, utility

    truth = real(dataset)
    one, two = (truth.train.sample(len(truth.train), replace=True, random_state=s).reset_index(drop=True) for s in (1, 2))
    told = detector(truth.test, truth.train, 0)
    found = {"detector_train": 0.5, "detector_test": told, "dcr": 50.0, **utility(truth, truth.train, 0)}
    found |= shape_and_trend(Real(dataset, truth.target, one, truth.test), two)
    work = folder() / "work" / dataset
    rows = split(dataset, work)["rows"]
    shuffled = truth.train.apply(lambda c: c.sample(rows, replace=rows > len(c), random_state=zlib.crc32(c.name.encode())).to_numpy())
    shuffled.to_parquet(work / "shuffled.parquet")
    base = {"dataset": dataset, "seed": 0}
    return [
        base | {"generator": REAL} | {k: round(float(v), 4) for k, v in found.items()},
        base | {"generator": FLOOR} | judged(dataset, str(work / "shuffled.parquet")),
    ]


# ---- tables


def results() -> dict[tuple[str, str, int], dict[str, Any]]:
    """The last line of each (dataset, generator, seed)."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {(r["dataset"], r["generator"], r["seed"]): r for r in map(json.loads, lines)}


def keep(found: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(found | {"measured": time.strftime("%Y-%m-%d")}) + "\n")


HEAD = {
    "en": [
        "generator",
        "fit CPU s",
        "rows / CPU s",
        "peak MB",
        "shape %",
        "trend % (train's bins)",
        "detector train / test",
        "{score}",
        "DCR %",
    ],
    "es": [
        "generador",
        "ajuste CPU s",
        "filas / CPU s",
        "pico MB",
        "forma %",
        "tendencia % (cortes de train)",
        "detector train / test",
        "{score}",
        "DCR %",
    ],
}


def table(dataset: str, language: str = "en") -> str:
    """Markdown: own generators and peers by their detector against test, the yardsticks first, what failed after it."""
    every = [r for (name, _, _), r in results().items() if name == dataset]
    ended = [r for r in every if "tstr" in r]
    names = list(dict.fromkeys(r["generator"] for r in ended))
    first = [n for n in (REAL, FLOOR) if n in names]

    def mean(name: str, key: str) -> float:
        values = [r[key] for r in ended if r["generator"] == name and key in r]
        return sum(values) / len(values) if values else float("nan")

    ranked = first + sorted((n for n in names if n not in first), key=lambda n: mean(n, "detector_test"))
    score = "TSTR AUC / F1" if any("f1" in r for r in ended) else "TSTR R²"
    lines = ["| " + " | ".join(HEAD[language]).format(score=score) + " |", "|---|" + "---:|" * 8]
    for name in ranked:
        rows = [r for r in ended if r["generator"] == name]
        label = f"`{name}`" if "/" in name else name
        cells = [f"**{label}**" if name.startswith("tabular/") else label]
        cells += [show(rows, ["fit_s"], "{:,.0f}"), show(rows, ["rate"], "{:,.0f}", digits=2), show(rows, ["peak_mb"], "{:,.0f}")]
        cells += [show(rows, ["shape"], "{:.2f}"), f"{show(rows, ['trend'], '{:.2f}')} ({show(rows, ['trend_binned'], '{:.2f}')})"]
        cells += [
            show(rows, ["detector_train", "detector_test"], "{:.3f}"),
            show(rows, ["tstr", "f1"], "{:.3f}"),
            show(rows, ["dcr"], "{:.1f}"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    failed = [r for r in every if "error" in r]
    return "\n".join(lines) + "".join(f"\n\n{r['generator']}: {r['error']}." for r in failed)


def show(rows: list[dict[str, Any]], keys: Sequence[str], form: str, digits: int = 0) -> str:
    """The means, with half the range when there are several seeds."""
    parts = []
    for key in keys:
        values = [r[key] for r in rows if key in r]
        if values:
            mean, half = sum(values) / len(values), (max(values) - min(values)) / 2
            mean = float(f"{mean:.{digits}g}") if digits else mean
            parts.append(form.format(mean) + (f" ± {form.format(half)}" if len(values) > 1 and form != "{:,.0f}" else ""))
    return " / ".join(parts) or "–"


def write() -> None:
    """Every dataset's table, and adult's into the READMEs where the marks stand."""
    for dataset in DATASETS:
        if not any(name == dataset for name, _, _ in results()):
            continue
        notes = "; ".join(f"{p.name}: {p.note}" for p in PEERS if p.note and dataset in p.datasets)
        text = f"# {dataset}: generators side by side\n\n{table(dataset)}\n\n{CAPTION}{f' {notes}.' if notes else ''}\n"
        (RESULTS.parent / f"peers-{dataset}.md").write_text(text)
    for language, name in (("en", "README.md"), ("es", "README.es.md")):
        page = HERE.parent / name
        text = page.read_text()
        if "<!-- peers -->" in text and "<!-- /peers -->" in text:
            before, after = text.split("<!-- peers -->")[0], text.split("<!-- /peers -->")[1]
            page.write_text(f"{before}<!-- peers -->\n{table('adult', language)}\n<!-- /peers -->{after}")


CAPTION = (
    "Measured by `make bench-peers`: one split, one judge ([protocol.py](../protocol.py)), one thread, CPU seconds of the whole process "
    "without imports; ± is half the range of three seeds, no ± is one seed. Rows per CPU second: 200,000 rows into parquet, or as many as "
    f"train has where those took long. Detector: 0.5 is best. '{REAL}': learnt on train itself, the detector tells train from test, shape "
    f"and trend of two bootstraps of train; '{FLOOR}': the floor."
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=DATASETS)
    options.add_argument("--only", nargs="+", choices=[p.name for p in PEERS], help="these generators")
    options.add_argument("--seeds", type=int, help="default: three for own generators, one for peers")
    options.add_argument("--again", action="store_true", help="measure what is measured already")
    options.add_argument("--judge", action="store_true", help="measure nothing, judge again what was made")
    options.add_argument("--tables", action="store_true", help="measure nothing, write the tables")
    given = options.parse_args()
    chosen = [p for p in PEERS if not given.only or p.name in given.only]
    for (dataset, name, seed), found in results().items() if given.judge else ():
        if dataset in given.datasets and Path(made(dataset, name, seed)).exists() and "rate" in found:
            keep({k: v for k, v in found.items() if k != "error"} | judged(dataset, made(dataset, name, seed)))
    if not given.tables and not given.judge:
        for dataset in given.datasets:
            if (dataset, REAL, 0) not in results():
                for found in yardsticks(dataset):
                    keep(found)
            for peer in chosen:
                for seed in range(given.seeds or (3 if peer.own else 1)):
                    if (dataset in peer.datasets or given.only) and (given.again or (dataset, peer.name, seed) not in results()):
                        found = measure(peer, dataset, seed)
                        keep(found)
                        print(json.dumps(found), flush=True)
            write()
    write()


if __name__ == "__main__":
    main()
