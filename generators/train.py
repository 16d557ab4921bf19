"""The one training loop: phases, warm-up, hold and decay, moving average, early stop, time budget, checkpoints.

Batches and noise depend on (seed, step) only, so a run that was killed and goes on from its checkpoint is the same run, bit for bit
on one kind of device.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from generators.private import Privacy, Steps

CHECKPOINT_SECONDS = 20.0
TYPICAL = 30_000  # rows for which a recipe states its weight decay
SHARE = 0.9  # of the minutes, for steps; the rest is for what stands around them
WARM = 3  # steps that say nothing about how long one takes
SMALL = 500_000  # parameters below which a second thread costs more, in waiting, than it gains
Loss = Callable[[Any, tuple[Tensor, ...], str], Tensor]


@dataclass(frozen=True)
class Training:
    """How to descend. `steps` None means as many as `epochs` passes over the rows take, but at least `least_steps`, and at least
    `root_steps` times the root of the numbers that a row has: a picture of twice the side takes twice as many. What
    these two add makes no more than `most_epochs` passes, if that is not 0: a net that sees few rows too often says nothing but them.

    `batch` and `lr` are for a large table: a small one gets at least sixteen batches a pass, and a rate lower by the root of the batch.
    A batch of rows of tokens holds about so many `tokens` at most, if that is not 0, and the rate falls likewise.
    `weight_decay` is for 30,000 rows: a prior weighs more when fewer rows speak against it, so it grows as rows get fewer, up to
    twentyfold.
    The rate warms up, holds, and falls linearly to zero over the last `decay` of the steps, and dropout with it: the net settles on what
    it is when it samples, without dropout (Rennie, Goel, Thomas: Annealed Dropout Training of Deep Networks, IEEE SLT 2014). With
    `patience` > 0 a twentieth of the rows is held out and the average scored on it four times a pass: after `patience` scores without a
    new best the fall begins at once, so the data decides how long to train, and the best average is the result.
    """

    steps: int | None = None
    epochs: float = 30.0
    least_steps: int = 300
    root_steps: float = 0.0
    most_epochs: float = 0.0
    batch: int = 256
    tokens: int = 0
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 5.0
    ema: float = 0.995
    decay: float = 0.3
    patience: int = 0


class DivergedError(RuntimeError):
    """The loss stopped being a number."""


class Trainer:
    """The state of one run, which is exactly what a checkpoint holds."""

    def __init__(self, net: nn.Module, phases: Sequence[str], training: Training, steps: int, private: Steps | None = None):
        self.private = private
        self.net, self.average, self.training, self.steps, self.phases = net, copy.deepcopy(net), training, steps, phases
        self.average.requires_grad_(False).eval()
        self.best: dict[str, Tensor] = {}
        self.best_score, self.stale, self.step = math.inf, 0, 0
        self.fall = steps - round(training.decay * steps)  # the step at which the rate begins to fall
        self.curve: list[list[float | int | None]] = []
        self.recent = 0.0  # the loss, smoothed
        self.drops = [(layer, layer.p) for layer in net.modules() if isinstance(layer, nn.Dropout)]
        self.parts = {phase: net.get_submodule(phase) for phase in phases}
        self.optimisers: dict[str, Any] = {
            phase: torch.optim.AdamW(decayed(part, training.weight_decay), lr=training.lr, betas=training.betas)
            for phase, part in self.parts.items()
        }
        if private:
            self.optimisers = {phase: private.wrap(optimiser) for phase, optimiser in self.optimisers.items()}

    def advance(self, rows: tuple[Tensor, ...], loss: Loss, seed: int) -> float:
        """One step of every phase on the batch of this step; the last phase's loss.

        Private steps draw batches of their own, and tell no loss: 0.
        """
        share = schedule(self.step, self.fall, self.steps)
        rate = share * self.training.lr
        value = torch.tensor(0.0)
        self.net.train()
        for layer, p in self.drops:
            layer.p = share * p
        for number, phase in enumerate(self.phases):
            optimiser = self.optimisers[phase]
            torch.manual_seed(mix(seed, self.step, number))
            for group in optimiser.param_groups:
                group["lr"] = rate
            if self.private:
                self.private.take(self.net, optimiser, loss, phase, (self.step, number))
                continue
            optimiser.zero_grad(set_to_none=True)
            device = rows[0].device.type
            with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
                value = loss(self.net, rows, phase)
            value.backward()
            nn.utils.clip_grad_norm_(self.parts[phase].parameters(), self.training.clip)
            optimiser.step()
        self.step += 1
        decay = min(self.training.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
            for kept, fresh in zip(self.average.buffers(), self.net.buffers(), strict=True):
                kept.copy_(fresh)
        return value.item()

    def score(self, held_out: tuple[Tensor, ...], loss: Loss, phase: str, seed: int) -> float:
        """The average's loss on the held-out rows, always with the same noise; remembers the best average."""
        torch.manual_seed(mix(seed, -1, 0))
        with torch.no_grad():
            batches = zip(*(t.split(1024) for t in held_out), strict=True)
            total = sum(loss(self.average, batch, phase).item() * len(batch[0]) for batch in batches)
        score = total / len(held_out[0])
        if score < self.best_score:
            self.best_score, self.stale = score, 0
            self.best = {name: t.detach().clone() for name, t in self.average.state_dict().items()}
        else:
            self.stale += 1
            if self.stale >= self.training.patience and self.step < self.fall:
                self.fall, self.steps = self.step, self.step + max(50, round(self.training.decay * self.step))
        return score

    def save(self, path: Path) -> None:
        """Everything that decides the rest of the run, in one file that appears at once."""
        tensors = {f"net.{k}": t for k, t in self.net.state_dict().items()}
        tensors |= {f"average.{k}": t for k, t in self.average.state_dict().items()}
        tensors |= {f"best.{k}": t for k, t in self.best.items()}
        for phase, optimiser in self.optimisers.items():
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"adam.{phase}.{index}.{key}": t for key, t in state.items()}
        meta = {"step": self.step, "steps": self.steps, "curve": self.curve, "fall": self.fall, "stale": self.stale}
        meta |= {"best_score": self.best_score, "recent": self.recent, "sha256": summed(tensors)}
        fresh = path.with_suffix(".new")
        save_file({k: t.contiguous() for k, t in tensors.items()}, fresh, metadata={"run": json.dumps(meta)})
        with open(fresh, "rb") as file:
            os.fsync(file.fileno())
        os.replace(fresh, path)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote. ValueError when it is damaged."""
        with safe_open(path, "pt", device=str(next(self.net.parameters()).device)) as file:
            meta = json.loads((file.metadata() or {})["run"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
        if meta["sha256"] != summed(tensors):
            raise ValueError("the checkpoint was changed after it was written")
        part = {
            name: {k.removeprefix(f"{name}."): t for k, t in tensors.items() if k.startswith(f"{name}.")}
            for name in ("net", "average", "best")
        }
        self.net.load_state_dict(part["net"])
        self.average.load_state_dict(part["average"])
        self.best = part["best"]
        for phase, optimiser in self.optimisers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                if key.startswith(f"adam.{phase}."):
                    index, field = key.removeprefix(f"adam.{phase}.").split(".")
                    state.setdefault(int(index), {})[field] = tensor.cpu() if field == "step" else tensor
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        self.step, self.steps, self.curve = meta["step"], meta["steps"], meta["curve"]
        self.fall, self.stale = meta["fall"], meta["stale"]
        self.best_score, self.recent = meta["best_score"], meta["recent"]


def summed(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors and their names."""
    sink = hashlib.sha256()
    for name in sorted(tensors):
        flat = tensors[name].detach().cpu().contiguous().flatten()
        sink.update(f"{name} {flat.dtype} {len(flat)}".encode())
        sink.update(flat.view(torch.uint8).numpy().tobytes())
    return sink.hexdigest()


def train(
    net: nn.Module,
    rows: tuple[Tensor, ...],
    *,
    loss: Loss,
    phases: Sequence[str],
    training: Training,
    seed: int,
    minutes: float | None,
    device: torch.device,
    folder: Path | None,
    progress: Callable[[int, int, str], None] | None,
    privacy: Privacy | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train `net` on encoded rows; the averaged net and a log (steps, seconds, loss curve as [step, train, held out]).

    Under `privacy` steps are private, and nothing else is taken from the rows: no early stop, no loss curve.
    DivergedError names the step at which the loss was no number.
    """
    began = time.perf_counter()
    training = replace(training, patience=0) if privacy else training
    seen, held_out = hold_out(rows, training.patience > 0, seed)
    held_out = tuple(t.to(device) for t in held_out)
    training = fitting(training, seen, len(seen[0]))
    checkpoint = folder / "checkpoint.safetensors" if folder else None
    total = planned(training, len(seen[0]))
    if minutes is not None and not (checkpoint and checkpoint.exists()):
        seconds = SHARE * minutes * 60
        step = pace(net, seen, loss, phases, training, device, looking(minutes), privacy is not None)
        total = max(1, min(total, int(seconds / step)))
    private = Steps(seen, privacy.secret, training.batch, training.clip) if privacy else None
    run = Trainer(net, phases, training, total, private)
    if checkpoint and checkpoint.exists():
        try:
            run.load(checkpoint)
        except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError):
            checkpoint.unlink()  # not a checkpoint of this run: begin again
            return train(
                net,
                rows,
                loss=loss,
                phases=phases,
                training=training,
                seed=seed,
                minutes=minutes,
                device=device,
                folder=folder,
                progress=progress,
                privacy=privacy,
            )
    if privacy and private:
        private.sigma = privacy.steps(private.rate, run.steps * len(phases))
    saved = warm = time.perf_counter()
    first = run.step
    every = max(10, len(seen[0]) // training.batch // 4) if training.patience else max(10, run.steps // 40)
    batches = Batches(seen, training.batch, seed, device)
    while run.step < run.steps:
        value = run.advance(() if private else batches[run.step], loss, seed)
        if run.step == first + WARM:
            warm = time.perf_counter()
        if not math.isfinite(value):
            raise DivergedError(f"the loss is {value} at step {run.step} of {run.steps}: try a lower training.lr")
        run.recent = value if run.step == 1 else 0.95 * run.recent + 0.05 * value
        if not private and (run.step % every == 0 or run.step == run.steps):
            score = run.score(held_out, loss, phases[-1], seed) if training.patience else None
            run.curve.append([run.step, run.recent, score])
        if progress and (run.step % 10 == 0 or run.step == run.steps):
            progress(run.step, run.steps, "" if private else f"loss {run.recent:.3f}")
        if checkpoint and time.perf_counter() - saved > CHECKPOINT_SECONDS:
            run.save(checkpoint)
            saved = time.perf_counter()
    if private and not all(p.isfinite().all() for p in net.parameters()):
        raise DivergedError(f"the weights are no numbers after {run.steps} steps: try a lower training.lr")
    if run.best:
        run.average.load_state_dict(run.best)
    ended = time.perf_counter()
    return run.average, {
        "steps": run.step,
        "planned_steps": total,
        "training_seconds": round(ended - began, 3),
        "step_seconds": round((ended - warm) / max(1, run.step - first - WARM), 6),
        "batch": training.batch,
        "loss": run.curve,
    }


@contextmanager
def few_threads(net: nn.Module) -> Iterator[None]:
    """One thread while a net is at work whose steps are too small to be shared."""
    before = torch.get_num_threads()
    spread = any(isinstance(part, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d) for part in net.modules())  # of much work a parameter
    if not spread and sum(p.numel() for p in net.parameters()) < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Batches:
    """batch of step s, drawn without replacement within each pass; depends on (seed, s) only."""

    def __init__(self, rows: tuple[Tensor, ...], size: int, seed: int, device: torch.device):
        self.rows, self.size, self.seed, self.device = rows, min(size, len(rows[0])), seed, device
        self.per_pass = len(rows[0]) // self.size
        self.current, self.order = -1, torch.empty(0)

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        number, position = divmod(step, self.per_pass)
        if number != self.current:
            shuffle = torch.Generator().manual_seed(mix(self.seed, number, 99))
            self.current, self.order = number, torch.randperm(len(self.rows[0]), generator=shuffle)
        index = self.order[position * self.size : (position + 1) * self.size]
        return tuple(t[index].to(self.device) for t in self.rows)


def hold_out(rows: tuple[Tensor, ...], wanted: bool, seed: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """(rows to learn from, rows to stop by): a twentieth, at most 4,096."""
    n = len(rows[0])
    size = min(4096, n // 20) if wanted else 0
    order = torch.randperm(n, generator=torch.Generator().manual_seed(mix(seed, 0, 98)))
    return (tuple(t[order[size:]] for t in rows), tuple(t[order[:size]] for t in rows)) if size else (rows, rows)


def looking(minutes: float) -> float:
    """Seconds that `pace` may take of so many minutes."""
    return min(2.0, 0.05 * SHARE * 60 * minutes)


def pace(
    net: nn.Module,
    rows: tuple[Tensor, ...],
    loss: Loss,
    phases: Sequence[str],
    training: Training,
    device: torch.device,
    seconds: float,
    private: bool = False,
) -> float:
    """Seconds of a step, from as many steps on a copy of the net as fit into `seconds`, `WARM` at least to warm up and one to time."""
    steps = Steps(rows, b"", training.batch, training.clip) if private else None
    trial = Trainer(copy.deepcopy(net), phases, training, 1000, steps)
    batches = Batches(rows, training.batch, 0, device)
    for _ in range(WARM):
        trial.advance(batches[trial.step], loss, 0)
    began, first = time.perf_counter(), trial.step
    while trial.step == first or time.perf_counter() - began < seconds:
        trial.advance(batches[trial.step], loss, 0)
    return (time.perf_counter() - began) / (trial.step - first)


def planned(training: Training, rows: int) -> int:
    """The steps that a recipe wants to make on so many rows."""
    return training.steps or max(training.least_steps, math.ceil(training.epochs * rows / training.batch))


def fitting(training: Training, rows: tuple[Tensor, ...], n: int) -> Training:
    """The recipe for n rows like these, tensors [m, ...]: at least sixteen batches a pass and fewer rows where they are long, at least so
    many steps as the numbers of a row ask for, rate by the root of the batch, decay by the inverse of the rows."""
    batch = min(training.batch, max(32, n // 16))
    if training.tokens:
        batch = min(batch, max(1, round(training.tokens * len(rows[0]) / int((rows[0] != 0).sum()))))
    decay = training.weight_decay * min(20.0, TYPICAL / n)
    least = max(training.least_steps, round(training.root_steps * math.sqrt(rows[0][0].numel())))
    if training.most_epochs:
        least = min(least, math.ceil(training.most_epochs * n / batch))
    return replace(training, least_steps=least, batch=batch, lr=training.lr * math.sqrt(batch / training.batch), weight_decay=decay)


def decayed(part: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only."""
    matrices = [p for p in part.parameters() if p.ndim > 1]
    vectors = [p for p in part.parameters() if p.ndim <= 1]
    return [g for g in ({"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}) if g["params"]]


def schedule(step: int, fall: int, steps: int) -> float:
    """The share of the full rate: 30 steps of warm-up, full until `fall`, then linearly down to zero at `steps`."""
    return min(1.0, (step + 1) / 30) if step < fall else 1 - (step - fall) / max(1, steps - fall)


def mix(*numbers: int) -> int:
    """One 63-bit seed out of several numbers."""
    value = 0x9E3779B97F4A7C15
    for number in numbers:
        value = ((value ^ (number & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value >> 1
