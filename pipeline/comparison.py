"""All models side by side: one table for programs, one page for people, curves and a picture.

Models come in the order of params.yaml. One without metrics failed, and is listed as such. One
whose protocol is not that of the reference rows is listed apart: its numbers answer another
question, so they are never ranked with the rest.
"""

import math
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import files
from pipeline.errors import PipelineError

OK, FAILED, OTHER = "ok", "failed", "other protocol"
TIE_FACTOR = 1.5
"""FIDs of single trainings within this factor are a tie: other seeds move them as much."""
COLUMNS = (
    "kind",
    "status",
    "model",
    "label",
    "family",
    "fid",
    "fid_min",
    "fid_max",
    "bits_per_dim",
    "bits_per_dim_stderr",
    "likelihood_bound",
    "nats_per_image",
    "reconstruction_mse",
    "reconstruction_psnr",
    "reconstruction_kind",
    "parameters",
    "images_seen",
)
"""The first columns of the table, always there; all other keys follow in alphabetical order."""
PICTURED = 12
"""Images of each model in the picture."""

Row = dict[str, Any]


# --- what there is to compare ---------------------------------------------------------------


def read_reference(path: Path) -> Row:
    """The reference rows and their protocol, as the stage ``reference`` wrote them.

    Raises:
        PipelineError: if that stage has not run.
    """
    if not path.exists():
        raise PipelineError(f"{path}: no such file; run `dvc repro reference`")
    return files.read_json(path)


def rows(models: dict[str, Any], metrics: Callable[[str], Path], reference: Row) -> list[Row]:
    """One flat row for each model in its order, then the reference rows.

    Args:
        models: the section of params.yaml: a block with the key ``family`` for each model.
        metrics: where the metrics of a model are; without that file the model failed.
        reference: from `read_reference`.

    Returns:
        The keys of the metrics and ``kind`` (model | reference), ``status`` (`OK`, `FAILED` or
        `OTHER`), ``model`` and ``label``.
    """
    common = {key: value for key, value in reference.items() if key != "rows"}
    found = []
    for name, block in models.items():
        row = {"kind": "model", "model": name, "label": name, "family": block["family"]}
        if not metrics(name).exists():
            found.append({**row, "status": FAILED})
            continue
        row |= files.read_json(metrics(name))
        same = row.get("protocol") == reference["protocol"]
        found.append({**row, "status": OK if same else OTHER})
    for each in reference["rows"]:
        facts = {key: value for key, value in each.items() if key != "name"}
        found.append({"kind": "reference", "status": OK, "model": each["name"], **common, **facts})
    return found


def to_csv(rows: Sequence[Row]) -> str:
    """All rows with all their keys; what is None or not there is empty."""
    others = sorted({key for row in rows for key in row} - set(COLUMNS))
    # As objects, so that whole numbers beside empty cells stay whole.
    table = pd.DataFrame(list(rows), columns=[*COLUMNS, *others], dtype=object)
    return table.to_csv(index=False, lineterminator="\n")


def curves(models: Iterable[str], curve: Callable[[str], Path]) -> str:
    """The training curves of all models as ``model,curve,step,images,value``.

    One line for each value, since curves of different families share no unit and so no column.
    Models without a curve are left out; values are copied digit by digit.
    """
    parts = []
    for model in models:
        if not curve(model).exists():
            continue
        wide = pd.read_csv(curve(model), dtype=str)
        long = wide.melt(["step", "images"], var_name="curve").dropna(subset="value")
        parts.append(long.assign(model=model))
    columns = ["model", "curve", "step", "images", "value"]
    joined = pd.concat(parts) if parts else pd.DataFrame(columns=columns)
    return joined[columns].to_csv(index=False, lineterminator="\n")


def pictured(
    rows: Sequence[Row], samples: Callable[[str], Path], real: np.ndarray
) -> list[tuple[str, np.ndarray]]:
    """Rows for `pipeline.pictures.labelled_rows`: real images first, then each model's samples.

    A conditional model, which has ``labels.npy`` beside its samples, shows the first image of
    each class; others show their first images. A model without samples gets an empty row.

    Args:
        rows: from `rows`.
        samples: the folder of a model's samples.
        real: uint8 images [N, C, H, W] of the data set.
    """
    found = [("real images", np.array(real[:PICTURED]))]
    for row in rows:
        if row["kind"] != "model":
            continue
        folder, label = samples(row["model"]), row["model"]
        images = np.empty((0, *real.shape[1:]), np.uint8)
        if (folder / "samples.npy").exists():
            images = _shown(folder)
        if row["status"] == FAILED:
            label += " (failed)"
        elif len(images) == 0:
            label += " (no samples)"
        found.append((label, images))
    return found


def _shown(folder: Path) -> np.ndarray:
    """The samples of a folder that stand for the rest, at most `PICTURED`."""
    images = np.load(folder / "samples.npy", mmap_mode="r")
    if not (folder / "labels.npy").exists():
        return np.array(images[:PICTURED])
    _, first = np.unique(np.load(folder / "labels.npy"), return_index=True)
    return np.array(images[first[:PICTURED]])


# --- the page ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of a table for people: its title, and the text of a row's cell."""

    title: str
    cell: Callable[[Row], str]
    right: bool = True


@dataclass(frozen=True)
class Question:
    """A table: what it answers, which key ranks it (smallest first), and how to read it."""

    title: str
    key: str
    columns: tuple[Column, ...]
    note: str


def number(key: str, form: str) -> Callable[[Row], str]:
    """A cell that shows ``key`` in a format such as ``.2f``, and n/a where it is None."""
    return lambda row: "n/a" if row.get(key) is None else format(row[key], form)


def text(key: str) -> Callable[[Row], str]:
    """A cell that shows ``key`` as it is, and n/a where it is None."""
    return lambda row: "n/a" if row.get(key) is None else str(row[key])


def fid_range(row: Row) -> str:
    """The lowest and the highest FID that a judge gave."""
    if row.get("fid_min") is None or row.get("fid_max") is None:
        return "n/a"
    return f"{row['fid_min']:.2f} to {row['fid_max']:.2f}"


def bits(row: Row) -> str:
    """Bits/dim with its standard error, where it has one."""
    if row.get("bits_per_dim") is None:
        return "n/a"
    stderr = row.get("bits_per_dim_stderr")
    return f"{row['bits_per_dim']:.3f}" + (f" ± {stderr:.3f}" if stderr else "")


FID = Column("FID (judge) ↓", number("fid", ".2f"))
TIE = Column("tie", text("tie"), right=False)
BITS = Column("bits/dim ↓", bits)
BOUND = Column("bound", text("likelihood_bound"), right=False)
MSE = Column("MSE ↓", number("reconstruction_mse", ".5f"))

QUESTIONS = (
    Question(
        "How good are the samples?",
        "fid",
        (FID, Column("over judges", fid_range), TIE),
        "FID (judge): lower is better. It is measured on the features of the pipeline's own "
        "judges and cannot be compared with FIDs on Inception features. Models that share a "
        f"letter are a tie: with a single training seed, FIDs within a factor of {TIE_FACTOR} of "
        "each other tell nothing apart.",
    ),
    Question(
        "How well is an unseen image predicted?",
        "bits_per_dim",
        (BITS, BOUND, Column("nats/image ↓", number("nats_per_image", ".1f"))),
        "bits/dim: lower is better, ± standard error over the images. `exact` is the value "
        "itself; `elbo` and `vlb` are upper bounds on the true bits/dim, which may be lower; "
        "`code length` is the size of a file.",
    ),
    Question(
        "How much of an image survives encoding?",
        "reconstruction_mse",
        (
            MSE,
            Column("PSNR (dB) ↑", number("reconstruction_psnr", ".1f")),
            Column("decoded from", text("reconstruction_kind"), right=False),
        ),
        "MSE: lower is better, white is 1. PSNR: higher is better. Codes of different sizes and "
        "kinds are not alike, so this ranks reconstructions and not models.",
    ),
    Question(
        "What did it cost?",
        "parameters",
        (
            Column("parameters ↓", number("parameters", ",")),
            Column("images seen ↓", number("images_seen", ",")),
            Column("family", text("family"), right=False),
        ),
        "Images seen: training images, with repetition. Time depends on the machine and is not "
        "in this table.",
    ),
)

TERMINAL = (
    Column("FID", number("fid", ".2f")),
    TIE,
    Column("bits/dim", number("bits_per_dim", ".3f")),
    BOUND,
)


def ties(fids: Sequence[float]) -> list[str]:
    """Letters for ascending FIDs; two that share a letter are within `TIE_FACTOR`.

    Being tied is not transitive, so one FID may have several letters: each stands for a largest
    group whose members are all tied with each other (a compact letter display, Piepho 2004).
    """
    letters: list[list[str]] = [[] for _ in fids]
    groups = end = 0
    for start in range(len(fids)):
        stop = start
        while stop < len(fids) and fids[stop] <= TIE_FACTOR * fids[start]:
            stop += 1
        if stop > end:
            for members in letters[start:stop]:
                members.append(_letter(groups))
            groups, end = groups + 1, stop
    return [" ".join(members) for members in letters]


def ranked(rows: Sequence[Row], key: str) -> list[Row]:
    """Rows of the common protocol by ascending ``key``, ties in value in their given order.

    Models without a value follow, failed ones last; reference rows without one are left out.
    """
    kept = [
        row
        for row in rows
        if row["status"] != OTHER and (row["kind"] == "model" or row.get(key) is not None)
    ]

    def place(row: Row) -> tuple[bool, float]:
        value = row.get(key)
        return row["status"] == FAILED, math.inf if value is None else value

    return sorted(kept, key=place)


def with_ties(rows: Sequence[Row]) -> list[Row]:
    """Rows, which are in ascending order of FID, with the letters of `ties` as ``tie``.

    Models without FID and reference rows, which were not trained, have none.
    """
    judged = [row for row in rows if row["kind"] == "model" and row.get("fid") is not None]
    letters = dict(
        zip((row["model"] for row in judged), ties([row["fid"] for row in judged]), strict=True)
    )
    # A model may bear the name of a reference row.
    return [
        {**row, "tie": letters.get(row["model"], "") if row["kind"] == "model" else ""}
        for row in rows
    ]


def to_markdown(rows: Sequence[Row], reference: Row) -> str:
    """The page for people: a table for each question, and what could not be compared."""
    lines = ["# Comparison", "", _measured(reference), ""]
    failed = [row["model"] for row in rows if row["status"] == FAILED]
    if failed:
        lines += [f"**Failed**, so without numbers: {', '.join(failed)}.", ""]
    for question in QUESTIONS:
        answers = ranked(rows, question.key)
        if question.key == "fid":
            answers = with_ties(answers)
        lines += [f"## {question.title}", "", *_table(question.columns, answers), ""]
        lines += [question.note, ""]
    others = [row for row in rows if row["status"] == OTHER]
    if others:
        lines += _other_protocols(others, reference)
    return "\n".join(lines).rstrip("\n") + "\n"


def problems(rows: Sequence[Row]) -> list[str]:
    """A line for each model that is not ranked, and why."""
    why = {FAILED: "it has no metrics, so it failed", OTHER: "it was judged by another protocol"}
    return [
        f"warning: {row['model']} is not ranked: {why[row['status']]}"
        for row in rows
        if row["status"] in why
    ]


def summary(rows: Sequence[Row]) -> str:
    """FID and likelihood of all rows by ascending FID, in plain ASCII for any terminal.

    Reference rows are in parentheses; models of another protocol are left out.
    """
    ordered = with_ties(ranked(rows, "fid"))
    ordered += [
        row
        for row in ranked(rows, "bits_per_dim")
        if row["kind"] == "reference" and row.get("fid") is None
    ]
    names = [row["model"] if row["kind"] == "model" else f"({row['model']})" for row in ordered]
    table = [["model", *(column.title for column in TERMINAL)]]
    table += [[name, *_cells(TERMINAL, row)] for name, row in zip(names, ordered, strict=True)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )


def _measured(reference: Row) -> str:
    """One paragraph on what all numbers have in common."""
    return (
        f"{reference['dataset']}: {reference['n_samples']:,} samples of each model against "
        f"{reference['n_reference']:,} images of the {reference['reference_split']} split, FID on "
        f"`{reference['fid_features']}`, protocol `{reference['protocol']}`. Rows in italics are "
        "references that need no training: a scale to read the others by. Best first."
    )


def _table(columns: Sequence[Column], rows: Iterable[Row]) -> list[str]:
    """A Markdown table, reference rows in italics under their labels."""
    lines = [
        "| " + " | ".join(["model", *(column.title for column in columns)]) + " |",
        "|" + "|".join(["---", *("---:" if column.right else "---" for column in columns)]) + "|",
    ]
    for row in rows:
        cells = [row["label"], *_cells(columns, row)]
        if row["kind"] == "reference":
            cells = [f"*{cell}*" if cell else "" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cells(columns: Sequence[Column], row: Row) -> list[str]:
    if row["status"] == FAILED:
        return [FAILED] + [""] * (len(columns) - 1)
    return [column.cell(row) for column in columns]


def _other_protocols(rows: Sequence[Row], reference: Row) -> list[str]:
    """The section of models that can't be ranked, in the order of params.yaml."""

    def differences(row: Row) -> str:
        keys = [key for key in reference if key not in ("rows", "protocol")]
        found = [
            f"{key} {_short(row.get(key))}, not {_short(reference[key])}"
            for key in keys
            if row.get(key) != reference[key]
        ]
        return "; ".join(found) or f"protocol {row.get('protocol')}"

    columns = (Column("what differs", differences, right=False), FID, BITS, BOUND, MSE)
    return [
        "## Not comparable: other protocol",
        "",
        *_table(columns, rows),
        "",
        "These numbers were measured by other rules than those above, and are not ranked.",
    ]


def _short(value: Any) -> str:
    """A value for people: of a hash, its beginning."""
    return str(value)[:12]


def _letter(index: int) -> str:
    """a to z, then a1 to z1 and so on."""
    round_, place = divmod(index, len(string.ascii_lowercase))
    return string.ascii_lowercase[place] + (str(round_) if round_ else "")
