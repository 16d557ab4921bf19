"""The laws of the figures: what is identical scores at the reference, what is shuffled at the floor, what is copied is caught."""

import json
import math
import threading
import warnings
from concurrent.futures import CancelledError
from datetime import datetime, timedelta
from itertools import combinations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from data.arrow import IMAGE_TYPE
from data.errors import BadInput
from data.schema import Column, Dataset, Schema, Split
from evaluators import histograms, image, tabular, text
from evaluators.attacks import attacks
from evaluators.fidelity import fidelity, shape_errors, trend_errors
from evaluators.gates import Thresholds, check
from evaluators.privacy import privacy
from evaluators.protocol import EFFORT, TABLE, references, utility
from evaluators.seq2seq import Learnt
from evaluators.tabular import classification_scores, regression_scores, roc_auc


@pytest.fixture(autouse=True, scope="module")
def few_trees():
    """Weak judges are quick and obey the same laws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tabular, "TREES", 20)
        patch.setattr("evaluators.fidelity.TREES", 20)
        patch.setattr("evaluators.protocol.DRAWS", 100)
        yield


def draw(n: int, seed: int) -> pa.Table:
    """Mixed columns that hang together, with nulls, a date with a zone, an id, a text and a constant."""
    rng = np.random.default_rng(seed)
    z, group = rng.normal(size=n), rng.integers(0, 3, n)
    y = z + 0.8 * (group == 1) + 0.5 * rng.normal(size=n) > 0.3
    days = [datetime(2024, 1, 1) + timedelta(days=int(200 + 60 * v)) for v in np.clip(z, -3, 3)]
    return pa.table(
        {
            "id": np.arange(n),
            "size": pa.array(np.round(10 + 3 * z + rng.normal(size=n), 2), mask=rng.random(n) < 0.1),
            "count": rng.poisson(np.exp(np.clip(z, -2, 2))),
            "group": pa.array([["north", "south", "east"][g] for g in group], mask=rng.random(n) < 0.05),
            "day": pa.array(days, pa.timestamp("us")).cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us", "Europe/Madrid")),
            "fixed": np.full(n, 7.5),
            "note": [f"row number {i} of seed {seed}" for i in range(n)],
            "bought": pa.array(np.where(y, "yes", "no").tolist()),
            "spent": 100 + 20 * z + 5 * group + rng.normal(size=n),
        }
    )


def dataset(n: int, seed: int, target: str | None = "bought", schema: Schema | None = None) -> Dataset:
    table = draw(n, seed)
    return Dataset.of(table, schema or Schema.infer(table, target=target, kinds={"note": "text", "id": "id"}))


TRAIN = dataset(900, 0)
TEST = dataset(400, 1, schema=TRAIN.schema)
SAME = dataset(900, 2, schema=TRAIN.schema)


def shuffled(data: Dataset, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    return Dataset(data.schema, pa.table({n: data.table[n].take(pa.array(rng.permutation(len(data)))) for n in data.schema.names}))


def put(data: Dataset, **columns: object) -> Dataset:
    table = data.table
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return Dataset(data.schema, table)


def plain(result: dict) -> dict:
    """What a reader of scores.json gets: strict JSON."""
    return json.loads(json.dumps(result, allow_nan=False))


# ---------------------------------------------------------------- utility


@pytest.mark.parametrize("target", ["bought", "spent"])
def test_honest_rows_keep_the_signal_and_shuffled_ones_lose_it(target):
    train = dataset(900, 0, target)
    split = Split(train, dataset(400, 1, schema=train.schema))
    good = plain(utility(split, [dataset(900, s, schema=train.schema) for s in (2, 3)]))
    bad = plain(utility(split, [shuffled(train, s) for s in (2, 3, 4)]))
    headline = "roc_auc" if target == "bought" else "r2"
    assert good["headline"] == headline
    assert good["ratio"]["low"] < 1.02
    assert good["ratio"]["value"] > 0.9
    assert bad["ratio"]["value"] < 0.5
    assert bad["ratio"]["low"] < 0.2, "with so few rows one shuffle may guess right by chance, so its interval is wide"
    for scores in good["judges"].values():
        assert set(scores) == {"real", "synthetic", "augmented", "floor", "cheat", "augmented_cheat"}
        assert scores["floor"][headline]["mean"] < scores["real"][headline]["low"]
        for metrics in scores.values():
            for s in metrics.values():
                assert s["low"] <= s["mean"] <= s["high"] or math.isclose(s["low"], s["high"], abs_tol=0.05)


def test_utility_is_seeded_and_states_its_rows():
    split = Split(TRAIN, TEST)
    first = utility(split, [SAME], seed=3, rows=300)
    assert first == utility(split, [SAME], seed=3, rows=300)
    assert first != utility(split, [SAME], seed=4, rows=300)
    assert (first["train_rows"], first["test_rows"], first["synthetic_rows"]) == (300, 300, [300])


def test_references_are_learnt_once_and_change_nothing():
    fits = []

    def counted(train, test, seed):
        fits.append(len(train))
        return tabular.linear(train, test, seed)

    split, how = Split(TRAIN, TEST), {"seed": 1, "judges": {"linear": counted}}
    known = references(split, **how)
    assert set(known["linear"]) == {"real", "floor", "cheat", "augmented_cheat"}
    fits.clear()
    handed = utility(split, [SAME], known=known, **how)
    assert sorted(fits) == [len(SAME), len(TRAIN) + len(SAME)], "only what holds synthetic rows is learnt from"
    assert handed == utility(split, [SAME], **how)


def test_without_a_target_there_is_nothing_to_predict():
    data = dataset(100, 0, target=None)
    assert references(Split(data, data)) == {}
    assert utility(Split(data, data), [data])["task"] == "density"


def test_null_targets_are_left_out():
    null = pa.array(["yes" if i % 2 else None for i in range(len(TEST))], pa.string())
    half_null = put(TEST, bought=pa.compute.if_else(pa.compute.is_valid(null), TEST.y.combine_chunks(), pa.scalar(None, pa.string())))
    result = plain(utility(Split(TRAIN, half_null), [SAME]))
    assert result["test_rows"] == len(TEST) // 2


@pytest.mark.parametrize("values", ["one class", "foreign class", "all null"])
def test_a_synthetic_target_that_lacks_or_invents_classes_is_scored_not_crashed(values):
    n = len(SAME)
    y = {"one class": ["no"] * n, "foreign class": ["maybe"] * n, "all null": [None] * n}[values]
    result = plain(utility(Split(TRAIN, TEST), [put(SAME, bought=pa.array(y, pa.string()))]))
    for scores in result["judges"].values():
        assert scores["synthetic"]["roc_auc"]["mean"] == 0.5
        assert scores["real"]["roc_auc"]["mean"] > 0.75
    assert result["ratio"]["value"] == 0


def test_an_all_null_regression_target_has_no_skill():
    train = dataset(300, 0, "spent")
    result = utility(Split(train, train), [put(train, spent=pa.nulls(300, pa.float64()))], judges={"linear": tabular.linear})
    assert abs(result["judges"]["linear"]["synthetic"]["r2"]["mean"]) < 1e-9


def test_nothing_to_predict_gives_no_ratio_and_says_why():
    noise = shuffled(TRAIN)
    result = utility(Split(noise, shuffled(TEST)), [SAME], judges={"linear": tabular.linear})
    if result["judges"]["linear"]["real"]["roc_auc"]["mean"] < 0.52:
        assert result["ratio"]["value"] is None
        assert "why" in result["ratio"]


def test_metrics_equal_scikit_learn():
    from sklearn import metrics

    rng = np.random.default_rng(0)
    truth, chances = rng.integers(0, 3, 500), np.round(rng.dirichlet(np.ones(3), 500), 1)
    chances[:, 2] = 1 - chances[:, 0] - chances[:, 1]
    weights = np.ones((500, 2))
    weights[:, 1] = np.bincount(rng.integers(0, 500, 500), minlength=500)
    mine = classification_scores(truth, chances)(weights)
    said = chances.argmax(1)
    for draw, w in enumerate(weights.T):
        areas = [metrics.roc_auc_score(truth == c, chances[:, c], sample_weight=w) for c in range(3)]
        assert mine["roc_auc"][draw] == pytest.approx(np.mean(areas))
        assert mine["balanced_accuracy"][draw] == pytest.approx(metrics.balanced_accuracy_score(truth, said, sample_weight=w))
        assert mine["f1"][draw] == pytest.approx(metrics.f1_score(truth, said, sample_weight=w, average="macro"))
        assert mine["accuracy"][draw] == pytest.approx(metrics.accuracy_score(truth, said, sample_weight=w))
    y, p = rng.normal(5, 2, 500), rng.normal(5, 2, 500)
    mine = regression_scores(y, p)(weights)
    for draw, w in enumerate(weights.T):
        assert mine["r2"][draw] == pytest.approx(metrics.r2_score(y, p, sample_weight=w))
        assert mine["rmse"][draw] == pytest.approx(metrics.root_mean_squared_error(y, p, sample_weight=w))
        assert mine["mae"][draw] == pytest.approx(metrics.mean_absolute_error(y, p, sample_weight=w))
    rare = classification_scores((truth == 1).astype(int), np.stack([1 - chances[:, 1], chances[:, 1]], axis=1))(weights[:, :1])
    assert rare["f1"][0] == pytest.approx(metrics.f1_score(truth == 1, chances[:, 1] > 0.5))
    assert roc_auc(np.array([True, False]), np.array([1.0, 1.0]), np.ones((2, 1)))[0] == 0.5


def test_the_protocol_holds_for_images_with_a_judge_of_their_own(monkeypatch):
    monkeypatch.setitem(EFFORT, "image", TABLE)  # of two shades one shuffle alone is often right
    rng = np.random.default_rng(0)

    def images(n: int) -> Dataset:
        bright = rng.random(n) < 0.5
        cells = [{"bytes": bytes([200 if b else 20]), "path": None} for b in bright]
        columns = (Column("picture", "image", str(IMAGE_TYPE)), Column("kind", "category", "string", categories=("dark", "light")))
        table = pa.table({"picture": pa.array(cells, IMAGE_TYPE), "kind": np.where(bright, "light", "dark").tolist()})
        return Dataset.of(table, Schema("classification", "kind", columns))

    def nearest_shade(train: Dataset, test: Dataset, seed: int) -> tabular.Scores:
        def read(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
            return np.array([c["bytes"][0] for c in data.table["picture"].to_pylist()]), np.array(data.y.to_pylist())

        (x, y), (x_test, truth) = read(train), read(test)
        means = {kind: x[y == kind].mean() for kind in np.unique(y)}
        said = np.array([min(means, key=lambda kind: abs(means[kind] - v)) for v in x_test])
        return lambda weights: {"hits": (said == truth) @ weights / weights.sum(0)}

    result = plain(utility(Split(images(200), images(100)), [images(200)], judges={"shade": nearest_shade}))
    assert result["headline"] == "hits"
    assert result["judges"]["shade"]["synthetic"]["hits"]["mean"] == 1
    assert result["ratio"]["value"] == 1
    with pytest.raises(BadInput, match="image 0 cannot be read"):
        utility(Split(images(200), images(100)), [images(200)])


# ---------------------------------------------------------------- fidelity


def test_shapes_and_trends_are_those_of_sdmetrics():
    from sdmetrics.column_pairs import ContingencySimilarity, CorrelationSimilarity
    from sdmetrics.single_column import KSComplement, TVComplement

    real, made = TRAIN, shuffled(SAME)
    frames = [data.table.to_pandas() for data in (real, made)]
    for frame in frames:
        frame["day"] = frame["day"].astype("int64").astype(float)
    shapes, trends = shape_errors(real, made), trend_errors(real, made)
    names = [c for c in real.schema.names if c not in ("id", "note")]
    assert list(shapes) == names
    number = {c: real.schema[c].is_number for c in names}
    for c in names:
        metric = KSComplement if number[c] else TVComplement
        assert shapes[c] == pytest.approx(100 * (1 - metric.compute(frames[0][c], frames[1][c])), abs=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for a, b in combinations(names, 2):
            pair = [frame[[a, b]].copy() for frame in frames]
            if number[a] and number[b]:
                if "fixed" in (a, b):
                    assert (a, b) not in trends, "a constant has no correlation"
                    continue
                score = CorrelationSimilarity.compute(*pair)
            else:
                score = ContingencySimilarity.compute(*pair, continuous_column_names=[c for c in (a, b) if number[c]] or None)
            assert trends[a, b] == pytest.approx(100 * (1 - score), abs=1e-6), (a, b)


def test_another_real_sample_scores_at_the_reference():
    result = plain(fidelity(TRAIN, TEST, SAME))
    assert result["left_out"] == ["id", "note"]
    assert result["shape"]["synthetic"] < result["shape"]["real"] + 2
    assert result["trend"]["synthetic"] < result["trend"]["real"] + 3
    for side in ("train", "test", "real"):
        assert result["detector"][side]["low"] < 0.56
        assert result["detector"][side]["high"] > 0.44
    errors = [c["error"] for c in result["columns"]]
    assert errors == sorted(errors, reverse=True)
    assert all("real_error" in c for c in (*result["columns"], *result["pairs"]))


def test_shuffled_columns_keep_the_shapes_and_lose_the_trends():
    result = fidelity(TRAIN, TEST, shuffled(TRAIN))
    assert result["shape"]["synthetic"] == 0
    assert result["trend"]["synthetic"] > 2 * result["trend"]["real"]
    assert result["detector"]["test"]["low"] > 0.7
    assert result["detector"]["real"]["low"] < 0.56


def test_fidelity_and_privacy_are_seeded():
    for function in (fidelity, privacy):
        assert function(TRAIN, TEST, SAME, seed=1) == function(TRAIN, TEST, SAME, seed=1)


def test_an_all_null_synthetic_column_is_all_wrong():
    n = len(SAME)
    made = put(SAME, size=pa.nulls(n, pa.float64()), group=pa.nulls(n, pa.string()))
    result = plain(fidelity(TRAIN, TEST, made))
    assert {c["name"]: c["error"] for c in result["columns"]}["size"] == 100
    assert {c["name"]: c["error"] for c in result["columns"]}["group"] == 100
    assert result["detector"]["test"]["auc"] > 0.9
    assert plain(privacy(TRAIN, TEST, made))["copies"]["synthetic"] == 0
    assert plain(utility(Split(TRAIN, TEST), [made]))["ratio"]["value"] is not None


def test_histograms_hide_whoever_stands_alone():
    n = len(TRAIN)
    size = TRAIN.table["size"].to_numpy().copy()
    size[0] = 98765.0
    group = TRAIN.table["group"].to_pylist()
    group[:3] = ["hermit"] * 3
    table = put(TRAIN, size=pa.array(size, from_pandas=True), group=pa.array(group)).table
    data = Dataset.of(table, Schema.infer(table, target="bought", kinds={"note": "text", "id": "id"}))
    plots = plain(fidelity(data, TEST, data))["plots"]
    text = json.dumps(plots)
    assert "hermit" not in text
    assert "98765" not in text
    for plot in plots["columns"]:
        assert len(plot["real"]) == len(plot["synthetic"]) == (len(plot["edges"]) - 1 if "edges" in plot else len(plot["labels"]))
        assert all(share == 0 or round(share * n) >= histograms.RARE - 1 for share in plot["real"])
        assert sum(plot["synthetic"]) + plot["null"]["synthetic"] == pytest.approx(1, abs=0.02)
    for plot in plots["pairs"]:
        assert np.shape(plot["real"]) == np.shape(plot["synthetic"]) == (len(plot["x"]), len(plot["y"]))
    assert not any(plot["name"] in ("id", "note") for plot in plots["columns"])


# ---------------------------------------------------------------- privacy


def test_honest_rows_give_nobody_away():
    result = plain(privacy(TRAIN, TEST, SAME))
    assert result["copies"]["synthetic"] <= result["copies"]["real_high"]
    assert result["dcr"]["low"] < 50 < result["dcr"]["high"]
    assert result["membership"]["low"] < 0.5 < result["membership"]["high"]
    assert abs(result["membership"]["real"] - 0.5) < 0.06
    assert result["near"]["synthetic"] < 0.05
    assert result["attacks"]["informed"]["low"] < 0.5 < result["attacks"]["informed"]["high"]
    assert all(result["attacks"][name]["low"] < 0.02 for name in ("singling", "inference"))


def test_a_copied_training_set_is_caught_by_every_check():
    copied = put(TRAIN, id=pa.array(np.arange(len(TRAIN)) + 10_000))
    result = privacy(TRAIN, TEST, copied)
    assert result["copies"]["synthetic"] == 1, "a new id does not make a new row"
    assert result["copies"]["real"] == 0
    assert result["dcr"]["low"] > 55
    assert result["membership"]["low"] > 0.95
    assert result["near"]["synthetic"] > 0.9
    gates = {g["name"]: g["passed"] for g in check({"privacy": result}, publishable=True)}
    assert [gates[name] for name in ("copies", "dcr", "membership", "informed", "inference")] == [False] * 5
    assert result["attacks"]["singling"]["risk"] > 0.05


@pytest.mark.parametrize("seed", range(12))
def test_attacks_on_few_columns_do_not_cry_wolf(seed):
    rng = np.random.default_rng(seed)

    def few(n):
        table = pa.table({"x": rng.normal(size=n), "y": rng.choice(["no", "yes"], n)})
        return Dataset.of(table, Schema.infer(table, target="y"))

    result = attacks(few(480), few(120), few(480), seed=seed)
    assert result["singling"]["attempts"] > 0
    assert all(result[name]["low"] <= 0.1 for name in ("singling", "inference"))


def test_attacks_on_next_to_nothing_try_nothing():
    schema = Schema("density", None, (Column("c", "category", "string", categories=("a", "b")),))
    rows = Dataset(schema, pa.table({"c": ["a", "b"] * 6}))
    result = plain(attacks(rows, rows, rows))
    assert result["singling"]["attempts"] == result["inference"]["attempts"] == result["inference"]["risk"] == 0
    assert result["informed"]["auc"] == 0.5


def test_rows_are_equal_whatever_their_chunks_and_dictionaries():
    parts = pa.concat_tables([TRAIN.table[:100], TRAIN.table[100:]])
    made = Dataset(TRAIN.schema, parts.set_column(3, "group", parts["group"].dictionary_encode()))
    assert privacy(TRAIN, TEST, made)["copies"]["synthetic"] == 1


# ---------------------------------------------------------------- gates


def good_scores() -> dict:
    return {
        "utility": {"task": "classification", "ratio": {"value": 0.95, "low": 0.9, "high": 1.0}},
        "fidelity": {
            "shape": {"synthetic": 3.0, "real": 1.0},
            "trend": {"synthetic": 6.0, "real": 2.0},
            "pairs": [{}],
            "detector": {"test": {"auc": 0.7, "low": 0.6, "high": 0.8}},
        },
        "privacy": {
            "copies": {"synthetic": 0.0, "real": 0.0, "real_high": 0.001},
            "dcr": {"share": 50.5, "low": 49.0, "high": 52.0, "real": 50.0},
            "membership": {"auc": 0.51, "low": 0.5, "high": 0.52, "real": 0.5},
            "attacks": {"informed": {"low": 0.49}, "singling": {"low": -0.02}, "inference": {"low": 0.01}},
        },
        "quality": {"passed": True, "failed": []},
    }


PATHS = {
    "utility": ("utility", "ratio", "low"),
    "detector": ("fidelity", "detector", "test", "auc"),
    "shape": ("fidelity", "shape", "synthetic"),
    "trend": ("fidelity", "trend", "real"),
    "copies": ("privacy", "copies", "real_high"),
    "dcr": ("privacy", "dcr", "low"),
    "membership": ("privacy", "membership", "low"),
    "informed": ("privacy", "attacks", "informed", "low"),
    "singling": ("privacy", "attacks", "singling", "low"),
    "inference": ("privacy", "attacks", "inference", "low"),
    "quality": ("quality", "passed"),
}


def test_good_scores_pass_and_every_gate_says_why():
    gates = plain({"gates": check(good_scores(), publishable=True)})["gates"]
    assert all(g["passed"] for g in gates)
    assert {g["name"] for g in gates} == {*PATHS, "publishable"}
    assert all(len(g["why"]) > 40 for g in gates)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("value", [None, float("nan"), "0.1"])
def test_a_score_that_is_missing_fails_its_gate(name, value):
    scores = good_scores()
    at = scores
    for key in PATHS[name][:-1]:
        at = at[key]
    at[PATHS[name][-1]] = value
    failing = [g for g in plain({"g": check(scores, publishable=True)})["g"] if not g["passed"]]
    assert [g["name"] for g in failing] == [name]
    assert "fails" in failing[0]["why"]
    del at[PATHS[name][-1]]
    assert [g["name"] for g in check(scores, publishable=True) if not g["passed"]] == [name]


def test_no_scores_at_all_pass_nothing_but_the_generator():
    assert [g["name"] for g in check({}, publishable=True) if g["passed"]] == ["publishable"]


def test_a_generator_that_must_not_publish_never_passes():
    gates = check(good_scores(), publishable=False, why_not="It repeats real rows.")
    assert [(g["name"], "repeats real rows" in g["why"]) for g in gates if not g["passed"]] == [("publishable", True)]


def test_thresholds_are_held():
    tight = Thresholds(
        utility=0.91, detector=0.6, shape=1, trend=1, copies=-0.01, dcr=48, membership=0.4, informed=0.4, singling=-1, inference=-1
    )
    assert {g["name"] for g in check(good_scores(), tight, publishable=True) if not g["passed"]} == set(PATHS) - {"quality"}


def test_a_table_without_a_target_has_no_utility_gate():
    scores = good_scores() | {"utility": {"task": "density", "why": "no target column"}}
    gates = check(scores, publishable=True)
    assert all(g["passed"] for g in gates)
    assert "utility" not in {g["name"] for g in gates}


def test_categories_past_the_limit_and_unknown_ones_count_as_missing(monkeypatch):
    monkeypatch.setattr(tabular, "LEVELS", 2)
    schema = Schema("density", None, (Column("c", "category", "string"),))
    known = Dataset(schema, pa.table({"c": ["b", "b", "b", "a", "a", "x", None]}))
    other = Dataset(schema, pa.table({"c": ["a", "new", None, "b"]}))
    (first, second), categorical = tabular.features([known], [other])
    assert categorical.tolist() == [True]
    np.testing.assert_array_equal(first[:, 0], [0, 0, 0, 1, 1, np.nan, np.nan])
    np.testing.assert_array_equal(second[:, 0], [1, np.nan, np.nan, 0])
    assert pd.isna(second[1, 0])


# ---------------------------------------------------------------- side by side


LONG = 50_000  # steps, minutes


def long_bag(monkeypatch):
    monkeypatch.setattr(text, "BAG_STEPS", LONG)
    text.averaged([["a", "b"], ["c"]] * 40, np.arange(80) % 2, [["a"]])


@pytest.mark.parametrize(
    "learn",
    [
        long_bag,
        lambda _: Learnt(["a b", "c"] * 40, ["b", "c d"] * 40, 0, LONG),
        lambda _: image.classifier(np.zeros((40, 1, 8, 8), np.uint8), np.arange(40) % 2, 2, 0, LONG),
    ],
    ids=["bag", "seq2seq", "cnn"],
)
def test_nothing_goes_on_learning_beside_an_error(monkeypatch, learn):
    """Nor after Ctrl-C, which would have to wait for it."""
    monkeypatch.setattr(tabular, "cores", lambda: 2)
    begun, ended = threading.Event(), threading.Event()

    def work(wrong: bool) -> None:
        if wrong:
            assert begun.wait(timeout=60)
            raise BadInput("no")
        begun.set()
        with pytest.raises(CancelledError):
            learn(monkeypatch)
        ended.set()

    with pytest.raises(BadInput, match="no"):
        tabular.side_by_side(work, [True, False])
    assert ended.is_set()
