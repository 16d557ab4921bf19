"""Variational autoencoder of texts: a code for the whole row, and a decoder that writes the row from it.

Bowman, Vilnis, Vinyals, Dai, Jozefowicz, Bengio: Generating Sentences from a Continuous Space, 2016, arXiv:1511.06349, with transformers
in place of its LSTMs; free bits: Kingma et al.: Improving Variational Inference with Inverse Autoregressive Flow, 2016,
arXiv:1606.04934; a second density for the codes: Dai, Wipf: Diagnosing and Enhancing VAE Models, 2019, arXiv:1903.05789; bound (5):
Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519.

    (1)  q(z|row, label) = N(mu, diag sigma^2),   z = mu + sigma eps            mu and sigma of the mean of what an encoder reads
    (2)  log p(row|z, label) = sum_i log p(w_i | w_1 … w_i-1, z, label)         z and the label are added to every place of the decoder
    (3)  KL_d = (mu_d^2 + sigma_d^2 - 1) / 2 - log sigma_d,   from N(0, 1)
    (4)  loss = - log p(row|z, label) + beta sum_d max(free, mean KL_d)         beta rises from 0 to 1 over the first `warm_up` steps
    (5)  log p(row|label) >= E log mean_k p(row|z_k, label) p(z_k|label) / q(z_k|row, label),   z_k from (1)

A decoder that sees all words before the next one can do without z, and then learns to. Against that (Bowman et al.) a share of the words
it reads is `dropped` while training, beta rises slowly, and the first `free` nats of every dimension cost nothing. In the end the
prior is a mixture of Gaussians fitted to the codes of each label's rows, in place of N(0, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import BadInput
from generators.base import Descending, Labelled, Rows, Run
from generators.codecs.text import BOS, EOS, PAD, SEP, TextCodec
from generators.nets.attention import Block
from generators.nets.crossing import Reading
from generators.nets.mixture import Mixtures, normal
from generators.nets.words import Words, chosen, ruled, spare
from generators.train import Training

ROWS = 256  # rows that are encoded or written side by side
ALIKE = 8  # rows of like length that are trained on side by side
FLOOR = 1e-4  # added to the variance of a code
COPIES = 4  # codes of each row that the density is fitted to: it shall not fit their noise


class VAENet(nn.Module):
    """Encoder and decoder of tokens [n, T], PAD after their end, and the density of codes."""

    shares: Tensor  # [L]
    warm: Tensor

    def __init__(self, codec: TextCodec, latent: int, width: int, depth: int, heads: int, components: int, dropout: float):
        super().__init__()
        self.texts, self.longest, self.latent = len(codec.texts), codec.longest, latent
        self.words, self.label = Words(codec.size, width), nn.Embedding(len(codec.shares), width)
        self.readers: Any = nn.ModuleList([Reading(width, heads)])
        self.writers: Any = nn.ModuleList(Block(width, heads, turning=True) for _ in range(depth))
        self.read_norm, self.norm, self.drop = nn.LayerNorm(width), nn.LayerNorm(width), nn.Dropout(dropout)
        self.leave, self.enter = nn.Linear(width, 2 * latent), nn.Linear(latent, width)
        self.prior = Mixtures(len(codec.shares), components, latent)
        self.register_buffer("shares", torch.from_numpy(codec.shares).float())
        self.register_buffer("warm", torch.zeros(()))  # steps of warm-up done

    def encode(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log sigma, float [n, latent]."""
        there = rows != PAD
        x = self.words(rows) + self.label(labels)[:, None]
        for layer in self.readers:
            x = layer(x, there)
        mean = (self.read_norm(x) * there[:, :, None]).sum(1) / there.sum(1, keepdim=True)
        mu, log_scale = self.leave(mean).chunk(2, dim=1)
        return mu, log_scale  # (1)

    def forward(self, read: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """h, [n, L, width], at the places of the tokens that are read, [n, L]; z [n, latent]."""
        x = self.drop(self.words(read)) + self.told(z, labels)
        for layer in self.writers:
            x = x + self.drop(layer(x) - x)
        return self.norm(x)

    def told(self, z: Tensor, labels: Tensor) -> Tensor:
        """What z and the label add to every place, [n, 1, width]."""
        return (self.enter(z) + self.label(labels))[:, None]

    def log_prob(self, rows: Tensor, read: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """log p(row|z, label), float [n], of rows [n, T]; `read` are the tokens [n, T] that the decoder sees of them."""
        live = rows != PAD
        h = self(F.pad(read[:, :-1], (1, 0), value=BOS), z, labels)[live]
        terms = torch.zeros(rows.shape, device=rows.device)
        return terms.masked_scatter(live, self.words.log_prob(h, rows[live])).sum(1)  # (2)


@dataclass(frozen=True)
class VAE(Descending, Labelled):
    """`latent` dimensions; an encoder of one block, a decoder of `depth` blocks of `width` with `heads`; at most `components` a label.

    `dropped` is the share of the words that the decoder does not see; the first `free` nats of a dimension cost nothing. Tokens are drawn
    at `temperature` from the nucleus `top_p`.
    """

    latent: int = 16
    width: int = 128
    depth: int = 2
    heads: int = 4
    components: int = 4
    dropout: float = 0.1
    dropped: float = 0.25
    free: float = 0.25
    warm_up: int = 500
    temperature: float = 1.0
    top_p: float = 0.98
    training: Training = Training(epochs=8, least_steps=1000, batch=64, lr=2e-3, weight_decay=0.01, ema=0.995)
    codec: ClassVar[type[TextCodec]] = TextCodec

    def build(self, codec: TextCodec) -> VAENet:
        if self.width % (2 * self.heads):
            raise BadInput(f"text/vae.width is {self.width}; it must be a multiple of twice heads, which is {2 * self.heads}")
        return VAENet(codec, self.latent, self.width, self.depth, self.heads, self.components, self.dropout)

    def learn(self, net: VAENet, rows: Rows, run: Run) -> VAENet:
        trained: Any = self.descend(net, rows, replace(run, minutes=run.minutes and 0.9 * run.minutes))
        trained.cpu().eval()
        with torch.no_grad():
            torch.manual_seed(run.seed)
            mean, log_scale = codes(trained, rows)
            z = torch.stack([mean + log_scale.exp() * torch.randn_like(mean) for _ in range(COPIES)])
            for label in rows[1].unique().tolist():
                trained.prior.learn(label, z[:, rows[1] == label].flatten(0, 1), FLOOR, run.seed, COPIES)
            run.log["kl"] = round(kl(mean, log_scale).sum(1).mean().item(), 3)
        return trained

    def loss(self, net: VAENet, rows: Rows, phase: str) -> Tensor:
        surprise, terms, tokens = [], [], 0
        for part, labels in alike(*rows):
            mean, log_scale = net.encode(part, labels)
            z = mean + log_scale.exp() * torch.randn_like(mean)
            hidden = (torch.rand(part.shape, device=part.device) < self.dropped) & (part != SEP) & net.training
            surprise.append(-net.log_prob(part, part.masked_fill(hidden, PAD), z, labels).sum())
            terms.append(kl(mean, log_scale))
            tokens += int((part != PAD).sum())
        if net.training:
            net.warm += 1
        beta = min(1.0, net.warm.item() / max(1, self.warm_up)) if net.training else 1.0
        cost = torch.cat(terms).mean(0).clamp(min=self.free).sum() * len(rows[0])
        return (torch.stack(surprise).sum() + beta * cost) / tokens  # (4), a token

    def bound(self, net: VAENet, rows: Rows, draws: int, rng: torch.Generator) -> Tensor:
        """At most log p(row|label) in nats on average, nearer to it with more draws; float64 [n], of encoded rows."""
        mean, log_scale = codes(net, rows)
        total = torch.full((len(mean),), -torch.inf, dtype=torch.float64)
        for _ in range(draws):
            z = mean + log_scale.exp() * torch.randn(mean.shape, generator=rng)
            parts = zip(*(t.split(ROWS) for t in (rows[0], rows[0], z, rows[1])), strict=True)
            likelihood = torch.cat([net.log_prob(*part) for part in parts]) - normal(z, mean, log_scale).sum(1)
            total = torch.logaddexp(total, likelihood.double() + self.log_prior(net, z, rows[1]))
        return total - math.log(draws)  # (5)

    def log_prior(self, net: VAENet, z: Tensor, labels: Tensor) -> Tensor:
        """log p(z|label), float64 [n]."""
        found = torch.empty(len(z), dtype=torch.float64)
        for label in labels.unique().tolist():
            found[labels == label] = net.prior.log_prob(label, z[labels == label])
        return found

    def draw(self, net: VAENet, labels: Tensor, rng: torch.Generator) -> Tensor:
        return torch.cat([write(net, net.prior.draw(some, rng), some, self.temperature, self.top_p, rng) for some in labels.split(ROWS)])


def write(net: VAENet, z: Tensor, labels: Tensor, temperature: float, top_p: float, rng: torch.Generator) -> Tensor:
    """Rows int64 [n, T] from codes [n, latent]; texts are not empty, and those of a row as many as they should be."""
    told, memories = net.told(z, labels), [layer.memory(len(z), net.longest) for layer in net.writers]
    found, alive = torch.full((len(z), net.longest), PAD), torch.arange(len(z))
    tokens, left = torch.full_like(labels, BOS), torch.full_like(labels, net.texts - 1)
    for place in range(net.longest):
        x = net.words(tokens[:, None]) + told
        for layer, memory in zip(net.writers, memories, strict=True):
            x = layer(x, memory)
        p = net.words.logits(net.norm(x[:, 0])).softmax(1)
        p = ruled(p, tokens, left, torch.full_like(left, net.longest - place), spare(net.longest))
        tokens = chosen(p, temperature, top_p, rng)
        found[alive, place], left = tokens, left - (tokens == SEP).long()
        going = (tokens != EOS).nonzero()[:, 0]
        if len(going) < len(tokens):
            told, tokens, left, alive = told[going], tokens[going], left[going], alive[going]
            memories = [memory.take(going) for memory in memories]
        if not len(alive):
            break
    return found


def codes(net: VAENet, rows: Rows) -> tuple[Tensor, Tensor]:
    """mu and log sigma of rows, float [n, latent]."""
    parts = [net.encode(tokens, labels) for tokens, labels in zip(*(t.split(ROWS) for t in rows), strict=True)]
    mean, log_scale = (torch.cat(part) for part in zip(*parts, strict=True))
    return mean, log_scale


def kl(mean: Tensor, log_scale: Tensor) -> Tensor:
    """KL_d of N(mean, exp(log_scale)^2) from N(0, 1), entry by entry."""
    return 0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale  # (3)


def alike(rows: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The rows in groups of like length, without the PAD that all of a group have."""
    length = (rows != PAD).sum(1)
    return [(rows[some, : int(length[some].max())], labels[some]) for some in length.argsort().split(ALIKE)]
