"""`auto`: which generator, and of what size, within the minutes: successive halving (Jamieson and Talwalkar 2015, arXiv 1502.07943).

    rung 0: every candidate gets a small share of the minutes and of the rows
    rung r: the best third of rung r - 1 gets three times as much time, and more rows
    then:   the winner learns from all training rows in what is left of the minutes

A rung splits the *training* rows once more: candidates learn from one part and are judged on the other; the test rows are never read. A
candidate that breaks a privacy gate, or that may not be published, is dropped whatever it scores. The others are ranked by the score of a
judge that learnt on their rows, in steps of that score's own noise; within a step, and without a target, by the detector.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from data.errors import BadInput
from data.schema import Dataset, Split
from data.split import split
from flows.job import Job

if TYPE_CHECKING:
    from evaluators.tabular import Judge

NAME = "auto"
ETA = 3  # of a rung's candidates one in so many goes on, and gets so many times more
MINUTES = 10.0  # when the job gives none
CHOOSING = 0.5  # share of the minutes for the rungs; the rest is the winner's
LEAST_SECONDS = 3.0  # of a candidate in the first rung: fewer minutes try fewer candidates
LEAST_ROWS, MOST_ROWS = 5_000, 50_000  # to learn from in the first rung
GROWTH = 2  # of the rows from rung to rung: less than that of the time, so that later rungs make more passes
HELD_OUT = 0.25  # share of the training rows that a rung judges on
JUDGED_CELLS = 20_000  # rows times columns that are judged in the first rung
JUDGED_ROWS = (400, 2_000)  # rows of that, at least and at most
FEW = 250  # fewer held-out rows than this do not suffice for the detector
SMALL = 1_000  # fewer rows than this are judged by several samples
PRIVACY = ("copies", "dcr", "membership", "publishable")

FIRST = ("tabular/made", "tabular/gmm", "tabular/diffusion", "tabular/vae")  # tried first, then the other own generators, then SIZES
SIZES: dict[str, dict[str, Any]] = {  # a second size of a generator
    "tabular/made": {"hidden": 64},
    "tabular/diffusion": {"hidden": 512},
}

Tell = Callable[[int, int, str], None]


# ---- the halving, whatever is tried


@dataclass(frozen=True)
class Trial:
    """What one attempt came to.

    `score` is TSTR (None without a target), `noise` its standard error, `broken` the privacy gates it failed.
    """

    candidate: str
    rung: int
    score: float | None = None
    noise: float = 0.0
    detector: float | None = None
    broken: tuple[str, ...] = ()
    rows: int = 0
    seconds: float = 0.0
    error: str = ""
    kept: bool = False


class Arena(Protocol):
    """Where candidates are tried."""

    def begin(self, rung: int, seconds: float) -> None:
        """Make ready for the candidates of a rung, each of which will have about so many seconds."""

    def attempt(self, candidate: str, rung: int, seconds: float) -> Trial:
        """Try one of them within about so many seconds."""


def halve(candidates: Sequence[str], arena: Arena, seconds: float, clock: Callable[[], float] = time.monotonic) -> tuple[str, list[Trial]]:
    """(winner, every trial) of successive halving within `seconds`; what there is no time for is told as a trial with that error.

    Time is not what stops a rung that has found nothing yet that keeps the privacy bound.

    BadInput when nothing could be fitted at all.
    """
    alive, rungs, end = list(candidates), rungs_of(len(candidates)), clock() + seconds
    trials: list[Trial] = []
    for rung in range(rungs):
        deadline = clock() + (end - clock()) / (rungs - rung)
        tried: list[Trial] = []
        arena.begin(rung, (deadline - clock()) / len(alive))
        for i, candidate in enumerate(alive):
            share = (deadline - clock()) / (len(alive) - i)
            if share <= 0 and any(not t.error and not t.broken for t in tried):
                tried.append(Trial(candidate, rung, error="not tried: no time was left"))
            else:
                tried.append(arena.attempt(candidate, rung, max(share, 1.0)))
        if all(t.error for t in tried):
            raise BadInput(f"none of the candidates could be fitted; {tried[0].candidate} failed: {tried[0].error}")
        alive = survivors(tried)
        trials += [replace(t, kept=t.candidate in alive) for t in tried]
    return alive[0], trials


def rungs_of(candidates: int) -> int:
    """How many rungs leave one of so many."""
    rungs = 0
    while candidates > 1:
        candidates, rungs = kept_of(candidates), rungs + 1
    return rungs


def kept_of(candidates: int) -> int:
    """How many of so many go on."""
    return max(1, round(candidates / ETA))


def survivors(tried: Sequence[Trial]) -> list[str]:
    """One in `ETA` of the candidates of a rung, best first; one that breaks a privacy gate only when all of them do."""
    fitted = [t for t in tried if not t.error]
    sound = [t for t in fitted if not t.broken] or fitted
    top = max(sound, key=lambda t: -math.inf if t.score is None else t.score)

    def merit(t: Trial) -> tuple[int, float, float]:
        behind = 0.0 if top.score is None else math.inf if t.score is None else top.score - t.score
        steps = math.floor(behind / max(top.noise, 1e-3)) if math.isfinite(behind) else math.inf
        return len(t.broken), steps, 1.0 if t.detector is None else abs(t.detector - 0.5)

    return [t.candidate for t in sorted(sound, key=merit)[: kept_of(len(tried))]]


# ---- what is tried


def wanted(job: Job) -> bool:
    """Does the job leave the choice to `auto`?"""
    return (job.generator or {}).get("name") == NAME


def candidates(job: Job) -> dict[str, dict[str, Any]]:
    """The recipes to choose from by what they are called. BadInput for an unknown key, name or parameter."""
    from generators import registry

    said = {k: v for k, v in (job.generator or {}).items() if k != "name"}
    if set(said) - {"generators"}:
        raise BadInput(f"auto has no parameter {min(set(said) - {'generators'})!r}; it takes generators: [name, …]")
    listed = said.get("generators", everything())
    if not isinstance(listed, list) or not listed or not all(isinstance(item, str | dict) for item in listed):
        raise BadInput("auto takes generators as a list of names, or of mappings of a name and parameters")
    found = {}
    for item in listed:
        recipe = {"name": item} if isinstance(item, str) else dict(item)
        registry.make(str(recipe.get("name", "")), {k: v for k, v in recipe.items() if k != "name"})
        found[label(recipe)] = recipe
    return found


def everything() -> list[dict[str, Any]]:
    """Every publishable table generator of our own, some of them in two sizes."""
    from generators import registry

    own = [name for name in dict.fromkeys((*FIRST, *registry.names())) if name.startswith("tabular/") and registry.get(name).publishable]
    return [{"name": name} for name in own] + [{"name": name, **size} for name, size in SIZES.items()]


def label(recipe: Mapping[str, Any]) -> str:
    """tabular/made hidden=64"""
    return " ".join([str(recipe.get("name", "")), *(f"{k}={json.dumps(v)}" for k, v in recipe.items() if k != "name")])


def affordable(found: Mapping[str, Any], seconds: float) -> list[str]:
    """The candidates that a first rung has time for, at least two of them."""
    most = len(found)
    while most > 2 and seconds / rungs_of(most) / most < LEAST_SECONDS:
        most -= 1
    return list(found)[:most]


# ---- one rung on real rows


@dataclass
class TableArena:
    """Candidates fitted to and judged on parts of the training rows."""

    job: Job
    train: Dataset
    recipes: Mapping[str, dict[str, Any]]
    rungs: int
    tell: Tell
    total: int
    stands: list[Stand] = field(default_factory=list)
    done: int = 0

    def begin(self, rung: int, seconds: float) -> None:
        """Split the rows anew, and see what real rows score."""
        self.tell(self.done, self.total, f"rung {rung + 1} of {self.rungs}: what real rows score")
        real = split(self.train, seed=self.job.seed + rung, test_share=HELD_OUT)
        self.stands.append(stand(real, rung, self.rungs, self.job.seed, seconds))

    def attempt(self, candidate: str, rung: int, seconds: float) -> Trial:
        """Fit within a share of the seconds, sample, judge. What fails is a trial with its error."""
        began = time.monotonic()
        place = self.stands[rung]
        self.tell(self.done, self.total, f"{candidate}, rung {rung + 1} of {self.rungs}, {len(place.train):,} rows")
        self.done += 1
        try:
            samples, publishable = self.drawn(candidate, place, max(seconds - place.seconds, seconds / 3))
            found = measured(place, samples, self.job.seed, self.job.gates, publishable)
        except Exception as error:  # one generator's failure is a line in the table, as in a comparison
            found = {"error": " ".join(str(error).split())[:200] or type(error).__name__}
        trial = Trial(candidate, rung, **found, rows=len(place.train), seconds=round(time.monotonic() - began, 2))
        self.tell(self.done, self.total, said(trial, place.headline))
        return trial

    def drawn(self, candidate: str, place: Stand, seconds: float) -> tuple[list[Dataset], bool]:
        """Samples of a candidate that learnt for so many seconds, and whether such rows may be published."""
        from generators import registry

        recipe = dict(self.recipes[candidate])
        generator = registry.make(recipe.pop("name"), recipe)
        fitted = generator.fit(place.train, seed=self.job.seed, minutes=seconds / 60, device=self.job.device)
        return [fitted.sample(place.rows, seed=self.job.seed + i) for i in range(place.samples)], generator.publishable


@dataclass(frozen=True)
class Stand:
    """What the candidates of one rung learn from and are judged on."""

    train: Dataset
    test: Dataset
    shown: Dataset  # to the detector: the test rows, and where they are few, all rows
    judge: Judge | None  # the one that is best on real rows
    headline: str | None
    real: float | None  # its score when it learns on the real rows
    seconds: float  # that one judgement takes
    rows: int  # of a sample
    samples: int


def stand(real: Split, rung: int, rungs: int, seed: int, seconds: float) -> Stand:
    """The rows of one rung, the judge, and what real rows score; as many samples as a third of the seconds is enough to judge."""
    from evaluators.tabular import JUDGES

    rng = np.random.default_rng([seed, rung, 0xA070])
    learn = round(len(real.train) / ETA ** (rungs - rung))
    train = some(real.train, int(np.clip(learn, LEAST_ROWS * GROWTH**rung, MOST_ROWS * GROWTH**rung)), rng)
    most = np.clip(JUDGED_CELLS // len(real.train.schema.columns), *JUDGED_ROWS) * ETA**rung
    test = some(real.test, int(most), rng)
    rows = min(len(train), int(most))
    judge = headline = score = None
    if train.schema.task in ("classification", "regression"):
        found = {name: tstr(one, [some(train, rows, rng)], test, seed) for name, one in JUDGES.items()}
        best = max(found, key=lambda name: np.nan_to_num(found[name][1], nan=-math.inf))
        judge, (headline, score, _) = JUDGES[best], found[best]
    shown = test if len(test) >= FEW else Dataset(test.schema, pa.concat_tables([train.table, test.table]))
    place = Stand(train, test, shown, judge, headline, score, 0.0, rows, 1)
    began = time.monotonic()
    measured(place, [some(train, rows, rng)], seed, {}, True)
    cost = time.monotonic() - began
    samples = int(np.clip(seconds / 3 / cost, 1, min(3, max(1, SMALL // len(test)))))
    return replace(place, seconds=samples * cost, samples=samples)


def some(data: Dataset, n: int, rng: np.random.Generator) -> Dataset:
    """At most n rows at random."""
    return data if len(data) <= n else data.take(np.sort(rng.choice(len(data), n, replace=False)))


def measured(place: Stand, samples: list[Dataset], seed: int, limits: Mapping[str, float], publishable: bool) -> dict[str, Any]:
    """score, noise, detector and broken gates of samples."""
    from evaluators.fidelity import detector
    from evaluators.gates import Thresholds, check
    from evaluators.privacy import privacy

    score, noise = None, 0.0
    if place.judge is not None:
        _, score, noise = tstr(place.judge, samples, place.test, seed)
    areas = [detector(place.shown, sample, seed, place.rows)["auc"] for sample in samples]
    known = [area for area in areas if area is not None]
    secrets = privacy(place.train, place.test, samples[0], seed=seed, queries=place.rows, references=4 * place.rows)
    gates = check({"privacy": secrets}, Thresholds(**limits), publishable=publishable)
    return {
        "score": None if score is None or math.isnan(score) else round(score, 4),
        "noise": round(noise, 4),
        "detector": round(float(np.mean(known)), 4) if known else None,
        "broken": tuple(g["name"] for g in gates if g["name"] in PRIVACY and not g["passed"]),
    }


def tstr(judge: Judge, samples: list[Dataset], test: Dataset, seed: int) -> tuple[str, float, float]:
    """(headline, its mean over judges that learnt on one sample each, its standard error by redrawing the test rows)."""
    from evaluators.protocol import answered, redraws
    from evaluators.tabular import side_by_side

    test = answered(test, test)
    weights = redraws(len(test), np.random.default_rng([seed, 0xA071]))
    found = side_by_side(lambda sample: judge(answered(sample, test), test, seed)(weights), samples)
    headline = next(iter(found[0]))
    values = np.mean([scores[headline] for scores in found], axis=0)
    known = values[1:][np.isfinite(values[1:])]
    return headline, float(values[0]), float(known.std()) if len(known) else 0.0


# ---- the stage


def choose(job: Job, train: Dataset, tell: Tell) -> dict[str, Any]:
    """The choice as JSON: {"generator", "minutes" left, "headline", "tried": [trial, …], …}."""
    began = time.monotonic()
    minutes = job.minutes or MINUTES
    found = candidates(job)
    chosen = affordable(found, 60 * minutes * CHOOSING)
    rungs = rungs_of(len(chosen))
    arena = TableArena(job, train, found, rungs, tell, attempts(len(chosen)))
    winner, trials = halve(chosen, arena, 60 * minutes * CHOOSING)
    seconds = time.monotonic() - began
    return {
        "generator": found[winner],
        "chosen": winner,
        "candidates": chosen,
        "minutes": round(max(minutes - seconds / 60, 0.1 * minutes), 4),
        "seconds": round(seconds, 1),
        "headline": arena.stands[-1].headline if arena.stands else None,
        "tried": [asdict(trial) for trial in trials],
        "real": [place.real for place in arena.stands],
        "left_out": [name for name in found if name not in chosen],
    }


def attempts(candidates: int) -> int:
    """How many trials there will be."""
    total = 0
    while candidates > 1:
        total, candidates = total + candidates, kept_of(candidates)
    return total


def settled(job: Job, chosen: Path | None) -> Job:
    """The job with the choice in place of `auto`; the job as it is when there was nothing to choose."""
    if chosen is None:
        return job
    choice = json.loads((chosen / "choice.json").read_text())
    return job.model_copy(update={"generator": choice["generator"], "minutes": choice["minutes"]})


# ---- in words


def said(trial: Trial, headline: str | None) -> str:
    """A trial in one line."""
    if trial.error:
        return f"{trial.candidate}: {trial.error}"
    score = "" if trial.score is None else f"{headline} {trial.score:.3f}, "
    broken = f"; breaks {', '.join(trial.broken)}" if trial.broken else ""
    return f"{trial.candidate}: {score}detector {'-' if trial.detector is None else f'{trial.detector:.3f}'}{broken}"


def text(choice: Mapping[str, Any]) -> str:
    """What was tried, as a table for a terminal."""
    from flows.screen import table

    lines = []
    for t in choice["tried"]:
        figures = ["-" if t[k] is None else f"{t[k]:.3f}" for k in ("score", "detector")]
        outcome = t["error"] or ("breaks " + ", ".join(t["broken"]) if t["broken"] else "goes on" if t["kept"] else "")
        lines.append([str(t["rung"] + 1), t["candidate"], *figures, f"{t['rows']:,}", f"{t['seconds']:.1f}", outcome])
    head = ["rung", "candidate", choice["headline"] or "score", "detector", "rows", "seconds", ""]
    tail = f"chosen   {choice['chosen']}, with {choice['minutes']:.2g} min to learn"
    left = f"\nno time for {', '.join(choice['left_out'])}" if choice["left_out"] else ""
    return f"tried in {choice['seconds']:.0f} s\n{table(lines, head)}{left}\n{tail}"
