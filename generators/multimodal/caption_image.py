"""Text and image in one sequence: an image is a row of codes, a caption a row of words, and one decoder reads and writes both.

Ramesh et al.: Zero-Shot Text-to-Image Generation, 2021, arXiv:2102.12092, with the quantiser of `nets/quantised.py`, and the decoder of
`text/gpt` in both directions; guidance: Ho, Salimans: Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598.

    (1)  s = BOS c_1 … c_P SEP w_1 … w_T EOS        the caption w of an image c, which fills its place with BLANK; a label stands before w
    (2)  s = BACK w_1 … w_T SEP c_1 … c_P EOS       the image of a caption
    (3)  loss = - log p(s), a token; a third of each batch as (1), where w counts `emphasis` times, the others as (2)
    (4)  of (2) a share `dropped` has BLANK in place of all of w, and only c counts: log p(c)
    (5)  log p'(c_i) = log p(c_i | c_<i) + guidance (log p(c_i | w, c_<i) - log p(c_i | c_<i))
    (6)  caption of an image: of `tries` drawn from (1) and the likeliest, the one with the largest log p(w | c) + log p(w, c)

Codes are learnt first, words and codes after that; the decoder begins with codes alike that are near each other in the book. Images are
warped a little at every step (`nets/warp.py`), by `augment`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import BadInput
from generators.base import Answering, Descending, Rows, Run
from generators.codecs.caption import CaptionCodec
from generators.codecs.text import EOS, FIRST, PAD, SEP
from generators.nets.likelihood import painted
from generators.nets.quantised import Quantiser
from generators.nets.warp import warped
from generators.nets.words import chosen
from generators.text.sequences import SequenceNet
from generators.train import Training, fitting, planned

CODING = 0.25  # of the minutes, for the codes
AT_WORK = 256  # rows that are drawn side by side
LEAST = 1e-30  # of a chance, so that it has a logarithm
CODE, SEPARATE, LABEL, WORD, END = range(5)  # what stands at a place


class CaptionNet(nn.Module):
    """Tokens: the V of words, then K codes, BLANK, and the labels. A caption has `words` places, after that of its label."""

    shares: Tensor  # [L]

    def __init__(self, codec: CaptionCodec, size: int, code: int, hidden: int, width: int, depth: int, heads: int, dropout: float):
        super().__init__()
        self.codes = Quantiser(codec.image.shape, size, code, hidden)
        self.vocabulary, self.blank, self.words = codec.words.size, codec.words.size + size, codec.words.longest - 1
        self.labels, self.pixels = len(codec.shares) * (codec.label is not None), codec.pixels
        self.said = (self.labels > 0) + self.words  # places of a caption
        tokens, longest = self.blank + 1 + self.labels, self.codes.places + self.said + 2
        self.gpt = SequenceNet(tokens, torch.ones(1), False, 2, longest, width, depth, heads, dropout)
        self.register_buffer("shares", torch.from_numpy(codec.shares).float())

    @torch.no_grad()
    def placed(self, seed: int) -> None:
        """Give codes that are near each other in the book vectors that are."""
        weight, book = self.gpt.embed.weight, self.codes.book
        mix = torch.randn(book.shape[1], weight.shape[1], generator=torch.Generator().manual_seed(seed)).to(book.device)
        near = (book - book.mean(0)) @ mix
        weight[self.vocabulary : self.blank] = near * (weight.std() / near.std())

    def kinds(self, back: bool) -> list[int]:
        """What stands at each place after the first."""
        caption, image = [LABEL] * (self.labels > 0) + [WORD] * self.words, [CODE] * self.codes.places
        return [*caption, SEPARATE, *image, END] if back else [*image, SEPARATE, *caption, END]

    def able(self, kind: int) -> Tensor:
        """int64, the tokens that can stand at such a place."""
        ends = {CODE: (self.vocabulary, self.blank), SEPARATE: (SEP, SEP + 1), WORD: (FIRST, self.vocabulary), END: (EOS, EOS + 1)}
        tokens = torch.arange(*ends.get(kind, (self.blank + 1, self.gpt.size)))
        return torch.cat([tokens, torch.tensor([self.blank])]) if kind == WORD else tokens

    def caption(self, x: Tensor, y: Tensor) -> Tensor:
        """The label and words, int64 [n, said], of rows."""
        words = x[:, self.pixels : self.pixels + self.words].long()
        label = (self.blank + 1 + y)[:, None]
        return torch.cat([*([label] if self.labels else []), words.where(words >= FIRST, self.blank)], dim=1)

    def image(self, x: Tensor) -> Tensor:
        """Pixels uint8 [n, C, H, W] of rows."""
        return x[:, : self.pixels].to(torch.uint8).unflatten(1, self.codes.shape)

    def sequences(self, codes: Tensor, caption: Tensor, back: bool) -> Tensor:
        """int64 [n, places] of codes [n, P] and captions [n, said]."""
        cut, end = (torch.full_like(codes[:, :1], token) for token in (SEP, EOS))
        return self.gpt.sequences(torch.cat([self.vocabulary + codes, cut, caption, end], dim=1), codes[:, 0], back)

    def parts(self, sequences: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and captions again."""
        tokens, places = self.gpt.rows(sequences), self.codes.places
        return tokens[:, :places] - self.vocabulary, tokens[:, places + 1 : -1]

    def shown(self, codes: Tensor) -> Tensor:
        """Pixels of rows, int16 [n, C H W], as the decoder makes them of codes."""
        return painted(self.codes.decode(self.codes.book[codes]), self.codes.shape[0]).flatten(1).to(torch.int16)

    def written(self, caption: Tensor) -> Tensor:
        """Tokens of rows, int16 [n, T], of captions."""
        words = F.pad(caption[:, (self.labels > 0) :], (0, 1), value=self.blank)
        ends = (words == self.blank).long().cumsum(1)
        return words.where(ends == 0, torch.where(ends == 1, EOS, PAD)).to(torch.int16)


@dataclass(frozen=True)
class CaptionImage(Descending, Answering):
    """A book of `codes` vectors of `code` numbers, made by convolutions of `hidden` channels in `coding` steps for each of the decoder's;
    `depth` blocks of `width` with `heads` and `dropout`. Tokens are drawn by `temperature` and `top_p`.
    """

    codes: int = 256
    code: int = 16
    hidden: int = 64
    coding: float = 0.17
    width: int = 128
    depth: int = 3
    heads: int = 4
    dropout: float = 0.05
    augment: float = 0.1
    emphasis: float = 3.0
    dropped: float = 0.1
    guidance: float = 1.5
    temperature: float = 1.0
    top_p: float = 0.95
    tries: int = 4
    training: Training = Training(epochs=28, least_steps=1500, batch=32, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    phases: ClassVar[tuple[str, ...]] = ("codes", "gpt")
    codec: ClassVar[type[CaptionCodec]] = CaptionCodec

    def build(self, codec: CaptionCodec) -> CaptionNet:
        if self.width % self.heads:
            raise BadInput(f"multimodal/caption_image.width is {self.width}; it must be a multiple of heads, which is {self.heads}")
        return CaptionNet(codec, self.codes, self.code, self.hidden, self.width, self.depth, self.heads, self.dropout)

    def learn(self, net: CaptionNet, rows: Rows, run: Run) -> CaptionNet:
        fitted = fitting(self.training, rows, len(rows[0]))
        steps = max(1, round(self.coding * planned(fitted, len(rows[0]))))
        logs, trained = [], net
        for phase, training, share in (
            ("codes", replace(self.training, steps=steps, patience=0), CODING),
            ("gpt", self.training, 1 - CODING),
        ):
            alone = replace(run, minutes=run.minutes and share * run.minutes, folder=run.folder and inside(run.folder, phase), log={})
            trained = self.descend(trained.requires_grad_(), rows, alone, (phase,), training)  # type: ignore[assignment]
            logs.append(alone.log)
            if phase == "codes":
                trained.placed(run.seed)
        seconds = sum(log["training_seconds"] for log in logs)
        run.log |= logs[1] | {"training_seconds": seconds, "step_seconds": round(seconds / logs[1]["steps"], 6), "codes": logs[0]}
        return trained

    def loss(self, net: CaptionNet, rows: Rows, phase: str) -> Tensor:
        x, y = rows
        if phase == "codes":
            return net.codes.loss(net.image(x))  # as they are: warped images have soft edges
        with torch.no_grad():
            codes = net.codes.encode(warped(net.image(x), self.augment if net.training else 0.0))
        caption, n = net.caption(x, y), max(1, len(x) // 3)
        gone = torch.rand(len(x) - n, 1, device=x.device) < self.dropped * net.training
        surprises = [
            net.gpt.surprise(net.sequences(codes[:n], caption[:n], False)),  # (1)
            net.gpt.surprise(net.sequences(codes[n:], caption[n:].where(~gone, net.blank), True)),  # (2)
        ]
        counts = ~gone | (torch.arange(surprises[1].shape[1], device=x.device) > caption.shape[1])
        surprises[0][:, net.codes.places + 1 :] *= self.emphasis
        return (surprises[0].sum() + (surprises[1] * counts).sum()) / (surprises[0].numel() + counts.sum())  # (3) (4)

    def draw(self, net: CaptionNet, labels: Tensor, rng: torch.Generator) -> Tensor:
        known = torch.full((len(labels), net.said), net.blank)
        if net.labels:
            known[:, 0] = net.blank + 1 + labels
        return self.pictured(net, known, int(net.labels > 0), rng)

    def answer(self, net: CaptionNet, rows: Rows, rng: torch.Generator | None, back: bool = False) -> Tensor:
        x, y = rows
        if back:
            return self.pictured(net, net.caption(x, y), net.said, rng)
        found = [self.told(net, *part, rng) for part in zip(x.split(AT_WORK), y.split(AT_WORK), strict=True)]
        return torch.cat([x[:, : net.pixels], net.written(torch.cat(found))], dim=1)

    def pictured(self, net: CaptionNet, captions: Tensor, known: int, rng: torch.Generator | None) -> Tensor:
        """x of images drawn given captions int64 [n, said], of which the first `known` places are there and the others are drawn too."""
        parts = []
        for caption in captions.split(AT_WORK):
            codes = torch.zeros(2 * len(caption), net.codes.places, dtype=torch.long)
            begun = net.sequences(codes, torch.cat([caption, torch.full_like(caption, net.blank)]), True)
            there = torch.tensor([1 + known, 2 + net.said]).repeat_interleave(len(caption))
            made = net.gpt.go_on(begun, there, self.choosing(net, net.kinds(True)[known:], rng, True))
            codes, caption = net.parts(made[: len(caption)])
            parts.append(torch.cat([net.shown(codes), net.written(caption)], dim=1))
        return torch.cat(parts)

    def told(self, net: CaptionNet, x: Tensor, y: Tensor, rng: torch.Generator | None) -> Tensor:
        """Captions int64 [n, said] of rows' images."""
        known, copies = 1 + net.codes.places + (net.labels > 0), self.tries if rng is None else 1
        codes, caption = net.codes.encode(net.image(x)), net.caption(x, y)
        begun = net.sequences(codes, caption, False)
        drawing = [(begun, rng)] if copies == 1 else [(begun, None), (begun.repeat(copies - 1, 1), torch.Generator().manual_seed(0))]
        found = [
            net.gpt.go_on(some, torch.full((len(some),), 1 + known), self.choosing(net, net.kinds(False)[known:], luck, False))
            for some, luck in drawing
        ]
        captions = net.parts(torch.cat(found))[1].unflatten(0, (copies, -1))
        scores = torch.stack([self.agreement(net, codes, some) for some in captions]) if copies > 1 else torch.zeros(1, len(x))
        return captions[scores.argmax(0), torch.arange(len(x))]  # (6)

    def agreement(self, net: CaptionNet, codes: Tensor, caption: Tensor) -> Tensor:
        """log p(w | c) + log p(w, c), float [n]."""
        reading, writing = (net.gpt.surprise(net.sequences(codes, caption, back)) for back in (False, True))
        return -reading[:, net.codes.places + 1 :].sum(1) - writing.sum(1)

    def choosing(self, net: CaptionNet, kinds: list[int], rng: torch.Generator | None, guided: bool) -> Callable[[Tensor], Tensor]:
        """Tokens [m] out of chances [m, tokens], called once for each of the places; `guided` rows come twice, the second time blank."""
        places, ended = iter(kinds), torch.zeros((), dtype=torch.bool)

        def choose(chances: Tensor) -> Tensor:
            nonlocal ended
            kind = next(places)
            able = net.able(kind)
            one, *other = (part.log().log_softmax(1) for part in chances[:, able].clamp(min=LEAST).chunk(1 + guided))
            if kind == CODE and guided:
                one = other[0] + self.guidance * (one - other[0])  # (5)
            tokens = able[chosen(one.softmax(1), self.temperature, self.top_p, rng)]
            if kind == WORD:
                tokens = tokens.where(~ended, net.blank)
                ended = tokens == net.blank
            return tokens.repeat(2) if guided else tokens

        return choose


def inside(folder: Path, name: str) -> Path:
    """A folder in a folder."""
    (folder / name).mkdir(exist_ok=True)
    return folder / name
