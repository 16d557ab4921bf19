"""`auto`: halving as a pure function, the privacy bound, and one short run from source to report."""

import json
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import sources
from data.errors import BadInput
from data.schema import Dataset, Schema
from data.split import split
from evaluators.report import render
from flows import auto, planning, stages
from flows.auto import ETA, Trial, attempts, halve, kept_of, rungs_of, survivors
from flows.job import Job
from flows.pipeline import synthesize
from generators import registry

LOOSE = {"utility": -99, "detector": 1, "shape": 100, "trend": 100, "dcr": 100, "membership": 1}
EASY = settings(max_examples=80, deadline=None)


@dataclass
class Fake:
    """An arena whose candidates have a score each, and take so many times the seconds they are given."""

    scores: dict[str, float]
    pace: float = 1.0
    broken: dict[str, tuple[str, ...]] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    now: float = 0.0
    given: list[tuple[int, float]] = field(default_factory=list)

    def begin(self, rung: int, seconds: float) -> None:
        self.now += 0.01

    def attempt(self, candidate: str, rung: int, seconds: float) -> Trial:
        self.now += self.pace * seconds
        self.given.append((rung, seconds))
        if candidate in self.errors:
            return Trial(candidate, rung, error="it failed")
        return Trial(candidate, rung, self.scores[candidate], 0.0, 0.6, self.broken.get(candidate, ()))

    def halve(self, seconds: float = 1000.0) -> tuple[str, list[Trial]]:
        return halve(list(self.scores), self, seconds, lambda: self.now)


def named(values) -> dict[str, float]:
    return {f"g{i}": v / 100 for i, v in enumerate(values)}


LISTS = st.lists(st.integers(0, 100), min_size=1, max_size=20, unique=True)


@EASY
@given(LISTS)
def test_the_best_wins_within_the_time_and_survivors_get_more(values):
    arena = Fake(named(values))
    winner, trials = arena.halve()
    assert arena.scores[winner] == max(arena.scores.values())
    assert arena.now <= 1000 * 1.01
    assert len(trials) == attempts(len(values))
    assert {t.rung for t in trials} == set(range(rungs_of(len(values))))
    means = [np.mean([s for r, s in arena.given if r == rung]) for rung in range(rungs_of(len(values)))]
    assert all(later > 1.5 * earlier for earlier, later in pairwise(means))
    assert [t.candidate for t in trials if t.kept][-1:] == ([winner] if len(values) > 1 else [])


@EASY
@given(LISTS.filter(lambda v: len(v) > 1), st.data())
def test_who_breaks_the_privacy_bound_or_fails_never_wins_while_another_is_left(values, data):
    scores = named(values)
    bad = data.draw(st.lists(st.sampled_from(sorted(scores)), unique=True, max_size=len(values) - 1))
    cut = data.draw(st.integers(0, len(bad)))
    arena = Fake(scores, broken=dict.fromkeys(bad[:cut], ("copies",)), errors=tuple(bad[cut:]))
    winner, _ = arena.halve()
    assert winner not in bad
    assert scores[winner] == max(score for name, score in scores.items() if name not in bad)


@EASY
@given(LISTS.filter(lambda v: len(v) > 2), st.floats(1.5, 50))
def test_what_there_is_no_time_for_is_told_and_does_not_win(values, pace):
    arena = Fake(named(values), pace)
    winner, trials = arena.halve()
    left = {t.candidate for t in trials if t.rung == 0 and t.error}
    assert winner not in left
    assert len({t.candidate for t in trials}) == len(values)
    assert arena.now <= 1000 * (1 + pace)


def test_when_nothing_can_be_fitted_the_reason_is_said():
    with pytest.raises(BadInput, match="g0 failed: it failed"):
        Fake(named([1, 2]), errors=("g0", "g1")).halve()


def test_when_all_break_the_bound_the_one_that_breaks_least_goes_on():
    tried = [Trial("a", 0, 0.9, broken=("copies", "dcr")), Trial("b", 0, 0.5, broken=("dcr",)), Trial("c", 0, error="no")]
    assert survivors(tried) == ["b"]


def test_scores_that_differ_by_chance_are_a_tie_that_the_detector_breaks():
    a, b, c = (Trial("a", 0, 0.900, 0.02, 0.9), Trial("b", 0, 0.889, 0.02, 0.55), Trial("c", 0, 0.7, 0.02, 0.5))
    assert survivors([a, b, c]) == ["b"]
    assert survivors([Trial(t.candidate, 0, None, 0.0, t.detector) for t in (a, b, c)]) == ["c"]  # no target: the detector alone
    assert survivors([Trial("nan", 0, None, 0.0, 0.5), a]) == ["a"]


@EASY
@given(st.integers(1, 500))
def test_rungs_leave_one(n):
    left = n
    for _ in range(rungs_of(n)):
        left = kept_of(left)
    assert left == 1
    assert rungs_of(n) <= 1 + np.log(n) / np.log(ETA)


# ---- candidates


def test_every_publishable_own_generator_is_a_candidate_and_no_other():
    own = {name for name in registry.names() if name.startswith("tabular/") and registry.get(name).publishable}
    assert {recipe["name"] for recipe in auto.everything()} == own
    found = auto.candidates(Job.of({"source": "iris", "generator": "auto"}))
    assert len(found) == len(auto.everything())
    assert next(iter(found)) == registry.DEFAULT["tabular"]


def test_fewer_minutes_try_fewer_candidates():
    found = auto.candidates(Job.of({"source": "iris", "generator": "auto"}))
    few, many = auto.affordable(found, 20), auto.affordable(found, 3000)
    assert 2 <= len(few) < len(many) == len(found)
    assert many[: len(few)] == few


@pytest.mark.parametrize(
    ("generator", "why"),
    [
        ({"name": "auto", "size": 3}, "auto has no parameter 'size'"),
        ({"name": "auto", "generators": "tabular/made"}, "a list of names"),
        ({"name": "auto", "generators": []}, "a list of names"),
        ({"name": "auto", "generators": ["tabular/mode"]}, "did you mean 'tabular/made'"),
        ({"name": "auto", "generators": [{"name": "tabular/made", "hiden": 3}]}, "did you mean 'hidden'"),
    ],
    ids=str,
)
def test_bad_choices_are_said_before_anything_is_read(generator, why):
    with pytest.raises(BadInput, match=why):
        planning.plan(Job.of({"source": "no such file", "generator": generator}))


# ---- on real rows


def choice(source: str, target: str | None, generators: list) -> dict:
    job = Job.of({"source": source, "generator": {"name": "auto", "generators": generators}, "minutes": 5})
    found = sources.read(source)
    train = split(Dataset.of(found.table, Schema.infer(found.table, target=target))).train
    return auto.choose(job, train, lambda done, total, text: None)


def test_a_copier_loses_although_it_scores_best():
    found = choice("iris", "target", ["tabular/copy", "tabular/gmm"])
    copier, honest = found["tried"]
    assert found["chosen"] == "tabular/gmm"
    assert {"copies", "membership"} <= set(copier["broken"])
    assert copier["score"] >= honest["score"] - 0.01
    assert not copier["kept"]
    assert honest["kept"]


def test_without_a_target_the_detector_decides():
    found = choice("iris", None, ["tabular/marginal", "tabular/gmm"])
    assert found["chosen"] == "tabular/gmm"
    assert found["headline"] is None
    assert {t["score"] for t in found["tried"]} == {None}
    assert "gmm" in render({"auto": found})


def test_what_fails_is_a_line_of_the_table():
    found = choice("iris", "target", ["tabular/gmm", {"name": "tabular/made", "training": {"lr": 1e30, "steps": 40}}])
    assert [bool(t["error"]) for t in found["tried"]] == [False, True]
    assert "failed" not in auto.text(found)
    assert found["tried"][1]["error"][:20] in auto.text(found)


def test_from_source_to_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFAR_HOME", str(tmp_path / "home"))
    generators = ["tabular/marginal", "tabular/gmm"]
    values = {"source": "iris", "generator": {"name": "auto", "generators": generators}, "minutes": 5, "gates": LOOSE, "to": "out"}
    told = []
    token = stages.progress.set(lambda stage, done, total, text: told.append((stage, text)))
    try:
        outcome = synthesize(Job.of(values))
    finally:
        stages.progress.reset(token)
    manifest = outcome.manifest
    assert manifest["auto"]["chosen"] == manifest["generator"]["name"] == "tabular/gmm"
    assert {t["candidate"] for t in manifest["auto"]["tried"]} == set(generators)
    assert all(any(name in text for stage, text in told if stage == "choose") for name in generators)
    assert "--generator tabular/gmm" in manifest["reproduce"]
    assert "--generator auto" in manifest["auto"]["command"]
    page = (outcome.folder / "report.html").read_text()
    assert "What was tried" in page
    assert all(f"<code>{name}</code>" in page for name in generators)
    assert "What was tried" not in render({k: v for k, v in manifest.items() if k != "auto"})
    assert synthesize(Job.of(values)).cached
    json.dumps(manifest["auto"], allow_nan=False)


def test_auto_is_for_tables():
    with pytest.raises(BadInput, match="auto chooses among generators of tables"):
        planning.plan(Job.of({"source": "digits", "generator": "auto"}))
    with pytest.raises(BadInput, match=r"tabular/made does not learn data of kind image.*image/gmm"):
        planning.plan(Job.of({"source": "digits", "generator": "tabular/made"}))
    with pytest.raises(BadInput, match=r"image/vae does not learn data of kind tabular.*tabular/made"):
        planning.plan(Job.of({"source": "iris", "generator": "image/vae"}))
