"""Differential privacy of a fit: what one row can change about the model is bounded, whatever else is known.

Dwork, Roth: The Algorithmic Foundations of Differential Privacy, 2014; Abadi et al.: Deep Learning with Differential Privacy, 2016,
arXiv:1607.00133; Gopi, Lee, Wutschitz: Numerical Composition of Differential Privacy, 2021, arXiv:2106.02848.

    (1)  P(model in S | rows) <= e^epsilon P(model in S | rows and one more) + delta, and the other way round, for every S
    (2)  a step:  B has each row with chance q, on its own;   g = (sum_B grad_i min(1, C / |grad_i|) + sigma C N(0, 1)) / (q n)
    (3)  a sum over all rows, of which one row moves at most s:  sum + sigma_1 s N(0, 1)
    (4)  epsilon(delta) of (3) and of all steps (2) together, by numerical composition of their privacy losses

Clipping, noise and (4) are opacus'; the gradients of single rows are those of the recipe's own loss, by torch.func. Noise and batches come
from a secret that no release holds, so the job's seed does not give them away. Their generator is no cryptographic one, and sums are of
ordinary floats (Mironov: On Significance of the Least Significant Bits for Differential Privacy, 2012).
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from data.errors import BadInput

if TYPE_CHECKING:
    from opacus.optimizers import DPOptimizer

SHARE = 0.4  # of epsilon, what one sum (3) costs on its own; together they cost far less, since Gaussian noise adds up in squares
APIECE = 10  # delta is 1 / (APIECE n)
CELLS = 20_000_000  # gradients of single rows in memory at once
CLOSE = 0.01  # of epsilon: how far the bound that is promised may lie above what is spent
Cost = tuple[float, float, int]  # sigma, q, steps

warnings.filterwarnings("ignore", message="Secure RNG turned off|Optimal order is the largest alpha")
warnings.filterwarnings("ignore", message="There is a performance drop")  # of what torch.func does row by row
logging.getLogger("opacus").setLevel(logging.ERROR)


@dataclass
class Privacy:
    """What one fit to n rows may spend, and has spent. `sums` is how many times it asks for (3)."""

    epsilon: float
    rows: int
    secret: bytes
    sums: int = 1
    spent: list[Cost] = field(default_factory=list)

    @property
    def delta(self) -> float:
        """The chance that (1) leaves aside."""
        return 1 / (APIECE * self.rows)

    @property
    def sigma(self) -> float:
        """The noise of (3)."""
        return noise_for(SHARE * self.epsilon, self.delta, [], 1.0, 1)

    def summed(self, values: np.ndarray, most: float) -> tuple[np.ndarray, float]:
        """(float64 [m] sums over all rows with noise, its standard deviation); a row moves them by at most `most`, by their norm."""
        self.spent.append((self.sigma, 1.0, 1))
        scale = self.sigma * most
        return values + scale * np.random.default_rng(seed_of(self.secret, "sum", len(self.spent))).standard_normal(values.shape), scale

    def steps(self, rate: float, steps: int) -> float:
        """The noise sigma of so many steps (2), which leaves what the sums still need."""
        sigma = noise_for(self.epsilon, self.delta, [(self.sigma, 1.0, self.sums)], rate, steps)
        self.spent.append((sigma, rate, steps))
        return sigma

    def to_json(self) -> dict[str, Any]:
        """What a release tells: epsilon, delta, and what was done within them."""
        told = [{"noise": round(sigma, 4), "rate": round(rate, 6), "steps": steps} for sigma, rate, steps in self.spent]
        return {"epsilon": self.epsilon, "delta": self.delta, "mechanisms": told}


def installed() -> None:
    """BadInput unless opacus is there."""
    if importlib.util.find_spec("opacus") is None:
        raise BadInput('epsilon needs a package that is not installed: pip install "alfar[dp]"')


def secret(folder: Path | None) -> bytes:
    """32 random bytes; those of a folder of checkpoints stay the same, so that a killed fit goes on as the same fit."""
    if folder is None:
        return os.urandom(32)
    path = folder / "secret"
    if not path.is_file() or path.stat().st_size != 32:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
    return path.read_bytes()


def seed_of(key: bytes, *place: object) -> int:
    """63 bits that nobody without the key can tell."""
    return int.from_bytes(hashlib.sha256(key + repr(place).encode()).digest()[:8], "big") >> 1


def spent(costs: list[Cost], delta: float, close: float = 1.0) -> float:
    """epsilon of all these together, at most; the bound lies CLOSE times `close` above it."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [cost for cost in costs if cost[2]]
    with np.errstate(divide="ignore"):  # where every row takes part, q = 1
        return float(accountant.get_epsilon(delta, eps_error=CLOSE * close))  # (4)


def noise_for(epsilon: float, delta: float, before: list[Cost], rate: float, steps: int) -> float:
    """The least noise sigma, to half a percent, with which these steps and what was `before` cost at most epsilon.

    An infinite epsilon promises nothing and asks for no search: it is for trials of what a step costs.
    """
    if math.isinf(epsilon):
        return 1.0
    low, high = 0.2, 0.4
    while spent([*before, (high, rate, steps)], delta, epsilon) > epsilon:
        low, high = high, 2 * high
    while high / low > 1.005:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if spent([*before, (middle, rate, steps)], delta, epsilon) <= epsilon else (middle, high)
    return high


class Steps:
    """Steps (2) of one fit: a Poisson batch for each phase of each step, and the noise of its gradient."""

    def __init__(self, rows: tuple[Tensor, ...], key: bytes, batch: int, clip: float):
        self.rows, self.key, self.clip, self.sigma = rows, key, clip, 1.0
        self.rate = min(1.0, batch / len(rows[0]))

    def wrap(self, optimiser: torch.optim.Optimizer) -> DPOptimizer:
        """The optimiser that clips, adds noise, and then goes on as before."""
        from opacus.optimizers import DPOptimizer

        device = optimiser.param_groups[0]["params"][0].device
        expected = self.rate * len(self.rows[0])
        return DPOptimizer(
            optimiser,
            noise_multiplier=self.sigma,  # set anew at each step: it is known when the number of steps is
            max_grad_norm=self.clip,
            expected_batch_size=expected,  # type: ignore[arg-type]
            generator=torch.Generator(device),
        )

    def batch(self, place: tuple[int, int]) -> tuple[Tensor, ...]:
        """Each row with chance q, on its own."""
        rng = torch.Generator().manual_seed(seed_of(self.key, "batch", place))
        chosen = torch.rand(len(self.rows[0]), generator=rng, dtype=torch.float64) < self.rate
        return tuple(t[chosen] for t in self.rows)

    def take(self, net: nn.Module, optimiser: DPOptimizer, loss: Callable[..., Tensor], phase: str, place: tuple[int, int]) -> None:
        """The step `place`, (its number, its phase's): move what the optimiser holds."""
        scored, mine = Scored(net, loss, phase), {id(p) for p in optimiser.params}
        moved = {name: p for name, p in scored.named_parameters() if id(p) in mine}
        size = max(1, CELLS // max(1, sum(p.numel() for p in moved.values())))
        parts = list(zip(*(t.split(size) for t in self.batch(place)), strict=True))
        device = next(iter(moved.values())).device
        optimiser.noise_multiplier = self.sigma
        optimiser.generator.manual_seed(seed_of(self.key, "noise", place))
        for number, part in enumerate(parts):
            gradients = row_gradients(scored, moved, tuple(t.to(device) for t in part))
            for name, p in moved.items():
                p.grad_sample = gradients[name]  # type: ignore[attr-defined]
            optimiser.signal_skip_step(number < len(parts) - 1)
            optimiser.step()  # (2)
            optimiser.zero_grad()


class Scored(nn.Module):
    """The loss of one row as a module, so that its parameters can be exchanged for those of a gradient."""

    def __init__(self, net: nn.Module, loss: Callable[..., Tensor], phase: str):
        super().__init__()
        self.net, self.loss, self.phase = net, loss, phase

    def forward(self, *row: Tensor) -> Tensor:
        return self.loss(self.net, tuple(t[None] for t in row), self.phase)


def row_gradients(scored: Scored, parameters: Mapping[str, Tensor], rows: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """By name of the parameter, float [n, ...]: the gradient of each row's own loss."""
    if not len(rows[0]):
        return {name: p.new_zeros(0, *p.shape) for name, p in parameters.items()}

    def of_row(values: dict[str, Tensor], *row: Tensor) -> Tensor:
        return functional_call(scored, values, row)

    values = {name: p.detach() for name, p in parameters.items()}
    with sdpa_kernel(SDPBackend.MATH):  # the only one whose slopes are made for many rows at once
        found = vmap(grad(of_row), in_dims=(None, *[0] * len(rows)), randomness="different")(values, *rows)
    return {name: gradient.detach() for name, gradient in found.items()}
