"""What `pipeline.gate.compare` found, for people, for GitHub and for programs."""

import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate

from pipeline.core import files
from pipeline.gate import compare
from pipeline.gate.compare import Check

COLUMNS = ("model", "metric", "baseline", "now", "worse by", "allowed", "verdict")
ORDER = (compare.WORSE, compare.MISSING, compare.WARNING, compare.BETTER, compare.NEW, compare.OK)
"""What needs attention comes first."""
ANNOTATIONS = {
    compare.WORSE: "error",
    compare.MISSING: "error",
    compare.WARNING: "warning",
    compare.BETTER: "notice",
    compare.NEW: "notice",
}


def text(checks: Sequence[Check], *, every: bool = False) -> str:
    """A table for a terminal: what is not `compare.OK`, or ``every`` check."""
    shown = [check for check in _sorted(checks) if every or check.verdict != compare.OK]
    if not shown:
        return ""
    table = [_cells(check) for check in shown]
    return tabulate(table, COLUMNS, tablefmt="plain", disable_numparse=True)


def markdown(checks: Sequence[Check], source: str) -> str:
    """A page for GitHub's summary."""
    failed = [check for check in checks if check.failed]
    lines = [f"## Metrics {'got worse' if failed else 'pass'}", "", summary(checks, source), ""]
    shown = [check for check in _sorted(checks) if check.verdict != compare.OK]
    if shown:
        lines += [
            "| " + " | ".join(COLUMNS) + " |",
            "|---|---|---:|---:|---:|---:|---|",
            *("| " + " | ".join(_cells(check)) + " |" for check in shown),
            "",
        ]
    return "\n".join(lines)


def summary(checks: Sequence[Check], source: str) -> str:
    """How many checks ended how, and what was compared with."""
    counts = {verdict: sum(c.verdict == verdict for c in checks) for verdict in ORDER}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return f"{len(checks)} checks against {source}: {told}"


def annotations(checks: Sequence[Check]) -> list[str]:
    """GitHub's workflow commands, one for each check that is not `compare.OK`."""
    return [
        f"::{ANNOTATIONS[check.verdict]} title={check.model} {check.metric}::{sentence(check)}"
        for check in _sorted(checks)
        if check.verdict in ANNOTATIONS
    ]


def sentence(check: Check) -> str:
    """What a check found, in words."""
    told = f"{check.model}: {check.metric}"
    if check.baseline is not None and check.now is not None:
        direction = "worse" if check.change > 0 else "better"
        told += (
            f" is {_number(check.now)}, baseline {_number(check.baseline)}: {direction} by "
            f"{_number(abs(check.change))}, allowed {_number(check.allowed)}"
        )
    return f"{told} ({check.reason})" if check.reason else told


def write(folder: Path, checks: Sequence[Check], source: str, *, code: int) -> None:
    """Write ``gate.json`` and ``junit.xml``, and what GitHub shows where it says it wants it.

    Raises:
        PipelineError: if they cannot be written.
    """
    found = [{**asdict(check), "worse_by": check.change} for check in checks]
    result = {"baseline": source, "exit_code": code, "checks": found}
    with files.together() as made:
        made.file(folder / "gate.json").write_text(files.as_json(result), encoding="utf-8")
        made.file(folder / "junit.xml").write_text(junit(checks), encoding="utf-8")
    if summary_file := os.environ.get("GITHUB_STEP_SUMMARY"):
        with (
            files.writing(lambda: f"GITHUB_STEP_SUMMARY, {summary_file}"),
            Path(summary_file).open("a", encoding="utf-8") as stream,
        ):
            stream.write(markdown(checks, source) + "\n")


def annotate(checks: Sequence[Check]) -> None:
    """Print `annotations` where GitHub reads them."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print("\n".join(annotations(checks)))


def junit(checks: Sequence[Check]) -> str:
    """The checks as test cases, a class for each model."""
    suite = ET.Element(
        "testsuite",
        name="gate",
        tests=str(len(checks)),
        failures=str(sum(check.failed for check in checks)),
    )
    for check in checks:
        case = ET.SubElement(suite, "testcase", classname=check.model, name=check.metric)
        if check.failed:
            ET.SubElement(case, "failure", message=sentence(check))
        elif check.verdict != compare.OK:
            ET.SubElement(case, "system-out").text = sentence(check)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _sorted(checks: Sequence[Check]) -> list[Check]:
    return sorted(checks, key=lambda check: ORDER.index(check.verdict))


def _cells(check: Check) -> tuple[str, ...]:
    numbers = (check.baseline, check.now, check.change, check.allowed)
    verdict = check.verdict + (f": {check.reason}" if check.reason else "")
    return (check.model, check.metric, *map(_number, numbers), verdict)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
