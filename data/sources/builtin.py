"""Real datasets that come with the installed dependencies: nothing is downloaded, nothing is made up."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from data.schema import Modality, Task


@dataclass(frozen=True)
class Builtin:
    """What is known of a built-in dataset before it is loaded.

    `origin` is `package:file`, or a loader: `sklearn:…`, `pictures:…`, `captioned:…`, `texts:…`; `held` is the number of rows that it
    holds out beside its own. Both are `about` right where they depend on the versions that are installed.
    """

    description: str
    rows: int
    target: str
    origin: str
    kinds: Mapping[str, str] = field(default_factory=dict)
    modality: Modality = "tabular"
    held: int = 0
    task: Task | None = None
    about: bool = False

    @property
    def size(self) -> str:
        """Its rows, in words."""
        return self.counted(self.rows)

    def counted(self, rows: int) -> str:
        """So many rows, in words."""
        return f"{'about ' if self.about else ''}{rows:,}"


PLOTNINE, STATSMODELS = "plotnine:data/", "statsmodels:datasets/"


def words(description: str, rows: int, x: str, y: str, loader: str, task: Task, held: int = 0) -> Builtin:
    """What is known of built-in texts."""
    kinds = {x: "text", y: "category" if task == "classification" else "text"}
    return Builtin(description, rows, y, f"texts:{loader}", kinds, "text", held, task, about=True)


CATALOGUE: dict[str, Builtin] = {
    "diamonds": Builtin("cut diamonds: price, weight, cut, colour, clarity and size", 53940, "cut", PLOTNINE + "diamonds.csv"),
    "penguins": Builtin("penguins of three species: size, weight, island and sex", 344, "species", PLOTNINE + "penguins.csv"),
    "mpg": Builtin("car models of 1999 and 2008: engine, gears and fuel economy", 234, "hwy", PLOTNINE + "mpg.csv", {"hwy": "integer"}),
    "msleep": Builtin("mammals: sleep, diet, brain and body weight", 83, "vore", PLOTNINE + "msleep.csv", {"name": "id", "genus": "id"}),
    "midwest": Builtin(
        "counties of five states: people, schooling and poverty", 437, "inmetro", PLOTNINE + "midwest.csv", {"county": "id"}
    ),
    "txhousing": Builtin("months of house sales in 46 Texan cities, with nulls", 8602, "median", PLOTNINE + "txhousing.csv"),
    "faithful": Builtin("eruptions of the Old Faithful geyser", 272, "waiting", PLOTNINE + "faithful.csv", {"waiting": "integer"}),
    "economics": Builtin("months of the economy of the United States", 574, "unemploy", PLOTNINE + "economics.csv"),
    "meat": Builtin("months of meat production in the United States, with nulls", 960, "beef", PLOTNINE + "meat.csv"),
    "huron": Builtin("yearly levels of Lake Huron", 98, "level", PLOTNINE + "huron.csv", {"year": "integer"}),
    "breast_cancer": Builtin(
        "breast tumours: 30 measures of cell nuclei, malignant or benign", 569, "target", "sklearn:load_breast_cancer"
    ),
    "wine": Builtin("wines of three growers: 13 chemical measures", 178, "target", "sklearn:load_wine"),
    "iris": Builtin("iris flowers of three species: four lengths", 150, "target", "sklearn:load_iris"),
    "diabetes": Builtin("patients: ten measures, and their diabetes a year later", 442, "target", "sklearn:load_diabetes"),
    "fair": Builtin("women asked about marriage, work and affairs", 6366, "rate_marriage", STATSMODELS + "fair/fair.csv"),
    "randhie": Builtin("patient years of a health insurance experiment", 20190, "mdvis", STATSMODELS + "randhie/randhie.csv"),
    "digits": Builtin("handwritten digits, 8×8 grey", 1797, "label", "pictures:digits", modality="image"),
    "mnist": Builtin("handwritten digits of MNIST, 28×28 grey", 5000, "label", "pictures:mnist", modality="image"),
    "brain": Builtin("brain scans, 32×32 grey, and masks of four tissues", 706, "mask", "pictures:brain", modality="image", held=427),
    "digits_on_photos": Builtin(
        "digits on photographs, 32×32 colour, and masks of the digits", 1203, "mask", "pictures:digits_on_photos", modality="image"
    ),
    "photos_to_ink": Builtin(
        "photographs with digits on them, 64×64 colour, their masks, and sheets of digits in ink",
        475,
        "style",
        "pictures:photos_to_ink",
        {"style": "style"},
        modality="image",
    ),
    "captioned_digits": Builtin(
        "one or two digits, 16×32 grey, and what they look like",
        6000,
        "caption",
        "captioned:captioned_digits",
        {"caption": "text"},
        modality="multimodal",
        held=2000,
        task="captioning",
    ),
    "home_intents": words(
        "what people say to their homes, from templates, and what they want", 4300, "text", "intent", "home_intents", "classification"
    ),
    "home_intents_es": words(
        "what people say to their homes in Spanish, from templates", 4400, "text", "intent", "home_intents_es", "classification"
    ),
    "home_intents_de": words(
        "what people say to their homes in German, from templates", 4800, "text", "intent", "home_intents_de", "classification"
    ),
    "messages_es": words(
        "messages of Django, Sphinx and JupyterLab, English to Spanish", 2400, "source", "target", "messages_es", "translation"
    ),
    "docstrings_code": words(
        "functions of this Python's standard library, and what they do", 3400, "text", "code", "docstrings_code", "text-to-code", 800
    ),
    "docstrings_summary": words(
        "docstrings of this Python's standard library, summed up", 1500, "text", "summary", "docstrings_summary", "summarisation", 400
    ),
}


def load(name: str) -> tuple[pa.Table, pa.Table | None]:
    """The table of a built-in dataset, plain numbers, strings, nulls, images and texts; and the rows that it holds out itself."""
    package, _, what = CATALOGUE[name].origin.partition(":")
    if package == "pictures":
        from data.sources import pictures

        return pictures.LOADERS[what]()
    if package == "captioned":
        from data.sources import captioned

        return captioned.captioned_digits()
    if package == "texts":
        from data.sources import texts

        return texts.LOADERS[what]()
    if package == "sklearn":
        return from_sklearn(what), None
    from data.sources import delimited

    return delimited.read(installed(package, what))[0], None


def installed(package: str, file: str) -> Path:
    """A file of an installed package, found without importing the package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / file


def from_sklearn(loader: str) -> pa.Table:
    """A scikit-learn dataset, in its own units, its classes by name."""
    from sklearn import datasets

    options = {"scaled": False} if loader == "load_diabetes" else {}
    bunch = getattr(datasets, loader)(as_frame=True, **options)
    frame = bunch.frame
    if "target_names" in bunch:
        frame = frame.assign(target=[str(bunch.target_names[code]) for code in frame["target"]])
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
