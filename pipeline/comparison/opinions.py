"""What the two kinds of judges say of the same images, beside each other.

They are blind to different things (`pipeline.evaluation.judge`), so that where they rank models
differently, the reader has to know it. What each of them sees of damage in known order is the
evidence for both, and for the choice between them.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.comparison.collect import OK, Row
from pipeline.core.errors import PipelineError

APART = 3
"""Models whose places differ by so many are named."""
NAMED = 4
REAL = "real"
"""The ladder of one rung, from which all others begin; see `pipeline.evaluation.ladders`."""
NAMES = {"classifier": "classifiers", "label_free": "judges without labels"}


def places(rows: Sequence[Row]) -> dict[str, tuple[int, int]]:
    """The place of each model, from 1, by FID and by second FID, among those that have both."""
    judged = [
        row
        for row in rows
        if row["kind"] == "model"
        and row["status"] == OK
        and None not in (row.get("fid"), row.get("second_fid"))
    ]
    first, second = (_places([row[key] for row in judged]) for key in ("fid", "second_fid"))
    names = [row["model"] for row in judged]
    return dict(zip(names, zip(first, second, strict=True), strict=True))


def opinion(rows: Sequence[Row], model: str) -> str:
    """Where the second kind of judges places a model, in a few words; '' if nothing is known."""
    found = places(rows)
    if model not in found or len(found) < 2:
        return ""
    place = found[model][1]
    if place == 1:
        return f"1st of {len(found)} by second FID, too"
    best = next(name for name, (_, second) in found.items() if second == 1)
    return f"{ordinal(place)} of {len(found)} by second FID ({best} is 1st)"


def disagreement(rows: Sequence[Row], reference: Row, *, named: bool = True) -> str:
    """Which models the second kind of judges places elsewhere, in a sentence; '' if none.

    Args:
        rows: from `pipeline.comparison.collect.project_rows`.
        reference: from `pipeline.comparison.collect.read_reference`.
        named: whether models are named, and not only counted.
    """
    found = places(rows)
    moved = sorted(
        (-abs(b - a), a, b, name) for name, (a, b) in found.items() if abs(b - a) >= APART
    )
    if not moved:
        return ""
    correlation = (
        f"Spearman's correlation is {_correlation(*zip(*found.values(), strict=True)):.2f} "
        f"over {len(found)} models."
    )
    if not named:
        return (
            "The two kinds of judges rank these models differently, "
            f"{len(moved)} of them by {APART} places or more. {correlation}"
        )
    shown = [f"{name} is {ordinal(b)}, not {ordinal(a)}" for _, a, b, name in moved[:NAMED]]
    others = len(moved) - len(shown)
    more = f"; and {others} more by {APART} places or more" if others else ""
    return (
        "The two kinds of judges rank these models differently: by second FID "
        f"({reference['second_features']}) {'; '.join(shown)}{more}. {correlation}"
    )


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation of values without ties."""
    return _correlation(_places(one), _places(other))


def evidence(reference: Row, path: Path) -> str:
    """Markdown tables of what each kind of judge saw of known damage.

    Args:
        reference: from `pipeline.comparison.collect.read_reference`.
        path: of its file.

    Raises:
        PipelineError: if nothing is known of the judges, as after an older version.
    """
    verdict = reference.get("judges")
    if not verdict:
        raise PipelineError(f"{path}: says nothing of the judges; `make repro` measures them")
    kinds = verdict["kinds"]
    lines = ["| judges | right | in order | weakest: last rung over real |", "|---|---:|---:|---|"]
    for each in kinds:
        kept, pairs = _in_order(_ladders(each))
        factor, label = _weakest(_ladders(each))
        lines.append(
            f"| {NAMES[each['kind']]} | {_shares(each['accuracy'])} | {kept} of {pairs} | "
            f"{factor:.1f}x, {label} |"
        )
    lines += ["", "| damage | " + " | ".join(NAMES[each["kind"]] for each in kinds) + " |"]
    lines.append("|---|" + "---:|" * len(kinds))
    for ladder, rungs in _ladders(kinds[0]).items():
        for label in rungs:
            cells = [_cell(_ladders(each), ladder, label) for each in kinds]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    if len(kinds) > 1:
        one, other = ([_mean(fids) for fids in _damage(_ladders(each))] for each in kinds)
        lines += ["", f"Spearman's correlation of the two over damage: {spearman(one, other):.2f}."]
    return "\n".join(lines)


def beside(rows: Sequence[Row], told_apart: Mapping[str, float]) -> str:
    """A Markdown table of FIDs beside how well a classifier tells samples from real images.

    Args:
        rows: from `pipeline.comparison.collect.project_rows`.
        told_apart: by model, from `pipeline.evaluation.two_sample`.
    """
    listed = sorted(
        (row for row in rows if row["kind"] == "model" and row["model"] in told_apart),
        key=lambda row: told_apart[row["model"]],
    )
    keys = [key for key in ("fid", "second_fid") if all(row.get(key) for row in listed)]
    titles = {"fid": "FID", "second_fid": "second FID"}
    lines = ["| model | told apart | " + " | ".join(titles[key] for key in keys) + " |"]
    lines.append("|---|---:|" + "---:|" * len(keys))
    for row in listed:
        cells = [f"{told_apart[row['model']]:.3f}", *(f"{row[key]:.2f}" for key in keys)]
        lines.append(f"| {row['model']} | {' | '.join(cells)} |")
    areas = [told_apart[row["model"]] for row in listed]
    lines += [
        "",
        "Told apart: the share of pairs of a sample and a real image in which a classifier that "
        "was trained on others of both takes the right one for real, 0.5 if it cannot tell. "
        "Spearman's correlation with it: "
        + ", ".join(
            f"{titles[key]} {spearman(areas, [row[key] for row in listed]):.2f}" for key in keys
        )
        + ".",
    ]
    return "\n".join(lines)


def _ladders(of_kind: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """FIDs of each rung, by ladder and label, from the least damage to the most."""
    found: dict[str, dict[str, list[float]]] = {}
    for rung in of_kind["rungs"]:
        found.setdefault(rung["ladder"], {})[rung["label"]] = rung["fid"]
    return found


def _cell(ladders: dict[str, Any], ladder: str, label: str) -> str:
    """Geometric mean and range over judges, and how many times that of real images it is."""
    fids = ladders[ladder][label]
    [real] = ladders[REAL].values()
    told = f"{_mean(fids):.2f} ({min(fids):.2f} to {max(fids):.2f})"
    return told if ladder == REAL else f"{told}, {_mean(fids) / _mean(real):.1f}x"


def _in_order(ladders: dict[str, Any]) -> tuple[int, int]:
    """In how many pairs of neighbouring rungs the worse one has the higher FID, of how many.

    Of every judge by itself; each ladder begins with real images.
    """
    [real] = ladders[REAL].values()
    pairs = [
        (a, b)
        for name, rungs in ladders.items()
        if name != REAL
        for one, other in pairwise([real, *rungs.values()])
        for a, b in zip(one, other, strict=True)
    ]
    return sum(b > a for a, b in pairs), len(pairs)


def _weakest(ladders: dict[str, Any]) -> tuple[float, str]:
    """The ladder whose last rung is the fewest times as far as real images, and that rung."""
    [real] = ladders[REAL].values()
    return min(
        (_mean(fids) / _mean(real), label)
        for name, rungs in ladders.items()
        if name != REAL
        for label, fids in list(rungs.items())[-1:]
    )


def _damage(ladders: dict[str, Any]) -> list[list[float]]:
    return [fids for name, rungs in ladders.items() if name != REAL for fids in rungs.values()]


def _shares(accuracy: Sequence[float | None]) -> str:
    known = [100 * each for each in accuracy if each is not None]
    if not known:
        return "no labels"
    low, high = f"{min(known):.1f}", f"{max(known):.1f}"
    return f"{low} %" if low == high else f"{low} to {high} %"


def _mean(fids: Sequence[float]) -> float:
    return float(np.exp(np.log(np.maximum(fids, 1e-12)).mean()))


def _places(values: Sequence[float]) -> list[int]:
    """1 for the smallest, and so on; of equal ones the first comes first."""
    places = np.empty(len(values), int)
    places[np.argsort(values, kind="stable")] = np.arange(1, len(values) + 1)
    return places.tolist()


def _correlation(one: Sequence[int], other: Sequence[int]) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def ordinal(place: int) -> str:
    """1st, 2nd, 3rd, 4th ..."""
    if 10 <= place % 100 <= 20:
        return f"{place}th"
    return f"{place}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(place % 10, 'th') }"
