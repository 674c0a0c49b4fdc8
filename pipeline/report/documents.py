"""The tables in README.md and docs/, from params.yaml, the families' own words and the metrics.

Those are of one data set (`SHOWN`); each other one that was compared has a page in docs/results/.

Nobody types a number or a paper: what stands between two markers is made here.
"""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline import families
from pipeline.comparison import collect, data_sets, opinions, recommendation, tables
from pipeline.comparison.collect import FAILED, OTHER, Row
from pipeline.comparison.questions import (
    BITS,
    BOUND,
    FID,
    MSE,
    SECOND,
    TIE,
    Column,
    training_tflop,
)
from pipeline.core import files, params, paths
from pipeline.core.contract import Family, HasLikelihood, Reconstructs, Samples, Translates
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.gate import baseline, compare
from pipeline.gate import rules as gate_rules
from pipeline.models import entries, weights
from pipeline.report import published

README = Path("README.md")
RESULTS = Path("docs/results.md")
GATE = Path("docs/gate.md")
JUDGES = Path("docs/judges.md")
OTHERS = Path("docs/results")
"""The folder of a page for each other data set, and of one that lists them."""
SHOWN = "mnist-5k"
"""The data set of README.md and docs/."""
ANY_SHAPE = ImageSpec(channels=1, height=28, width=28, classes=10)
"""Of images that models are built for here: what a family can do does not depend on it."""
FIGURES = (
    ("fid", "FID {:.2f}"),
    ("bits_per_dim", "{:.3f} bits/dim"),
    ("reconstruction_mse", "MSE {:.4f}"),
    ("label_accuracy", "label accuracy {:.3f}"),
    ("translation_fid_ab", "FID {:.2f} from A to B"),
    ("translation_fid_ba", "FID {:.2f} from B to A"),
)
"""The figures of a result that the table of models shows, where it has them."""
COLUMNS = (
    FID,
    TIE,
    SECOND,
    BITS,
    BOUND,
    MSE,
    Column("training TFLOP ↓", training_tflop),
)
"""Of the table in README.md, beside the model's name."""
SCALE = ("real", "noisy_20", "histogram", "pca_64", "noise")
"""Reference rows in it: the floor, a little damage, and what learns next to nothing."""
SIMULATED = 2000
"""Runs of the gate of which the rate of false alarms is taken."""
ARXIV = r"arXiv:(\d{4}\.\d{4,5})"
NAME = r"(?:(?:van|von|den|der|de) )*[A-Z][\w'-]+"
AUTHORS = rf"{NAME}(?:, {NAME})*(?: (?:&|and) {NAME}| et al\.)? \d{{4}}"


@dataclass(frozen=True)
class Part:
    """What is written between two markers, which stand in their document once each."""

    begin: str
    end: str
    text: Callable[[], str]


def write() -> None:
    """Put the tables between the markers of README.md and docs/, and write `OTHERS`.

    While params.yaml is of another data set than `SHOWN`, its tables stay as they are.

    Raises:
        PipelineError: if a file or a marker is missing.
    """
    title = params.results(params.read()).title
    # All of them, or none.
    made = {}
    if title == SHOWN:
        made = {path: rendered(_text(path, "restore it from git"), path) for path in DOCUMENTS}
    else:
        print(f"{', '.join(map(str, DOCUMENTS))}: of {SHOWN}, and {paths.PARAMS} is of {title}: "
              "left as they are")  # fmt: skip
    homes = [home for home in data_sets.homes() if home.title != SHOWN]
    made |= {OTHERS / f"{home.title}.md": other(home) for home in homes}
    if homes:
        made[OTHERS / "README.md"] = index(homes)
    with files.together() as written:
        for path, text in made.items():
            written.file(path).write_text(text, encoding="utf-8")


def other(home: paths.Results) -> str:
    """The page of a data set that is not `SHOWN`."""
    picture = ""
    if home.samples_picture.exists():
        picture = f"![samples](../../{home.samples_picture.as_posix()})\n\n"
    return (
        f"# {home.title}\n\nWritten by `make docs` from `{home.folder}/`. To go on with it: "
        f"`python -m pipeline datasets --switch {home.title}`, then `make repro`.\n\n"
        f"{picture}{_answer(home)}{_comparison(home).strip()}\n"
    )


def _answer(home: paths.Results) -> str:
    """What to take for these images; empty without the params.yaml that the results are of."""
    raw = params.read()
    if params.results(raw).title != home.title:
        if not home.params.exists():
            return ""
        raw = params.read(home.params)
    reference = collect.read_reference(home.reference)
    rows = collect.committed_rows(raw, reference)
    lines = _told(rows, reference)
    if short := recommendation.shortfalls(rows, reference):
        lines.append(f"- falls short: {short}")
    return "\n".join([recommendation.opening(rows, reference, home.title), "", *lines, "", ""])


def index(homes: Sequence[paths.Results]) -> str:
    """A table of the data sets that have pages."""
    lines = ["| results | images | models | best samples | by |", "|---|---|---:|---|---|"]
    for home in homes:
        found, reference = data_sets.facts(home), collect.read_reference(home.reference)
        images = recommendation.images(reference, home.title).partition(": ")[2].rstrip(".")
        lines.append(
            f"| [{home.title}]({home.title}.md) | {images or found['dataset']} | "
            f"{found['models']} | {found['best'] or 'no judges rank'} | {found['told'] or ''} |"
        )
    return "\n".join(
        [
            "# Other data sets",
            "",
            f"Written by `make docs`; the tables of {SHOWN} are in [results.md](../results.md). "
            "FIDs of different data sets do not compare: each has judges of its own.",
            "",
            *lines,
            "",
        ]
    )


def _comparison(home: paths.Results) -> str:
    """The tables of a data set for people, without their title."""
    _, _, page = _text(home.comparison_md, "run `make repro`").partition("\n")
    return page


def rendered(text: str, path: Path) -> str:
    """The ``text`` of a document with what belongs between its markers.

    Raises:
        PipelineError: if a marker is not there once, or what it should show is missing.
    """
    for part in DOCUMENTS[path]:
        if text.count(part.begin) != 1 or text.count(part.end) != 1:
            raise PipelineError(f"{path}: must hold {part.begin} and {part.end} once each")
        before, rest = text.split(part.begin)
        _, marker, after = rest.partition(part.end)
        if not marker:
            raise PipelineError(f"{path}: {part.end} must follow {part.begin}")
        text = f"{before}{part.begin}\n\n{part.text()}\n\n{part.end}{after}"
    return text


def _text(path: Path, remedy: str) -> str:
    try:
        return files.read_text(path, remedy)
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; {remedy}") from None


def leaders() -> str:
    """What to take, and the table of all models that it rests on, at most eight columns wide."""
    raw = params.read()
    home = params.results(raw)
    reference = collect.read_reference(home.reference)
    rows = collect.project_rows(raw, reference)
    listed = [
        row for row in tables.standing(rows) if row["kind"] == "model" or row["model"] in SCALE
    ]
    return "\n".join(
        [
            *_told(rows, reference),
            *(f"- **{each}**" for each in tables.cautions(reference, rows)),
            "",
            *tables.markdown(tables.filled(COLUMNS, listed), listed),
            "",
            f"{tables.measured(reference, home.title)} Models that share a letter are a tie: their "
            "95 % intervals over trainings overlap.",
        ]
    )


def _told(rows: Sequence[Row], reference: Row) -> list[str]:
    """What to take, an item of a list for each purpose."""
    return [
        f"- **{each.purpose.strip()}**: {each.sentence()}"
        for each in recommendation.answers(rows, reference)
    ]


def results() -> str:
    """comparison.md without its title, its headings one level lower."""
    page = _comparison(params.results(params.read()))
    return f"\n{page.strip()}".replace("\n## ", "\n### ").strip()


def evidence() -> str:
    """What the judges of each data set see of known damage."""
    found = []
    for home in data_sets.homes():
        reference = collect.read_reference(home.reference)
        found += [f"### {home.title}", "", opinions.evidence(reference, home.reference), ""]
    return "\n".join(found).strip()


def models() -> str:
    """A table of all models of params.yaml: papers, what they can do, and how well."""
    raw = params.read()
    home = params.results(raw)
    reference = collect.read_reference(home.reference)
    rows = collect.rows(params.model_blocks(raw), home.model_metrics, reference)
    lines = ["| model | family | papers | can | result |", "|---|---|---|---|---|"]
    for row in rows:
        if row["kind"] != "model":
            continue
        entry = entries.read(raw, row["model"])
        family = weights.build(entry, ANY_SHAPE, 0, torch.device("cpu"))
        cells = [
            row["model"],
            f"[{entry.family}](../pipeline/families/{entry.family}.py)",
            papers(row["model"], documentation(entry.family)),
            ", ".join(capabilities(family, row)),
            result(row),
        ]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def beside() -> str:
    """What papers report, beside the figures of the run."""
    raw = params.read()
    home = params.results(raw)
    reference = collect.read_reference(home.reference)
    rows = collect.rows(params.model_blocks(raw), home.model_metrics, reference)
    return published.table({row["model"]: result(row) for row in rows if row["kind"] == "model"})


def sensitivity() -> str:
    """What the gate stops: of each metric of each model, the first value that fails."""
    raw = params.read()
    rules, base = gate_rules.section(raw), baseline.read(params.results(raw).baseline)
    found = {(check.model, check.metric): check for check in compare.smallest(base, rules)}
    metrics = [m for m, rule in rules.metrics.items() if rule.level == "fail"]
    lines = ["| model | " + " | ".join(metrics) + " |", "|---|" + "---:|" * len(metrics)]
    for model in base.models:
        cells = [_limit(found.get((model, metric))) for metric in metrics]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    rate = compare.false_alarm_rate(base, rules, runs=SIMULATED)
    return "\n".join(
        [
            *lines,
            "",
            f"In {SIMULATED:,} simulated runs in which nothing had changed, of baselines and "
            "candidates that spread as the committed trainings do, "
            f"{100 * rate:.1f} % raised a false alarm.",
        ]
    )


def _limit(check: compare.Check | None) -> str:
    """Baseline and the first value that fails."""
    if check is None:
        return ""
    limit = check.baseline + (check.allowed if check.better == "lower" else -check.allowed)
    stopped = check.verdict == compare.WORSE
    return f"{check.baseline:.4g} → {f'{limit:.4g}' if stopped else 'warns'}"


def documentation(family: str) -> str:
    """The docstring that heads a family's file."""
    return sys.modules[families.load(family).__module__].__doc__


def papers(model: str, documented: str) -> str:
    """The papers of a model, with links, from the docstring that heads its family's file.

    Each model has an entry there, ``- <model>: Authors year, "Title", arXiv:NNNN.NNNNN``. Its
    first paper is given with its title, the others as authors and year. A model without an entry
    has the docstring's first line.
    """
    entry = re.search(rf"^- {model}: (.*(?:\n  .*)*)", documented, re.MULTILINE)
    if entry is None:
        return linked(documented.partition("\n")[0])
    text = " ".join(entry[1].replace("``", "`").split())
    first = re.match(rf'({AUTHORS}), ("[^"]+")(?:, {ARXIV})?', text)
    if first is None:
        return linked(text)
    who, title, number = first.groups()
    found = [f"{link(who, number) if number else who}, {title}"]
    rest = text[first.end() :]
    for other in re.finditer(ARXIV, rest):
        cited = re.search(rf'({AUTHORS})(?:, "[^"]*")?(?: \([^)]*\))?, $', rest[: other.start()])
        found.append(link(cited[1] if cited else other[0], other[1]))
    return "; ".join(found)


def link(text: str, number: str) -> str:
    """A Markdown link to a paper on arXiv."""
    return f"[{text}](https://arxiv.org/abs/{number})"


def linked(text: str) -> str:
    """``text`` with every arXiv number made a link."""
    return re.sub(ARXIV, lambda match: link(match[0], match[1]), text)


def capabilities(family: Family, row: Row) -> list[str]:
    """What a model can do, in a few words each; ``row`` tells which bound its likelihood is."""
    found = []
    if isinstance(family, Samples):
        found.append("samples by class" if family.conditional else "samples")
    if isinstance(family, HasLikelihood):
        bound = row.get("likelihood_bound")
        found.append(f"likelihood ({bound})" if bound else "likelihood")
    if isinstance(family, Reconstructs):
        found.append("reconstructs")
    if isinstance(family, Translates):
        found.append("translates")
    return found


def result(row: Row) -> str:
    """The main figures of a model's metrics."""
    if row["status"] == FAILED:
        return "not run"
    shown = [form.format(row[key]) for key, form in FIGURES if row.get(key) is not None]
    return ("by another protocol: " if row["status"] == OTHER else "") + ", ".join(shown)


def part(name: str, text: Callable[[], str]) -> Part:
    """What stands between the markers of that name."""
    return Part(f"<!-- {name}: written by `make docs` -->", f"<!-- end of {name} -->", text)


DOCUMENTS = {
    README: (part("leaders", leaders),),
    RESULTS: (part("models", models), part("published", beside), part("results", results)),
    GATE: (part("sensitivity", sensitivity),),
    JUDGES: (part("evidence", evidence),),
}
