"""The last stage: rows are written, checked as written and held against the gates; then they are released or quarantined, whole.

A release carries the key of the run that made it, so the next run of the same job finds it and does nothing. `resample` draws more rows
from a model that is there already.
"""

from __future__ import annotations

import json
import platform
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data import releases
from data.card import guarantee
from data.disk import sha256
from data.errors import BadInput
from data.rows import stream, write_rows
from data.schema import Dataset, Schema
from data.sources import slug
from data.stores import Place, fetch, place
from flows import auto, cluster, room
from flows.folders import home, keyed, read_json, retire
from flows.job import Job, shown
from flows.planning import recipe, writable
from flows.reproduce import command
from flows.stages import FRAMES, UNFOLDED, load, real_of, teller

PACKAGES = ("alfar", "torch", "scikit-learn", "pyarrow", "numpy", "great-expectations", "prefect", "sdv", "opacus")
Search = Callable[[Mapping[str, bytes]], list[dict[str, str]]]  # files -> what evaluators.leaks.search finds in them
Gates = Callable[..., list[dict[str, Any]]]  # (scores, publishable=…) -> the gates as evaluators.gates.check lists them


@dataclass(frozen=True)
class Outcome:
    """Where a run ended: a release or the quarantine, with the manifest that stands there.

    `private` is the page that shows real rows; it stands in the run folder, outside of `folder`.
    """

    folder: Place
    manifest: dict[str, Any]
    cached: bool = False
    private: Path | None = None

    @property
    def passed(self) -> bool:
        """Did it become a release?"""
        return not self.manifest["reasons"]


def publish(job: Job, dataset: str, prepared: Path, fitted: Path, drawn: Path, judged: Path, chosen: Path | None = None) -> Outcome:
    """Write the rows, check them as written, hold them against the gates; then release or quarantine, whole or not at all.

    `chosen` is the stage `choose` of a job that left the generator to `auto`: the release says what was tried, and is reproduced with
    the generator that was chosen.
    """
    from evaluators import leaks
    from evaluators.gates import Thresholds, check

    run = keyed("publish", {"drawn": drawn.name, "judged": judged.name, "gates": job.gates}, ("data", "generators", "evaluators"))
    private = judged / "inspect.html"
    if known := published(job.to, dataset, run):
        return kept(job, dataset, replace(known, private=private))
    model = read_json(fitted / "model" / "model.json")
    manifest = {
        "run": run,
        "dataset": dataset,
        "source": read_json(prepared / "source.json"),
        "job": job.public(),
        "generator": model["generator"],
        "seed": job.seed,
        "reproduce": command(auto.settled(job, chosen)),
        "log": model["log"],
        "schema": model["schema"],
        "scores": read_json(judged / "scores.json"),
    }
    if (fitted / "reference.json").is_file():
        manifest["reference"] = read_json(fitted / "reference.json")
    if (fitted / "ledger.json").is_file():
        manifest["privacy"] = model["log"]["privacy"] | {"ledger": read_json(fitted / "ledger.json")}
        manifest["source"]["notes"].append(guarantee(manifest["privacy"]))
    if (fitted / "drift.json").is_file():
        manifest["drift"] = read_json(fitted / "drift.json")
    if chosen:
        manifest["auto"] = read_json(chosen / "choice.json") | {"command": command(job)}
    limits = Thresholds(**job.gates)
    with releases.staging(job.to, dataset) as staged:
        manifest["rows"] = pq.read_metadata(drawn / "rows.parquet").num_rows
        gates = partial(check, thresholds=limits)
        draws, rows = partial(read_json, drawn / "draws.json"), stream(drawn / "rows.parquet")
        frames = Dataset.open(drawn / "frames.parquet") if (drawn / "frames.parquet").is_file() else None
        search = partial(leaks.search, leaks.Secrets.of(real_of(prepared)))
        outcome = release(staged, job.to, rows, manifest, fitted / "model", gates, draws=draws, frames=frames, search=search)
    return kept(job, dataset, replace(outcome, private=private))


def kept(job: Job, dataset: str, outcome: Outcome) -> Outcome:
    """The outcome, after old versions and old stages of private runs have gone that the job does not `keep`."""
    if job.keep and outcome.passed:
        releases.retire(job.to, dataset, job.keep)
        retire(home() / "runs" / dataset, job.keep)
    return outcome


@dataclass(frozen=True)
class Asked:
    """What rows are asked for: values of columns, a condition, and shares of a column's values, as `Fitted.stream` takes them."""

    given: Mapping[str, Any] = field(default_factory=dict)
    where: str | None = None
    shares: tuple[str, Mapping[str, float]] | None = None

    @property
    def options(self) -> list[str]:
        """The options of the command line that say it."""
        said = [word for column, value in self.given.items() for word in ("--given", f"{column}={value}")]
        said += ["--where", self.where] if self.where is not None else []
        name, wanted = self.shares or ("", {})
        for item in [f"{name}={value}:{share:g}" for value, share in wanted.items()] or ([name] if name else []):
            said += ["--balance", item]
        return said

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"given": {column: str(value) for column, value in self.given.items()}}
        found |= {"where": self.where} if self.where is not None else {}
        return found | ({"balance": {self.shares[0]: dict(self.shares[1])}} if self.shares else {})


def resample(path: Place, rows: int, seed: int, asked: Asked, name: str | None, to: str) -> Outcome:
    """A new release of rows drawn from a model without a new fit; what was judged is the model, in the release it comes from.

    `path` is a release's folder, a dataset's, or a model's. BadInput when it is none of them or its generator is not publishable.
    """
    from evaluators.gates import Thresholds, check
    from generators.drawing import Tally

    model, parent = origin(path)
    fitted = load(model)
    made_by = recipe(fitted.generator)
    if not fitted.generator.publishable:
        raise BadInput(f"{path} is a model of {made_by['name']}, a yardstick whose rows are never published: sample from another model")
    dataset = name or (parent.dataset if parent else slug(path.absolute().name))
    tally = Tally(teller("sample"))
    chunks = cluster.stream(fitted, rows, seed=seed, given=asked.given, where=asked.where, shares=asked.shares, tally=tally)
    writable(to, dataset)
    if parent:
        room.sampled(parent.manifest, rows, to)
    first = next(chunks)  # a condition that cannot be met is found here
    known = parent.manifest if parent else {}
    judged = "fidelity" in known.get("scores", {})
    note = "judged: the model, by the release it was taken from" if judged else "not judged: the model was given without a judgement"
    words = ["alfar", "sample", shown(str(path)), "--rows", str(rows), "--seed", str(seed), *asked.options]
    manifest = {
        "run": None,
        "dataset": dataset,
        "rows": rows,
        "source": {**known.get("source", {}), "notes": [*known.get("source", {}).get("notes", []), note]},
        "job": known.get("job", {}),
        **{key: known[key] for key in ("privacy",) if key in known},
        **asked.to_json(),
        "generator": made_by,
        "seed": seed,
        "reproduce": shlex.join(words),
        "log": fitted.log,
        "schema": fitted.schema.to_json(),
        "scores": {k: v for k, v in known.get("scores", {}).items() if k != "quality"},
        "parent": {k: known[k] for k in ("dataset", "version", "run", "created")} if parent else {"model": shown(str(path))},
    }
    limits = Thresholds(**known.get("job", {}).get("gates", {}))

    def gates(scores: dict[str, Any], *, publishable: bool) -> list[dict[str, Any]]:
        found = check(scores, limits, publishable=publishable)
        return found if judged else [gate for gate in found if gate["name"] == "quality"]

    frames = fitted.frames(UNFOLDED, FRAMES, seed=seed)
    with releases.staging(to, dataset) as staged:
        return release(staged, to, chain([first], chunks), manifest, model, gates, verdict="sampled", draws=tally.to_json, frames=frames)


def origin(path: Place) -> tuple[Path, releases.Release | None]:
    """The model's folder of what a user points at, and the release that it stands in; a model in a store is copied here first."""
    for model in (path, path / "model"):
        if (model / "model.json").is_file():
            whole = (model.parent / "release.json").is_file()
            return local(model), releases.open_release(model.parent, verify=True) if whole else None
    if not path.exists():
        raise BadInput(f"{path} does not exist: give a release's or a model's folder")
    found = releases.open_release(path, verify=True)
    return local(found.model), found


def local(model: Place) -> Path:
    """The model's folder, or its copy in the private folder, by its content."""
    if isinstance(model, Path):
        return model
    copy = home() / "models" / sha256(model / "model.json")[:16]
    if not copy.is_dir():
        shutil.rmtree(part := copy.with_suffix(".partial"), ignore_errors=True)
        fetch(model, part)
        part.rename(copy)
    return copy


def release(
    staged: Path,
    to: str,
    chunks: Iterator[Dataset],
    manifest: dict[str, Any],
    model: Path,
    gates: Gates,
    verdict: str = "published",
    draws: Callable[[], dict[str, Any]] = dict,
    frames: Dataset | None = None,
    search: Search | None = None,
) -> Outcome:
    """Stream rows into a staged folder, check the written files, judge by the gates, and publish or quarantine it.

    `draws` tells, when all rows are written, out of how many draws they were made; `frames` are a few images on their way, for the report.
    `search` finds what belongs to single rows in the files; a file in which it does leaves neither for the release nor for the quarantine.
    """
    from evaluators.pictures import paired, pictures
    from evaluators.quality import quality
    from evaluators.report import render
    from evaluators.samples import samples
    from generators import registry
    from generators.base import Unfolding

    now = datetime.now(UTC)
    dataset, rows, tell = manifest["dataset"], manifest["rows"], teller("publish")
    manifest = {**manifest, "versions": versions(), "created": now.isoformat(timespec="seconds")}
    files = write_rows(staged, chunks, rows=rows, provenance=provenance(manifest), progress=tell)
    if made := draws():
        notes = [*manifest["source"].get("notes", []), told(made)] if made["drawn"] > made["kept"] else manifest["source"].get("notes", [])
        manifest |= {"draws": made, "source": {**manifest["source"], "notes": notes}}
    tell(rows, rows, "checking the files as written")
    kind = registry.get(manifest["generator"]["name"])
    publishable, caption = kind.publishable, kind.caption if issubclass(kind, Unfolding) else ""
    schema = Schema.from_json(manifest["schema"])
    manifest["scores"] = {**manifest["scores"], "quality": quality(schema, files)}
    if publishable:
        shutil.copytree(model, staged / "model")
    manifest["gates"] = gates(manifest["scores"], publishable=publishable)
    pages: dict[str, Callable[[], dict[str, Any]]] = {
        "image": partial(pictures, files, frames, FRAMES, caption),
        "text": partial(samples, schema, files),
        "multimodal": partial(paired, files, frames),
    }
    shown = pages.get(schema.modality, dict)
    pictured = shown() if publishable else None

    def judged() -> None:
        manifest["reasons"] = [reason(gate) for gate in manifest["gates"] if not gate["passed"]]
        manifest["verdict"] = "quarantined" if manifest["reasons"] else verdict
        (staged / "report.html").write_text(render(manifest, pictured), encoding="utf-8")

    judged()
    if search:
        manifest["gates"].append(closed(staged, manifest, search))
        judged()
    if manifest["reasons"]:
        folder = releases.quarantine(staged, to, dataset, manifest, manifest["reasons"])
    else:
        folder = releases.publish(staged, to, dataset, manifest, at=now)
    return Outcome(folder, read_json(folder / "release.json"))


def closed(staged: Path, manifest: Mapping[str, Any], search: Search) -> dict[str, Any]:
    """The gate of what belongs to single rows in a staged folder's files, its card and its manifest; a file that holds some is removed."""
    from data.card import card
    from evaluators.gates import unread

    texts = {"release.json": json.dumps(manifest), "README.md": card({**manifest, "version": "v1"}, manifest["schema"])}
    files = {name: text.encode() for name, text in texts.items()}
    written = [path for path in sorted(staged.rglob("*")) if path.is_file() and path.parent.name != "data"]
    files |= {path.relative_to(staged).as_posix(): path.read_bytes() for path in written}
    found = search(files)
    for name in {leak["file"] for leak in found} - set(texts):
        (staged / name).unlink()
    return unread(found)


def told(draws: Mapping[str, Any]) -> str:
    """What was thrown away, in a sentence."""
    reasons = ", ".join(f"{what} ({count:,})" for what, count in draws["rejected"].items())
    return f"{100 * draws['rate']:.3g} % of {draws['drawn']:,} draws were kept" + (f"; turned away: {reasons}" if reasons else "")


def provenance(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What every parquet file says of its origin: all of the manifest but plots and lists."""
    said = {k: manifest[k] for k in ("run", "source", "job", "generator", "seed", "versions", "created")}
    bulky = ("plots", "columns", "pairs")
    said["scores"] = {name: {k: v for k, v in part.items() if k not in bulky} for name, part in manifest["scores"].items()}
    return said


def reason(gate: Mapping[str, Any]) -> str:
    """A failed gate in a few words."""
    return f"{gate['name']} is {'not measured' if gate['value'] is None else gate['value']}, the limit is {gate['limit']}"


def published(to: str | Place, dataset: str, run: str) -> Outcome | None:
    """The release or the rejected one that a run with this key left, whole; None when there is none."""
    root = place(to)
    for manifest in [*(root / dataset).glob("v*/release.json"), *(root / "_quarantine" / dataset).glob("*/release.json")]:
        with suppress(BadInput):
            found = releases.open_release(manifest.parent)
            if found.manifest.get("run") == run:
                found.verify()
                return Outcome(found.folder, dict(found.manifest), cached=True)
    return None


# ---- small things


def versions() -> dict[str, str]:
    """Of what had a part in a release."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
