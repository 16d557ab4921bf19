"""What every adversarial generator of images shares: two sides, one game, and images made from noise."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from generators.base import Labelled, Neural, Rows
from generators.codecs.image import ImageCodec, signed, unsigned
from generators.nets.adversarial import Critic, Game, Players, bounded, play
from generators.nets.warp import warped

AT_ONCE = 256  # images made together


@dataclass(frozen=True)
class Adversarial(Neural, Labelled):
    """A maker and a critic of images, `noise` dimensions, and the `game` that they play (generators/nets/adversarial.py).

    Real images are warped by up to `augment` (generators/nets/warp.py), and so are those that are made.
    """

    noise: int = 64
    game: Game = Game()
    augment: float = 0.0
    phases: ClassVar[tuple[str, ...]] = ("critic", "maker")
    codec: ClassVar[type[ImageCodec]] = ImageCodec
    spectral: ClassVar[bool] = False  # the critic's last layers are under a spectral norm

    @abstractmethod
    def maker(self, codec: ImageCodec) -> nn.Module:
        """(noise [n, Z], labels [n]) -> images [n, C + K, H, W] in [-1, 1]; its `noise` is Z."""

    @abstractmethod
    def reader(self, codec: ImageCodec) -> nn.Module:
        """images [n, C + K, H, W] -> features [n, F]; its `features` is F."""

    @final
    def build(self, codec: ImageCodec) -> Players:
        maker, reader = self.maker(codec), self.reader(codec)
        critic = Critic(reader, int(reader.features), len(codec.shares))  # type: ignore[arg-type]
        if self.spectral:
            bounded(critic.real), bounded(critic.each)
        net = Players(maker, critic, torch.from_numpy(codec.shares).float(), codec.channels)
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @final
    def loss(self, net: Players, rows: Rows, phase: str) -> Tensor:
        return play(net, signed(warped(rows[0], self.augment)), rows[1], phase, self.game)

    @final
    def draw(self, net: Players, labels: Tensor, rng: torch.Generator) -> Tensor:
        return torch.cat([unsigned(net.make(part, rng)) for part in labels.split(AT_ONCE)])
