"""What DVC and the stages print, told apart: what happened, how far it is, what is for people."""

import re
import signal
from collections.abc import Sequence
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
EXITED = re.compile(r"^ERROR: failed to reproduce '([^']+)': .*exited with (-?\d+)$")
RUNNING = re.compile(r"^error: (\S+) is already running ")
BLOCKED = re.compile(r"'([^']+)' is busy, it is being blocked by:$")
BLOCKER = re.compile(r"^\s+\(PID (\d+)\): (.*)$")
NO_GIT = re.compile(r"^ERROR: (.*) is not a git repository$")
UNWRITTEN = re.compile(
    r"^ERROR: .*(No space left on device|Disk quota exceeded|Read-only file system|File too large)"
)
LINKS = re.compile(r"^ERROR: .*No possible cache link types for ")
BROKEN_LOCKS = re.compile(r"^ERROR: .*RWLock-file '[^']*'.*(corrupted|format error)")
NO_DVC = re.compile(r"^ERROR: you are not inside of a DVC repository")
ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals by which people and machines end what has made no mistake."""
KEPT = 30
"""Last lines of a stage that failed, where it does not say why in a line of its own."""


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


@dataclass(frozen=True)
class Failure:
    """Why a call of DVC did not succeed.

    Attributes:
        lines: what is told to people.
        unfinished: whether nothing is wrong with what ran: it was asked to end, or something else
            was in its way.
    """

    lines: list[str]
    unfinished: bool = False


def failure(said: Sequence[str], code: int) -> Failure:
    """Why a call failed that printed these lines last and ended with this exit code."""
    found = in_the_way(said)
    if found:
        return Failure([found], unfinished=True)
    told = [each for each in said if each.startswith("error:")]
    if any(RUNNING.match(each) for each in told):
        return Failure(told, unfinished=True)
    stage, ended = next(
        ((match[1], int(match[2])) for each in said if (match := EXITED.match(each))), ("DVC", code)
    )
    number = -ended if ended < 0 else ended - 128
    if number in ASKED:
        return Failure([f"{stage} was stopped; run it again, and it goes on where it was"], True)
    if number == signal.SIGKILL:
        why = "it was killed; mostly that is for want of memory: try JOBS=1"
        return Failure([*told, f"{stage}: {why}"])
    said = [each for each in said if not each.startswith("warning:")]
    if not told and not any(each.startswith("Traceback ") for each in said):
        told = [each for each in said if each.startswith("ERROR:") and not EXITED.match(each)]
    return Failure(told or list(said[-KEPT:]) or [f"{stage}: exit code {ended}, without a word"])


def has_broken_locks(said: Sequence[str]) -> bool:
    """Whether DVC cannot read its list of who uses what, as after a full disk."""
    return any(BROKEN_LOCKS.match(each) for each in said)


def in_the_way(said: Sequence[str]) -> str | None:
    """Why DVC can do nothing here at all, in one line, if these lines of it say so."""
    for place, text in enumerate(said):
        if NO_GIT.match(text):
            return (
                "this folder is no git repository, which DVC expects; "
                "`.venv/bin/dvc config --local core.no_scm true` lets it do without"
            )
        if NO_DVC.match(text):
            return "there is no folder .dvc here, which comes with the project; fetch it again"
        if unwritten := UNWRITTEN.match(text):
            return f"DVC cannot write: {unwritten[1]}"
        if LINKS.match(text) or BROKEN_LOCKS.match(text):
            return "DVC cannot write; most likely the disk is full"
        if busy := BLOCKED.search(text):
            found = [match for each in said[place + 1 :] if (match := BLOCKER.match(each))]
            by = ", ".join(f"{match[2]} (process {match[1]})" for match in found)
            return (
                f"{busy[1]} is in use by another DVC: {by}; wait for it or stop it "
                "(if it has ended, delete .dvc/tmp/rwlock)"
            )
    return None
