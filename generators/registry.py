"""The catalogue: one line a generator. Classes are imported when they are asked for."""

from __future__ import annotations

import importlib
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from data.errors import BadInput, suggest
from data.schema import Modality, Schema, Task

if TYPE_CHECKING:
    from generators.base import Generator

GENERATORS = {
    "tabular/marginal": "generators.tabular.marginal:Marginal",
    "tabular/copy": "generators.tabular.copy:Copy",
    "tabular/gmm": "generators.tabular.gmm:GMM",
    "tabular/rbm": "generators.tabular.rbm:RBM",
    "tabular/autoencoder": "generators.tabular.autoencoder:Autoencoder",
    "tabular/vae": "generators.tabular.vae:VAE",
    "tabular/gan": "generators.tabular.gan:GAN",
    "tabular/diffusion": "generators.tabular.diffusion:Diffusion",
    "tabular/transformer": "generators.tabular.transformer:Transformer",
    "tabular/made": "generators.tabular.made:MADE",
    "image/gmm": "generators.image.gmm:GMM",
    "image/rbm": "generators.image.rbm:RBM",
    "image/autoencoder": "generators.image.autoencoder:Autoencoder",
    "image/vae": "generators.image.vae:VAE",
    "image/gan": "generators.image.gan:GAN",
    "image/dcgan": "generators.image.dcgan:DCGAN",
    "image/stylegan": "generators.image.stylegan:StyleGAN",
    "image/biggan": "generators.image.biggan:BigGAN",
    "image/chipgan": "generators.image.chipgan:ChipGAN",
    "image/pixelcnn": "generators.image.pixelcnn:PixelCNN",
    "image/pixelrnn": "generators.image.pixelrnn:PixelRNN",
    "image/diffusion": "generators.image.diffusion:Diffusion",
    "text/ngram": "generators.text.ngram:Ngram",
    "text/unigram": "generators.text.unigram:Unigram",
    "text/gpt": "generators.text.gpt:GPT",
    "text/transformer": "generators.text.transformer:Transformer",
    "text/vae": "generators.text.vae:VAE",
    "multimodal/caption_image": "generators.multimodal.caption_image:CaptionImage",
    "sdv/gaussian-copula": "generators.tabular.sdv:GaussianCopula",
    "sdv/ctgan": "generators.tabular.sdv:CTGAN",
    "sdv/tvae": "generators.tabular.sdv:TVAE",
}
DEFAULT: dict[str, str] = {
    "tabular": "tabular/made",
    "image": "image/dcgan",
    "image-to-image": "image/chipgan",
    "text": "text/gpt",
    "multimodal": "multimodal/caption_image",
}  # the best one measured for each kind of data, and the one for a task that others do not have
READS: dict[str, Modality] = {"sdv": "tabular"}  # what a family of names reads, where that is not its own name


ONLY: dict[str, Task] = {"image/chipgan": "image-to-image"}  # it serves no other task, and no other of its kind of data serves this one


def names(modality: Modality | None = None) -> list[str]:
    """Every generator's name, or those for one kind of data, as the catalogue lists them."""
    return [name for name in GENERATORS if modality in (None, modality_of(name))]


def serving(schema: Schema) -> list[str]:
    """The generators that learn such data, as the catalogue lists them."""
    alone = schema.task if schema.task in ONLY.values() else None
    return [name for name in names(schema.modality) if ONLY.get(name) == alone]


def modality_of(name: str) -> str:
    """The kind of data that a generator reads."""
    family = name.split("/")[0]
    return READS.get(family, family)


def get(name: str) -> type[Generator]:
    """The class of a name. BadInput suggests the nearest name."""
    if name not in GENERATORS:
        raise BadInput(f"there is no generator called {name!r}{suggest(name, names())}")
    module, attribute = GENERATORS[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def name_of(kind: type[Generator]) -> str:
    """The name of a class."""
    return next(name for name, path in GENERATORS.items() if path == f"{kind.__module__}:{kind.__name__}")


def make(name: str, parameters: Mapping[str, Any]) -> Generator:
    """A recipe from its name and hyper-parameters, checked. BadInput names the key that is unknown or has the wrong type."""
    return build(get(name), parameters, name)


def build(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """A dataclass from plain values, nested dataclasses included; whole numbers serve as floats, lists as tuples."""
    hints = typing.get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    defaults = {f.name: f.default for f in fields(kind)}
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise BadInput(f"{where} has no parameter {key!r}{suggest(key, known)}")
        hint = hints[key]
        if is_dataclass(hint) and isinstance(value, Mapping):
            default = {f.name: getattr(defaults[key], f.name) for f in fields(hint)}
            checked[key] = build(hint, {**default, **value}, f"{where}.{key}")  # type: ignore[arg-type]
        else:
            checked[key] = coerce(value, hint, f"{where}.{key}")
    return kind(**checked)


def coerce(value: Any, hint: Any, where: str) -> Any:
    """The value as its declared type, or BadInput."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, __import__("types").UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if typing.get_origin(option) is typing.Literal and value in typing.get_args(option):
            return value
        if typing.get_origin(option) is tuple and isinstance(value, (list, tuple)):
            inner = typing.get_args(option)
            kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
            if len(kinds) == len(value):
                return tuple(coerce(v, k, where) for v, k in zip(value, kinds, strict=True))
        if option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if option in (int, str, bool) and type(value) is option:
            return value
    wanted = " or ".join(str(getattr(o, "__name__", o)) for o in options)
    raise BadInput(f"{where} is {value!r}; it takes {wanted}")
