"""The dataset card: what a release is, for somebody who comes across it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

STYLED = "Each row is one real photograph drawn in another style: it shows that photograph's edges, so it is not anonymous.\n"


def headline(manifest: Mapping[str, Any]) -> str:
    """The first judge's score on synthetic rows beside the real one, such as `roc_auc 0.931 (real 0.957)`; "" without scores."""
    utility = manifest.get("scores", {}).get("utility", {})
    metric, judges = utility.get("headline"), utility.get("judges")
    if not metric or not judges:
        return ""
    judge = next(iter(judges.values()))
    return f"{metric} {judge['synthetic'][metric]['mean']:.3f} (real {judge['real'][metric]['mean']:.3f})"


def guarantee(privacy: Mapping[str, Any]) -> str:
    """What a fit under epsilon promises, what it does not, and what its source has spent."""
    ledger = privacy["ledger"]
    budget = f" of a budget of {ledger['budget']:g}" if ledger["budget"] is not None else ""
    fits = "one fit" if ledger["fits"] == 1 else f"{ledger['fits']} fits"
    return (
        f"Differential privacy: the model's weights and shares, and so its rows, are ({privacy['epsilon']:g}, "
        f"{privacy['delta']:.1e})-private with regard to adding or removing one training row. Not covered: the schema, "
        "where quantities are cut, which categories are kept, and the scores, which are measured on real rows. "
        f"{fits} to this source spent epsilon {ledger['epsilon']:g}{budget}, "
        f"delta {ledger['delta']:.1e}."
    )


def card(manifest: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The dataset card: Hugging Face's front matter, then what this is, its columns and how to read it."""
    name, line = manifest["dataset"], headline(manifest)
    columns = [f"| {plain(c['name'])} | {c['kind']} | {plain(c['type'])} |" for c in schema["columns"]]
    styled = STYLED if manifest.get("scores", {}).get("fidelity", {}).get("style") else ""
    gates = [f"- {g['name']}: {'passed' if g['passed'] else 'failed'}" for g in manifest.get("gates", [])]
    return f"""---
pretty_name: {name} (synthetic)
tags: [synthetic, {_modality(schema)}]
configs:
- config_name: default
  data_files: [{{split: train, path: data/train-*.parquet}}]
---

# {name}, synthetic, {manifest["version"]}

{manifest["rows"]:,} rows drawn from a generative model that was fitted to a real table. {f"Utility: {line}." if line else ""}
{styled}`report.html` tells how far they can be trusted, `release.json` how they were made.

Read the `data` folder, which holds nothing but parquet:

```python
pandas.read_parquet("data")
datasets.load_dataset(".")
```

| column | kind | type |
|---|---|---|
{chr(10).join(columns)}
{chr(10).join(["", "## Privacy", "", guarantee(manifest["privacy"]), ""]) if "privacy" in manifest else ""}\
{chr(10).join(["", "## Gates", "", *gates, ""]) if gates else ""}"""


def plain(text: object) -> str:
    """Text as Markdown shows it and takes nothing in it for a mark: no tag, link, cell or line of its own."""
    return re.sub(r"([\\`*\[\]<>|&])", r"\\\1", " ".join(str(text).split()))


def _modality(schema: Mapping[str, Any]) -> str:
    kinds = {column["kind"] for column in schema["columns"]}
    if kinds & {"image", "mask", "style"}:
        return "multimodal" if "text" in kinds else "image"
    return "text" if "text" in kinds else "tabular"
