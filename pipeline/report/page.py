"""The report: one page that shows what was measured, and works without a network.

Every value comes from the data set's results and params.yaml, every picture from its pictures.
Nothing on it depends on the time or the machine, so that equal results give equal bytes.
"""

import base64
import io
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image, UnidentifiedImageError
from ruamel.yaml import YAML

from pipeline.comparison import collect, dvc_lock, recommendation, results, tables
from pipeline.comparison.collect import FAILED, OK, Row
from pipeline.comparison.colours import of_models
from pipeline.comparison.questions import LEADERS, TIE_NOTE, Column
from pipeline.core import files, params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.images import PICTURED_CLASSES
from pipeline.gate import command as gate_command
from pipeline.report import charts

TEMPLATE = Path(__file__).with_suffix(".html")
SAID = {
    "samples": "samples",
    "reconstructions": "test images above, what is left of them after encoding below",
    "nearest": "samples above, the training image that each is nearest to below",
    "interpolations": "from one code to another along each row",
    "traversals": "a row for each dimension of the code, from one end to the other",
    "completions": "test images, their upper halves, and how these may go on",
    "codes": "test images, the codes of each (the brighter, the farther from the commonest one), "
    "and what these decode to",
    "denoising": "from noise to image along each row",
    "classes": "one noise vector per row, one class per column (many classes go on in the next "
    "rows; 100 at most)",
    "styles": "one code per row, one class per column (many classes go on in the next rows; 100 at "
    "most)",
    "a_to_b_to_a": "domain A, translated to B, and back",
    "b_to_a_to_b": "domain B, translated to A, and back",
}
"""What is to be seen on pictures of these names; others are called by their names."""
GALLERIES = (
    (
        "reconstructions",
        "Reconstructions",
        "Test images above, what is left of them after encoding and decoding below.",
    ),
    (
        "nearest",
        "Nearest training images",
        "The samples that are likeliest to be copies above, likeliest first, and the training "
        "image that each resembles below. Simple images, such as a straight stroke, have near "
        "neighbours without being copied; the table of authenticity tells how real images do.",
    ),
)
COSTS = (
    ("training_flops", "operations in training"),
    ("sampling_flops", "operations per sample"),
)
QUALITIES = (("fid", "FID (judge)"), ("bits_per_dim", "bits/dim"))


def render(raw: dict[str, Any], reference: Row) -> str:
    """The page, of the models in ``raw`` (params.yaml) and the reference rows.

    What a model that failed lacks is left out.

    Raises:
        PipelineError: one line for what a file of results should hold, or a picture that is none.
    """
    blocks, home = params.model_blocks(raw), params.results(raw)
    rows = collect.project_rows(raw, reference)
    colours = of_models((r["model"], r["family"]) for r in rows if r["kind"] == "model")
    standing = tables.standing(rows)
    models = [row for row in rows if row["kind"] == "model"]
    recorded = dvc_lock.entries()
    # References without samples stand beside what they are for, among the questions.
    leading = [row for row in standing if row["kind"] == "model" or row.get("fid") is not None]
    judged = [row for row in standing if row["kind"] == "model" and row["status"] == OK]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        dataset=home.title,
        opening=recommendation.opening(rows, reference, home.title),
        measured=_code(tables.measured(reference, home.title)),
        cautions=tables.cautions(reference, rows, named=False),
        shortfalls=recommendation.shortfalls(rows, reference),
        gate=_code(gate_command.told(raw)),
        failed=[row["model"] for row in rows if row["status"] == FAILED],
        recommended=[
            {
                "purpose": answer.purpose.strip(),
                "model": answer.model,
                "family": answer.family,
                "colour": colours.get(answer.model),
                "number": answer.number,
                "notes": answer.notes(),
            }
            for answer in recommendation.answers(rows, reference)
        ],
        tie_note=_code(TIE_NOTE),
        leaders=_table(LEADERS, leading, colours),
        classes=_classes(reference),
        wall=_figures(home, judged, "samples", colours),
        scale=_scale(standing, colours),
        pareto=_pareto(judged, colours),
        galleries=[
            {"key": key, "title": title, "note": note, "figures": figures}
            for key, title, note in GALLERIES
            if (figures := _figures(home, judged, key, colours))
        ],
        answers=[
            {
                "title": answer.question.title,
                **_table(answer.columns, answer.rows, colours, answer.facts),
                "facts": [
                    f"{tables.MARK} {name}: {'; '.join(facts)}."
                    for name, facts in answer.facts.items()
                    if facts
                ],
                "without": answer.without,
                "notes": _code(answer.notes),
            }
            for answer in tables.answers(rows, reference)
        ],
        models=[_model(home, row, blocks.get(row["model"]), colours, recorded) for row in models],
    )


def _table(
    columns: Sequence[Column],
    rows: Sequence[Row],
    colours: dict[str, str],
    facts: dict[str, list[str]] | None = None,
) -> dict[str, Any]:
    shown = tables.filled(columns, rows)
    lines = []
    for row in rows:
        model = row["kind"] == "model"
        mark = f" {tables.MARK}" if model and (facts or {}).get(row["model"]) else ""
        cells = zip(tables.cells(shown, row), shown, strict=True)
        lines.append(
            {
                "name": row["model"],
                "label": row["label"] + mark,
                "reference": not model,
                "colour": colours.get(row["model"]) if model else None,
                "cells": [{"text": text, "right": column.right} for text, column in cells],
            }
        )
    heads = [{"title": "model", "right": False}]
    heads += [{"title": column.title, "right": column.right} for column in shown]
    return {"columns": heads, "rows": lines}


def _figures(
    home: paths.Results, rows: Sequence[Row], name: str, colours: dict[str, str]
) -> list[dict[str, Any]]:
    """The picture of that name of each model that has one."""
    found = []
    for row in rows:
        path = home.pictures(row["model"]).get(name)
        if path is not None:
            fid = row.get("fid")
            caption = f"FID {fid:.2f}" if name == "samples" and fid is not None else ""
            if name == "nearest" and row.get("authenticity") is not None:
                caption = f"authenticity {row['authenticity']:.3f}"
            found.append(_figure(path, row["model"], caption, colours[row["model"]]))
    return found


def _figure(path: Path, model: str, caption: str, colour: str | None) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            picture.verify()  # to its end; and, from the beginning again, every pixel
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            picture.load()
            width, height = picture.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, struct.error) as error:
        reason = "no PNG" if isinstance(error, UnidentifiedImageError) else files.reason(error)
        raise PipelineError(
            f"{path}: not a whole PNG file ({reason}); delete {path.parent} and run `make repro`"
        ) from None
    return {
        "name": model,
        "data": base64.b64encode(data).decode(),
        "width": width,
        "height": height,
        "alt": f"{model}: {SAID.get(path.stem, path.stem.replace('_', ' '))}",
        "caption": caption,
        "colour": colour,
    }


def _classes(reference: Row) -> str:
    """The names of the classes that pictures show, in their order, if there are several."""
    names = (reference.get("images") or {}).get("classes", [])
    if len(names) < 2:
        return ""
    more = f" and {len(names) - PICTURED_CLASSES:,} more" if len(names) > PICTURED_CLASSES else ""
    return ", ".join(names[:PICTURED_CLASSES]) + more


def _scale(rows: Sequence[Row], colours: dict[str, str]) -> Markup:
    """All FIDs on one axis, models and references."""
    points = [
        charts.Point(
            row["model"] if row["kind"] == "model" else row["label"],
            colours.get(row["model"], ""),
            row["fid"],
            low=row["fid_min"],
            high=row["fid_max"],
            muted=row["kind"] == "reference",
        )
        for row in rows
        if row.get("fid") and row["fid_min"] > 0 and row["fid_max"] > 0
    ]
    if not points:
        return Markup("")
    return Markup(charts.ranges(points, "FID of all models and references", "FID (judge)"))


def _pareto(rows: Sequence[Row], colours: dict[str, str]) -> list[Markup]:
    """Each quality against each cost, where two models or more have both."""
    costed = [
        {**row, "training_flops": row["training_flops_per_image"] * row["images_seen"]}
        for row in rows
        if row.get("training_flops_per_image")
    ]
    found = []
    for quality, told in QUALITIES:
        for cost, spent in COSTS:
            points = [
                charts.Point(row["model"], colours[row["model"]], row[cost], row[quality])
                for row in costed
                if (row.get(quality) or 0) > 0 and (row.get(cost) or 0) > 0
            ]
            if len(points) > 1:
                found.append(Markup(charts.scatter(points, f"{told} against {spent}", spent, told)))
    return found


def _model(
    home: paths.Results,
    row: Row,
    block: Any,
    colours: dict[str, str],
    recorded: dict[str, Any],
) -> dict[str, Any]:
    name = row["model"]
    return {
        "name": name,
        "family": row["family"],
        "colour": colours[name],
        "curves": _curves(home.curve(name), name, colours[name]),
        "figures": [
            _figure(path, name, SAID.get(path.stem, path.stem.replace("_", " ")), None)
            for path in home.pictures(name).values()
        ],
        "metrics": [
            (key, f"{value:.6g}" if isinstance(value, float) else value)
            for key, value in sorted(row.items())
            if value is not None and key not in ("kind", "status", "model", "label")
        ],
        "block": _yaml({"models": {name: block}}) if block is not None else "",
        "command": f"make repro MODELS={name}",
        "lock_hash": dvc_lock.of_model(name, recorded) or "not recorded",
    }


def _curves(path: Path, model: str, colour: str) -> list[Markup]:
    """A chart for each term that training logged, since terms share no unit."""
    lines = results.curve(path) if path.exists() else []
    terms = [key for key in (lines[0] if lines else {}) if key not in ("step", "images")]
    found = []
    for term in terms:
        points = [(float(line["images"]), float(line[term])) for line in lines if line[term]]
        if len(points) > 1:
            line, title = charts.Line(term, colour, points), f"{term} of {model}"
            found.append(Markup(charts.lines([line], title, "training images seen")))
    return found


def _code(text: str) -> Markup:
    """Text in which what stands between backticks is code."""
    marked = re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text)))
    # It is escaped before the tags are added.
    return Markup(marked)  # nosec B704


def _yaml(value: Any) -> str:
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    out = io.StringIO()
    yaml.dump(value, out)
    return out.getvalue()
