"""Files that were tampered with: does anything but a clear error come of them?

python -m benchmarks.fuzz [files] [seed]        10,000 files and seed 0 when left out; writes results/fuzz.md

Good files of every format are mutated (bits, bytes, cuts, repeats, numbers blown up, pieces of one another, words that formats fear) and
read as the commands read them, by processes that are watched from outside. A file may be read or be refused by BadInput in one sentence.
Counted against us: any other exception, more than 10 s, more than 2 GiB beyond what the process had, and a write outside the case's folder.
"""

import ctypes
import gc
import hashlib
import io
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from data.errors import BadInput
from flows.screen import table

SECONDS, MEMORY, ROWS = 10, 2 * 2**30, 120
RESULTS = Path(__file__).parent / "results" / "fuzz.md"
WORDS = [
    b"\x00",
    b"\xff\xfe",
    b'"',
    b"\n",
    b"\r",
    b",",
    b"\t",
    b"null",
    b"nan",
    b"inf",
    b"-1",
    b"1e309",
    b"99999999999999999999",
    b"../../x",
]
WORDS += [
    b"{",
    b"}",
    b"[" * 2000,
    b"&a *a",
    b"!!python/object/apply:os.system [id]",
    b"<script>",
    b"=cmd()",
    b"\xe2\x80\xae",
    b"\x1b[2J",
    b"%s%n",
]

# ---- good files


def good(root: Path) -> dict[str, list[Path]]:
    """A few good files or folders of each format, made from real data: {format: paths}."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq
    from PIL import Image

    from data import sources
    from data.schema import Dataset, Schema
    from generators import registry

    penguins, digits, intents = (sources.read(name).table for name in ("penguins", "digits", "home_intents"))
    pq.write_table(penguins, root / "penguins.parquet")
    pq.write_table(digits.slice(0, ROWS), root / "digits.parquet")
    for name in ("penguins", "digits"):  # bytes that are changed are values
        plain = pq.read_table(root / f"{name}.parquet")
        pq.write_table(plain, root / f"{name}-plain.parquet", compression="none", use_dictionary=False, write_statistics=False)
    pa.csv.write_csv(penguins, root / "penguins.csv")
    pa.csv.write_csv(intents.slice(0, 200), root / "intents.csv")
    (root / "rows.jsonl").write_text("".join(json.dumps(row, default=str) + "\n" for row in penguins.slice(0, 80).to_pylist()))
    (root / "job.yaml").write_text(
        "source: {path: penguins.csv, delimiter: ','}\ntarget: species\nkinds: {island: category}\ngenerator: {name: tabular/made,"
        " training: {steps: 100}}\ngates: {utility: 0.8}\nconstraints:\n  - body_mass_g > 0\n  - unique: [island, sex]\n"
        'minutes: 2.5\nrows: 100\nschedule: "0 2 * * *"\n'
    )
    pictures = root / "pictures"
    for number, cell in enumerate(digits["image"].slice(0, ROWS).to_pylist()):
        where = pictures / f"class{number % 3}"
        where.mkdir(parents=True, exist_ok=True)
        (where / f"{number}.png").write_bytes(cell["bytes"])
    image = Image.open(io.BytesIO(digits["image"][0].as_py()["bytes"])).convert("RGB").resize((24, 24))
    for kind in ("jpeg", "gif", "bmp", "webp", "tiff"):
        image.save(root / f"one.{kind}")
    shutil.copy(pictures / "class0" / "0.png", root / "one.png")
    models = []
    few = {"training": {"steps": 3}}
    recipes = [("tabular/marginal", penguins, {}), ("tabular/made", penguins, few), ("tabular/gmm", penguins, {})]
    recipes += [("image/gmm", digits.slice(0, 300), {}), ("image/vae", digits.slice(0, 300), few), ("text/ngram", intents, {})]
    for name, real, settings in recipes:
        data = Dataset.of(real, Schema.infer(real, target=real.column_names[-1]))
        models.append(root / name.replace("/", "-"))
        registry.make(name, settings).fit(data, seed=0).save(models[-1])
    texts = [root / name for name in ("penguins.csv", "intents.csv", "rows.jsonl")]
    images = [root / f"one.{kind}" for kind in ("png", "jpeg", "gif", "bmp", "webp", "tiff")]
    return {
        "csv": texts,
        "parquet": [*root.glob("*.parquet")],
        "yaml": [root / "job.yaml"],
        "image": images,
        "model": models,
    }


# ---- bad files


def mutated(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """One to five changes of some bytes."""
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        changed = bytearray(data)
        at = rng.randrange(len(data) + 1)
        span = min(len(data) - at, int(2 ** (rng.random() * 10)))
        match rng.randrange(8):
            case 0 if data:
                changed[at % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                changed[at : at + span] = rng.randbytes(span)
            case 2:
                del changed[at : at + span]
            case 3:
                changed[at:at] = changed[at : at + span] * rng.choice((1, 2, 100))
            case 4:
                changed[at:at] = rng.choice(WORDS)
            case 5:
                start = rng.randrange(len(other) + 1)
                changed[at : at + span] = other[start : start + span]
            case 6:
                del changed[at:]
            case _:
                numbers = list(re.finditer(rb"\d+", data))
                if numbers:
                    found = rng.choice(numbers)
                    changed[found.start() : found.end()] = rng.choice(
                        (b"-1", b"0", b"1e9", b"4294967296", b"9" * 25, found.group() + b"000")
                    )
        data = bytes(changed[: 4 * 2**20])
    return data


def swapped(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """JSON in which one value stands where another stood."""
    whole = json.loads(data)
    places, stack = [], [whole]
    while stack:
        node = stack.pop()
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                stack.append(node[key])
    node, key = rng.choice(places)
    node[key] = rng.choice(
        (None, True, -1, 0, 10**6, 10**12, 1e308, float("nan"), "", "../x", other.decode(), [], {}, [[]], rng.choice(places)[1])
    )
    return json.dumps(whole).encode()


def tamper(kind: str, source: Path, rng: random.Random, folder: Path, others: list[Path]) -> Path:
    """A copy of a good file or model in `folder`, changed; what the reader is given."""
    if kind == "model":
        shutil.copytree(source, folder / "model")
        victim = folder / "model" / rng.choice(("model.json", "model.safetensors"))
        hostile = swapped if victim.suffix == ".json" and rng.random() < 0.6 else mutated
        victim.write_bytes(hostile(victim.read_bytes(), rng, source.name.encode()))
        if rng.random() < 0.7:  # who changes the weights can change their digest too
            text, weights = (folder / "model" / "model.json").read_bytes(), (folder / "model" / "model.safetensors").read_bytes()
            digest = hashlib.sha256(weights).hexdigest().encode()
            (folder / "model" / "model.json").write_bytes(re.sub(rb'"sha256": "[^"]*"', b'"sha256": "' + digest + b'"', text))
        return folder / "model"
    data = mutated(source.read_bytes(), rng, rng.choice(others).read_bytes())
    if kind != "image":
        (folder / source.name).write_bytes(data)
        return folder / source.name
    shutil.copytree(source.parent / "pictures", folder / "pictures")
    (folder / "pictures" / "class0" / f"bad{source.suffix}").write_bytes(data)
    return folder / "pictures"


# ---- reading them


def attempt(kind: str, path: Path, to: Path) -> None:
    """Read it as the commands do, and go on with what was read as far as sampling ten rows."""
    from flows import planning
    from flows.job import Job
    from generators import registry
    from generators.fitted import Fitted

    if kind == "yaml":
        Job.load(path)
    elif kind == "model":
        Fitted.load(path).sample(10)
    else:
        source = {"spec": str(path), **({"size": 8} if kind == "image" else {})}
        train = planning.plan(Job(source=source, to=str(to))).real.train
        registry.make({"tabular": "tabular/marginal", "image": "image/gmm", "text": "text/ngram"}[train.schema.modality], {}).fit(
            train, seed=0
        )


def watched(folder: Path) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that stops writes outside `folder`."""
    inside = (str(folder), "/dev/", tempfile.gettempdir() + "/tmp")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str) and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            outside = not os.path.realpath(args[0]).startswith(inside)
        else:
            outside = event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")
        if outside:
            raise PermissionError(f"wrote outside: {event} {args[:1]}")

    return hook


def worker(pipe: Connection, files: dict[str, list[Path]], root: Path) -> None:
    """Cases off the pipe, their outcomes back on it."""
    import torch

    torch.set_num_threads(1)
    os.chdir(root)
    for kind, paths in files.items():
        attempt(kind, paths[0] if kind != "image" else root / "good" / "pictures", root / "to")
    sys.stderr = io.StringIO()
    sys.addaudithook(watched(root))
    while (case := pipe.recv()) is not None:
        number, seed = case
        rng = random.Random(f"{seed}:{number}")
        kind = list(files)[number % len(files)]
        folder = root / f"case-{number}"
        folder.mkdir()
        path = tamper(kind, rng.choice(files[kind]), rng, folder, [p for p in files[kind] if p.is_file()] or [Path(__file__)])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pipe.send((number, kind, "begun", before))
        try:
            attempt(kind, path, folder / "to")
            outcome = "read"
        except BadInput as error:
            outcome = "refused" if "\n" not in str(error) and len(str(error)) < 1000 else f"BadInput of several lines: {error!r}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {str(error)[:200]} | {traceback.format_exc().splitlines()[-2:]}"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        shutil.rmtree(folder)
        if number % 50 == 0:
            gc.collect()
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        pipe.send((number, kind, outcome if grown < MEMORY else f"memory: {grown >> 20} MiB more", grown))


def main() -> None:
    count, seed = (int(v) for v in (sys.argv[1:] + ["10000", "0"][len(sys.argv) - 1 :])[:2])
    forked = multiprocessing.get_context("fork")
    found: dict[str, Counter[str]] = {}
    slowest: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "good").mkdir()
        files, began, number, child, pipe = good(root / "good"), time.time(), 0, None, None
        while number < count:
            if child is None or pipe is None:
                pipe, theirs = forked.Pipe()
                child = forked.Process(target=worker, args=(theirs, files, root), daemon=True)
                child.start()
                theirs.close()
            pipe.send((number, seed))
            kind = pipe.recv()[1]  # it is about to read the file
            start = time.time()
            try:
                outcome = pipe.recv()[2] if pipe.poll(SECONDS) else "hang"
            except EOFError:
                outcome = "process died"
            if outcome in ("hang", "process died"):
                child.kill()
                child.join()
                child = None
            slowest[kind] = max(slowest[kind], time.time() - start)
            plain = outcome if outcome in ("read", "refused") else "failed"
            found.setdefault(kind, Counter())[plain] += 1
            if plain == "failed":
                print(f"{number} {kind}: {outcome}", flush=True)
            number += 1
        if pipe is not None and child is not None:
            pipe.send(None)
            child.join()
        minutes = (time.time() - began) / 60
    rows = [[kind, c.total(), c["read"], c["refused"], c["failed"], f"{slowest[kind]:.1f}"] for kind, c in found.items()]
    text = table(rows, ["format", "files", "read", "refused in a sentence", "failed", "slowest, s"])
    print(text, f"{minutes:.1f} minutes")
    if count >= 10_000:
        RESULTS.write_text(f"# Files that were tampered with\n\n`python -m benchmarks.fuzz {count} {seed}`\n\n{text}\n")


if __name__ == "__main__":
    main()
