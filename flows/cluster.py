"""Work spread over a Dask cluster: shards of a sample, fits of judges, candidates of `compare`. Without a cluster, threads do it here.

    --cluster or ALFAR_CLUSTER    tcp://host:8786, tls://host:8786    a scheduler that is there, with its workers
                                  4                                   so many processes of this machine, for the time of the command

What is sent to a worker is the name of a function of this package, bytes and plain values, and the same comes back: a worker needs no file
of this machine. A shard is a range of chunks of `Fitted.stream`, and chunk i depends on (seed, i) alone, so the rows are the same whoever
makes them, and a shard whose worker died is made again by another. Results come in order, a few of them under way at a time. A job file
cannot name a cluster: whoever runs its scheduler sees real rows, and can run code here.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from data.errors import BadInput
from data.schema import Dataset, Schema
from flows import folders
from flows.job import Job

if TYPE_CHECKING:
    from evaluators.protocol import Fit, Ground
    from evaluators.tabular import Judge
    from generators.drawing import Shares, Tally
    from generators.fitted import Fitted

ADDRESS = re.compile(r"(?:tcp|tls|ws|wss)://\S+:\d{1,5}")
MOST = 1024  # processes of this machine
ANSWER_SECONDS = 8  # until an address is given up
WORKER_SECONDS = 60  # until a cluster without workers is given up
SHARD = 4  # chunks at most that a worker makes at a time
AHEAD = 2  # parts of the work under way for each worker
ALIKE = ("torch", "numpy", "pyarrow", "scikit-learn", "distributed")  # packages that must be the same for the same rows
KEY = b"alfar.schema"
ONE = threading.Lock()  # threads, warnings and the clock belong to a process: a worker does one thing at a time


@dataclass(frozen=True)
class Cluster:
    """A Dask client that is connected, and what its workers must have to give the same results as this machine."""

    client: Any
    name: str
    here: Mapping[str, str]

    @property
    def workers(self) -> int:
        """How many workers there are now, at least 1."""
        return max(1, len(self.client.nthreads()))

    def lend(self, value: Any) -> Any:
        """Bytes that many parts of the work need, sent once. They outlive the worker that holds them: the scheduler has them too."""
        return self.client.submit(same, value, pure=False)

    def spread(self, function: Callable[..., Any], items: Iterable[Sequence[Any]]) -> Iterator[Any]:
        """function(*item) of each item, in order, on the workers; few are under way at a time, however many there are."""
        waiting: deque[Any] = deque()
        try:
            for item in items:
                waiting.append(self.client.submit(attempt, dict(self.here), function, *item, pure=False))
                if len(waiting) >= AHEAD * self.workers:
                    yield self.result(waiting.popleft())
            while waiting:
                yield self.result(waiting.popleft())
        finally:
            self.client.cancel(list(waiting))

    def result(self, future: Any) -> Any:
        """What a worker found. BadInput when it says so, or when there are no workers."""
        from concurrent.futures import CancelledError

        from distributed import KilledWorker

        began = time.monotonic()
        while True:
            try:
                kind, value = future.result(timeout=1)
                break
            except TimeoutError:
                if self.client.nthreads():
                    began = time.monotonic()
                elif time.monotonic() - began > WORKER_SECONDS:
                    raise BadInput(f"the cluster {self.name} has lost its workers: start some, and run the same command again") from None
            except KilledWorker:
                raise BadInput(f"the workers of {self.name} die of their work: they may have too little memory") from None
            except (CancelledError, OSError):
                raise BadInput(f"the cluster {self.name} no longer answers: start it, and run the same command again") from None
        if kind == "bad":
            raise BadInput(value)
        if kind == "failed":
            raise RuntimeError(f"on a worker of {self.name}: {value}")
        return value


current: ContextVar[Cluster | None] = ContextVar("cluster", default=None)


@contextmanager
def joined(spec: str | None = None) -> Iterator[None]:
    """Meanwhile work is spread over a cluster: the one that is joined already, or `spec`, or ALFAR_CLUSTER; here when there is none.

    BadInput when nobody answers, when there are no workers, and when they have other versions of what decides the rows.
    """
    spec = spec or os.environ.get("ALFAR_CLUSTER")
    if current.get() or not spec:
        yield
        return
    local = spec.isascii() and spec.isdigit()
    if not (1 <= int(spec) <= MOST if local else ADDRESS.fullmatch(spec)):
        raise BadInput(f"--cluster is {spec[:80]!r}; it should be an address such as tcp://host:8786, or 1 to {MOST} processes")
    with ExitStack() as open_:
        client = open_.enter_context(begun(int(spec), open_) if local else reached(spec))
        cluster = Cluster(client, f"of {spec} processes" if local else spec, about())
        check(cluster)
        token = current.set(cluster)
        open_.callback(current.reset, token)
        yield


def dask() -> Any:
    """The package, saying nothing of its own: what goes wrong is said once."""
    try:
        import distributed
    except ImportError:
        raise BadInput("--cluster needs Dask: pip install 'alfar[dask]'") from None
    for name in ("distributed", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="Sending large graph")
    return distributed


def begun(workers: int, stack: ExitStack) -> Any:
    """A client of so many processes of this machine. They talk on loopback, encrypted: nobody else on the machine can join or listen."""
    distributed = dask()
    scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="alfar-"))
    cluster = distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        security=True,
        silence_logs=logging.CRITICAL,
        local_directory=scratch,
    )
    return distributed.Client(stack.enter_context(cluster), set_as_default=False)


def reached(address: str) -> Any:
    """A client of a scheduler, with at least one worker."""
    distributed = dask()
    try:
        client = distributed.Client(address, timeout=ANSWER_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError):  # a TimeoutError is an OSError
        hint = "; a tls:// address also needs the certificates that Dask's configuration names" if address.startswith("tls") else ""
        raise BadInput(f"nobody answers as a Dask scheduler at {address}: start one there with `dask scheduler`{hint}") from None
    if not client.nthreads():
        client.close()
        raise BadInput(f"the cluster {address} has no workers: start some with `dask worker {address} --nthreads 1`")
    return client


@cache
def about() -> dict[str, str]:
    """The versions that decide results: packages, Python, and a digest of our own code."""
    code = "-".join(folders.code_digest(package)[:6] for package in ("data", "generators", "evaluators", "flows"))
    return {"python": ".".join(platform.python_version_tuple()[:2]), **{name: version(name) for name in ALIKE}, "alfar": code}


def differing(here: Mapping[str, str]) -> str | None:
    """What this process has otherwise than `here`, in a sentence."""
    found = [f"{name} {about()[name]} instead of {value}" for name, value in here.items() if about()[name] != value]
    return f"a worker on {platform.node()} has {', '.join(found)}: rows would differ; install the same there" if found else None


def check(cluster: Cluster) -> None:
    """BadInput unless every worker has this package and the versions of this machine."""
    try:
        found = cluster.client.run(differing, dict(cluster.here), on_error="return")
    except OSError:
        raise BadInput(f"the cluster {cluster.name} no longer answers") from None
    for why in found.values():
        if isinstance(why, Exception):
            what = f"{type(why).__name__}: {why}"[:200]
            raise BadInput(f"a worker of {cluster.name} cannot run Alfar ({what}): install the same version there") from None
        if why:
            raise BadInput(why)


# ---- shards of a sample


def stream(
    fitted: Fitted,
    n: int,
    *,
    seed: int = 0,
    given: Mapping[str, object] | None = None,
    where: str | None = None,
    shares: Shares | None = None,
    avoid: Dataset | None = None,
    tally: Tally,
    of: Dataset | None = None,
) -> Iterator[Dataset]:
    """`Fitted.stream`, its chunks made by the workers of the cluster, unless a chunk depends on those before it."""
    from generators.base import Translating

    here = fitted.stream(n, seed=seed, given=given, where=where, shares=shares, avoid=avoid, tally=tally, of=of)  # checks what is asked
    cluster = current.get()
    if cluster is None or fitted.layout.rules.unique or isinstance(fitted.generator, Translating):
        return here
    return shards(cluster, fitted, n, {"seed": seed, "given": given, "where": where, "shares": shares}, avoid, tally)


def shards(cluster: Cluster, fitted: Fitted, n: int, asked: Mapping[str, Any], avoid: Dataset | None, tally: Tally) -> Iterator[Dataset]:
    """The chunks of n rows in order."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        fitted.save(Path(folder))
        model = cluster.lend((Path(folder) / "model.json").read_bytes())
        weights = cluster.lend((Path(folder) / "model.safetensors").read_bytes())
    known = cluster.lend(packed(avoid)) if avoid else b""
    chunks = -(-n // fitted.chunk)
    size = min(SHARD, -(-chunks // (2 * AHEAD * cluster.workers)))
    items = (
        (model, weights, known, n, dict(asked), first, min(first + size, chunks), torch.get_num_threads())
        for first in range(0, chunks, size)
    )
    for parts, made in cluster.spread(shard, items):
        tally.drawn, tally.kept, tally.elsewhere = tally.drawn + made["drawn"], tally.kept + made["kept"], tally.elsewhere + made["seconds"]
        for what, rows in made["turned"].items():
            tally.turn(what, rows)
        tally.progress(tally.kept, n, f"rows made out of {tally.drawn:,} draws")
        yield from map(opened, parts)


def shard(
    model: bytes, weights: bytes, avoid: bytes, n: int, asked: Mapping[str, Any], first: int, stop: int, threads: int
) -> tuple[list[bytes], dict[str, Any]]:
    """On a worker: chunks `first` to `stop` of n rows, and what came of the draws."""
    import torch

    from generators.drawing import Tally

    torch.set_num_threads(threads)
    began, tally = time.process_time(), Tally()
    known = opened(avoid) if avoid else None
    chunks = loaded(model, weights).stream(
        n,
        seed=asked["seed"],
        given=asked["given"],
        where=asked["where"],
        shares=asked["shares"],
        avoid=known,
        tally=tally,
        only=range(first, stop),
    )
    parts = [packed(chunk) for chunk in chunks]
    return parts, {"drawn": tally.drawn, "kept": tally.kept, "turned": tally.turned, "seconds": time.process_time() - began}


@lru_cache(1)
def loaded(model: bytes, weights: bytes) -> Fitted:
    """The model of two files."""
    from generators.fitted import Fitted

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.json").write_bytes(model)
        (Path(folder) / "model.safetensors").write_bytes(weights)
        return Fitted.load(Path(folder))


# ---- fits of judges


def scoring(
    judges: Mapping[str, Judge], fits: list[Fit], ground: Ground, seed: int, learnt: Callable[[], None] = lambda: None
) -> list[dict[str, np.ndarray]]:
    """`evaluators.protocol.beside` on the workers of the cluster. Judges that need more than rows, such as a database, learn here."""
    from evaluators.protocol import beside, judges_of

    cluster = current.get()
    if cluster is None or judges != judges_of(ground.train.schema, None):
        return beside(judges, fits, ground, seed, learnt)
    test, weights = cluster.lend(packed(ground.test)), cluster.lend(ground.weights.astype(np.uint16).tobytes())
    lent = {id(data): cluster.lend(packed(data)) for _, data in fits}
    found = []
    for scores in cluster.spread(score, ((name, lent[id(data)], test, weights, seed) for name, data in fits)):
        found.append({metric: np.frombuffer(values) for metric, values in scores.items()})
        learnt()
    return found


def score(judge: str, train: bytes, test: bytes, weights: bytes, seed: int) -> dict[str, bytes]:
    """On a worker: what one judge scores, float64 [1 + DRAWS] a metric."""
    from evaluators.protocol import Ground, beside, judges_of

    learnt, held = opened(train), opened(test)
    counts = np.frombuffer(weights, dtype=np.uint16).reshape(len(held), -1).astype(float)
    judges = judges_of(learnt.schema, None) or {}
    (found,) = beside(judges, [(judge, learnt)], Ground(learnt, held, counts), seed)
    return {metric: np.asarray(values, dtype=float).tobytes() for metric, values in found.items()}


# ---- candidates of `compare`


def candidates(jobs: Sequence[Job], root: Path, prepared: Path, referred: Path) -> Iterator[str | None]:
    """One item a job, in order: when it comes, workers have filled the run folder with the job's stages; or why they could not.

    Nothing is sent for a job whose stages are all there, or without a cluster. A job that keeps a ledger or asks a database stays here.
    """
    import torch

    from flows import stages

    cluster = current.get()
    if cluster is None:
        yield from (None for _ in jobs)
        return
    there: list[list[Path] | None] = []
    for job in jobs:
        with folders.looking() as found:
            stages.candidate(job, root, prepared, referred)
        there.append(None if found.complete or job.database or job.epsilon else found.folders)
    shared = cluster.lend(files([prepared, referred]))
    results = cluster.spread(
        filled,
        (
            (lean(job), shared, files(known), prepared.name, referred.name, torch.get_num_threads())
            for job, known in zip(jobs, there, strict=True)
            if known is not None
        ),
    )
    for known in there:
        if known is None:
            yield None
            continue
        made, why = next(results)
        unpack(made, root)
        yield why


def lean(job: Job) -> str:
    """What of a job a worker has to know: no source, no destination, no hook."""
    said = job.model_dump(mode="json", include={"generator", "rows", "seed", "minutes", "device"})
    return json.dumps({"source": "sent", **said})


def filled(
    job: str, shared: dict[str, bytes], known: dict[str, bytes], prepared: str, referred: str, threads: int
) -> tuple[dict[str, bytes], str | None]:
    """On a worker: the files of the stages that a candidate lacks, or why there are none."""
    import torch

    from flows import stages

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        unpack({**shared, **known}, root)
        try:
            stages.candidate(Job.of(json.loads(job)), root, root / prepared, root / referred)
        except Exception as error:  # one generator that fails is a line of the leaderboard
            return {}, f"{type(error).__name__}: {error}"
        made = files([folder for folder in root.iterdir() if folder.is_dir()])
        return {path: content for path, content in made.items() if path not in shared and path not in known}, None


def files(paths: Iterable[Path]) -> dict[str, bytes]:
    """The content of folders, by path beginning with the folder's own name."""
    return {str(file.relative_to(path.parent)): file.read_bytes() for path in paths for file in sorted(path.rglob("*")) if file.is_file()}


def unpack(content: Mapping[str, bytes], root: Path) -> None:
    """Folders of `files` below a root, each there whole or not at all."""
    names = {Path(path).parts[0] for path in content}
    for path, value in content.items():
        first, *rest = Path(path).parts
        if ".." in rest or not re.fullmatch(r"[a-z]+-[0-9a-f]{12}", first):
            raise BadInput(f"a worker sent a file that belongs to no stage: {path[:80]!r}")
        place = Path(root, f"{first}.partial", *rest)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.write_bytes(value)
    for name in names:
        os.rename(root / f"{name}.partial", root / name)


# ---- on both sides


def attempt(here: Mapping[str, str], function: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
    """On a worker: what a function finds, or what goes wrong in words. A function that raised would have its arguments, rows, logged."""
    if why := differing(here):
        return "bad", why
    try:
        with ONE:
            return "done", function(*arguments)
    except BadInput as error:
        return "bad", str(error)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"


def same(value: Any) -> Any:
    """What is lent."""
    return value


def packed(data: Dataset) -> bytes:
    """Rows with their schema as an Arrow stream."""
    table = data.table.replace_schema_metadata({**(data.table.schema.metadata or {}), KEY: json.dumps(data.schema.to_json()).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def opened(content: bytes) -> Dataset:
    """What `packed` made."""
    table = pa.ipc.open_stream(content).read_all()
    said = dict(table.schema.metadata)
    return Dataset(Schema.from_json(json.loads(said.pop(KEY))), table.replace_schema_metadata(said or None))
