"""Tables of any length in bounded memory: a uniform sample, without replacement, of the rows that stream by.

Every row gets a random number; the `rows` smallest stay, in the order of the source. How many there are need not be known beforehand.  (1)

With n of N rows, a share p of the table is seen with the standard error sqrt(p (1 - p) / n (1 - n / N)), largest at p = 1/2;          (2)
a value that c rows hold is held by about Poisson(c n / N) rows of the sample.                                                         (3)
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pyarrow as pa

from data.arrow import fingerprint
from data.errors import BadInput
from data.memory import available, gib

SEED = 0x5A4D
SLACK = 1.25  # of the rows, before those that are too many are thrown away
COPIES = 2.0  # of the rows in memory while they are split
SURE, POISSON = 5, 9.16  # a Poisson number of this mean is at least 5 in 95 of 100 cases


class Sample:
    """At most `rows` of the rows that are added, all of them when it is None; `total` counts them, `digest` depends on each of them."""

    def __init__(self, rows: int | None = None):
        self.rows, self.total, self.limit, self.size = rows, 0, 1.0, 0
        self.rng, self.sink = np.random.default_rng(SEED), hashlib.sha256()
        self.tables: list[pa.Table] = []
        self.keys: list[np.ndarray] = []

    def add(self, table: pa.Table) -> None:
        """The next rows. BadInput when the sample would not fit into the memory."""
        self.total += table.num_rows
        keys = self.rng.random(table.num_rows)
        if self.rows is not None:
            self.sink.update(fingerprint(table).encode())
        self.tables.append(table if self.limit == 1.0 else table.filter(pa.array(keys < self.limit)))
        self.keys.append(keys[keys < self.limit])
        self.size += self.tables[-1].nbytes
        if self.rows is not None:
            self.fits(self.rows)
        if self.rows is not None and sum(map(len, self.keys)) > SLACK * self.rows:
            self.thin(self.rows)
            self.size = sum(table.nbytes for table in self.tables)

    def thin(self, rows: int) -> None:
        """Keep the rows with the smallest numbers."""
        keys = np.concatenate(self.keys)
        if len(keys) <= rows:
            return
        self.limit = float(np.partition(keys, rows)[rows])  # (1)
        for i, own in enumerate(self.keys):
            self.tables[i], self.keys[i] = self.tables[i].filter(pa.array(own < self.limit)), own[own < self.limit]

    def fits(self, rows: int) -> None:
        """BadInput unless there is memory for a copy of what is held."""
        need, free = (COPIES - 1) * self.size, available()
        if need > free:
            held = sum(map(len, self.keys))
            most = max(1000, int(held * free / need) // 1000 * 1000)
            raise BadInput(
                f"a sample of {rows:,} rows does not fit into the memory: {held:,} of them take {gib(self.size)}, "
                f"and {gib(free)} more are free: take fewer (--sample {most})"
            )

    def chunks(self) -> list[pa.Table]:
        """The sampled rows as they were added."""
        if self.rows is not None:
            self.thin(self.rows)
        return self.tables

    def table(self) -> pa.Table:
        """The sampled rows. ArrowInvalid or ArrowTypeError when a column has types that do not go together."""
        return pa.concat_tables(self.chunks(), promote_options="permissive")

    @property
    def whole(self) -> bool:
        """Is it every row?"""
        return self.rows is None or self.total <= self.rows

    @property
    def digest(self) -> str:
        """16 hex digits of all rows; empty when every row is in the sample, which then speaks for itself."""
        return "" if self.whole else self.sink.hexdigest()[:16]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was sampled, and how far off it may be."""
        if self.whole or self.rows is None:
            return ()
        share = self.rows / self.total
        points = 100 * 1.96 * math.sqrt(0.25 / self.rows * (1 - share))  # (2)
        often = math.ceil(POISSON / share)  # (3)
        return (
            f"{self.rows:,} of {self.total:,} rows, drawn at random: a share of the table is met to {points:.2f} points (95 %), and "
            f"a value that {often:,} rows hold is met in {SURE} rows or more (95 %)",
        )
