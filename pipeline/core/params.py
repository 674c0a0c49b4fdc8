"""The typed, validated view of ``params.yaml``; nothing else reads that file.

The shared sections are declared here. Hyperparameters of a model are declared by its family and
read by `pipeline.models.entries`, so that adding a family touches no other file. A stage reads
the sections that it depends on and no others; `pipeline.orchestration.check_params` reads it all.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from pipeline.core import paths
from pipeline.core.errors import PipelineError


class Section(BaseModel):
    """A block of params.yaml: immutable, no unknown keys, no silent change of type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Data(Section):
    """Which images, and how they are split."""

    name: str = "mnist-5k"
    seed: int = Field(0, ge=0)
    val_fraction: float = Field(0.1, gt=0, lt=0.5)
    folder: str = ""
    size: int = Field(64, ge=8)


class Domains(Section):
    """Two unpaired domains, for models that translate between them."""

    transformation: Literal["outline", "rotate", "invert", "classes"] = "outline"
    seed: int = Field(0, ge=0)


class Runtime(Section):
    """Where and how training and sampling run."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(1, ge=1)
    checkpoint_seconds: float = Field(20.0, gt=0)


class Judge(Section):
    """The classifiers whose features carry FID."""

    seeds: list[int] = Field([101, 102, 103], min_length=1)
    epochs: int = Field(8, ge=1)
    batch: int = Field(64, ge=2)
    learning_rate: float = Field(0.01, gt=0)
    features: int = Field(64, ge=2)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("must be distinct non-negative integers")
        return seeds


class Train(Section):
    """What all trainings share."""

    seed: int = Field(0, ge=0)
    budget: float = Field(1.0, gt=0)


class Sample(Section):
    """How many images each model draws."""

    n: int = Field(1000, ge=2)
    seed: int = Field(0, ge=0)
    batch: int = Field(250, ge=1)


class Inception(Section):
    """A file with the weights of Inception, for FID and KID on its features too; '' for none."""

    weights: str = ""
    sha256: str = Field("", pattern="^([0-9a-f]{64})?$")

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.weights and not self.sha256:
            raise ValueError("sha256 must say which file it is; `sha256sum` prints it")
        return self


class Evaluate(Section):
    """What the images are compared with."""

    split: Literal["val", "test"] = "test"
    seed: int = Field(0, ge=0)
    batch: int = Field(100, ge=1)
    inception: Inception = Inception()


class Thorough(Section):
    """What `make thorough` adds to the default run."""

    trainings: int = Field(3, ge=2)
    sample_sets: int = Field(3, ge=2)
    inverted: int = Field(100, ge=2)


SHARED: dict[str, type[Section]] = {
    "data": Data,
    "domains": Domains,
    "runtime": Runtime,
    "judge": Judge,
    "train": Train,
    "sample": Sample,
    "evaluate": Evaluate,
    "thorough": Thorough,
}
BLOCKS = ("network", "training", "sampling", "scoring")
ENTRY = ("family", "data", *BLOCKS)
"""The keys of an entry under ``models:``."""
S = TypeVar("S", bound=Section)


class ModelParams(BaseModel):
    """One entry under ``models:``; blocks that were not asked for are None, so that a stage
    which touches a hyperparameter that it does not depend on fails at once."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    name: str
    family: str
    data: str = "processed"
    network: Any = None
    training: Any = None
    sampling: Any = None
    scoring: Any = None


def read(path: Path = paths.PARAMS) -> dict[str, Any]:
    """Parse params.yaml as DVC does (YAML 1.2).

    Raises:
        PipelineError: if the file is missing, is not YAML, or names a key twice.
    """
    try:
        raw = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; run this from the project's folder") from None
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path}: not UTF-8 text ({error.reason})") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise PipelineError(f"{path}{where}: not valid YAML: {problem}") from None
    if not isinstance(raw, dict):
        raise PipelineError(f"{path}: must hold the sections {', '.join([*SHARED, 'models'])}")
    return raw


def section(raw: dict[str, Any], name: str, path: Path = paths.PARAMS) -> Any:
    """One shared section, validated; ``raw`` comes from `read`."""
    if name not in raw:
        raise PipelineError(f"{path}: {name}: missing section; see the commented original")
    return validate(SHARED[name], raw[name], name, path)


def entry(raw: dict[str, Any], name: str, path: Path = paths.PARAMS) -> dict[str, Any]:
    """One entry under ``models:`` with all its keys, its blocks as they stand there."""
    models = model_blocks(raw, path)
    where = f"models.{name}"
    if name not in models:
        raise PipelineError(f"{path}: models: {one_of('model', name, models)}")
    found = models[name]
    if not isinstance(found, dict):
        raise PipelineError(f"{path}: {where}: must be a block with the key 'family'")
    unknown = [key for key in found if key not in ENTRY]
    if unknown:
        raise PipelineError(f"{path}: {where}.{unknown[0]}: {one_of('key', unknown[0], ENTRY)}")
    missing = [key for key in ENTRY if key not in found]
    if missing:
        raise PipelineError(
            f"{path}: {where}.{missing[0]}: missing; a model has the keys "
            f"{', '.join(ENTRY)} (a block may be {{}})"
        )
    return found


def model_blocks(raw: dict[str, Any], path: Path = paths.PARAMS) -> dict[str, Any]:
    """The unvalidated ``models:`` section, in the order of the file."""
    models = raw.get("models")
    if not isinstance(models, dict) or not models:
        raise PipelineError(f"{path}: models: must name at least one model")
    for name in models:
        if not (isinstance(name, str) and name.isidentifier() and name == name.lower()):
            raise PipelineError(
                f"{path}: models.{name}: a model's name is lower-case letters, digits and _"
            )
    return models


def validate(schema: type[S], value: Any, where: str, path: Path = paths.PARAMS) -> S:
    """Validate ``value`` against ``schema``; ``where`` is its key path in the file.

    Raises:
        PipelineError: one line for each mistake.
    """
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise PipelineError("\n".join(_lines(schema, error, where, path))) from None


def one_of(what: str, value: object, known: Iterable[str]) -> str:
    """Say that ``value`` is no known ``what``, with the nearest one or all of them."""
    known = list(known)
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    return f"unknown {what} '{value}'; {hint}"


def _lines(
    schema: type[BaseModel], error: ValidationError, where: str, path: Path
) -> Iterable[str]:
    details = error.errors()
    suggested = set()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            suggested.update(difflib.get_close_matches(detail["loc"][-1], _keys(schema), n=1))
    for detail in details:
        key = ".".join(str(part) for part in (where, *detail["loc"]))
        if detail["type"] == "extra_forbidden":
            message = one_of("key", detail["loc"][-1], _keys(schema))
            yield f"{path}: {key} = {detail['input']!r}: {message}"
        elif detail["type"] == "missing":
            if detail["loc"][-1] not in suggested:
                yield f"{path}: {key}: missing"
        else:
            message = detail["msg"].removeprefix("Value error, ")
            message = message.replace("Input should", "should")
            yield f"{path}: {key} = {detail['input']!r}: {message}"


def _keys(schema: type[BaseModel]) -> list[str]:
    return list(schema.model_fields)
