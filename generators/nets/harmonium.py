"""What every Boltzmann machine with binary hidden units shares: a ladder from independent units to the model, and the constant it finds.

Salakhutdinov, Murray: On the Quantitative Analysis of Deep Belief Networks, 2008.

    (1)  log Z = log Z_0 + log mean_i exp sum_t F_t-1(v_it) - F_t(v_it)    v_it: one round at inverse temperature t / T, after v_i,t-1

Inverse temperature 0 is independent visible units, 1 the model. Hidden units are -1 or 1, so that they sum out to log 2 cosh.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

Units = tuple[Tensor, Tensor]  # two kinds of visible units, [n, ...] each


class Harmonium(nn.Module, ABC):
    """Two kinds of visible units on one side, hidden units on the other."""

    @abstractmethod
    def independent(self, n: int, rng: torch.Generator | None) -> Units:
        """n draws at inverse temperature 0."""

    @abstractmethod
    def free_energy(self, first: Tensor, second: Tensor, beta: float = 1.0) -> Tensor:
        """F at an inverse temperature, float [n]: - log of what the hidden units sum up to."""

    @abstractmethod
    def gibbs(self, first: Tensor, second: Tensor, rng: torch.Generator | None, beta: float = 1.0) -> Units:
        """One round at an inverse temperature: every hidden unit, then every visible one."""

    @abstractmethod
    def log_z_0(self) -> float:
        """log Z at inverse temperature 0."""

    def log_z(self, particles: int, steps: int) -> tuple[float, float]:
        """(log Z, the standard error of its estimate), always with the same noise."""
        rng = torch.Generator().manual_seed(0)
        units = self.independent(particles, rng)
        weight = torch.zeros(particles, dtype=torch.float64)
        for t in range(1, steps + 1):
            weight += self.free_energy(*units, (t - 1) / steps) - self.free_energy(*units, t / steps)
            units = self.gibbs(*units, rng, t / steps)
        share = weight.softmax(0)
        error = math.sqrt(max(0.0, particles * float(share.square().sum()) - 1) / particles)
        return self.log_z_0() + float(weight.logsumexp(0)) - math.log(particles), error  # (1)


def log_2_cosh(a: Tensor) -> Tensor:
    """float [n] of the drives [n, H] of hidden units: what these sum out to."""
    return (nn.functional.softplus(2 * a) - a).sum(1)
