"""What DVC recorded of each stage in dvc.lock."""

import re
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator
from ruamel.yaml import YAML

from pipeline.core import files, params, paths, records
from pipeline.core.errors import PipelineError

MODEL_STAGES = ("train", "sample", "evaluate")
REMEDY = "restore it from git, or delete it and run `make repro`, which retrains nothing it knows"
CONFLICT = ("<<<<<<< ", "=======", ">>>>>>> ")


class Recorded(records.Record):
    """A file or folder, and the hash of its content."""

    path: str = ""
    hash: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        found = (self.model_extra or {}).get(self.hash)
        if self.hash is not None and not found:
            raise ValueError(f"{self.hash} of {self.path} is missing")
        if self.hash == "md5" and not re.fullmatch(r"[0-9a-f]{32}(\.dir)?", str(found)):
            raise ValueError(f"md5 of {self.path} = {found!r} should be 32 hex digits")
        return self


class Stage(records.Record):
    """What was run, on what, and what it gave."""

    cmd: Any
    deps: list[Recorded] = []
    outs: list[Recorded] = []
    params: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _run(self) -> Self:
        if not self.cmd or not isinstance(self.cmd, str | list):
            raise ValueError(f"cmd = {self.cmd!r} should be what was run")
        return self


class Lock(records.Record):
    """The content of dvc.lock."""

    stages: dict[str, Stage] = {}

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name, stage in self.stages.items():
            if name.partition("@")[0] in MODEL_STAGES and stage.deps and not stage.outs:
                raise ValueError(f"stages.{name}: outs: missing")
        if self.model_extra and "schema" not in self.model_extra:
            raise ValueError("no schema, so it is nothing that DVC wrote")
        return self


def read(path: Path = paths.DVC_LOCK) -> dict[str, Any]:
    """The whole of a dvc.lock, as it stands there.

    Raises:
        FileNotFoundError: if there is none.
        PipelineError: if it has conflict markers, was cut, or is none.
    """
    text = files.read_text(path, REMEDY)
    try:
        conflict = [n for n, line in enumerate(text.splitlines(), 1) if line.startswith(CONFLICT)]
        if conflict:
            raise files.Unreadable(
                f"{path}:{conflict[0]}: conflict markers of git; keep one side "
                f"(`git checkout --ours {path}`) and run `make repro`, which brings it up to date"
            )
        # What was cut may still be YAML; DVC ends each line, and a brace closes what it opened.
        if text and not text.endswith(("\n", "}")):
            raise files.Unreadable(f"{path}: cut in its last line; {REMEDY}")
        found = YAML(typ="safe").load(text) or {}
    except PipelineError:
        raise
    except Exception as error:  # whatever a value that cannot be makes Python raise
        raise files.Unreadable(f"{params.not_yaml(path, error)}; {REMEDY}") from None
    records.parse(found, Lock, path, REMEDY)
    return found


def entries(path: Path = paths.DVC_LOCK) -> dict[str, Any]:
    """What dvc.lock says, by stage.

    Raises:
        PipelineError: as `read`, and if there is no such file.
    """
    try:
        return read(path).get("stages", {})
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; run `make repro` first") from None


def missing(model: str, recorded: dict[str, Any]) -> list[str]:
    """Stages of a model that have no entry."""
    return [name for stage in MODEL_STAGES if (name := f"{stage}@{model}") not in recorded]


def of_model(model: str, recorded: dict[str, Any]) -> str | None:
    """Hash of all that was recorded of a model's stages; None if one of them has no entry."""
    if missing(model, recorded):
        return None
    names = [f"{stage}@{model}" for stage in MODEL_STAGES]
    return files.sha256_of({name: recorded[name] for name in names})
