"""Which model to take: the answers of all tables in a few lines, each with its caveats.

Ties are those of the tables (`ties.interval`): what they do not tell apart is not told apart
here. No answer is better than the numbers that it names.
"""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.comparison import tables, ties
from pipeline.comparison.collect import OK, Row
from pipeline.comparison.questions import number
from pipeline.comparison.ties import TIE_FACTOR

WIDTH = 100
"""Of lines in a terminal."""


@dataclass(frozen=True)
class Recommendation:
    """What to take for one purpose.

    Attributes:
        purpose: such as ``best samples``.
        model: its name.
        value: its numbers, for people.
        tied: models from which nothing tells it apart, best first.
        caveats: what a reader must know, a sentence each.
        alone: what to say where nothing is tied.
    """

    purpose: str
    model: str
    value: str
    tied: tuple[str, ...]
    caveats: tuple[str, ...]
    alone: str = ""

    def sentence(self) -> str:
        """All of it but the purpose, in one line."""
        told = f"{self.model}, {self.value}"
        if self.tied:
            told += f", tied with {', '.join(self.tied)}"
        elif self.alone:
            told += f", {self.alone[0].lower()}{self.alone[1:].rstrip('.')}"
        return f"{told} ({'; '.join(self.caveats)})" if self.caveats else told


@dataclass(frozen=True)
class Purpose:
    """What is looked for: the smallest value of ``key``.

    Attributes:
        name: for people.
        key: the metric.
        value: shows it.
        guess: whether single trainings are a tie within `TIE_FACTOR`, as FIDs are.
        caveats: what there is to know of the best row.
        serves: which rows are looked at.
        narrower: whether it asks less than one before it, so that it needs no answer where that
            one has the same.
    """

    name: str
    key: str
    value: Callable[[Row], str]
    guess: bool
    caveats: Callable[[Row], list[str]]
    serves: Callable[[Row], bool] = lambda row: True
    narrower: bool = False


def _sample_caveats(row: Row) -> list[str]:
    found = []
    if row.get("label_accuracy") is not None:
        found.append("it is told which class to draw, which models without labels are not")
    if row.get("coverage") is not None and row["coverage"] < 0.9:
        found.append(
            f"its samples cover {100 * row['coverage']:.0f} % of the real images' neighbourhoods"
        )
    for key in ("latent_density", "prior"):
        if row.get(key):
            found.append(f"its samples are as much those of its {key.replace('_', ' ')}")
    return found


def _likelihood_caveats(row: Row) -> list[str]:
    if row.get("likelihood_bound") == "exact":
        return []
    return [f"an upper bound ({row.get('likelihood_bound')}), so the true value may be lower"]


def _code_caveats(row: Row) -> list[str]:
    return ["codes differ in size, so this ranks reconstructions and not models"]


PURPOSES = (
    Purpose(
        "best samples",
        "fid",
        lambda row: f"FID {number('fid', '.2f')(row)} on the judges' features",
        True,
        _sample_caveats,
    ),
    Purpose(
        "best samples without labels",
        "fid",
        lambda row: f"FID {number('fid', '.2f')(row)}",
        True,
        _sample_caveats,
        lambda row: row.get("label_accuracy") is None,
        narrower=True,
    ),
    Purpose(
        "best likelihood",
        "bits_per_dim",
        lambda row: f"{number('bits_per_dim', '.3f')(row)} bits/dim",
        False,
        _likelihood_caveats,
    ),
    Purpose(
        "best reconstruction",
        "reconstruction_mse",
        lambda row: f"MSE {number('reconstruction_mse', '.5f')(row)}",
        False,
        _code_caveats,
    ),
)


def answers(rows: Sequence[Row]) -> list[Recommendation]:
    """The best for each of `PURPOSES` that some model serves, and the cheapest that ties with it.

    Args:
        rows: from `collect.project_rows`.
    """
    found = []
    for purpose in PURPOSES:
        best, tied = standing(rows, purpose)
        if best is None or (purpose.narrower and found[:1] and found[0].model == best["model"]):
            continue
        listed = served(rows, purpose)
        caveats = [*purpose.caveats(best), *_trained_once(purpose, best, tied, listed)]
        known = all(_comparable(purpose, best, row) for row in listed)
        found.append(
            Recommendation(
                purpose.name,
                best["model"],
                purpose.value(best),
                tuple(row["model"] for row in tied),
                tuple(caveats),
                "Tied with no other." if known else "",
            )
        )
        found += _cheapest(purpose, [best, *tied])
    return found


def standing(rows: Sequence[Row], purpose: Purpose) -> tuple[Row | None, list[Row]]:
    """The best model, and those whose intervals overlap with its own, best first."""
    listed = served(rows, purpose)
    if not listed:
        return None, []
    best, *others = listed
    known = [row for row in others if _comparable(purpose, best, row)]
    marks = ties.letters([ties.interval(row, purpose.key) for row in (best, *known)])
    mine = set(marks[0].split())
    return best, [
        row for row, each in zip(known, marks[1:], strict=True) if mine & set(each.split())
    ]


def served(rows: Sequence[Row], purpose: Purpose) -> list[Row]:
    """The models that serve a purpose, best first."""
    return [
        row
        for row in tables.ranked(rows, purpose.key)
        if row["kind"] == "model" and row["status"] == OK and purpose.serves(row)
    ]


def text(rows: Sequence[Row]) -> str:
    """A paragraph for each answer, for a terminal."""
    found = answers(rows)
    width = max((len(each.purpose) for each in found), default=0) + 2
    lines = [
        textwrap.fill(
            each.sentence(),
            WIDTH,
            initial_indent=each.purpose.ljust(width),
            subsequent_indent=" " * width,
        )
        for each in found
    ]
    return "\n".join(lines).replace("±", "+-")


def _comparable(purpose: Purpose, *rows: Row) -> bool:
    """Whether anything is known of what another training would give."""
    return purpose.guess or all(_several(purpose, row) for row in rows)


def _several(purpose: Purpose, row: Row) -> bool:
    return row.get(f"{purpose.key}_trained_low") is not None


def _trained_once(
    purpose: Purpose, best: Row, tied: Sequence[Row], listed: Sequence[Row]
) -> list[str]:
    once = [row["model"] for row in (best, *tied) if not _several(purpose, row)]
    if purpose.guess and len(once) == 1 + len(tied):
        return [
            f"of a single training each, so what is within a factor of {TIE_FACTOR} is a tie "
            "(make thorough tells more)"
        ]
    if purpose.guess and once:
        return [f"ties by a guess, of a single training: {', '.join(once)} (make thorough tells)"]
    if once:
        return ["of a single training, so nothing is known of ties (make thorough tells)"]
    if not all(_comparable(purpose, row) for row in listed):
        return ["nothing is known of ties with models of a single training (make thorough tells)"]
    return []


def _cheapest(purpose: Purpose, tied: Sequence[Row]) -> list[Recommendation]:
    """Which of several models that tie takes the fewest operations to train."""
    costed = [row for row in tied if row.get("training_flops_per_image") is not None]
    if len(tied) < 2 or not costed:
        return []
    row = min(costed, key=_training_flops)
    value = f"{_training_flops(row) / 1e12:.2f} TFLOP of training"
    if row.get("sampling_flops"):
        value += f" and {row['sampling_flops'] / 1e6:,.1f} MFLOP per sample"
    caveats = [purpose.value(row), "operations are no measure of time"]
    unknown = [row["model"] for row in tied if row not in costed]
    if unknown:
        caveats.append(f"nothing is known of the cost of {', '.join(unknown)}")
    return [Recommendation("  cheapest of these", row["model"], value, (), tuple(caveats))]


def _training_flops(row: Row) -> float:
    return row["training_flops_per_image"] * row["images_seen"]
