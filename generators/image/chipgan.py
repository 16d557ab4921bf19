"""Photographs as ink wash paintings, learnt from photographs and paintings that belong to no photograph.

He, Gao, Ma, Shi, Duan: ChipGAN: A Generative Adversarial Network for Chinese Ink Wash Painting Style Transfer, ACM Multimedia 2018; on the
cycle of Zhu, Park, Isola, Efros: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, 2017, arXiv:1703.10593,
and the losses of Mao, Li, Xie, Lau, Wang, Smolley: Least Squares Generative Adversarial Networks, 2016, arXiv:1611.04076. x is a
photograph, s a painting, G: x -> s and F: s -> x the makers, D a critic of patches of each domain and of the wash:

    (1)  critics:  E (D(real) - 1)^2 + E D(fake)^2                        of s and G(x), of x and F(s), of w(s) and w(G(x))
    (2)  makers:   E (D_s(G(x)) - 1)^2 + E (D_x(F(s)) - 1)^2
    (3)  cycle:    |F(G(x)) - x| + |G(F(s)) - s|
    (4)  itself:   |G(s) - s| + |F(x) - x|
    (5)  brush:    - b e(x) log e(G(x)) - (1 - b) (1 - e(x)) log(1 - e(G(x)))     e: edges, b the share of x that is none
    (6)  wash:     E (D_w(w(G(x))) - 1)^2,    w = blur(erode(.))                  ink spreads into wet paper

The paper's edges are those of a net that was learnt elsewhere; here they are those of fixed filters (generators/nets/ink.py). It shows its
critics old images beside new ones; here they see batches of several images, so that no image outlives its step. A label or a mask belongs
to the photograph and is carried over to its painting as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.base import Neural, Rows, Translating
from generators.codecs.image import signed, unsigned
from generators.codecs.style import StyleCodec
from generators.nets.adversarial import frozen
from generators.nets.ink import Critic, Maker, blurred, edges, eroded
from generators.train import Training

AT_ONCE = 256  # images made together


class Studio(nn.Module):
    """Both sides: `makers` of ink and of photographs, `critics` of ink, of photographs and of the wash."""

    def __init__(self, channels: int, width: int, blocks: int):
        super().__init__()
        self.channels = channels
        self.makers = nn.ModuleDict({name: Maker(channels, width, blocks) for name in ("ink", "photo")})
        self.critics = nn.ModuleDict({name: Critic(channels, width) for name in ("ink", "photo", "wash")})


@dataclass(frozen=True)
class ChipGAN(Neural, Translating):
    """Maps of `width` channels, four times as many at a quarter of the side, where `blocks` think. The losses have these weights.

    Ink spreads by `erosion` pixels and blurs over `blur`, both odd: those of images of about 64 pixels a side.
    """

    width: int = 12
    blocks: int = 3
    cycle: float = 10.0
    itself: float = 5.0
    brush: float = 10.0
    wash: float = 0.05
    erosion: int = 3
    blur: int = 7
    training: Training = Training(steps=400, batch=4, lr=1e-3, betas=(0.5, 0.99), ema=0.99, decay=0.5)
    phases: ClassVar[tuple[str, ...]] = ("critics", "makers")
    sizes: ClassVar[tuple[dict[str, Any], ...]] = ({"width": 8},)
    codec: ClassVar[type[StyleCodec]] = StyleCodec

    def build(self, codec: StyleCodec) -> Studio:
        return Studio(codec.inner.channels, self.width, self.blocks)

    def loss(self, net: Studio, rows: Rows, phase: str) -> Tensor:
        x, s = signed(rows[0][:, : net.channels]), signed(rows[2])
        return self.criticised(net, x, s) if phase == "critics" else self.painted(net, x, s)

    def criticised(self, net: Studio, x: Tensor, s: Tensor) -> Tensor:
        """(1)."""
        with torch.no_grad():
            ink, photo = net.makers["ink"](x), net.makers["photo"](s)
            pairs = {"ink": (s, ink), "photo": (x, photo), "wash": (self.washed(s), self.washed(ink))}
        scores = [(net.critics[name](real), net.critics[name](fake)) for name, (real, fake) in pairs.items()]
        return torch.stack([(real - 1).square().mean() + fake.square().mean() for real, fake in scores]).sum()  # (1)

    def painted(self, net: Studio, x: Tensor, s: Tensor) -> Tensor:
        """The sum of (2) to (6)."""
        maker, back = net.makers["ink"], net.makers["photo"]
        ink, photo = maker(x), back(s)
        with frozen(net.critics):
            loss = fooled(net.critics["ink"], ink) + fooled(net.critics["photo"], photo)  # (2)
            loss = loss + self.wash * fooled(net.critics["wash"], self.washed(ink))  # (6)
        loss = loss + self.cycle * (F.l1_loss(back(ink), x) + F.l1_loss(maker(photo), s))  # (3)
        loss = loss + self.itself * (F.l1_loss(maker(s), s) + F.l1_loss(back(x), x))  # (4)
        return loss + self.brush * stroked(edges(x), edges(ink))  # (5)

    def washed(self, x: Tensor) -> Tensor:
        """w(x)."""
        return blurred(eroded(x, self.erosion), self.blur)

    def translate(self, net: Studio, rows: Rows) -> Rows:
        images, masks = rows[0][:, : net.channels], rows[0][:, net.channels :]
        made = [unsigned(net.makers["ink"](signed(part))) for part in images.split(AT_ONCE)]
        return torch.cat([torch.cat(made), masks], dim=1), rows[1]


def fooled(critic: nn.Module, fake: Tensor) -> Tensor:
    """How far patches are from looking real."""
    return (critic(fake) - 1).square().mean()


def stroked(wanted: Tensor, found: Tensor) -> Tensor:
    """(5) of two maps of edges [n, 1, H, W]: the few pixels on edges weigh as much as the many that are not."""
    balance = 1 - wanted.mean((1, 2, 3), keepdim=True)
    return -(balance * wanted * found.log() + (1 - balance) * (1 - wanted) * (1 - found).log()).mean()  # (5)
