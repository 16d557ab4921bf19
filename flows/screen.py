"""What the command line shows: progress while stages run, and tables of plain text."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

PATIENCE = 10.0  # seconds between two lines of one stage when the output is no terminal


@contextmanager
def progress() -> Iterator[None]:
    """Show every stage as it goes on: bars on a terminal, now and then a line elsewhere."""
    from flows import stages

    if sys.stderr.isatty():
        with bars() as show:
            token = stages.progress.set(show)
            try:
                yield
            finally:
                stages.progress.reset(token)
    else:
        token = stages.progress.set(Lines())
        try:
            yield
        finally:
            stages.progress.reset(token)


@contextmanager
def bars() -> Iterator[Any]:
    """One bar a stage."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.fields[stage]:<8}"), BarColumn(24), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as display:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int, text: str) -> None:
            if stage not in tasks:
                tasks[stage] = display.add_task(text, stage=stage, total=total or None)
            display.update(tasks[stage], completed=done, total=total or None, description=text)

        yield show


class Lines:
    """A line when a stage begins, and one every few seconds."""

    def __init__(self) -> None:
        self.stage, self.said = "", 0.0

    def __call__(self, stage: str, done: int, total: int, text: str) -> None:
        """What happened, when it is time to say it."""
        now = time.monotonic()
        if stage == self.stage and now - self.said < PATIENCE:
            return
        self.stage, self.said = stage, now
        share = f"{100 * done / total:3.0f} %  " if total else ""
        print(f"{stage:<8} {share}{text}", file=sys.stderr, flush=True)


def table(rows: Sequence[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """Columns of plain text: words to the left, figures to the right."""
    cells = [[str(cell) for cell in row] for row in ([head] if head else []) + list(rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [all(not isinstance(row[i], str) for row in rows) for i in range(len(widths))]
    lines = ["  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def figure(score: Any, digits: int = 3) -> str:
    """0.913 (0.901 to 0.924) of a score, or the number alone; a dash when there is none."""
    if isinstance(score, Mapping):
        mean = score.get("mean", score.get("value", score.get("auc", score.get("share"))))
        if mean is None:
            return "-"
        low, high = score.get("low"), score.get("high")
        return f"{mean:.{digits}f}" + (f" ({low:.{digits}f} to {high:.{digits}f})" if low is not None and high is not None else "")
    return "-" if score is None else f"{score:.{digits}f}"


def number(value: Any) -> str:
    """A gate's value or limit as text."""
    return figure(value) if isinstance(value, int | float) and not isinstance(value, bool) else "-" if value is None else str(value)


WORDS = (  # single figures of images and texts: key, what it is, of what the figure beside it is
    ("label_agreement", "labels as a judge says that knows the real ones", "of real rows"),
    ("perplexity", "perplexity of real texts, learnt on synthetic", "learnt on real"),
    ("vocabulary", "share of the words of real texts", "of the training texts"),
    ("faithful", "names and numbers that stand in the source", "of real rows"),
    ("parses", "code that parses", "of real rows"),
    ("executes", "queries that run", "of real rows"),
)


COHERENCE = (
    ("image", "images that show what the caption says"),
    ("caption", "captions that say what the image shows"),
    ("drawn", "rows whose image and caption agree"),
)


def headlines(scores: Mapping[str, Any]) -> str:
    """The figures by which a synthetic table is first judged, each beside what real rows give."""
    utility, fidelity, privacy = (scores.get(part) or {} for part in ("utility", "fidelity", "privacy"))
    rows: list[list[str]] = []
    for judge, sets in (utility.get("judges") or {}).items():
        head = utility["headline"]
        made, real, floor = (figure(sets.get(kind, {}).get(head)) for kind in ("synthetic", "real", "floor"))
        rows.append([f"{head} of {judge.replace('_', ' ')}, learnt on synthetic", made, f"learnt on real {real}, on the floor {floor}"])
    if utility.get("ratio"):
        plain = figure(utility["ratio"].get("plain"))
        rows.append(["share of the real signal kept", figure(utility["ratio"]), f"1 is as good as real; of the score itself {plain}"])
    detector = fidelity.get("detector") or {}
    if detector:
        rows.append(
            [
                "detector against held-out rows (AUC)",
                figure(detector.get("test")),
                f"real against real {figure(detector.get('real'))}; 0.5 best",
            ]
        )
    for name, what in (("shape", "error of columns, %"), ("trend", "error of pairs, %")):
        if fidelity.get(name):
            rows.append([what, figure(fidelity[name].get("synthetic"), 1), f"real against real {figure(fidelity[name].get('real'), 1)}"])
    for space, figures in (fidelity.get("spaces") or {}).items():
        for name, best in (("kid", "0 best"), ("coverage", "1 best")):
            made, real = (figure(figures[name].get(k)) for k in ("synthetic", "real"))
            rows.append([f"{name.upper() if name == 'kid' else name}, {space} features", made, f"real against real {real}; {best}"])
    for way, what in COHERENCE:
        if found := (fidelity.get("coherence") or {}).get(way):
            new, real = figure(found["unseen"]), figure(found["unseen_real"])
            rows.append([what, figure(found["synthetic"]), f"real {figure(found['real'])}; of new combinations {new}, real {real}"])
    for name, what, of in WORDS:
        if fidelity.get(name):
            made, real = (figure(fidelity[name].get(k)) for k in ("synthetic", "real"))
            rows.append([what, made, f"{of} {real}"])
    if fidelity.get("kind") in ("image", "text", "multimodal") and privacy.get("near"):
        made, real = (figure(100 * privacy["near"][k], 2) for k in ("synthetic", "real"))
        rows.append(["nearer to a training row than 1 % of real ones, %", made, f"held-out rows {real}"])
    if privacy.get("dcr"):
        real = figure(privacy["dcr"].get("real"), 1)
        rows.append(["nearer to training than to held-out rows, %", figure(privacy["dcr"], 1), f"real against real {real}; 50 best"])
    if privacy.get("copies"):
        copies = privacy["copies"]
        made, real = (figure(None if copies.get(k) is None else 100 * copies[k], 2) for k in ("synthetic", "real"))
        rows.append(["copies of training rows, %", made, f"among held-out rows {real}"])
    for key, what in (("near_copies", "rows with the words of a training row, %"), ("leaks", "rows with a leaked value of train, %")):
        found = (privacy.get("texts") or {}).get(key) or {}
        found = found.get("any", found)
        if found.get("synthetic") is not None:
            made, real = (figure(100 * found[k], 2) for k in ("synthetic", "real"))
            rows.append([what, made, f"among held-out rows {real}"])
    return table(rows)
