"""Many generators on one dataset: the same rows to learn from, the same rows to be judged on, one leaderboard.

Each fit is a task; it shares the run folder with the main job, so what was fitted once is not fitted again. A generator that fails
gets a row with its error. The floor, the ceiling and the real reference come from the protocol itself, which is asked for them once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from flows import settings

settings.prepare()

from prefect import flow, task  # noqa: E402
from prefect.artifacts import create_table_artifact  # noqa: E402

from data.card import plain  # noqa: E402
from flows import cluster, stages  # noqa: E402
from flows.folders import keyed, run_folder, write_json  # noqa: E402
from flows.job import Job  # noqa: E402
from flows.pipeline import prepare, read  # noqa: E402
from flows.reproduce import command  # noqa: E402
from flows.screen import figure, table  # noqa: E402
from flows.stages import refer  # noqa: E402
from flows.synthesize import run  # noqa: E402

PRIVACY = ("copies", "near", "dcr", "membership", "informed", "singling", "inference", "spans", "leaks")
SHOWN = {  # the figures of a generator by kind of fidelity, between its TSTR and what it cost: key of a row, head, digits
    "table": (("detector", "detector", 3), ("shape", "shape %", 2), ("trend", "trend %", 2), ("dcr", "dcr %", 1), ("copies", "copies", 4)),
    "image": (("kid", "KID", 3), ("coverage", "coverage", 3), ("agreement", "labels", 3), ("near", "near", 4), ("copies", "copies", 4)),
    "text": (
        ("detector", "detector", 3),
        ("perplexity", "perplexity", 1),
        ("agreement", "labels", 3),
        ("near", "near", 4),
        ("copies", "copies", 4),
    ),
}


@task(persist_result=False, task_run_name="{job.generator[name]}, seed {job.seed}")
def candidate(job: Job, root: Path, prepared: Path, referred: Path) -> dict[str, Any]:
    """One fit: its scores and what it cost."""
    return stages.candidate(job, root, prepared, referred)


@flow(name="compare", flow_run_name="{job.source.shown}", persist_result=False)
def compare(job: Job, generators: list[str], seeds: int = 1, to: str | None = None) -> tuple[dict[str, Any], Path]:
    """Fit every generator `seeds` times and rank them. Returns the leaderboard and the folder it was written to."""
    dataset = run(read, job)
    minutes = job.minutes / (len(generators) * seeds) if job.minutes else None
    with run_folder(dataset, stages.waiting(dataset)) as root:
        prepared = run(prepare, job, root).folder
        referred = run(refer, job, root, prepared).folder
        fits = [(name, seed) for name in generators for seed in range(job.seed, job.seed + seeds)]
        jobs = [job.model_copy(update={"generator": {"name": name}, "seed": seed, "minutes": minutes}) for name, seed in fits]
        made = cluster.candidates(jobs, root, prepared, referred)
        results: dict[str, list[Any]] = {name: [] for name in generators}
        for number, ((name, seed), one) in enumerate(zip(fits, jobs, strict=True)):
            stages.progress.get()("compare", number, len(fits), f"{name}, seed {seed}")
            why = next(made)
            state = None if why else candidate(one, root, prepared, referred, return_state=True)
            results[name].append(state.result(raise_on_failure=False) if state else why)
        rows = [row(name, found) for name, found in results.items()]
        again = command(job, "compare", "--generators", ",".join(generators), "--seeds", str(seeds))
        board = ranked(dataset, rows) | {"target": job.target, "reproduce": again}
        folder = Path(to) if to else root / keyed("compare", {"job": job.digest, "generators": generators, "seeds": seeds}, ())
    write(board, folder)
    cells = [["" if cell == "-" else plain(cell) for cell in line] for line in lines(board)]  # Prefect shows them as Markdown
    create_table_artifact(
        [dict(zip(head(board), line, strict=True)) for line in cells], key="leaderboard", description=f"Generators on {dataset}"
    )
    return board, folder


def row(name: str, results: Sequence[Any]) -> dict[str, Any]:
    """One generator's line: the mean over its fits, or its error in one sentence."""
    from evaluators.gates import Thresholds, check
    from generators import registry

    failed = [r for r in results if not isinstance(r, dict)]
    if failed:
        text = " ".join(str(failed[0]).split())
        return {"generator": name, "seeds": len(results), "error": text[:300] or type(failed[0]).__name__}
    kind = registry.get(name)
    all_scores = [r["scores"] for r in results]
    gates = [g for s in all_scores for g in check(s, Thresholds(), publishable=True) if g["name"] in PRIVACY]
    role = {"tabular/marginal": "floor", "tabular/copy": "ceiling"}.get(name)
    return {
        "generator": name,
        **({"role": role} if role else {}),
        "seeds": len(results),
        "tstr": pooled([judged(s, "synthetic") for s in all_scores]),
        **likeness([s["fidelity"] for s in all_scores]),
        "near": mean((s["privacy"]["near"] or {}).get("synthetic") for s in all_scores),
        "dcr": mean((s["privacy"]["dcr"] or {}).get("share") for s in all_scores),
        "copies": mean(s["privacy"]["copies"]["synthetic"] for s in all_scores),
        "minutes": mean(r["minutes"] for r in results),
        "fit_seconds": mean(r["fit_seconds"] for r in results),
        "rows_per_second": mean(r["rows_per_second"] for r in results),
        "private": all(g["passed"] for g in gates),
        "publishable": kind.publishable,
        "references": {k: judged(all_scores[0], k) for k in ("real", "floor", "cheat")}
        | {"headline": all_scores[0]["utility"].get("headline")},
        "error": None,
    }


def likeness(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over fits of what tables, images or texts are compared by."""
    areas = {k: mean(((f["detector"] or {}).get(k) or {}).get("auc") for f in found) for k in ("train", "test")}
    agreement = mean((f.get("label_agreement") or {}).get("synthetic") for f in found)
    if found[0].get("kind") == "text":
        learnt = mean((f["perplexity"] or {}).get("synthetic") for f in found)
        return {"kind": "text", "detector": areas, "perplexity": learnt, "agreement": agreement}
    if found[0].get("kind") not in ("image", "multimodal"):
        return {"kind": "table", "detector": areas, **{k: mean(f[k]["synthetic"] for f in found) for k in ("shape", "trend")}}
    spaces = [f["spaces"].get("learnt", {}) for f in found]
    figures = {k: mean((s.get(k) or {}).get("synthetic") for s in spaces) for k in ("fid", "kid", "coverage")}
    return {"kind": "image", "detector": areas, **figures, "agreement": agreement}


def judged(scores: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """The headline score of a training set, by the judge that is best on real rows; None without a target."""
    utility = scores["utility"]
    if "judges" not in utility:
        return None
    return utility["judges"][utility["ratio"]["judge"]][kind][utility["headline"]]


def pooled(found: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The mean over fits; its interval holds both the judges' own width and the spread between fits."""
    known = [s for s in found if s and s["mean"] is not None]
    if not known:
        return None
    centre = fmean(s["mean"] for s in known)
    half = fmean((s["high"] - s["low"]) / 2 for s in known)
    between = variance([s["mean"] for s in known]) / len(known) if len(known) > 1 else 0.0
    width = (half**2 + 1.96**2 * between) ** 0.5
    return {"mean": round(centre, 5), "low": round(centre - width, 5), "high": round(centre + width, 5)}


def mean(values: Any) -> float | None:
    """The mean of what was measured."""
    known = [v for v in values if v is not None]
    return round(fmean(known), 5) if known else None


def ranked(dataset: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The leaderboard: best first, floor and ceiling of the protocol between them, failures last."""
    references: dict[str, Any] = next((r["references"] for r in rows if "references" in r), {})
    for role, kind, label in (("floor", "floor", "shuffled columns"), ("ceiling", "cheat", "redrawn real rows")):
        if references.get(kind):
            rows.append({"generator": label, "role": role, "seeds": 0, "tstr": references[kind], "error": None})

    def merit(r: Mapping[str, Any]) -> tuple[bool, float]:
        by_detector = 1 - ((r.get("detector") or {}).get("test") or 1.0)
        return r["error"] is None, r["tstr"]["mean"] if r.get("tstr") else by_detector

    rows = sorted(rows, key=merit, reverse=True)
    able = [r["generator"] for r in rows if r.get("publishable") and r.get("private") and "role" not in r]
    return {
        "dataset": dataset,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "headline": references.get("headline"),
        "winner": able[0] if able else None,
        "real": references.get("real"),
        "rows": [{k: v for k, v in r.items() if k != "references"} for r in rows],
    }


def shown(board: Mapping[str, Any]) -> tuple[tuple[str, str, int], ...]:
    """The figures that this board shows."""
    return SHOWN[next((r["kind"] for r in board["rows"] if "kind" in r), "table")]


def head(board: Mapping[str, Any]) -> list[str]:
    """The names of the leaderboard's columns."""
    return ["generator", "TSTR", *(name for _, name, _ in shown(board)), "minutes", "fit CPU s", "rows/CPU s"]


def lines(board: Mapping[str, Any]) -> list[list[str]]:
    """The leaderboard as cells of text."""
    found = []
    for r in board["rows"]:
        name = r["generator"] + (f" ({r['role']})" if "role" in r else "")
        if r["error"]:
            found.append([name, f"failed: {r['error'][:80]}", *[""] * (len(head(board)) - 2)])
            continue
        figures = [figure(value.get("test") if isinstance(value := r.get(key), dict) else value, digits) for key, _, digits in shown(board)]
        cost = [figure(r.get("minutes"), 2), figure(r.get("fit_seconds"), 1), figure(r.get("rows_per_second"), 0)]
        found.append([name, figure(r["tstr"]) if r.get("tstr") else "-", *figures, *cost])
    return found


def text(board: Mapping[str, Any]) -> str:
    """The leaderboard for a terminal."""
    real = f"{board['headline']} of models learnt on real rows: {figure(board['real'])}\n" if board["real"] else ""
    return real + table(lines(board), head(board))


def write(board: Mapping[str, Any], folder: Path) -> None:
    """leaderboard.json, .md and .html."""
    from evaluators.report import render_leaderboard

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "leaderboard.json", board)
    cells = [head(board), ["---"] * len(head(board)), *([plain(cell) for cell in line] for line in lines(board))]
    marks = [f"| {' | '.join(line)} |" for line in cells]
    title = f"# {board['dataset']}: {board['headline'] or 'no target'}"
    (folder / "leaderboard.md").write_text(
        "\n".join([title, "", *marks, "", f"Learnt on real rows: {figure(board['real'])}. Winner: {board['winner']}.", ""]),
        encoding="utf-8",
    )
    (folder / "leaderboard.html").write_text(render_leaderboard(board), encoding="utf-8")
