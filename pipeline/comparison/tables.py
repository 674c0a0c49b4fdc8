"""The page for people: a table for each of `questions`, and a short one for the terminal.

A table lists the models that have what it ranks, names the others below it, and drops columns
that nobody has anything in. Nothing here knows a model or a family by name.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from pipeline.comparison import opinions, results, spread, ties
from pipeline.comparison.collect import COLUMNS, FAILED, OK, OTHER, Row
from pipeline.comparison.questions import (
    ACCURACY,
    BITS,
    BOUND,
    FID,
    MSE,
    NOTHING,
    QUESTIONS,
    TERMINAL,
    TRANSLATED,
    Column,
    Question,
)
from pipeline.core import paths

OWN = ("folder", "unpaired-folder")
"""Data sets that are a person's own, of which the name says nothing."""
MARK = "†"
"""Stands beside a model of which a table's reader must know something; the line below says what."""

FEW = 300
"""Of fewer images than this, FIDs move so much that it is said."""


def ranked(rows: Sequence[Row], key: str, descending: bool = False) -> list[Row]:
    """Rows of the common protocol that have ``key``, in its order, then the models that failed.

    The smallest value comes first, or the largest if ``descending``; equal ones keep their order.
    """
    common = [row for row in rows if row["status"] == OK and row.get(key) is not None]
    best_first = sorted(common, key=lambda row: -row[key] if descending else row[key])
    return best_first + [row for row in rows if row["status"] == FAILED]


def with_ties(rows: Sequence[Row]) -> list[Row]:
    """Rows with the letters (`ties.letters`) by FID, as ``tie``, and by bits/dim, as ``bits_tie``.

    Models without these and reference rows, which were not trained, have none; and none have
    ``bits_tie`` that were trained once, since nothing is known of their spread.
    """
    judged = [row for row in rows if row["kind"] == "model" and row.get("fid") is not None]
    letters = _letters(judged, "fid")
    likely = _letters([row for row in rows if row.get("bits_per_dim_trained_low")], "bits_per_dim")
    # A model may bear the name of a reference row.
    return [
        {**row, "tie": letters.get(row["model"], ""), "bits_tie": likely.get(row["model"], "")}
        if row["kind"] == "model"
        else {**row, "tie": "", "bits_tie": ""}
        for row in rows
    ]


def _letters(rows: Sequence[Row], key: str) -> dict[str, str]:
    names = (row["model"] for row in rows)
    return dict(zip(names, ties.letters([ties.interval(row, key) for row in rows]), strict=True))


def peculiar(row: Row, reference: Row) -> Row:
    """What no other column shows: facts about a model (text), and measures of its own (numbers).

    The summands of its likelihood, which have no meaning outside its family, are not among them.
    """
    shown = {*COLUMNS, *spread.COLUMNS, *reference}
    return {
        key: value
        for key, value in row.items()
        if value is not None and key not in shown and not key.startswith("likelihood_")
    }


@dataclass(frozen=True)
class Answer:
    """The table of one question, and what stands below it.

    Attributes:
        question: what is answered.
        columns: those in which some row has something.
        rows: best first, reference rows among them.
        facts: what the reader must know of a model, by name, told in the first table that lists it.
        without: models to which the question does not apply.
        notes: how to read the table.
    """

    question: Question
    columns: list[Column]
    rows: list[Row]
    facts: dict[str, list[str]]
    without: list[str]
    notes: str


def answers(rows: Sequence[Row], reference: Row) -> list[Answer]:
    """An answer to each of `pipeline.comparison.questions` to which some model has one."""
    waiting = {row["model"]: _facts(row, reference) for row in rows if row["kind"] == "model"}
    found = (_answer(question, rows, waiting) for question in QUESTIONS)
    return [each for each in found if each is not None]


def to_markdown(rows: Sequence[Row], reference: Row, title: str) -> str:
    """The page for people: a table for each question, and what could not be compared."""
    lines = ["# Comparison", "", measured(reference, title), ""]
    lines += [line for caution in cautions(reference, rows) for line in (f"**{caution}**", "")]
    failed = [row["model"] for row in rows if row["status"] == FAILED]
    if failed:
        lines += [f"**No metrics**, since they failed or were not run: {', '.join(failed)}.", ""]
    for answer in answers(rows, reference):
        marked = [name for name, facts in answer.facts.items() if facts]
        lines += [f"## {answer.question.title}", ""]
        lines += [*markdown(answer.columns, answer.rows, marked), ""]
        lines += [f"{MARK} {name}: {'; '.join(answer.facts[name])}.\n" for name in marked]
        if answer.without:
            lines += [f"{NOTHING} for {', '.join(answer.without)}.", ""]
        lines += [answer.notes, ""]
    lines += _own_errors(rows, reference)
    others = [row for row in rows if row["status"] == OTHER]
    if others:
        lines += _other_protocols(others, reference)
    return "\n".join(lines).rstrip("\n") + "\n"


def problems(rows: Sequence[Row], home: paths.Results) -> list[str]:
    """A line for each model of a data set that is not ranked, and why."""
    why = {
        FAILED: "it has no metrics: it failed, or was not run",
        OTHER: "it was judged by another protocol",
    }
    found = [
        f"warning: {row['model']} is not ranked: {why[row['status']]}"
        for row in rows
        if row["status"] in why
    ]
    stale = [row for row in rows if row.get(spread.STALE)]
    return found + [
        f"warning: {home.thorough_metrics(row['model'])} is of {row[spread.STALE]}, and left out; "
        "`make thorough` renews it"
        for row in stale
    ]


def standing(rows: Sequence[Row]) -> list[Row]:
    """Rows by ascending FID, those without one by ascending bits/dim, then MSE, with their ties.

    Failed models come last; models of another protocol are left out, and references that have none
    of the three.
    """

    def place(row: Row) -> list[float]:
        values = (row.get(key) for key in ("fid", "bits_per_dim", "reconstruction_mse"))
        return [math.inf if value is None else value for value in values]

    listed = [
        row
        for row in rows
        if row["status"] != OTHER and (row["kind"] == "model" or filled(TERMINAL, [row]))
    ]
    return with_ties(sorted(listed, key=lambda row: (row["status"] == FAILED, place(row))))


def summary(rows: Sequence[Row]) -> str:
    """The main figures of `standing` in plain ASCII, with references in parentheses."""
    ordered = standing(rows)
    columns = filled(TERMINAL, ordered)
    names = [row["model"] if row["kind"] == "model" else f"({row['model']})" for row in ordered]
    table = [
        [name, *("-" if cell == NOTHING else cell for cell in cells(columns, row))]
        for name, row in zip(names, ordered, strict=True)
    ]
    heads = ["model", *(column.title for column in columns)]
    return tabulate(table, heads, tablefmt="plain", disable_numparse=True)


def called(reference: Row, title: str) -> str:
    """What to call the images of a data set with this title."""
    return title if reference["dataset"] in OWN else reference["dataset"]


def measured(reference: Row, title: str) -> str:
    """One paragraph on what all numbers have in common; ``title`` is that of the data set."""
    features = reference.get("second_features")
    second = f", second FID on `{features}`" if features else ""
    return (
        f"{called(reference, title)}: {reference['n_samples']:,} samples of each model against "
        f"{reference['n_reference']:,} images of the {reference['reference_split']} split, FID on "
        f"`{reference['fid_features']}`{second}, protocol `{reference['protocol']}`. Rows in "
        "italics are references that need no training: a scale to read the others by. Best first."
    )


def cautions(reference: Row, rows: Sequence[Row], *, named: bool = True) -> list[str]:
    """What a reader must know of the judges and of their numbers here, a sentence each.

    With ``named``, models on which the judges do not agree are named.
    """
    differ = opinions.disagreement(rows, reference, named=named)
    found = [differ] if differ else []
    verdict = reference.get("judges")
    if not verdict:
        return found
    if not verdict["ranks"]:
        found.append(
            "These FIDs, and all else that the judges say, rank nothing, because "
            f"{'; '.join(verdict['reasons'])}."
        )
    if verdict["shifted"]:
        found.append(
            f"The {reference['reference_split']} split shows other images than the training split: "
            f"the FID between them is {verdict['shift']:.1f} times that between two halves of the "
            "training images, so that no model that learns these can have a low one."
        )
    found += [
        f"The second FIDs rank nothing, because {'; '.join(each['reasons'])}."
        for each in verdict["kinds"][1:]
        if not each["ranks"]
    ]
    if verdict["floor_n"] < FEW:
        low, high = min(verdict["floor"]), max(verdict["floor"])
        found.append(
            f"FIDs are of {verdict['floor_n']:,} images: two halves of the training images, of as "
            f"many each, have {low:.2f} to {high:.2f} themselves, by which images these are. What "
            "is closer than that is not told apart."
        )
    return found


def _answer(
    question: Question, rows: Sequence[Row], waiting: dict[str, list[str]]
) -> Answer | None:
    """The answer to one question, or None if no row has what it asks for.

    Args:
        question: what is answered.
        rows: all of them.
        waiting: by model, what readers of the first table that lists it must know; what is told
            here is taken out.
    """
    listed = ranked([*rows, *_scales(question, rows)], question.key, question.descending)
    if all(row["status"] == FAILED for row in listed):
        return None
    listed = with_ties(listed)
    columns = filled(question.columns, listed)
    return Answer(
        question,
        columns,
        listed,
        facts={
            row["model"]: waiting.pop(row["model"], [])
            for row in listed
            if row["kind"] == "model" and row["status"] == OK
        },
        without=[
            row["model"]
            for row in rows
            if row["kind"] == "model" and row["status"] == OK and row.get(question.key) is None
        ],
        notes=" ".join([question.note, *(column.note for column in columns if column.note)]),
    )


def _scales(question: Question, rows: Sequence[Row]) -> list[Row]:
    """Reference rows that the models' metrics hold; models that agree on one share it."""
    found = []
    for scale in question.scales:
        for row in rows:
            if row["kind"] != "model" or row["status"] != OK:
                continue
            values = {key: row.get(source) for key, source in scale.sources.items()}
            named = {"kind": "reference", "status": OK, "model": scale.label, "label": scale.label}
            if {**named, **values} not in found:
                found.append({**named, **values})
    return found


def markdown(
    columns: Sequence[Column], rows: Iterable[Row], marked: Sequence[str] = ()
) -> list[str]:
    """A Markdown table, models that are ``marked`` with `MARK`, reference rows in italics."""
    lines = [
        "| " + " | ".join(["model", *(column.title for column in columns)]) + " |",
        "|" + "|".join(["---", *("---:" if column.right else "---" for column in columns)]) + "|",
    ]
    for row in rows:
        shown = [row["label"], *cells(columns, row)]
        if row["kind"] == "reference":
            shown = [f"*{cell}*" if cell else "" for cell in shown]
        elif row["model"] in marked:
            shown[0] += f" {MARK}"
        lines.append("| " + " | ".join(shown) + " |")
    return lines


def filled(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """The columns in which some row has something."""
    measured = [row for row in rows if row["status"] != FAILED]
    return [
        column
        for column in columns
        if any(column.cell(row) not in (NOTHING, "") for row in measured)
    ]


def cells(columns: Sequence[Column], row: Row) -> list[str]:
    """What the columns show of a row; of a failed one, that it failed."""
    if row["status"] == FAILED:
        return [FAILED, *[""] * len(columns)][: len(columns)]
    return [column.cell(row) for column in columns]


def _facts(row: Row, reference: Row) -> list[str]:
    """What a reader must know about a model, such as 'latent density: one Gaussian'."""
    return [
        f"{key.replace('_', ' ')}: {value}"
        for key, value in sorted(peculiar(row, reference).items())
        if isinstance(value, str)
    ]


def _own_errors(rows: Sequence[Row], reference: Row) -> list[str]:
    """The section of what only one family measures."""
    found = [
        f"| {row['label']} | {key.replace('_', ' ')} | {value:.5g} |"
        for row in rows
        if row["kind"] == "model" and row["status"] == OK
        for key, value in sorted(peculiar(row, reference).items())
        if not isinstance(value, str)
    ]
    if not found:
        return []
    return [
        "## What else was measured?",
        "",
        "| model | measure of its own | value |",
        "|---|---|---:|",
        *found,
        "",
        "Of the images of the evaluated split; what each is stands in docs/metrics.md. No two "
        "families have these in common, so they rank nothing.",
        "",
    ]


def _other_protocols(rows: Sequence[Row], reference: Row) -> list[str]:
    """The section of models that can't be ranked, in the order of params.yaml."""

    def differences(row: Row) -> str:
        keys = [key for key in reference if key not in (*results.NOT_SHARED, "protocol")]
        found = [
            f"{key} {_short(row.get(key))}, not {_short(reference[key])}"
            for key in keys
            if row.get(key) != reference[key]
        ]
        return "; ".join(found) or f"protocol {row.get('protocol')}"

    differing = Column("what differs", differences, right=False)
    columns = (differing, FID, ACCURACY, BITS, BOUND, MSE, *TRANSLATED)
    return [
        "## Not comparable: other protocol",
        "",
        *markdown(filled(columns, rows), rows),
        "",
        "These numbers were measured by other rules than those above, and are not ranked.",
    ]


def _short(value: Any) -> str:
    """A value for people: of a hash, its beginning."""
    return str(value)[:12]
