"""Copies of params.yaml with mistakes in them, and what is told of those."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

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


def changed(folder: Path, **values: Any) -> Path:
    """A copy of params.yaml without comments, with values by their keys, ``_`` twice for a dot."""
    yaml = YAML(typ="safe")
    raw = yaml.load(COMMITTED.read_text())
    if "data__name" in values:  # its results are called like it, where a test says nothing else
        raw["data"]["title"] = values["data__name"]
    for key, value in values.items():
        *blocks, last = key.split("__")
        block = raw
        for each in blocks:
            block = block[each]
        block[last] = value
    path = folder / "params.yaml"
    with path.open("w") as file:
        yaml.dump(raw, file)
    return path


def validate(path: Path) -> None:
    """Refuse what ``python -m pipeline check`` refuses."""
    check.check(path, {"gate": rules.section})


def complaint(path: Path) -> str:
    """What `validate` has against a file."""
    with pytest.raises(PipelineError) as caught:
        validate(path)
    return str(caught.value)
