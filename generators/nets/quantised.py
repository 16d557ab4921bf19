"""A convolutional autoencoder whose codes are places in a book of vectors: an image becomes a small grid of whole numbers.

van den Oord, Vinyals, Kavukcuoglu: Neural Discrete Representation Learning, 2017, arXiv:1711.00937; entries of the book that nobody uses
begin anew as in Dhariwal et al.: Jukebox, 2020, arXiv:2005.00341.

    (1)  code of z = argmin_k |z - e_k|^2                   for each place of the encoder's map
    (2)  d loss / d z = d loss / d e_code                   the gradient passes the choice straight through
    (3)  loss = - log p(x|e) + pull |z - e|^2
    (4)  N_k <- g N_k + (1 - g) n_k,   m_k <- g m_k + (1 - g) sum of the z of code k,   e_k = m_k / N_k
    (5)  e_k <- z of a random place when N_k falls below `DEAD` of what is usual
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.nets.likelihood import grey

CELLS = 64  # of the grid of codes, at most
KEPT = 0.98  # g
DEAD = 0.1
PULL = 0.25  # for each dimension of a code


class Quantiser(nn.Module):
    """Images uint8 [n, C, H, W] as codes int64 [n, P] of a book of `size` vectors of `width` and back, P at most `CELLS`.

    Codes stand in the order of the longer side, so that what stands apart in the image stands apart in the row.
    """

    book: Tensor  # [K, width]: e
    count: Tensor  # [K]: N
    total: Tensor  # [K, width]: m

    def __init__(self, shape: tuple[int, int, int], size: int, width: int, hidden: int):
        super().__init__()
        self.shape, channels = shape, shape[0]
        halvings = 1
        while -(-shape[1] // 2**halvings) * -(-shape[2] // 2**halvings) > CELLS:
            halvings += 1
        self.grid = -(-shape[1] // 2**halvings), -(-shape[2] // 2**halvings)
        self.room = (self.grid[1] * 2**halvings - shape[2], self.grid[0] * 2**halvings - shape[1])  # pixels added right and below
        widths = [hidden // 2] * (halvings - 1) + [hidden]
        down = [layer for a, b in zip([channels, *widths], widths, strict=False) for layer in (nn.Conv2d(a, b, 4, 2, 1), nn.ReLU())]
        up = [
            layer
            for a, b in zip(widths[::-1], [*widths[-2::-1], channels], strict=True)
            for layer in (nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1))
        ]
        self.encoder = nn.Sequential(*down, nn.Conv2d(hidden, hidden, 3, 1, 1), nn.ReLU(), nn.Conv2d(hidden, width, 1))
        self.decoder = nn.Sequential(nn.Conv2d(width, hidden, 3, 1, 1), nn.ReLU(), nn.Conv2d(hidden, hidden, 3, 1, 1), *up)
        self.register_buffer("book", torch.zeros(size, width))
        self.register_buffer("count", torch.zeros(size))
        self.register_buffer("total", torch.zeros(size, width))

    @property
    def places(self) -> int:
        """P."""
        return self.grid[0] * self.grid[1]

    def features(self, x: Tensor) -> Tensor:
        """z, float [n, P, width], of images from 0 to 1."""
        z = self.encoder(F.pad(x, (0, self.room[0], 0, self.room[1]), mode="replicate"))
        return (z.transpose(2, 3) if self.grid[1] > self.grid[0] else z).flatten(2).transpose(1, 2)

    def nearest(self, z: Tensor) -> Tensor:
        """int64 [...] of z [..., width]."""
        return (self.book.square().sum(1) - 2 * z @ self.book.T).argmin(-1)  # (1)

    def encode(self, x: Tensor) -> Tensor:
        """Codes int64 [n, P]."""
        return self.nearest(self.features(x.float() / 255))

    def decode(self, e: Tensor) -> Tensor:
        """The decoder's values, float [n, C, H, W], of vectors [n, P, width]."""
        rows, columns = self.grid
        e = e.transpose(1, 2)
        e = e.unflatten(2, (columns, rows)).transpose(2, 3) if columns > rows else e.unflatten(2, (rows, columns))
        return self.decoder(e)[:, :, : self.shape[1], : self.shape[2]]

    def loss(self, x: Tensor) -> Tensor:
        """(3) of images uint8 [n, C, H, W], a pixel; while training the book follows."""
        x = x.float() / 255
        z = self.features(x)
        if self.training:
            self.follow(z.detach().flatten(0, 1))
        e = self.book[self.nearest(z)]
        values = self.decode(z + (e - z).detach())  # (2)
        return grey(values, x, self.shape[0]).mean() / x[0].numel() + PULL * (z - e).square().mean()  # (3)

    def follow(self, z: Tensor) -> None:
        """Move the book towards z, float [m, width]."""
        hot = F.one_hot(self.nearest(z), len(self.book)).to(z.dtype)
        self.count.lerp_(hot.sum(0), 1 - KEPT)  # (4)
        self.total.lerp_(hot.T @ z, 1 - KEPT)
        usual = len(z) / len(self.book)
        dead = self.count < DEAD * usual
        fresh = z[torch.randint(len(z), (len(self.book),), device=z.device)]
        self.count[dead] = usual
        self.total[dead] = usual * fresh[dead]  # (5)
        self.book.copy_(self.total / self.count[:, None])
