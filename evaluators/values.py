"""Values as people read them on a page: numbers, shares, durations, names and times; a dash for what is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

NAMES = {
    "cnn": "CNN",
    "unet": "U-Net",
    "tfidf": "Words, linear",
    "bag": "Words, neural",
    "seq2seq": "Sequence to sequence",
    "chrf": "chrF",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "tool": "First word",
    "mean_iou": "Mean IoU",
    "mean_dice": "Mean Dice",
    "learnt": "Learnt features",
    "random": "Random features",
    "foreground_iou": "Foreground IoU",
    "near": "Near copies",
    "macro_f1": "Macro F1",
    "fid": "FID",
    "kid": "KID",
    "roc_auc": "ROC-AUC",
    "r2": "R²",
    "mae": "MAE",
    "rmse": "RMSE",
    "mse": "MSE",
    "f1": "F1",
    "pr_auc": "PR-AUC",
    "dcr": "Distance share",
}
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")  # control, surrogate, direction override


def clean(value: Any) -> Any:
    """A copy of JSON-like data without what cannot be shown: NaN and null keys go, control characters become a replacement sign."""
    if isinstance(value, Mapping):
        return {clean(str(k)): c for k, v in value.items() if (c := clean(v)) is not None}
    if isinstance(value, str):
        return UNSAFE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    if isinstance(value, bool | int):
        return value
    if value is None:
        return None
    try:
        return float(value) if math.isfinite(value) else None  # numpy's numbers too
    except TypeError:
        return clean(str(value))


def number(value: Any) -> float | None:
    """A finite number, or None for everything else (missing, NaN, text, truth values)."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def num(value: Any, missing: str = "—") -> str:
    """A number as people read it: 0.913, 53,940, 1.2e-05."""
    v = number(value)
    if v is None:
        return missing
    if v == int(v) and abs(v) < 1e15:
        return f"{int(v):,}"
    if abs(v) >= 1000:
        return f"{v:,.0f}"
    return f"{v:.3f}" if 0.001 <= abs(v) < 10 else f"{v:.4g}"


def whole(value: Any) -> str:
    """A count: 53,940."""
    v = number(value)
    return "—" if v is None else f"{v:,.0f}"


def percent(value: Any) -> str:
    """A number that is per cent already: 4.2 %."""
    v = number(value)
    return "—" if v is None else f"{v:.1f}\N{NO-BREAK SPACE}%" if abs(v) >= 0.95 else f"{v:.2g}\N{NO-BREAK SPACE}%"


def share(value: Any) -> str:
    """A share of one as per cent."""
    v = number(value)
    return "—" if v is None else percent(100 * v)


def figure(value: Any, form: str) -> str:
    """A number in one of the forms `num`, `percent` and `share`."""
    return {"num": num, "percent": percent, "share": share}[form](value)


def interval(score: Any, form: str = "num") -> str:
    """`low to high`, or nothing when either end is missing."""
    low, high = (number(score.get(k)) if isinstance(score, Mapping) else None for k in ("low", "high"))
    return "" if low is None or high is None else f"{figure(low, form)} to {figure(high, form)}"


def duration(seconds: Any) -> str:
    """75 -> 1 min 15 s."""
    v = number(seconds)
    if v is None:
        return "—"
    if v < 60:
        return f"{v:.2g} s" if v < 10 else f"{v:.0f} s"
    minutes, rest = divmod(round(v), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def words(name: Any) -> str:
    """gradient_boosting -> Gradient boosting; the common scores under the names people write."""
    text = str(name).replace("_", " ").strip()
    text = f"IoU of {text[4:]}" if text.startswith("iou ") else text[:1].upper() + text[1:]
    return NAMES.get(str(name), text)


def when(value: Any) -> str:
    """An ISO time to the minute, anything else as it is."""
    found = re.match(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)[\d:.]*(Z|\+00:00)?$", str(value))
    return f"{found[1]} {found[2]}{' UTC' if found[3] else ''}" if found else str(value)


def place(value: Any, kind: str = "number") -> str:
    """A value on an axis: a date for microseconds since 1970 of a datetime column, a number or text otherwise."""
    v = number(value)
    if v is None:
        return "" if value is None else str(value)
    if kind == "datetime":
        try:
            return str((datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=v)).date())
        except OverflowError:
            return num(v)
    return f"{float(f'{v:.4g}'):,.10g}" if abs(v) < 1e9 else f"{v:.3g}"


def span(column: Mapping[str, Any]) -> str:
    """What a schema's column may hold, in a few words."""
    if column.get("categories"):
        return f"{len(column['categories']):,} categories"
    if column.get("kind") == "text" and number(column.get("high")):
        return f"up to {whole(column['high'])} characters"
    low, high = (place(column.get(k), column.get("kind", "")) for k in ("low", "high"))
    return f"{low} to {high}" if low or high else "—"
