"""Is there room for a run? The memory and disk that it takes, told and held against what this machine has before hours are spent."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data.errors import BadInput
from data.memory import available, gib
from data.schema import Schema
from data.stores import Remote, place, spool
from flows.folders import home
from flows.job import Job

BASE = 1.0 * 2**30  # bytes of a run on a small table
CELL = 60.0  # bytes of a cell of a table that is learnt from: tabular/made took 37 (benchmarks/results/scale.md)
WIDER = 2.0  # bytes of a synthetic row on the disk for each of a real one, at most


@dataclass(frozen=True)
class Room:
    """What a run takes, in bytes; no memory where that is not known beforehand."""

    job: Job
    rows: int  # to be made
    memory: float | None
    disk: float  # of one copy of the rows

    @classmethod
    def of(cls, job: Job, prepared: Path, schema: Schema) -> Room:
        """From the rows that were prepared."""
        path = prepared / "train.parquet"
        real = pq.read_metadata(path).num_rows
        memory = BASE + CELL * real * len(schema.columns) if schema.modality == "tabular" else None
        rows = job.rows or real
        return cls(job, rows, memory, WIDER * rows * path.stat().st_size / real)

    def text(self) -> str:
        """In a few words."""
        memory = f"{gib(self.memory)} of memory ({gib(available())} free) and " if self.memory else ""
        return f"at most about {memory}{gib(2 * self.disk)} of disk ({gib(min(free for _, free, _ in self.disks()))} free)"

    def disks(self) -> list[tuple[Path, float, float]]:
        """(folder, bytes free, bytes needed) for the drawn rows and for the release, together where they share a disk."""
        to = place(self.job.to)
        private = standing(home())
        public = private if isinstance(to, Remote) else standing(to.absolute())
        free = [float(shutil.disk_usage(folder).free) for folder in (private, public)]
        if os.stat(private).st_dev == os.stat(public).st_dev:
            return [(public, free[1], 2 * self.disk)]
        return [(private, free[0], self.disk), (public, free[1], self.disk)]

    def check(self, learning: bool = True) -> None:
        """BadInput names what to change when there is too little."""
        for folder, free, need in self.disks():
            enough(self.rows, folder, free, need)
        more = (self.memory or 0.0) - held()
        if learning and more > available():
            raise BadInput(
                f"learning takes up to {gib(more)} of memory more and {gib(available())} are free: "
                f"learn from fewer rows (--sample), or leave columns out (--drop)"
            )


def sampled(manifest: Mapping[str, Any], rows: int, to: str) -> None:
    """BadInput unless there is disk for so many rows like those of a release."""
    size, there = (sum(f.get(key, 0) for f in manifest["files"] if "rows" in f) for key in ("bytes", "rows"))
    folder = standing(spool() if isinstance(at := place(to), Remote) else at.absolute())
    enough(rows, folder, float(shutil.disk_usage(folder).free), WIDER * rows * size / max(1, there))


def enough(rows: int, folder: Path, free: float, need: float) -> None:
    """BadInput unless the rows have room."""
    if need > free:
        raise BadInput(
            f"{rows:,} rows take up to {gib(need)} of disk and {gib(free)} are free in {folder}: make room, "
            f"ask for fewer (--rows {max(1, int(rows * free / need * 0.9))}), or choose another place (--to, ALFAR_HOME)"
        )


def standing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(p for p in (folder, *folder.parents) if p.exists())


def held() -> float:
    """Bytes of memory that this process has had at most."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
