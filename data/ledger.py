"""What the fits to one source have spent of its privacy, kept beside the releases: `<root>/_privacy.json`.

    epsilon of a source = sum of epsilon over all fits to it, delta likewise        whatever became of their rows          (1)

Dwork, Roth: The Algorithmic Foundations of Differential Privacy, 2014, theorem 3.16. Two fits are of one source when they read it under
one name or found the same rows: a table that grows is still about the same people. A fit is written down before it begins.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.disk import locked, replaced, writing
from data.errors import BadInput

FILE = "_privacy.json"
SLACK = 1e-9  # of a budget: ten times 0.1 is 1


def spend(
    root: Path | str, *, fit: str, source: str, fingerprint: str, epsilon: float, delta: float, budget: float | None = None
) -> dict[str, Any]:
    """Write down that a fit begins; {"epsilon", "delta", "fits"} of its source with it, and the "budget".

    `fit` names it: what is there already, because the fit was killed and goes on, is not spent again. BadInput, and nothing is spent,
    when the source would have spent more than the budget.
    """
    folder = Path(root)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            entries = read(folder)
            known = [e for e in entries if e["source"] == source or e["fingerprint"] == fingerprint]
            if all(e["fit"] != fit for e in known):
                before = sum(e["epsilon"] for e in known)
                if budget is not None and before + epsilon > budget + SLACK:
                    raise BadInput(
                        f"the fits to {source} have spent epsilon {before:g} of a budget of {budget:g}, so one with {epsilon:g} "
                        "more is not begun: ask for a smaller epsilon, or draw rows from a model that is released (alfar sample)"
                    )
                at = datetime.now(UTC).isoformat(timespec="seconds")
                entry = {"fit": fit, "source": source, "fingerprint": fingerprint, "epsilon": epsilon, "delta": delta, "at": at}
                known.append(entry)
                replaced(folder / FILE, json.dumps({"fits": [*entries, entry]}, indent=1) + "\n")
    total = {key: sum(e[key] for e in known) for key in ("epsilon", "delta")}  # (1)
    return {**total, "fits": len(known), "budget": budget}


def read(root: Path) -> list[dict[str, Any]]:
    """Every fit that was written down. BadInput when the file is damaged: nothing may be spent on top of what nobody knows."""
    path = root / FILE
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["fits"]
        for entry in entries:
            _ = entry["fit"], entry["source"], entry["fingerprint"], entry["epsilon"] + entry["delta"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{path} is damaged, so what was spent is not known: put back a copy of it") from None
    return entries
