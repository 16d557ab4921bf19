"""The stages of the main job as plain functions: each reads files of the run folder and makes files there.

    plan -> prepare -> [choose or budget] -> fit -> draw -> refer -> judge -> publish

`plan` (`flows.planning`) reads the source and checks everything that can be checked before work starts. The others are cached by content
(`flows.folders`); `publish` leaves its mark in the release itself. No stage but `prepare`, `refer` and `judge` reads the test rows.
`choose` is there when the job leaves the generator to `auto` (`flows.auto`), `budget` when it names one and bounds its minutes; what comes
after either runs the job with the choice.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data import ledger, releases
from data.drift import drift, reference
from data.errors import BadInput
from data.rows import head, schema_of, write_stream
from data.schema import Dataset, Schema, Split
from data.stores import fetch, place
from data.styles import paired, photos, sides
from data.texts import keys, recurring
from flows import auto, cluster
from flows.folders import Done, read_json, stage, write_json
from flows.job import Job
from flows.planning import Plan, generator_of, recipe
from flows.room import Room

if TYPE_CHECKING:
    from evaluators.protocol import Fit, Ground, Scoring
    from evaluators.tabular import Judge
    from generators.fitted import Fitted

UNFOLDED, FRAMES = 8, 8  # images shown on their way, in so many steps
SHOWN = 12  # rows of captioned images that are shown both ways
ANSWERED = 2_000  # test rows whose captions a model is asked for, and whose images
WORST = 10  # columns whose drift a release tells
CELL_SECONDS = 5e-6  # a row and column, of learning without steps
START_MINUTES = 0.5
FINE = 100  # marks of a quarter of the judging

Progress = Callable[[str, int, int, str], None]  # stage, done, total, a few words
progress: ContextVar[Progress] = ContextVar("progress", default=lambda stage, done, total, text: None)


def teller(name: str) -> Callable[[int, int, str], None]:
    """What a stage calls as it goes on."""
    tell = progress.get()
    return lambda done, total, text: tell(name, done, total, text)


def waiting(dataset: str) -> Callable[[], None]:
    """What is said while another run holds the dataset."""
    tell = progress.get()
    return lambda: tell("wait", 0, 0, f"another run of {dataset} is under way: waiting for it to end")


# ---- the stages


def prepare(plan: Plan, root: Path) -> Done:
    """The real rows, split: train.parquet, test.parquet, source.json."""
    job = plan.job
    inputs = {"source": plan.source, "schema": plan.real.train.schema.to_json(), "test": job.test is not None}

    def work(folder: Path) -> None:
        plan.real.train.save(folder / "train.parquet")
        plan.real.test.save(folder / "test.parquet")
        write_json(folder / "source.json", plan.source)

    return stage(root, "prepare", inputs, work, code=("data",))


def choose(job: Job, root: Path, prepared: Path) -> Done:
    """What `auto` tried and chose, choice.json, from the training rows alone."""
    limits = {name: job.gates[name] for name in sorted(set(job.gates) & set(auto.PRIVACY))}
    run = {"seed": job.seed, "minutes": job.minutes, "device": job.device}
    inputs = {"prepared": prepared.name, "candidates": auto.candidates(job), "gates": limits, **run}

    def work(folder: Path) -> None:
        train = Dataset.open(prepared / "train.parquet")
        write_json(folder / "choice.json", auto.choose(job, train, teller("choose")))

    return stage(root, "choose", inputs, work, code=("data", "generators", "evaluators", "flows"))


def budget(job: Job, root: Path, prepared: Path) -> Done:
    """What the run will cost, and the size of the generator that the job's minutes allow, from a trial on this machine: budget.json.

    {"name": the generator's, "size": fields that differ from the job's recipe, "steps", "wanted": steps without a bound, "minutes":
    {"fit", "draw", "judge", "rest"}}; a size that the job states itself stays. The first trial counts: a job that runs again is the same.
    """
    run = {"minutes": job.minutes, "device": job.device, "rows": job.rows}
    inputs = {"prepared": prepared.name, "generator": job.generator, **run}

    def work(folder: Path) -> None:
        write_json(folder / "budget.json", foretold(job, Dataset.open(prepared / "train.parquet")))

    return stage(root, "budget", inputs, work, code=("generators",))


def foretold(job: Job, train: Dataset) -> dict[str, Any]:
    """What `budget` writes."""
    from evaluators import protocol
    from evaluators.tabular import judged_as
    from generators.base import Descending

    rows, effort = len(train), protocol.EFFORT[judged_as(train.schema)]
    judging = {"judge": protocol.foretold(train), "rest": START_MINUTES}
    if auto.wanted(job):
        return {"name": "auto", "size": {}, "minutes": {"fit": job.minutes or auto.MINUTES, "draw": 0.0, **judging}}
    generator = generator_of(job, train.schema)
    name = recipe(generator)["name"]
    if not isinstance(generator, Descending):
        fit = min(CELL_SECONDS * rows * len(train.schema.columns) / 60, job.minutes or float("inf"))
        return {"name": name, "size": {}, "minutes": {"fit": fit, "draw": 0.0, **judging}}
    fitting, cost = generator.within(
        train, minutes=job.minutes, fixed=job.generator or (), device=job.device, private=job.epsilon is not None
    )
    size = {key: getattr(fitting, key) for key in chain(*generator.sizes)} if fitting != generator else {}
    drawn = (job.rows or rows) + (effort.samples - 1) * min(rows, effort.rows)
    minutes = {"fit": cost.minutes, "draw": drawn * cost.row_seconds / 60, **judging}
    return {"name": name, "size": size, "steps": cost.steps, "wanted": cost.wanted, "minutes": minutes}


def sized(job: Job, budget: Path) -> Job:
    """The job with the size that its budget allows; the job as it is when that is its own."""
    found = read_json(budget / "budget.json")
    return job.model_copy(update={"generator": {**(job.generator or {}), "name": found["name"], **found["size"]}}) if found["size"] else job


def fit(job: Job, root: Path, prepared: Path, dataset: str | None = None) -> Done:
    """The trained model, model/, and what is to be told of its data: reference.json, or under epsilon ledger.json.

    When the source has drifted from that of the last release of `dataset` no further than the job allows, it is that release's model;
    drift.json says so, or why not.
    """
    generator = generator_of(job, schema_of(prepared / "train.parquet"))
    inputs: dict[str, Any] = {
        "prepared": prepared.name,
        "generator": recipe(generator),
        "seed": job.seed,
        "minutes": job.minutes,
        "device": job.device,
    } | ({"epsilon": job.epsilon} if job.epsilon is not None else {})
    moved, known = drifted(job, dataset, prepared, inputs["generator"])
    if moved and moved["kept"] and known:
        return stage(root, "fit", {**inputs, "drift": moved}, partial(keep, known, moved), code=("data", "generators"))

    def work(folder: Path) -> None:
        train = Dataset.open(prepared / "train.parquet")
        Room.of(job, prepared, train.schema).check()
        checkpoints = folder / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        if job.epsilon is not None:
            write_json(folder / "ledger.json", spend(job, read_json(prepared / "source.json"), len(train), checkpoints))
        fitted = generator.fit(
            train,
            seed=job.seed,
            minutes=job.minutes,
            device=job.device,
            folder=checkpoints,
            progress=teller("fit"),
            epsilon=job.epsilon,
        )
        fitted.save(folder / "model")
        if job.epsilon is None:
            write_json(folder / "reference.json", reference(photos(train)))
        if moved:
            write_json(folder / "drift.json", moved)
        shutil.rmtree(checkpoints)

    return stage(root, "fit", inputs, work, code=("data", "generators"), resumes=True)


def spend(job: Job, source: Mapping[str, Any], rows: int, checkpoints: Path) -> dict[str, Any]:
    """Write down in the ledger of the destination that a fit under epsilon begins. BadInput when that exceeds the job's budget."""
    from generators.private import APIECE, secret

    fit = hashlib.sha256(b"fit" + secret(checkpoints)).hexdigest()[:16]
    given = {"source": str(source["name"]), "fingerprint": str(source["fingerprint"])}
    assert job.epsilon is not None
    return ledger.spend(job.to, fit=fit, **given, epsilon=job.epsilon, delta=1 / (APIECE * rows), budget=job.epsilon_budget)


def drifted(job: Job, dataset: str | None, prepared: Path, wanted: dict[str, Any]) -> tuple[dict[str, Any] | None, releases.Release | None]:
    """How far the source is from the data of the last release's model, and that release.

    {"from": version, "value", "limit", "kept", "columns": the worst}; None without a release by the same recipe for the same columns, and
    when the source is the same.
    """
    if job.drift is None or job.epsilon is not None or dataset is None:
        return None, None
    home = place(job.to) / dataset
    if not releases.complete(home):
        return None, None
    train = Dataset.open(prepared / "train.parquet")
    try:
        known = releases.open_release(home, verify=True)
        manifest, schema = known.manifest, Schema.from_json(known.manifest["schema"])
        same = manifest["source"].get("fingerprint") == read_json(prepared / "source.json")["fingerprint"]
        alike = [(c.name, c.kind, c.type) for c in schema.columns] == [(c.name, c.kind, c.type) for c in train.schema.columns]
        if same or not alike or schema.target != train.schema.target or manifest["generator"] != wanted or "reference" not in manifest:
            return None, None
        found = drift(manifest["reference"], train)
    except (BadInput, LookupError, TypeError, ValueError) as why:
        told = why if isinstance(why, BadInput) else "its manifest is another version's"
        print(f"the last release of {dataset} cannot be compared with, so the model is learnt anew: {told}", file=sys.stderr)
        return None, None
    kept = found["value"] <= job.drift
    return {"from": known.version, "value": found["value"], "limit": job.drift, "kept": kept, "columns": found["columns"][:WORST]}, known


def keep(known: releases.Release, moved: dict[str, Any], folder: Path) -> None:
    """The model of a release, as the result of a fit."""
    fetch(known.model, folder / "model")
    write_json(folder / "reference.json", known.manifest["reference"])
    write_json(folder / "drift.json", moved)


def draw(job: Job, root: Path, prepared: Path, fitted: Path) -> Done:
    """The synthetic rows, streamed: rows.parquet; out of how many draws, draws.json; and what sampling them cost, cost.json.

    frames.parquet holds a few images on their way when the model makes them step by step, and of captioned images what `both_ways` gives.
    """
    from generators.drawing import Tally

    rows = job.rows or pq.read_metadata(prepared / "train.parquet").num_rows

    def work(folder: Path) -> None:
        model, began, tally = load(fitted), time.process_time(), Tally(teller("draw"))
        Room.of(job, prepared, model.schema).check(learning=False)
        train = Dataset.open(prepared / "train.parquet")
        chunks = cluster.stream(model, rows, seed=job.seed, avoid=avoided(train), tally=tally, of=train)
        write_stream(chunks, folder / "rows.parquet", rows, teller("draw"))
        write_json(folder / "draws.json", tally.to_json())
        write_json(folder / "cost.json", {"rows": rows, "cpu_seconds": round(time.process_time() - began + tally.elsewhere, 3)})
        if frames := model.frames(UNFOLDED, FRAMES, seed=job.seed) or both_ways(model, folder / "rows.parquet", train, job.seed):
            frames.save(folder / "frames.parquet")

    return stage(root, "draw", {"fitted": fitted.name, "rows": rows, "seed": job.seed}, work, code=("data", "generators"))


def sampled(model: Fitted, n: int, seed: int, train: Dataset) -> Dataset:
    """`Fitted.sample` of a model of these rows, by the workers of the cluster when there is one."""
    from generators.drawing import Tally

    chunks = [chunk.table for chunk in cluster.stream(model, n, seed=seed, avoid=avoided(train), tally=Tally(), of=train)]
    return Dataset(model.schema, pa.concat_tables(chunks).combine_chunks())


def avoided(train: Dataset) -> Dataset | None:
    """The rows that no drawn row may come near: texts, and captions that are not such as come again by themselves."""
    if train.schema.modality == "multimodal":
        return None if recurring(train) else train
    return train if train.schema.modality == "text" else None


def both_ways(model: Fitted, drawn: Path, train: Dataset, seed: int) -> Dataset | None:
    """A few drawn rows whose captions no training row has, then these with other images made for their captions, then with other captions
    written for their images; None of other rows than captioned images, and when there are none."""
    if train.schema.task != "captioning":
        return None
    rows, columns = head(drawn, ANSWERED), [c for c in train.schema.columns if c.kind == "text"]
    fresh = np.flatnonzero(~np.isin(keys(rows.table, columns), keys(train.table, columns)))[:SHOWN]
    if not len(fresh):
        return None
    some = rows.take(fresh)
    tables = [data.table for data in (some, *answers(model, some, seed).values())]
    return Dataset(train.schema, pa.concat_tables(tables).combine_chunks())


def refer(job: Job, root: Path, prepared: Path) -> Done:
    """What judges score that learnt on real rows alone, references.json: once for every generator that is judged on these rows."""
    from evaluators.protocol import references

    def work(folder: Path) -> None:
        scoring = watched(0, 1, "references: judges learn on real rows and on the floor")
        found = references(sides(real_of(prepared)).known, seed=job.seed, judges=running(job.database), scoring=scoring)
        plain = {
            judge: {kind: {m: v.tolist() for m, v in scores.items()} for kind, scores in sets.items()} for judge, sets in found.items()
        }
        write_json(folder / "references.json", {"seed": job.seed, "scores": plain})

    asked = {"database": hashlib.sha256(Path(job.database).read_bytes()).hexdigest()} if job.database else {}
    return stage(root, "refer", {"prepared": prepared.name, "seed": job.seed, **asked}, work, code=("data", "evaluators"))


def watched(quarter: int, rounds: int, text: str) -> Scoring:
    """Judges that learn where there is room and tell after each how far a quarter of the judging is, which takes so many rounds of them."""
    tell, ended = teller("judge"), count()
    tell(quarter * FINE, 4 * FINE, text)

    def scoring(judges: Mapping[str, Judge], fits: list[Fit], ground: Ground, seed: int) -> list[dict[str, np.ndarray]]:
        first, known = next(ended), count(1)
        share = FINE / (rounds * len(fits))
        return cluster.scoring(
            judges, fits, ground, seed, lambda: tell(round(quarter * FINE + share * (first * len(fits) + next(known))), 4 * FINE, text)
        )

    return scoring


def running(database: str | None) -> Mapping[str, Judge] | None:
    """The judges of queries that are run against a database; without one, those that `evaluators.protocol` has."""
    from evaluators.text import executing

    return {"seq2seq": executing(database)} if database else None


def judge(job: Job, root: Path, prepared: Path, fitted: Path, drawn: Path, referred: Path) -> Done:
    """Utility, fidelity and privacy of several samples of the model, the drawn rows among them: scores.json; and the private page.

    The samples are the job's; what is random in judging is that of the references. inspect.html shows real rows beside synthetic
    ones. It stays here: no release holds it.
    """
    from evaluators.inspect import inspect
    from evaluators.protocol import EFFORT
    from evaluators.tabular import judged_as

    def work(folder: Path) -> None:
        real, model, known = real_of(prepared), load(fitted), read_json(referred / "references.json")
        effort = EFFORT[judged_as(real.train.schema)]
        n = min(len(real.train), effort.rows)
        first = head(drawn / "rows.parquet", n)
        samples = [first] if len(first) == n else [sampled(model, n, job.seed, real.train)]
        samples += [sampled(model, n, job.seed + i, real.train) for i in range(1, effort.samples)]
        translate = model.translate if real.train.schema.task == "image-to-image" else None
        asked = answers(model, real.test, job.seed) if real.test.schema.task == "captioning" else {}
        write_json(folder / "scores.json", scores(real, samples, known["seed"], known["scores"], job.database, translate, asked))
        shown = str(read_json(prepared / "source.json")["name"])
        page = inspect(real, samples[0], shown, seed=job.seed, translate=translate, asked=asked)
        (folder / "inspect.html").write_text(page, encoding="utf-8")

    inputs = {"drawn": drawn.name, "referred": referred.name, "seed": job.seed}
    return stage(root, "judge", inputs, work, code=("data", "generators", "evaluators"))


def answers(model: Fitted, test: Dataset, seed: int) -> dict[str, Dataset]:
    """The first `ANSWERED` captioned images with images drawn for their captions, and with captions for their images."""
    few = test.take(np.arange(min(ANSWERED, len(test))))
    return {"image": model.answer(few, seed=seed, back=True), "caption": model.answer(few)}


def scores(
    real: Split,
    samples: list[Dataset],
    seed: int,
    references: Mapping[str, Any] | None = None,
    database: str | None = None,
    translate: Callable[[Dataset], Dataset] | None = None,
    asked: Mapping[str, Dataset] | None = None,
) -> dict[str, Any]:
    """The three judgements of samples of one model (or one table), as JSON.

    `references` are as `refer` wrote them, where they are known; `database` is where SQL is run; `translate` draws photographs as the
    model does. Of image to image, samples are held against the images of the style, and must not give the photographs away. `asked` is
    what a model made of captions and of images, as `answers` gives it.
    """
    from evaluators.fidelity import fidelity
    from evaluators.learning import learning
    from evaluators.likeness import captioned, likeness
    from evaluators.privacy import privacy
    from evaluators.protocol import utility
    from evaluators.styling import styling
    from evaluators.tabular import judged_as
    from evaluators.wording import wording

    beside, as_drawn = sides(real), None if paired(real.train.schema) else translate
    alike: dict[str, Callable[..., dict[str, Any]]] = {
        "tabular": fidelity,
        "text": partial(wording, database=database),
        "image": likeness,
        "multimodal": partial(captioned, asked=asked or {}),
    }
    rounds = 2 if references else 3
    tell, scoring = teller("judge"), watched(1, rounds, "utility: judges learn on synthetic rows, scored on real ones")
    known = {
        judge: {kind: {m: np.array(v) for m, v in of.items()} for kind, of in sets.items()} for judge, sets in (references or {}).items()
    }
    result = {
        "utility": utility(beside.known, samples, seed=seed, judges=running(database), known=known, as_drawn=as_drawn, scoring=scoring)
    }
    if judged_as(real.train.schema) == "text" and real.train.schema.task == "classification":
        result["utility"] |= {"learning": learning(real, samples[0], seed=seed)}
    tell(2 * FINE, 4 * FINE, "fidelity: how like the real rows, and a detector")
    result["fidelity"] = alike[judged_as(real.train.schema)](beside.like.train, beside.like.test, samples[0], seed=seed)
    if translate:
        result["fidelity"] |= {"style": styling(real, translate(real.test), seed=seed)}
    tell(3 * FINE, 4 * FINE, "privacy: copies, distances, membership")
    result["privacy"] = privacy(beside.private.train, beside.private.test, samples[0], seed=seed)
    tell(4 * FINE, 4 * FINE, "judged")
    return result


def candidate(job: Job, root: Path, prepared: Path, referred: Path) -> dict[str, Any]:
    """One fit of `compare`: its scores and what it cost."""
    job = sized(job, budget(job, root, prepared).folder) if job.minutes else job
    fitted = fit(job, root, prepared)
    drawn = draw(job, root, prepared, fitted.folder)
    judged = judge(job, root, prepared, fitted.folder, drawn.folder, referred)
    cost = read_json(drawn.folder / "cost.json")
    return {
        "scores": read_json(judged.folder / "scores.json"),
        "minutes": (fitted.seconds + drawn.seconds) / 60,
        "fit_seconds": fitted.cpu_seconds,
        "rows_per_second": cost["rows"] / max(cost["cpu_seconds"], 1e-3),
    }


# ---- small things


def real_of(prepared: Path) -> Split:
    """The real rows of a `prepare` folder."""
    return Split(Dataset.open(prepared / "train.parquet"), Dataset.open(prepared / "test.parquet"))


def load(folder: Path) -> Fitted:
    """The model of a `fit` folder or a release."""
    from generators.fitted import Fitted

    return Fitted.load(folder / "model" if (folder / "model").is_dir() else folder)
