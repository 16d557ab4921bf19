"""Gaussian mixture for tables: EM over scores and categories, the categories drawn as categories.

Dempster, Laird, Rubin: Maximum Likelihood from Incomplete Data via the EM Algorithm, 1977; conditional Gaussians: Lauritzen, Wermuth:
Graphical Models for Associations between Variables, some of which are Qualitative and some Quantitative, 1989.

    (1)  p(z, c) = sum_m w_m prod_k P_m(c_k) N(z; mu_m + B_m (one-hot c - P_m), S_m)
    (2)  scikit-learn's EM on [z, leading axes of one-hot c] gives the first r_im = p(component m | row i)
    (3)  w_m, P_m, mu_m: shares and means under r;   B_m = cov(z, c) (cov(c, c) + ridge)^-1;   S_m: covariance of what B_m leaves
    (4)  r_im from (1), then (3) again, for a few rounds
    (5)  components: 1, 4, 16, … for as long as BIC falls

So inside a component a category shifts the scores, and categories depend on one another through the component. Without categories this is
scikit-learn's mixture, parameter for parameter.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from generators.base import Generator, Rows, Run
from generators.codecs.table import MixedCodec
from generators.nets.mlp import draw, one_hot

AXES = 16  # of the one-hot categories, for the first responsibilities
RIDGE = 0.02  # on the variance of one-hot entries


class Mixture(nn.Module):
    """The parameters of (1) in float64; unused components have no weight."""

    weights: Tensor  # [M]
    means: Tensor  # [M, D + V]: mu_m, then P_m
    slopes: Tensor  # [M, V, D]: the transpose of B_m
    spread: Tensor  # [M, D, D]: Cholesky factor of S_m

    def __init__(self, components: int, scores: int, sizes: list[int]):
        super().__init__()
        self.scores, self.sizes, width = scores, sizes, sum(sizes)
        shapes: dict[str, tuple[int, ...]] = {"weights": (components,), "means": (components, scores + width)}
        for name, shape in (shapes | {"slopes": (components, width, scores), "spread": (components, scores, scores)}).items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def terms(self, z: Tensor, hot: Tensor) -> Tensor:
        """log w_m + log p(z, c | m), [n, M in use], of float64 rows [n, D] and [n, V]."""
        found = []
        for m in self.weights.nonzero().flatten().tolist():
            mean, p = self.means[m, : self.scores], self.means[m, self.scores :]
            rest = z - mean - (hot - p) @ self.slopes[m]
            white = torch.linalg.solve_triangular(self.spread[m], rest.T, upper=False)
            scale = self.spread[m].diagonal().log().sum() + 0.5 * self.scores * math.log(2 * math.pi)
            found.append(self.weights[m].log() + hot @ p.clamp(min=1e-6).log() - 0.5 * white.square().sum(0) - scale)
        return torch.stack(found, dim=1)

    def refit(self, z: Tensor, hot: Tensor, r: Tensor, floor: float) -> None:
        """Equation (3) for responsibilities r [n, M]; `floor` is added to the scores' variances."""
        rows, count, d = torch.cat([z, hot], dim=1), r.sum(0) + 1e-9, self.scores
        self.weights.zero_()[: r.shape[1]] = count / count.sum()
        self.means[: r.shape[1]] = r.T @ rows / count[:, None]
        for m in range(r.shape[1]):
            rest = rows - self.means[m]
            cov = (rest * r[:, m : m + 1]).T @ rest / count[m]
            joint, within = cov[d:, :d], cov[d:, d:]
            b = torch.linalg.solve(within + RIDGE * torch.eye(len(within), dtype=cov.dtype), joint)
            left = cov[:d, :d] - joint.T @ b - b.T @ joint + b.T @ within @ b
            self.slopes[m], self.spread[m] = b, torch.linalg.cholesky(left + floor * torch.eye(d, dtype=cov.dtype))  # (3)


@dataclass(frozen=True)
class GMM(Generator):
    """At most `components`; `rounds` of exact EM after scikit-learn's `iterations`; `floor` on the variance of a score."""

    components: int = 64
    iterations: int = 20
    rounds: int = 4
    floor: float = 1e-3
    codec: ClassVar[type[MixedCodec]] = MixedCodec

    def build(self, codec: MixedCodec) -> Mixture:
        return Mixture(self.components, len(codec.scores), codec.sizes)

    def learn(self, net: Mixture, rows: Rows, run: Run) -> Mixture:
        deadline = math.inf if run.minutes is None else time.perf_counter() + 60 * run.minutes
        z, hot = rows[0].double(), one_hot(rows[1], net.sizes).double()
        with torch.no_grad():
            run.log["components"], r = self.start(torch.cat([z, leading(hot)], dim=1), run, deadline)
            net.refit(z, hot, r, self.floor)
            for done in range(self.rounds if net.sizes else 0):
                if time.perf_counter() > deadline:
                    break
                net.refit(z, hot, net.terms(z, hot).softmax(dim=1), self.floor)  # (4)
                if run.progress:
                    run.progress(done + 1, self.rounds, f"{run.log['components']} components")
        return net

    def start(self, rows: Tensor, run: Run, deadline: float) -> tuple[int, Tensor]:
        """(M, responsibilities [n, M]) of scikit-learn's mixture with the least BIC among 1, 4, 16, … components."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        data, best, least, count, cost = rows.numpy(), (1, torch.ones(len(rows), 1, dtype=rows.dtype)), math.inf, 1, 0.0
        while count <= min(self.components, len(data) // 4) and time.perf_counter() + 5 * cost < deadline:
            began = time.perf_counter()
            mixture: Any = GaussianMixture(
                count, reg_covar=self.floor, max_iter=self.iterations, init_params="k-means++", random_state=run.seed % 2**32
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a few rounds are enough: exact EM goes on from there
                score = mixture.fit(data).bic(data)
            if score >= least:
                break
            least, best = score, (count, torch.from_numpy(mixture.predict_proba(data)))  # (2)
            count, cost = 4 * count, time.perf_counter() - began  # (5)
        return best

    def sample(self, net: Mixture, n: int, rng: torch.Generator) -> Rows:
        m = torch.multinomial(net.weights, n, replacement=True, generator=rng)
        z, c = torch.empty(n, net.scores), torch.empty(n, len(net.sizes), dtype=torch.int64)
        for number in m.unique().tolist():
            here = (m == number).nonzero().flatten()
            p = net.means[number, net.scores :]
            c[here] = draw(p.clamp(min=0).log().expand(len(here), -1), net.sizes, rng)
            noise = torch.randn(len(here), net.scores, generator=rng, dtype=torch.float64)
            centre = net.means[number, : net.scores] + (one_hot(c[here], net.sizes) - p) @ net.slopes[number]
            z[here] = (centre + noise @ net.spread[number].T).float()  # (1)
        return z.clamp(-4, 4), c


def leading(hot: Tensor) -> Tensor:
    """The one-hot rows [n, V] on their leading principal axes, [n, at most AXES]."""
    if not hot.shape[1]:
        return hot
    centred = hot - hot.mean(0)
    axes = torch.linalg.svd(centred.T @ centred / len(hot))[0][:, : min(AXES, hot.shape[1])]
    return centred @ axes
