"""Copies of params.yaml with mistakes in them, and what is told of those."""

import re
from pathlib import Path

import pytest

from pipeline.core.errors import PipelineError
from pipeline.gate import rules
from pipeline.orchestration import check_params as check

COMMITTED = Path(__file__).parents[1] / "params.yaml"


def edited(folder: Path, old: str, new: str, *, after: str = "") -> Path:
    """A copy of params.yaml in which the first match of ``old`` behind ``after`` is replaced."""
    before, found, rest = COMMITTED.read_text().partition(after or "#")
    assert found
    changed, count = re.subn(old, new.replace("\\", r"\\"), rest, count=1)
    assert count == 1, f"no {old!r} to replace"
    path = folder / "params.yaml"
    path.write_text(before + found + changed)
    return path


def validate(path: Path) -> None:
    """Refuse what ``python -m pipeline check`` refuses."""
    check.check(path, {"gate": rules.section})


def complaint(path: Path) -> str:
    """What `validate` has against a file."""
    with pytest.raises(PipelineError) as caught:
        validate(path)
    return str(caught.value)
