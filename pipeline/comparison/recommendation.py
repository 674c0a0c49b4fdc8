"""Which model to take for these images: the answers of all tables in a few sentences.

Each number stands beside what it is read against, and all that it rests on is said once. Ties are
those of the tables (`ties.interval`): what they do not tell apart is not told apart here. No answer
is better than the numbers that it names.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.comparison import opinions, purposes, tables, ties
from pipeline.comparison.collect import OK, Row
from pipeline.comparison.purposes import Purpose
from pipeline.comparison.ties import TIE_FACTOR

WIDTH = 100
"""Of lines in a terminal."""
NAMED = 4
"""Classes that are called by their names."""
KEYS = ("fid", "bits_per_dim", "reconstruction_mse")
"""What another training may move, and answers are about."""


@dataclass(frozen=True)
class Recommendation:
    """What to take for one purpose.

    Attributes:
        purpose: such as ``best samples``.
        model: its name.
        family: its family.
        value: its numbers, for people.
        scale: what these are read against; empty where nothing is known.
        tied: models from which nothing tells it apart, best first.
        second: what the other kind of judges says of it; empty where there is none.
        caveats: what a reader must know, a sentence each.
        alone: what to say where nothing is tied.
    """

    purpose: str
    model: str
    family: str
    value: str
    tied: tuple[str, ...]
    caveats: tuple[str, ...]
    scale: str = ""
    second: str = ""
    alone: str = ""

    @property
    def name(self) -> str:
        """The model, and its family where that is called otherwise."""
        return self.model if self.model == self.family else f"{self.model} (family {self.family})"

    @property
    def number(self) -> str:
        """The value with its scale."""
        return f"{self.value}, {self.scale}" if self.scale else self.value

    def notes(self) -> list[str]:
        """What else there is to know, a few words each."""
        tied = f"tied with {', '.join(self.tied)}" if self.tied else self.alone
        return [each for each in (tied, self.second, *self.caveats) if each]

    def sentence(self) -> str:
        """All of it but the purpose, in one line."""
        return "; ".join([f"{self.name}, {self.number}", *self.notes()])


def answers(rows: Sequence[Row], reference: Row | None = None) -> list[Recommendation]:
    """The best for each purpose (`purposes.PURPOSES`), and the cheapest model that ties with it.

    Where the judges of the headline rank nothing, samples are compared by those of the other kind;
    where these do not either, there is no answer.

    Args:
        rows: from `collect.project_rows`.
        reference: from `collect.read_reference`; None if nothing is known of the judges.
    """
    known, found = purposes.references(rows), []
    _, second = purposes.ranking(reference)
    for purpose in _purposes(reference):
        best, tied = standing(rows, purpose)
        if best is None or (purpose.narrower and found[:1] and found[0].model == best["model"]):
            continue
        listed = served(rows, purpose)
        caveats = [*purpose.caveats(best, known), *_trained_once(purpose, best, tied, rows)]
        told = all(_comparable(purpose, best, row) for row in listed)
        found.append(
            Recommendation(
                purpose.name,
                best["model"],
                best["family"],
                purpose.value(best),
                tuple(row["model"] for row in tied),
                tuple(caveats),
                purpose.scale(best, known),
                opinions.opinion(rows, best["model"]) if second and purpose.key == "fid" else "",
                "tied with no other" if told else "",
            )
        )
        found += [
            each
            for each in _cheapest(purpose, [best, *tied])
            if each.model not in [one.model for one in found if one.purpose == each.purpose]
        ]
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
    return [row for row in _ranked(rows, purpose.key) if purpose.serves(row)]


def opening(rows: Sequence[Row], reference: Row, title: str) -> str:
    """What images these are, and what all answers rest on.

    Args:
        rows: from `collect.project_rows`.
        reference: from `collect.read_reference`.
        title: of the data set.
    """
    n, split = reference["n_reference"], reference["reference_split"]
    told = f"FIDs are of {n:,} {split} images and as many samples"
    if verdict := reference.get("judges"):
        one, *other = (
            f"{len(each['accuracy'])} {opinions.NAMES[each['kind']]}" for each in verdict["kinds"]
        )
        told += f", by {one}" + (f" and, for a second opinion, {other[0]}" if other else "")
    return " ".join(each for each in (images(reference, title), f"{told}.", _rests(rows)) if each)


def shortfalls(rows: Sequence[Row], reference: Row | None = None) -> str:
    """Which models are no better than what learns next to nothing, in a sentence.

    Without reference rows that say what this is, the sentence is empty.
    """
    known = purposes.references(rows)
    key = purposes.sample_key(reference)
    nothing, name = purposes.unlearnt(known, key)
    limits = [
        (key, purposes.CALLED.get(key, ""), nothing, ".2f", name),
        (
            "bits_per_dim",
            "bits/dim",
            purposes.value_of(known, purposes.PNG, "bits_per_dim"),
            ".3f",
            "PNG",
        ),
        (
            "reconstruction_mse",
            "MSE",
            purposes.value_of(known, "mean", "reconstruction_mse"),
            ".5f",
            purposes.UNLEARNT["mean"],
        ),
    ]
    failed, passed = [], []
    if not key and any(row.get("fid") is not None for row in rows):
        failed.append("of samples nothing can be said, as no judges see what is known to be worse")
    for key, unit, limit, form, what in limits:
        listed = _ranked(rows, key)
        if limit is None or not listed:
            continue
        behind = [f"{row['model']} ({row[key]:{form}})" for row in listed if row[key] >= limit]
        if behind:
            failed.append(f"in {unit} no better than {what} ({limit:{form}}): {', '.join(behind)}")
        else:
            passed.append(f"{what} in {unit}")
    if failed:
        return f"{'; '.join(failed)}"
    return f"no model: all are better than {purposes.listed(passed)}" if passed else ""


def text(rows: Sequence[Row], reference: Row, title: str, gate: str = "") -> str:
    """A paragraph for each answer, for a terminal, between what they rest on and what they lack.

    Args:
        rows: from `collect.project_rows`.
        reference: from `collect.read_reference`.
        title: of the data set.
        gate: whether a change made it worse, from `pipeline.gate.command.told`.
    """
    told = [(each.purpose, each.sentence()) for each in answers(rows, reference)]
    if not told:
        return "nothing can be recommended: no model has metrics that rank it"
    told += [("falls short", shortfalls(rows, reference))]
    told += [("mind", " ".join(tables.cautions(reference, rows, named=False)))]
    told += [("after a change", gate)]
    width = max(len(label) for label, _ in told) + 2
    lines = [
        textwrap.fill(
            sentence, WIDTH, initial_indent=label.ljust(width), subsequent_indent=" " * width
        )
        for label, sentence in told
        if sentence
    ]
    head = textwrap.fill(opening(rows, reference, title), WIDTH)
    return "\n".join([head, "", *lines]).replace("±", "+-")


def images(reference: Row, title: str) -> str:
    """What images these are, in a sentence that begins with what they are called."""
    name, found = tables.called(reference, title), reference.get("images")
    if not found:
        return f"{name}."
    channels, height, width = found["shape"]
    classes = found["classes"]
    shown = classes if len(classes) <= NAMED else [*classes[: NAMED - 1], "..."]
    within = (
        f"in {len(classes):,} classes ({', '.join(shown)})"
        if len(classes) > 1
        else "without labels"
    )
    total = sum(found[split] for split in ("train", "val", "test"))
    return (
        f"{name}: {total:,} {'grey' if channels == 1 else 'colour'} images of {width}x{height} "
        f"pixels {within}, {found['train']:,} of them to train on."
    )


def _rests(rows: Sequence[Row]) -> str:
    """On how many trainings answers rest, and what is a tie."""
    models = [row for row in rows if row["kind"] == "model" and row["status"] == OK]
    if not models:
        return ""
    if _all_once(rows):
        return (
            f"Each model was trained once: FIDs within a factor of {TIE_FACTOR} are a tie, and of "
            "ties in bits/dim and MSE nothing is known (make thorough tells)."
        )
    counts = {row.get("trainings", 1) for row in models}
    often = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{max(counts)}"
    return (
        f"Each model was trained {often} times, and a tie is where the 95 % intervals over "
        "trainings overlap."
    )


def _all_once(rows: Sequence[Row]) -> bool:
    """Whether nothing at all is known of what another training would give."""
    return all(row.get(f"{key}_trained_low") is None for row in rows for key in KEYS)


def _purposes(reference: Row | None) -> tuple[Purpose, ...]:
    key = purposes.sample_key(reference)
    if key == "fid":
        return purposes.PURPOSES
    others = tuple(each for each in purposes.PURPOSES if each.key != "fid")
    return (*purposes.BY_SECOND, *others) if key else others


def _ranked(rows: Sequence[Row], key: str) -> list[Row]:
    """The models that have ``key`` and whose protocol is the common one, best first."""
    return [
        row for row in tables.ranked(rows, key) if row["kind"] == "model" and row["status"] == OK
    ]


def _comparable(purpose: Purpose, *rows: Row) -> bool:
    """Whether anything is known of what another training would give."""
    return purpose.guess or all(_several(purpose, row) for row in rows)


def _several(purpose: Purpose, row: Row) -> bool:
    return row.get(f"{purpose.key}_trained_low") is not None


def _trained_once(
    purpose: Purpose, best: Row, tied: Sequence[Row], rows: Sequence[Row]
) -> list[str]:
    """What is unknown of ties, where it is not the same of all models (`_rests` says that)."""
    if _all_once(rows):
        return []
    once = [row["model"] for row in (best, *tied) if not _several(purpose, row)]
    if purpose.guess and once:
        return [f"ties by a guess, of a single training: {', '.join(once)} (make thorough tells)"]
    if once:
        return ["of a single training, so nothing is known of ties (make thorough tells)"]
    if not all(_comparable(purpose, row) for row in served(rows, purpose)):
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
        fewest = min((each for each in costed if each.get("sampling_flops")), key=_sampling_flops)
        if fewest is not row and _sampling_flops(fewest) < _sampling_flops(row):
            value += f" (fewest: {fewest['model']}, {_sampling_flops(fewest) / 1e6:,.1f})"
    caveats = [purpose.value(row), "operations are no measure of time"]
    unknown = [row["model"] for row in tied if row not in costed]
    if unknown:
        caveats.append(f"nothing is known of the cost of {', '.join(unknown)}")
    return [Recommendation("  cheapest", row["model"], row["family"], value, (), tuple(caveats))]


def _training_flops(row: Row) -> float:
    return row["training_flops_per_image"] * row["images_seen"]


def _sampling_flops(row: Row) -> float:
    return row["sampling_flops"]
