"""Every generator of texts on real corpora: what a judge learns from its rows, what they repeat, and what the nets can do besides.

    OMP_NUM_THREADS=1 python -m benchmarks.text                              every generator on every corpus, one seed (hours of one core)
    python -m benchmarks.text --only text/gpt --data clinc150 --seeds 3
    python -m benchmarks.text --classify | --outside                         text/gpt as a classifier; what is none of the intents
    python -m benchmarks.text --few | --back | --cache                       10 rows an intent and rows made from them; back-translation;
                                                                             drawing with and without a cache
    python -m benchmarks.text --tables                                       only write the tables again

A line of results/text.jsonl is one fit with its defaults and as many rows as it learnt from, but at least ROWS: rows cost a generator
nothing but time, and where real ones are few a judge learns more from more. None has the words of a training row; those are drawn again.
Seconds are CPU seconds of this process. Scores are those of the project's judges (docs/evaluation.md) with their 95 % interval over
redraws of the real rows that nobody learnt from; `copies` are the rows as they are drawn whose words are those of a training row.
The corpora lie in $ALFAR_BENCH_DATA/text; `messages_es` and the docstrings are built in, the latter of the Python that runs this.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "text.jsonl"
TEXTS = Path(os.environ.get("ALFAR_BENCH_DATA", "../shared/data")) / "text"
REAL = "real rows"
SHOTS = 10  # rows of an intent, where they are few
ROWS = 5_000  # that are made, at least
DRAWN = 3_000  # rows that are looked at as they are drawn
PAIRS = 2_000  # real pairs, where back-translation adds others
DATABASE = TEXTS / "text2sql" / "geography.sqlite"


# ---- corpora


def dataset(train: pa.Table, test: pa.Table, target: str, task: Any = None) -> Any:
    from data.schema import Dataset, Schema, Split

    schema = Schema.infer(train, target=target, task=task)
    return Split(Dataset.of(train, schema), Dataset.of(test, schema))


def read(name: str) -> pa.Table:
    if not (TEXTS / name).exists():
        raise SystemExit(f"{TEXTS / name} is missing: set ALFAR_BENCH_DATA to the folder of benchmark data")
    return pq.read_table(TEXTS / name)


def clinc150() -> Any:
    return dataset(read("clinc150/train.parquet"), read("clinc150/test.parquet"), "intent")


def pages(file: str, columns: list[str], by: str, task: str) -> Any:
    """A tenth of the pages, or tools, is for testing."""
    table = read(file)
    names = sorted(set(table[by].to_pylist()))
    held = set(np.array(names)[np.random.default_rng(0).permutation(len(names))[: len(names) // 10]].tolist())
    test = pa.array([name in held for name in table[by].to_pylist()])
    return dataset(table.filter(pc.invert(test)).select(columns), table.filter(test).select(columns), columns[-1], task)


def shell() -> Any:
    """The page that a request stands on, the request, and the command. The page is asked for too: "display help" alone stands on 762 of
    them, and nine requests in ten do not say what tool they are about. A fifth of what is asked is for testing."""
    from data.schema import Dataset, Schema
    from data.split import split

    table = read("tldr/nl_to_command.parquet").select(["tool", "nl", "command"])
    return split(Dataset.of(table, Schema.infer(table, target="command", kinds={"tool": "text"}, task="text-to-code")))


def geography() -> Any:
    table = read("text2sql/geography.parquet")
    test = pc.equal(table["question_split"], "test")
    columns = ["question", "sql"]
    return dataset(table.filter(pc.invert(test)).select(columns), table.filter(test).select(columns), "sql")


def built_in(name: str) -> Any:
    from data.schema import Dataset, Schema, Split
    from data.sources import read as source
    from data.split import split

    found = source(name)
    whole = Dataset.of(found.table, Schema.infer(found.table, target=found.target, kinds=found.kinds, task=found.task))
    return split(whole) if found.test is None else Split(whole, Dataset.of(found.test, whole.schema))


CORPORA: dict[str, Callable[[], Any]] = {
    "clinc150": clinc150,
    "geography": geography,
    "en_es": lambda: pages("tldr/en_es.parquet", ["en", "es"], "page", "translation"),
    "page_summary": lambda: pages("tldr/page_summary.parquet", ["examples", "summary"], "tool", "summarisation"),
    "shell": shell,
    **{name: partial(built_in, name) for name in ("messages_es", "docstrings_summary", "docstrings_code")},
}


# ---- one fit


def judges(name: str, real: Any) -> dict[str, Any]:
    from evaluators.protocol import JUDGES as ALL
    from evaluators.text import executing

    return {"seq2seq": executing(DATABASE)} if name == "geography" else dict(ALL["text", real.train.schema.task])


def judged(name: str, real: Any, train: Any) -> dict[str, dict[str, Any]]:
    """{judge: {metric: {"mean", "low", "high"}}} of every judge that learns on `train`."""
    from evaluators.protocol import interval, redraws

    weights = redraws(len(real.test), np.random.default_rng(0))
    return {
        judge: {metric: interval(values) for metric, values in learn(train, real.test, 0)(weights).items()}
        for judge, learn in judges(name, real).items()
    }


def measured(name: str, corpus: str, seed: int, real: Any) -> dict[str, Any]:
    """One fit, its rows and their scores."""
    from data.texts import Texts, faithful, keys
    from evaluators.executing import runs
    from evaluators.text import strings, texts_of
    from evaluators.text import told as asked
    from generators.registry import make

    train, schema = real.train, real.train.schema
    began = time.process_time()
    fitted = make(name, {}).fit(train, seed=seed)
    fit = time.process_time() - began
    made = fitted.sample(max(ROWS, len(train)), seed=seed, avoid=train)
    drawn = time.process_time() - began - fit
    free = as_drawn(fitted, min(DRAWN, len(train)), seed)
    texts = Texts.of(schema, train)
    found = {
        "generator": name,
        "corpus": corpus,
        "seed": seed,
        "rows": len(made),
        "fit_s": round(fit, 1),
        "sample_s": round(drawn, 1),
        "copies": round(float(np.isin(keys(free.table, texts.columns), texts.known).mean()), 4),
        "copies_real": round(float(np.isin(keys(real.test.table, texts.columns), texts.known).mean()), 4),
        "scores": judged(corpus, real, made),
    }
    if corpus == "geography":
        found["runs"] = round(float(runs(DATABASE, made.y.to_pylist()).mean()), 4)
    if schema.task == "summarisation":
        for key, rows in (("faithful", made), ("faithful as drawn", free), ("faithful of real rows", real.test)):
            hits, names = faithful(asked(rows, texts_of(schema, schema.target)), strings(rows, schema[schema.target]))
            found[key] = round(float(hits.sum() / max(1, names.sum())), 4)
    return found


def as_drawn(fitted: Any, n: int, seed: int) -> Any:
    """n rows of which none was turned down."""
    import torch

    with torch.inference_mode():
        rows = fitted.generator.sample(fitted.net, n, torch.Generator().manual_seed(seed))
    return fitted.codec.decode(rows, np.random.default_rng(seed), start=0, seed=seed)


# ---- text/gpt besides


def classify() -> dict[str, Any]:
    """How often the likeliest label by P(y|x) is the right one."""
    import torch

    from generators.registry import make

    real = clinc150()
    fitted = make("text/gpt", {}).fit(real.train, seed=0)
    tokens, y = fitted.codec.encode(real.test, np.random.default_rng(0))
    with torch.inference_mode():
        right = fitted.generator.posterior(fitted.net, tokens).argmax(1) == y  # type: ignore[attr-defined]
    return {"what": "classify", "accuracy": round(float(right.float().sum()) / len(real.test), 4), "fit_s": fitted.log["cpu_seconds"]}


def outside() -> dict[str, Any]:
    """How well the judge's largest margin tells test rows from utterances that are none of the intents: ROC-AUC after real rows and rows
    of text/gpt."""
    from sklearn.metrics import roc_auc_score

    from evaluators.text import margins, spoken, terms
    from generators.registry import make

    real, strange = clinc150(), read("clinc150/oos_test.parquet").column("text").to_pylist()
    fitted = make("text/gpt", {}).fit(real.train, seed=0)
    made = fitted.sample(len(real.train), seed=0, avoid=real.train)
    asked = spoken(real.test, "intent") + [terms(text) for text in strange]
    within = np.arange(len(asked)) < len(real.test)
    found: dict[str, Any] = {"what": "outside", "fit_s": fitted.log["cpu_seconds"]}
    for name, train in (("real", real.train), ("made", made)):
        sure = margins(spoken(train, "intent"), np.unique(train.y.to_pylist(), return_inverse=True)[1], asked).max(1)
        found[name] = round(float(roc_auc_score(within, sure)), 4)
    return found


def few(seed: int) -> dict[str, Any]:
    """10 real rows an intent, alone, with rows made from them, and with as many copies of them as rows are made: once, three times and
    six times as many, the last beside each real row thrice, which a net would hardly see again among so many others."""
    from data.schema import Split
    from evaluators.protocol import joined
    from generators.registry import make

    real = clinc150()
    rng, labels = np.random.default_rng(seed), np.array(real.train.y.to_pylist())
    rows = np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:SHOTS] for label in np.unique(labels)])
    some = Split(real.train.take(np.sort(rows)), real.test)
    fitted = make("text/unigram", {}).fit(some.train, seed=seed)
    found: dict[str, Any] = {"what": "few", "generator": "text/unigram", "seed": seed, "fit_s": fitted.log["cpu_seconds"]}
    found["alone"] = judged("clinc150", some, some.train)
    for times, beside in ((1, 1), (3, 1), (6, 3)):
        own = repeated(some.train, beside)
        made = fitted.sample(times * len(some.train), seed=seed, avoid=some.train)
        again = some.train.take(np.random.default_rng(seed).integers(len(some.train), size=len(made)))
        each = ", each real row thrice" if beside == 3 else ""
        found[f"with {times}x{each}"] = judged("clinc150", some, joined(own, made))
        found[f"copies {times}x{each}"] = judged("clinc150", some, joined(own, again))
    return found


def back(seed: int) -> dict[str, Any]:
    """2,000 real pairs, alone, each four times with 4,000 whose English is made from other Spanish texts, and with as many copies."""
    from data.schema import Split
    from evaluators.protocol import joined
    from generators.registry import make

    real = CORPORA["en_es"]()
    order = np.random.default_rng(seed).permutation(len(real.train))
    some, others = real.train.take(np.sort(order[:PAIRS])), real.train.take(np.sort(order[PAIRS : 3 * PAIRS]))
    fitted = make("text/transformer", {"backwards": 1.0, "answer_temperature": 0.05}).fit(some, seed=seed)
    pairs = fitted.answer(others, seed=seed, back=True)
    small = Split(some, real.test)
    return {
        "what": "back",
        "seed": seed,
        "fit_s": fitted.log["cpu_seconds"],
        "alone": judged("en_es", small, some),
        "with": judged("en_es", small, joined(repeated(some, 4), pairs)),
        "copies": judged("en_es", small, repeated(some, 6)),
    }


def repeated(data: Any, times: int) -> Any:
    """Each row so many times."""
    return data.take(np.tile(np.arange(len(data)), times))


def cache() -> dict[str, Any]:
    """CPU seconds of drawing 256 rows by a net that remembers keys and values, and by one that reads each row anew for each token."""
    import torch

    from generators.codecs.text import PAD
    from generators.registry import make

    real = clinc150()
    fitted = make("text/gpt", {"training": {"steps": 1}}).fit(real.train, seed=0)
    net, labels = fitted.net, torch.arange(256) % len(fitted.codec.shares)  # type: ignore[attr-defined]
    with torch.inference_mode():
        began = time.process_time()
        rows = fitted.generator.draw(net, labels, torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
        kept = time.process_time() - began
        sequences = net.sequences(rows, labels, True)
        length = int((sequences != PAD).sum(1).max())
        began = time.process_time()
        for end in range(2, length):
            net(sequences[:, :end])
        anew = time.process_time() - began
    return {
        "what": "cache",
        "rows": 256,
        "tokens": length,
        "with_s": round(kept, 2),
        "without_s": round(anew, 2),
        "ratio": round(anew / kept, 2),
    }


# ---- results


def results() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def keep(found: dict[str, Any]) -> None:
    with RESULTS.open("a") as file:
        file.write(json.dumps(found | {"measured": time.strftime("%Y-%m-%d")}) + "\n")
    print(json.dumps(found), flush=True)


def table(corpus: str) -> str:
    """Markdown of one corpus: each metric after real rows and after each generator's, with its share of the former."""
    lines = {(r["generator"], r["seed"]): r for r in results() if r.get("corpus") == corpus}
    if (REAL, 0) not in lines:
        return ""
    real = lines.pop((REAL, 0))
    columns = [(judge, metric) for judge, scores in real["scores"].items() for metric in scores]
    head = ["rows", "made", "fit CPU s", "drawing CPU s", "copies %", *(f"{judge} {metric}" for judge, metric in columns)]
    text = [row(head), "|---|" + "---:|" * (len(head) - 1)]
    copies = next((f"{100 * r['copies_real']:.1f}" for r in lines.values()), "–")
    text.append(row([REAL, "–", "–", "–", copies, *(told(real["scores"][judge][metric]) for judge, metric in columns)]))
    for (name, seed), found in lines.items():
        more = "".join(f"; {key} {100 * found[key]:.1f} %" for key in found if key.startswith(("runs", "faithful")))
        costs = [f"{found['rows']:,}", f"{found['fit_s']:.0f}", f"{found['sample_s']:.0f}", f"{100 * found['copies']:.1f}"]
        cells = [told(found["scores"][j][m], real["scores"][j][m]["mean"]) for j, m in columns]
        label = f"**`{name}`**{f' seed {seed}' if seed else ''}{more}"
        text.append(row([label, *costs, *cells]))
    return f"## {corpus}\n\n" + "\n".join(text) + "\n"


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def told(score: dict[str, float], of: float | None = None) -> str:
    """A score, its interval and its share of another."""
    if score["mean"] is None:
        return "–"
    digits = 1 if score["mean"] > 1 else 3
    interval = f"{score['mean']:.{digits}f} ({score['low']:.{digits}f} to {score['high']:.{digits}f})"
    return interval + (f" **{score['mean'] / of:.3f}**" if of else "")


def write() -> None:
    parts = [part for part in [*map(table, CORPORA), *map(added, ADDED), besides()] if part]
    (RESULTS.parent / "text.md").write_text("# Texts: generators side by side\n\n" + CAPTION + "\n\n" + "\n".join(parts))


def added(what: str) -> str:
    """Markdown of an experiment that adds rows to real ones: a line for each mixture and seed."""
    lines = {r["seed"]: r for r in results() if r.get("what") == what}
    if not lines:
        return ""
    first = next(iter(lines.values()))
    columns = [(judge, metric) for judge, scores in first["alone"].items() for metric in scores]
    text = [row(["rows", "seed", *(f"{judge} {metric}" for judge, metric in columns)]), "|---|---:|" + "---:|" * len(columns)]
    for mixture in (key for key in first if isinstance(first[key], dict)):
        text += [row([mixture, str(seed), *(told(r[mixture][judge][metric]) for judge, metric in columns)]) for seed, r in lines.items()]
    return f"## {ADDED[what]}\n\n" + "\n".join(text) + "\n"


def besides() -> str:
    """Markdown of what the nets can do besides, the last figure of each."""
    last = {r["what"]: r for r in results() if "what" in r}
    said = {
        "classify": "- `text/gpt` as a classifier of CLINC150 through P(y|x): {accuracy} of the test rows.",
        "outside": "- Utterances that are none of the intents, told by the linear judge's margin, ROC-AUC: {made} after rows "
        "of `text/gpt`, {real} after real rows.",
        "cache": "- Drawing {rows} rows of {tokens} tokens by `text/gpt`: {with_s} CPU s with a cache of keys and values, {without_s} "
        "without: {ratio} times.",
    }
    lines = [text.format(**last[what]) for what, text in said.items() if what in last]
    return "## What the nets can do besides\n\n" + "\n".join(lines) + "\n" if lines else ""


ADDED = {
    "few": "CLINC150, 10 rows an intent: alone, with 1, 3 and 6 times as many of `text/unigram`, and with as many copies",
    "back": "English to Spanish, 2,000 pairs: alone, each four times with 4,000 whose English `text/transformer` made, and with copies",
}


CAPTION = """Measured by `python -m benchmarks.text`: defaults, one thread; in brackets the 95 % interval over redraws of the test
rows, in bold the share of what the judge scores after real rows. `made`: rows made, at least 5,000. `copies`: rows as drawn
with the words of a training row, which are drawn again; of real rows: test rows. `runs`: synthetic queries that run on the
database. `faithful`: names and numbers of synthetic summaries that stand in their documents."""


def main() -> None:
    from generators.registry import names

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=names("text"), default=names("text"))
    options.add_argument("--data", nargs="+", choices=CORPORA, default=list(CORPORA))
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--again", action="store_true", help="measure what is measured already")
    for what in ("classify", "outside", "few", "back", "cache", "tables"):
        options.add_argument(f"--{what}", action="store_true")
    given = options.parse_args()
    for what, experiment in (("classify", classify), ("outside", outside), ("cache", cache)):
        if getattr(given, what):
            keep(experiment())
    for what, seeded in (("few", few), ("back", back)):
        for seed in range(given.seeds if getattr(given, what) else 0):
            keep(seeded(seed))
    if not any(getattr(given, what) for what in ("classify", "outside", "few", "back", "cache", "tables")):
        for corpus in given.data:
            real, known = CORPORA[corpus](), {(r["generator"], r["corpus"], r["seed"]) for r in results() if "corpus" in r}
            if (REAL, corpus, 0) not in known:
                keep({"generator": REAL, "corpus": corpus, "seed": 0, "scores": judged(corpus, real, real.train)})
            for name in given.only:
                for seed in range(given.seeds):
                    if given.again or (name, corpus, seed) not in known:
                        keep(measured(name, corpus, seed, real))
    write()


if __name__ == "__main__":
    main()
