"""What DVC and the stages print, told apart: what happened, how far it is, what is for people."""

import re
from dataclasses import dataclass
from typing import Literal

STARTED = re.compile(r"^Running stage '([^']+)'")
UNCHANGED = re.compile(r"^Stage '([^']+)' didn't change, skipping")
RESTORED = re.compile(r"^Stage '([^']+)' is cached")
PROGRESS = re.compile(r"^(?:train|sample|score|judge) \S+: +(\d+)% (.*)$")
ADVICE = re.compile(
    r"^(To track the changes with git|To enable auto staging|Use `dvc push`|\tgit add|"
    r"\tdvc config core.autostage|> python -m|Updating lock file|Generating lock file|"
    r"Data and pipelines are up to date)"
)
"""What DVC says to those who use it by hand."""


@dataclass(frozen=True)
class Line:
    """One line of output.

    Attributes:
        kind: ``started``, ``unchanged`` or ``restored`` (a stage, in ``text``); ``progress``
            (``share`` of it is done, ``text`` says more); ``advice`` that nobody here needs; or
            anything that a stage ``said``.
        text: see there.
        share: from 0 to 1.
    """

    kind: Literal["started", "unchanged", "restored", "progress", "advice", "said"]
    text: str
    share: float = 0.0


def parse(text: str) -> Line:
    """Tell what a line of a run is."""
    for kind, pattern in (("started", STARTED), ("unchanged", UNCHANGED), ("restored", RESTORED)):
        if found := pattern.match(text):
            return Line(kind, found[1])
    if found := PROGRESS.match(text):
        return Line("progress", found[2], int(found[1]) / 100)
    if not text.strip() or ADVICE.match(text):
        return Line("advice", text)
    return Line("said", text)


def mentioned(text: str) -> str | None:
    """The stage that a line of ``dvc repro --dry`` says would run or be restored."""
    found = parse(text)
    return found.text if found.kind in ("started", "restored") else None
