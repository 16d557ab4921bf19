"""Whether a synthetic table may be published: every score against its limit, each with a sentence that says why it matters.

A limit that asks for certainty is held against the end of a score's 95 % interval, so that chance neither publishes nor stops a
table. A score that is missing, or is no number, fails: nothing passes because it could not be measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SPAN = 8  # words in the same order that are a long run


@dataclass(frozen=True)
class Thresholds:
    """The limits. Shape, trend, copies and near are allowances beyond what real held-out rows score on the same table.

    For images and texts dcr and membership are also taken beyond what real training rows score, where that is above a blind guess.
    """

    utility: float = 0.7  # least share of the real signal kept, for the low end of its interval
    detector: float = 0.95  # most area under the curve of the detector against held-out rows
    shape: float = 10.0  # most percent of error of the columns beyond the real reference
    trend: float = 15.0  # most percent of error of the pairs beyond the real reference
    coverage: float = 0.2  # least share of held-out images with a synthetic one in their neighbourhood
    near: float = 0.02  # most share of images or texts nearer to train than all but 1 % of held-out ones, beyond the real reference
    copies: float = 0.01  # most share of copied rows beyond the real reference
    spans: float = 0.1  # most share of texts with a run of `SPAN` words of a training text, beyond the real reference
    leaks: float = 0.01  # most share of texts with an e-mail address, long number or rare name of train, beyond the real reference
    dcr: float = 52.0  # most percent of rows nearer to train than to held-out rows, for the low end of its interval
    membership: float = 0.53  # most area of membership inference, for the low end of its interval
    informed: float = 0.55  # the same by a classifier that knows of other rows whether they are members
    singling: float = 0.1  # most risk of being singled out beyond that of held-out rows, for the low end of its interval
    inference: float = 0.1  # most risk of a column being guessed beyond that of held-out rows, for the low end of its interval


WHY = {
    "utility": "A model trained on the synthetic rows must predict real rows nearly as well as one trained on real rows; "
    "this is the share of that skill which is surely kept.",
    "detector": "A detector that sees whole rows should be wrong about some of them; at 1 it tells every synthetic row from a real one.",
    "shape": "Each column on its own must be distributed like the real one; this is the average percent of error.",
    "trend": "Columns must hang together in pairs as the real ones do; this is the average percent of error.",
    "coverage": "Synthetic images must show what real ones do, not a few kinds of them; this is the share of held-out real images that "
    "have a synthetic one in their neighbourhood.",
    "near": "Synthetic rows must not lie nearer to a training row than real rows do that were never learnt from.",
    "copies": "Synthetic rows that equal a real training row give that row away, unless real rows repeat each other as often.",
    "spans": "Synthetic texts must not repeat long runs of words of the training texts more often than unseen real texts do.",
    "leaks": "E-mail addresses, long numbers and rare names of the training texts must not come again, unless unseen real texts "
    "have them too.",
    "dcr": "Synthetic rows must not lie nearer to the rows they were learnt from than to rows never seen; 50 percent is ideal.",
    "membership": "Nobody should be able to guess from the synthetic rows who was in the training data; 0.5 is a blind guess.",
    "informed": "Nor should somebody be able to guess it who knows of other people whether they were in the training data; "
    "0.5 is a blind guess.",
    "singling": "A condition that fits one synthetic row must not pick out a real person more often than one that never was in the "
    "training data; this is the risk beyond that.",
    "inference": "What is known of a training row must not let the rest of it be guessed from the synthetic rows better than it lets for "
    "rows never seen; this is the risk beyond that.",
    "quality": "The files as written must hold what the schema promises: columns, types, ranges, categories, unique ids.",
    "files": "Nothing that belongs to a single real row, such as an id, a rare value or an extreme one, may be read from the model, "
    "the report, the card or the manifest.",
    "publishable": "Rows of some generators must never leave, whatever they score.",
}


def check(scores: Mapping[str, Any], thresholds: Thresholds | None = None, *, publishable: bool, why_not: str = "") -> list[dict[str, Any]]:
    """Every gate as {"name", "value", "limit", "passed", "why"}: a table may be published when all of them have passed.

    `publishable` False (with the reason in `why_not`) marks a generator whose rows must never leave. A table without a target has no
    utility gate.
    """
    t = thresholds or Thresholds()
    utility = at(scores, "utility") or {}
    gates = OWN.get(at(scores, "fidelity", "kind"), tables)(scores, t)
    if utility.get("task") != "density":
        kept = gate("utility", at(utility, "ratio", "low"), t.utility, least=True)
        reason = at(utility, "ratio", "why") or utility.get("why")
        gates.insert(0, kept if kept["passed"] or not reason else kept | {"why": f"{kept['why']} ({reason})"})
    passed = at(scores, "quality", "passed") is True
    failed = len(at(scores, "quality", "failed") or [])
    what = "" if passed else f" {failed} expectations failed." if failed else " It was not measured, so it fails."
    gates.append({"name": "quality", "value": passed, "limit": True, "passed": passed, "why": WHY["quality"] + what})
    reason = "" if publishable else f" {why_not or 'This generator is one of them.'}"
    gates.append({"name": "publishable", "value": publishable, "limit": True, "passed": publishable, "why": WHY["publishable"] + reason})
    noun = NOUN.get(at(scores, "fidelity", "kind"), "row")
    return [g | {"why": re.sub(r"\brow", noun, g["why"])} for g in gates]


def unread(found: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The gate of what `evaluators.leaks.search` found in the files of a release: nothing, or it fails and names files and columns."""
    where = ", ".join(sorted({f"{leak['file']} (column {leak['column']})" for leak in found}))
    why = WHY["files"] + (f" Found in {where}; model and report files that hold it were removed." if found else "")
    return {"name": "files", "value": len(found), "limit": 0, "passed": not found, "why": why}


def tables(scores: Mapping[str, Any], t: Thresholds) -> list[dict[str, Any]]:
    """The gates of fidelity and privacy for tables."""
    gates = [
        gate("detector", at(scores, "fidelity", "detector", "test", "auc"), t.detector),
        gate("shape", at(scores, "fidelity", "shape", "synthetic"), beyond(at(scores, "fidelity", "shape", "real"), t.shape)),
        gate("trend", at(scores, "fidelity", "trend", "synthetic"), beyond(at(scores, "fidelity", "trend", "real"), t.trend)),
        copied(scores, t),
        gate("dcr", at(scores, "privacy", "dcr", "low"), t.dcr),
        gate("membership", at(scores, "privacy", "membership", "low"), t.membership),
        *(gate(name, at(scores, "privacy", "attacks", name, "low"), getattr(t, name)) for name in ("informed", "singling", "inference")),
    ]
    if at(scores, "fidelity", "pairs") == [] and at(scores, "fidelity", "shape", "synthetic") is not None:
        return [g for g in gates if g["name"] != "trend"]  # a single column, or constants only: there is no pair to judge
    return gates


def images(scores: Mapping[str, Any], t: Thresholds) -> list[dict[str, Any]]:
    """The gates of fidelity and privacy for images, whose test images may come from elsewhere than the training images."""
    return [
        gate("coverage", at(scores, "fidelity", "spaces", "learnt", "coverage", "synthetic"), t.coverage, least=True),
        *private(scores, t),
    ]


def texts(scores: Mapping[str, Any], t: Thresholds) -> list[dict[str, Any]]:
    """The gates of fidelity and privacy for texts."""
    return [gate("detector", at(scores, "fidelity", "detector", "test", "auc"), t.detector), *private(scores, t), *repeated(scores, t)]


def repeated(scores: Mapping[str, Any], t: Thresholds) -> list[dict[str, Any]]:
    """The gates of what texts repeat of training texts."""
    runs = next((run for run in at(scores, "privacy", "texts", "spans") or [] if run["words"] == SPAN), None)
    leaks = at(scores, "privacy", "texts", "leaks", "any")
    return [
        gate("spans", at(runs, "synthetic"), beyond(at(runs, "real"), t.spans)),
        gate("leaks", at(leaks, "synthetic"), beyond(at(leaks, "real"), t.leaks)),
    ]


def private(scores: Mapping[str, Any], t: Thresholds) -> list[dict[str, Any]]:
    """The gates of privacy of rows whose test rows may be of another origin than the training rows."""
    dcr, membership = (at(scores, "privacy", name, "real") for name in ("dcr", "membership"))
    return [
        gate("near", at(scores, "privacy", "near", "synthetic"), beyond(at(scores, "privacy", "near", "real"), t.near)),
        copied(scores, t),
        gate("dcr", at(scores, "privacy", "dcr", "low"), beyond(least(dcr, 50.0), t.dcr - 50)),
        gate("membership", at(scores, "privacy", "membership", "low"), beyond(least(membership, 0.5), t.membership - 0.5)),
    ]


def multimodal(scores: Mapping[str, Any], t: Thresholds) -> list[dict[str, Any]]:
    """The gates of images, and those of what texts repeat: captions that real rows repeat as often pass."""
    return [*images(scores, t), *repeated(scores, t)]


OWN = {"image": images, "text": texts, "multimodal": multimodal}  # by the kind that fidelity says; without one it is a table's
NOUN = {"image": "image", "text": "text", "multimodal": "image"}  # what a gate's sentence calls a row, by the same kind


def copied(scores: Mapping[str, Any], t: Thresholds) -> dict[str, Any]:
    """The gate of copies."""
    return gate("copies", at(scores, "privacy", "copies", "synthetic"), beyond(at(scores, "privacy", "copies", "real_high"), t.copies))


def gate(name: str, value: Any, limit: float | None, *, least: bool = False) -> dict[str, Any]:
    """One gate: the value at most the limit (`least`: at least); a value or limit that is no finite number fails."""
    if not is_number(value) or not is_number(limit):
        missing = "the score" if not is_number(value) else "its reference on real rows"
        limit = limit if is_number(limit) else None
        return {"name": name, "value": None, "limit": limit, "passed": False, "why": f"{WHY[name]} It fails: {missing} is missing."}
    assert limit is not None
    passed = value >= limit if least else value <= limit
    return {"name": name, "value": value, "limit": limit, "passed": bool(passed), "why": WHY[name]}


def beyond(reference: Any, allowance: float) -> float | None:
    """The reference plus what is allowed beyond it; None when there is no reference."""
    return round(reference + allowance, 6) if is_number(reference) else None


def least(reference: Any, guess: float) -> float | None:
    """The reference, but no less than a blind guess scores; None when there is none."""
    return max(reference, guess) if is_number(reference) else None


def is_number(value: Any) -> bool:
    """A finite number, and no truth value?"""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def at(scores: Any, *path: str) -> Any:
    """What stands at a path of keys, or None."""
    for key in path:
        scores = scores.get(key) if isinstance(scores, Mapping) else None
    return scores
