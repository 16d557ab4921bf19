"""A mixture of Gaussians with full covariances for each label, fitted by EM.

Dempster, Laird, Rubin: Maximum Likelihood from Incomplete Data via the EM Algorithm, 1977.

    (1)  p(z|y) = sum_m w_ym N(z; mu_ym, S_ym)
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

APIECE = 3  # rows that a component takes for each dimension: with fewer it settles on single rows, and draws lie too near to them


class Mixtures(nn.Module):
    """The parameters of (1) in float64, S by its Cholesky factor; unused components have no weight."""

    weights: Tensor  # [L, M]
    means: Tensor  # [L, M, D]
    spread: Tensor  # [L, M, D, D]

    def __init__(self, labels: int, components: int, width: int):
        super().__init__()
        shapes = {"weights": (labels, components), "means": (labels, components, width), "spread": (labels, components, width, width)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def learn(self, label: int, z: Tensor, floor: float, seed: int, copies: int = 1) -> None:
        """EM on z float [n * copies, D] of a label's n rows, with noise of their own. `floor` is added to every variance."""
        found = estimated(z.double().numpy(), max(1, min(self.weights.shape[1], len(z) // (APIECE * copies * z.shape[1]))), floor, seed)
        self.weights[label] = 0
        self.weights[label, : found.n_components] = torch.from_numpy(found.weights_)
        self.means[label, : found.n_components] = torch.from_numpy(found.means_)
        self.spread[label, : found.n_components] = torch.linalg.cholesky(torch.from_numpy(found.covariances_))

    def log_prob(self, label: int, z: Tensor) -> Tensor:
        """log p(z|label), float64 [n], of z [n, D]; -inf for a label without rows."""
        used = self.weights[label].nonzero().flatten()
        factor = self.spread[label, used]
        white = torch.linalg.solve_triangular(factor, (z.double() - self.means[label, used, None]).mT, upper=False)  # [M, D, n]
        scale = factor.diagonal(dim1=1, dim2=2).log().sum(1) + 0.5 * z.shape[1] * math.log(2 * math.pi)
        terms = (self.weights[label, used].log() - scale)[:, None] - 0.5 * white.square().sum(1)
        return terms.logsumexp(dim=0)  # (1)

    def draw(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """One z a label, float [n, D], of labels int64 [n]."""
        m = torch.multinomial(self.weights[labels], 1, generator=rng).squeeze(1)
        noise = torch.randn(len(labels), self.means.shape[2], generator=rng, dtype=torch.float64)
        z = self.means[labels, m]
        for label, number in torch.stack([labels, m]).unique(dim=1).T.tolist():
            here = (labels == label) & (m == number)
            z[here] += noise[here] @ self.spread[label, number].T
        return z.float()


def estimated(rows: np.ndarray, components: int, floor: float, seed: int) -> Any:
    """scikit-learn's mixture of float64 rows [n, D]."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture: Any = GaussianMixture(components, reg_covar=floor, max_iter=50, init_params="k-means++", random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near enough: later rounds move little
        return mixture.fit(rows)


def normal(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log N(x; mean, exp(log_scale)^2), entry by entry."""
    return -0.5 * ((x - mean) * torch.exp(-log_scale)) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)
