"""The command line. Only the standard library is imported here, so that help comes at once."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from data.errors import BadInput

INTRO = """\
Make synthetic data that can stand in for a real table: learn its joint distribution, sample new rows,
judge them on held-out real rows, and publish them as parquet with a report, or keep them back with the reasons."""

EXAMPLES = """\
examples:
  alfar run diamonds                                   a built-in real table, from source to report
  alfar run sales.csv --target churned --minutes 5     your own table; churned is what your models will predict
  alfar run jobs/diamonds.yaml                         an order written down in a file
  alfar sample releases/diamonds --rows 1000000 --to big
  alfar judge real.parquet synthetic.parquet --target y
  alfar compare diamonds --generators all --minutes 10

exit codes: 0 done, 2 bad input, 3 not published because a gate failed, 130 stopped by Ctrl-C"""

SOURCE = (
    "a built-in dataset (alfar datasets), a file (.csv .tsv .jsonl .json .parquet .po .mo), a folder of parquet, images or .po, or a URL "
    "of a database or an object store (s3://bucket/…)"
)


class Parser(argparse.ArgumentParser):
    """Errors in one sentence."""

    def error(self, message: str) -> NoReturn:
        """What is wrong and where to read on."""
        print(f"alfar: {' '.join(message.split())} (see: {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        options = parser().parse_args(argv)
        return options.command(options)
    except SystemExit as end:
        return int(end.code or 0)
    except BadInput as error:
        for line in vars(error).get("__notes__", ()):
            print(line, file=sys.stderr)
        line = "".join(letter if letter.isprintable() else " " for letter in str(error))  # nothing that steers a terminal
        print(f"alfar: {' '.join(line.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("alfar: stopped; nothing was published, and the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        print(f"alfar: cannot write {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 2


def parser() -> Parser:
    """Every command with its options."""
    top = Parser(prog="alfar", description=INTRO, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(metavar="command", required=True)

    def add(command: Any, name: str, summary: str, more: str = "") -> Parser:
        raw = argparse.RawDescriptionHelpFormatter
        sub = commands.add_parser(name, help=summary, description=f"{summary[:1].upper()}{summary[1:]}.", epilog=more, formatter_class=raw)
        sub.set_defaults(command=command)
        return sub

    add(datasets, "datasets", "list the built-in real datasets")
    add(generators, "generators", "list the generators, one name a line")
    show_ = add(show, "show", "show a generator: its mathematics, paper, parameters and their defaults", "example: alfar show tabular/made")
    show_.add_argument("name", help="a name from: alfar generators")

    run_ = add(run, "run", "learn a real table, sample rows, judge them and publish a release", "example: alfar run diamonds --rows 20000")
    run_.add_argument("source", metavar="SOURCE|JOB.yaml", help=f"{SOURCE}; or a job file, whose values the options override")
    run_.add_argument("--generator", metavar="NAME", help="who learns (alfar generators), or auto: the best of them within --minutes")
    run_.add_argument("--preset", metavar="NAME", help="the generator's sizes: cpu-smoke, cpu or gpu (alfar show NAME)")
    run_.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter of the generator, e.g. training.steps=4000"
    )
    run_.add_argument("--rows", type=int, metavar="N", help="rows to make; as many as the training data when left out")
    reading(run_)
    learning(run_)
    run_.add_argument(
        "--constraint",
        action="append",
        default=[],
        metavar="RULE",
        help="what every row keeps, e.g. 'a <= b' or 'total = net + tax' or 'unique: a, b'; may be repeated",
    )
    run_.add_argument("--epsilon", type=float, metavar="E", help="differential privacy of the fit: smaller is stricter, 1 to 8 is usual")
    run_.add_argument(
        "--epsilon-budget", type=float, metavar="E", help="stop before the fits to this source have spent more than this together"
    )
    run_.add_argument("--gate", action="append", default=[], metavar="NAME=LIMIT", help="a threshold of the verdict, e.g. copies=0.01")
    run_.add_argument("--name", help="the name of the dataset that is published; from the source when left out")
    run_.add_argument("--to", metavar="DIR", help="the folder of releases, or its URL (s3://bucket/…) (default: releases)")
    spreading(run_)

    sample_ = add(
        sample,
        "sample",
        "draw more rows from a fitted model, without fitting again",
        "example: alfar sample releases/diamonds --rows 1000000 --given cut=Ideal",
    )
    sample_.add_argument(
        "model", metavar="RELEASE|MODEL", help="a release's folder, a dataset's folder (its newest release) or a model's folder"
    )
    sample_.add_argument("--rows", type=int, required=True, metavar="N", help="rows to draw")
    sample_.add_argument("--seed", type=int, default=0, help="the same seed gives the same rows (default: 0)")
    sample_.add_argument("--given", action="append", default=[], metavar="COLUMN=VALUE", help="fix a column's value; may be repeated")
    sample_.add_argument("--where", metavar="CONDITION", help="a condition on the rows as in SQL, e.g. \"age > 60 and sex = 'Female'\"")
    sample_.add_argument(
        "--balance",
        action="append",
        default=[],
        metavar="COLUMN[=VALUE:SHARE]",
        help="the same share of rows for each value of a category, or this share for one value, e.g. churned=yes:0.5; may be repeated",
    )
    sample_.add_argument("--name", help="the name of the dataset that is published; the model's when left out")
    sample_.add_argument("--to", metavar="DIR", default="releases", help="the folder of releases (default: releases)")
    spreading(sample_)

    impute_ = add(
        impute,
        "impute",
        "fill the nulls of a table by a fitted model: name labels, answer texts",
        "example: alfar impute releases/shop orders.csv --to orders.parquet",
    )
    impute_.add_argument("model", metavar="RELEASE|MODEL", help="a release's folder, a dataset's folder or a model's folder")
    impute_.add_argument(
        "source",
        metavar="TABLE",
        help="a table with the columns that the model has learnt, but those to fill, which may be left out; others stay as they are",
    )
    impute_.add_argument("--seed", type=int, default=0, help="the same seed gives the same values (default: 0)")
    impute_.add_argument("--to", metavar="FILE", required=True, help="the parquet file that is written")

    judge_ = add(
        judge,
        "judge",
        "judge any synthetic table against a real one",
        "example: alfar judge real.parquet synthetic.parquet --target y --to report.html",
    )
    judge_.add_argument("source", metavar="REAL", help=SOURCE)
    judge_.add_argument("synthetic", metavar="SYNTHETIC", help="a table with the same columns, made by anybody")
    reading(judge_)
    judge_.add_argument("--seed", type=int, help="of the judges (default: 0)")
    judge_.add_argument("--to", metavar="FILE", default="report.html", help="the report (default: report.html)")

    compare_ = add(
        compare,
        "compare",
        "fit many generators to one dataset and rank them",
        "example: alfar compare diamonds --generators all --minutes 10",
    )
    compare_.add_argument("source", metavar="SOURCE", help=SOURCE)
    compare_.add_argument("--generators", default="all", metavar="NAMES", help="names with commas between them, or all (default)")
    compare_.add_argument("--seeds", type=int, default=1, metavar="N", help="fits of each generator (default: 1)")
    reading(compare_)
    learning(compare_)
    compare_.add_argument("--name", help="the name of the dataset")
    compare_.add_argument("--to", metavar="DIR", help="where leaderboard.html, .md and .json go; the private run folder when left out")
    spreading(compare_)

    releases_ = add(releases, "releases", "list what is published")
    releases_.add_argument("--to", metavar="DIR", default="releases", help="the folder of releases (default: releases)")
    rollback_ = add(
        rollback, "rollback", "make an older version of a dataset the current one again", "example: alfar rollback diamonds --version v3"
    )
    rollback_.add_argument("dataset", help="a name from: alfar releases")
    rollback_.add_argument("--version", metavar="vN", help="the version; the one before the current one when left out")
    rollback_.add_argument("--to", metavar="DIR", default="releases", help="the folder of releases (default: releases)")
    diff_ = add(diff, "diff", "say what differs between two releases", "example: alfar diff releases/diamonds/v1 releases/diamonds/v2")
    diff_.add_argument("first", metavar="RELEASE", help="a version's folder, or a dataset's folder (its newest release)")
    diff_.add_argument("second", metavar="RELEASE", help="the same")
    doctor_ = add(doctor, "doctor", "check what a run needs: packages, folders, disk, cores, GPU, server")
    doctor_.add_argument("--to", metavar="DIR", default="releases", help="the folder of releases (default: releases)")
    serve_ = add(serve, "serve", "run the job files of a folder on their schedules", "example: alfar serve jobs/")
    serve_.add_argument("jobs", metavar="DIR", help="a folder of job files; those with a schedule are served")
    return top


def reading(sub: Parser) -> None:
    """Options that say how a real table is read."""
    sub.add_argument("--target", metavar="COLUMN", help="the column that models will predict; judges learn it too")
    sub.add_argument("--task", help="what a target that is a text is for: translation, text-to-code or summarisation")
    sub.add_argument("--test", metavar="FILE", help="your own held-out real rows; a fifth is split off when left out")
    sub.add_argument("--database", metavar="FILE", help="an SQLite database against which SQL is run, read-only, to judge it")
    sub.add_argument(
        "--kind",
        action="append",
        default=[],
        metavar="COLUMN=KIND",
        help="number, integer, category, boolean, datetime, id, text, image or mask",
    )
    sub.add_argument("--order", action="append", default=[], metavar="COLUMN=A,B,…", help="the order of a category's values, least first")
    sub.add_argument("--drop", action="append", default=[], metavar="COLUMN", help="leave a column out")
    sub.add_argument("--query", metavar="SQL", help="the query, when the source is a database URL")
    sub.add_argument("--delimiter", help="what separates the fields of a CSV file; detected when left out")
    sub.add_argument("--encoding", help="of a CSV file; detected when left out")
    sub.add_argument("--sample", type=int, metavar="N", help="of a source with more rows, use so many at random (default: 2000000)")
    sub.add_argument("--size", metavar="N|WxH", help="bring images to this many pixels, e.g. 32 or 48x32")
    sub.add_argument(
        "--crop", action="store_true", default=None, help="cut images to the proportions of --size first; else they are stretched"
    )


def learning(sub: Parser) -> None:
    """Options that say how long and where to learn."""
    sub.add_argument("--minutes", type=float, metavar="M", help="bound on the training time")
    sub.add_argument("--seed", type=int, help="the same seed gives the same rows (default: 0)")
    sub.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), help="where to train (default: a GPU when there is one)")


def spreading(sub: Parser) -> None:
    """The option that says who does the work."""
    sub.add_argument(
        "--cluster",
        metavar="ADDRESS|N",
        help="spread the work over a Dask cluster, tcp://host:8786, or N processes of this machine (default: $ALFAR_CLUSTER, or threads)",
    )


# ---- commands


def datasets(options: argparse.Namespace) -> int:
    """`alfar datasets`"""
    from data.sources import catalogue
    from flows.screen import table

    rows = [
        [name, b.modality, b.size, b.target, b.description + (f"; {b.counted(b.held)} more held out" if b.held else "")]
        for name, b in catalogue().items()
    ]
    print(table(rows, ["name", "modality", "rows", "target", "description"]))
    return 0


def generators(options: argparse.Namespace) -> int:
    """`alfar generators`"""
    from generators.registry import names

    print("\n".join(names()))
    return 0


def show(options: argparse.Namespace) -> int:
    """`alfar show NAME`"""
    import inspect
    from dataclasses import fields

    from flows.operate import flat
    from flows.screen import table
    from generators.presets import BATCH, LIKE, PRESETS, cost, example, learns
    from generators.registry import get, make

    kind = get(options.name)
    print(f"{options.name}\n\n{inspect.getdoc(sys.modules[kind.__module__])}\n\n{inspect.getdoc(kind)}\n")
    known: list[tuple[str, Any]] = [(f.name, f.default) for f in fields(kind)]
    nested = [
        (f"{name}.{f.name}", getattr(value, f.name))
        for name, value in known
        if hasattr(value, "__dataclass_fields__")
        for f in fields(value)
    ]
    plain = [(name, value) for name, value in known if not hasattr(value, "__dataclass_fields__")]
    print(table([[f"  {name}", repr(value)] for name, value in plain + nested]) if known else "  no parameters")
    if options.name in PRESETS:
        data = example(options.name)
        rows = []
        for preset, sizes in PRESETS[options.name].items():
            parameters, flops = cost(make(options.name, sizes), data)
            changes = ", ".join(f"{key}={value}" for key, value in flat(sizes).items()) or "as above"
            rows.append([f"  {preset}", f"{parameters:,}", f"{flops / 1e6:,.1f}", changes])
        print(f"\npresets, on {LIKE[learns(options.name)]}, in steps of {BATCH} rows:")
        print(table(rows, ["  --preset", "parameters", "MFLOP a row and training step", "what they set"]))
    return 0


def run(options: argparse.Namespace) -> int:
    """`alfar run`"""
    from flows import commands

    return commands.run(values_of(options), options.cluster)


def sample(options: argparse.Namespace) -> int:
    """`alfar sample`"""
    from flows import commands, publishing

    given = {column: plain(value) for column, value in pairs("--given", options.given)}
    asked = publishing.Asked(given, options.where, balanced(options.balance))
    return commands.sample(options.model, options.rows, options.seed, asked, options.name, options.to, options.cluster)


def impute(options: argparse.Namespace) -> int:
    """`alfar impute`"""
    from flows import commands

    return commands.impute(options.model, options.source, options.seed, Path(options.to))


def judge(options: argparse.Namespace) -> int:
    """`alfar judge`"""
    from flows import commands

    return commands.judge(values_of(options, to=None), options.synthetic, Path(options.to))


def compare(options: argparse.Namespace) -> int:
    """`alfar compare`"""
    from flows import commands

    return commands.compare(values_of(options, to=None), options.generators, options.seeds, options.to, options.cluster)


def releases(options: argparse.Namespace) -> int:
    """`alfar releases`"""
    from flows import commands

    return commands.releases(options.to)


def rollback(options: argparse.Namespace) -> int:
    """`alfar rollback`"""
    from flows import operate

    return operate.rollback(options.to, options.dataset, options.version)


def diff(options: argparse.Namespace) -> int:
    """`alfar diff`"""
    from flows import operate

    return operate.diff(options.first, options.second)


def doctor(options: argparse.Namespace) -> int:
    """`alfar doctor`"""
    from flows import operate

    return operate.doctor(options.to)


def serve(options: argparse.Namespace) -> int:
    """`alfar serve`"""
    from flows import commands

    return commands.serve(Path(options.jobs))


# ---- options as the values of a job


def values_of(options: argparse.Namespace, **fixed: Any) -> dict[str, Any]:
    """What the options say, as a job file would; `file` names the job file that they override."""
    said = {**vars(options), **fixed}
    named = ("target", "task", "test", "database", "rows", "seed", "minutes", "device", "name", "to", "epsilon", "epsilon_budget")
    values = {k: said[k] for k in named if said.get(k) is not None}
    path = Path(options.source)
    if path.suffix in (".yaml", ".yml"):
        from flows.job import read_yaml

        values = {**read_yaml(path), **values, "file": str(path)}
    else:
        values["source"] = {"spec": options.source}
    source = {k: said[k] for k in ("query", "delimiter", "encoding", "size", "crop", "sample") if said.get(k) is not None}
    if source:
        known = values.get("source")
        values["source"] = {**(known if isinstance(known, dict) else {"spec": known}), **source}
    for key, items in (("kinds", pairs("--kind", options.kind)), ("gates", pairs("--gate", said.get("gate", [])))):
        if items:
            values[key] = {**(values.get(key) or {}), **{name: plain(value) for name, value in items}}
    if options.order:
        values["orders"] = {**(values.get("orders") or {}), **{name: ordered(text) for name, text in pairs("--order", options.order)}}
    if said.get("constraint"):
        values["constraints"] = [*(values.get("constraints") or []), *map(rule, said["constraint"])]
    if options.drop:
        values["drop"] = [*(values.get("drop") or []), *options.drop]
    if said.get("generator") or said.get("preset") or said.get("set"):
        values["generator"] = recipe(values.get("generator"), said["generator"], said["preset"], said["set"])
    return values


def rule(text: str) -> Any:
    """A constraint: `unique: a, b` and the like as the mapping that a job file has, any other text as it is."""
    kind, colon, columns = text.partition(":")
    if colon and kind.strip() in ("unique", "combinations", "increasing"):
        return {kind.strip(): [name.strip() for name in columns.strip(" []").split(",")]}
    return text


def balanced(items: Sequence[str]) -> tuple[str, dict[str, float]] | None:
    """The column of --balance and the shares of its values."""
    found: dict[str, float] = {}
    columns = list(dict.fromkeys(item.partition("=")[0] for item in items))
    if len(columns) > 1:
        raise BadInput(f"--balance takes one column, not {' and '.join(map(repr, columns[:3]))}")
    for item in items:
        value, _, share = item.partition("=")[2].rpartition(":")
        try:
            found |= {value: float(share)} if "=" in item else {}
        except ValueError:
            raise BadInput(f"--balance takes COLUMN or COLUMN=VALUE:SHARE, not {item[:60]!r}") from None
    return (columns[0], found) if items else None


def recipe(known: Any, name: str | None, preset: str | None, settings: list[str]) -> dict[str, Any]:
    """A generator's name and parameters out of what the file says, --generator, --preset and --set."""
    base: dict[str, Any] = known if isinstance(known, dict) else {"name": known} if known else {}
    base = {"name": name} if name and name != base.get("name") else dict(base)
    if preset:
        base["preset"] = preset
    for key, value in pairs("--set", settings):
        *outer, last = key.split(".")
        place = base
        for part in outer:
            place[part] = dict(place[part]) if isinstance(place.get(part), dict) else {}
            place = place[part]
        place[last] = plain(value)
    return base


def pairs(option: str, items: Sequence[str]) -> list[tuple[str, str]]:
    """(name, value) of each NAME=VALUE."""
    for item in items:
        if "=" not in item.strip("="):
            raise BadInput(f"{option} takes NAME=VALUE, not {item[:60]!r}")
    return [(name, value) for name, _, value in (item.partition("=") for item in items)]


def ordered(text: str) -> list[Any]:
    """A,B,C as a list; a JSON list where values hold commas."""
    return found if isinstance(found := plain(text), list) else text.split(",")


def plain(text: str) -> Any:
    """A number, truth value, null or list where the text is one; the text otherwise."""
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    sys.exit(main())
