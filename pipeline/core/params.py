"""The typed, validated view of ``params.yaml``; nothing else reads that file.

The shared sections are declared here. Hyperparameters of a model are declared by its family and
read by `pipeline.models.entries`, so that adding a family touches no other file. A stage reads
the sections that it depends on and no others; `pipeline.orchestration.check_params` reads it all.
"""

import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from pipeline.core import paths
from pipeline.core.errors import PipelineError

LARGEST_FILE = 1_000_000
"""Bytes; the committed file has 16,000."""
DEEPEST = 50
"""Blocks within blocks. The parser, which is written in C, ends the process at some 50,000."""
MOST_VALUES = 100_000
"""Values in the file, aliases (``*name``) written out."""
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 80
"""Shows a value of whatever size on one line."""

Seed = Annotated[int, Field(ge=0, le=2**62)]
"""Some commands count up from it, and the results must stay below 2^63."""
Rate = Annotated[float, Field(gt=0, le=1)]
"""A learning rate."""
Decay = Annotated[float, Field(ge=0, lt=1)]
"""Of a moving average."""


def _safe(title: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,39}", title):
        raise ValueError(
            "should be up to 40 small letters, digits and . _ -, a letter or digit first: it "
            "names a folder"
        )
    return title


Title = Annotated[str, AfterValidator(_safe)]
"""The name of a data set's results, and of the folder that they are in."""


def _or_auto(value: Any, number: Callable[[Any], Any]) -> Any:
    # A union would tell what each of its members has against the value.
    try:
        return number(value)
    except ValidationError as error:
        raise ValueError(f"{error.errors()[0]['msg']}, or auto") from None


LEAST_SAMPLES = 6
"""Coverage looks at 5 neighbours of each image."""
Samples = Annotated[
    Annotated[int, Field(ge=LEAST_SAMPLES, le=1_000_000)] | Literal["auto"],
    WrapValidator(_or_auto),
]
"""How many images each model draws; `pipeline.evaluation.protocol.sample_count` knows auto."""


class Section(BaseModel):
    """A block of params.yaml: immutable, no unknown keys, no silent change of type, no infinity.

    Every number has bounds, far from anything of use: what is beyond them would end in an error of
    a library, or not at all.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    unhashed: ClassVar[Sequence[str]] = ()
    """Keys that no stage depends on, so that a file of before they were there may lack them."""


class Data(Section):
    """Which images, and how they are split."""

    name: str = "mnist-5k"
    title: Title = "mnist-5k"
    seed: Seed = 0
    val_fraction: float = Field(0.1, gt=0, lt=0.5)
    limit: int = Field(0, ge=0, le=10**9)
    test_limit: int = Field(0, ge=0, le=10**9)
    folder: str = ""
    labels: Literal["auto", "folders", "none"] = "auto"
    size: int = Field(64, ge=8, le=1024)
    fit: Literal["crop", "pad", "stretch"] = "crop"
    channels: Literal["auto", 1, 3] = "auto"
    background: str = Field("white", min_length=1, max_length=40)
    max_broken: float = Field(0.01, ge=0, le=1)


class Domains(Section):
    """Two unpaired domains, for models that translate between them."""

    transformation: Literal["outline", "rotate", "invert", "classes"] = "outline"
    seed: Seed = 0


class Runtime(Section):
    """Where and how training and sampling run."""

    unhashed: ClassVar[Sequence[str]] = ("models_per_gpu", "checkpoint_seconds")

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(1, ge=1, le=1024)
    devices: int = Field(1, ge=1, le=1024)
    models_per_gpu: int = Field(8, ge=1, le=256)
    checkpoint_seconds: float = Field(20.0, gt=0, le=86_400)


class Classifier(Section):
    """Judges that learn from labels."""

    steps: int = Field(448, ge=1, le=1_000_000)
    learning_rate: Rate = 0.01


class LabelFree(Section):
    """Judges that learn from the images alone."""

    steps: int = Field(400, ge=1, le=1_000_000)
    learning_rate: Rate = 0.003


class Judge(Section):
    """The networks whose features carry FID."""

    kind: Literal["auto", "classifier", "label_free"] = "auto"
    seeds: list[Seed] = Field([101, 102, 103], min_length=1, max_length=100)
    batch: int = Field(64, ge=2, le=65_536)
    features: int = Field(64, ge=2, le=4096)
    classifier: Classifier = Classifier()
    label_free: LabelFree = LabelFree()

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("must be distinct non-negative integers")
        return seeds


class Train(Section):
    """What all trainings share."""

    seed: Seed = 0
    budget: float = Field(1.0, gt=0, le=10_000)
    flips: bool = False


class Sample(Section):
    """How many images each model draws."""

    n: Samples = 1000
    seed: Seed = 0
    batch: int = Field(250, ge=1, le=10_000)


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
    seed: Seed = 0
    batch: int = Field(100, ge=1, le=10_000)
    inception: Inception = Inception()
    imagenet: bool = False


class Thorough(Section):
    """What `make thorough` adds to the default run."""

    unhashed: ClassVar[Sequence[str]] = ("trainings", "sample_sets", "inverted")

    trainings: int = Field(3, ge=2, le=100)
    sample_sets: int = Field(3, ge=2, le=100)
    inverted: int = Field(100, ge=2, le=1_000_000)


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
        PipelineError: if the file is missing or cannot be read, is not YAML, or names a key twice.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise PipelineError(f"{path}: must hold the sections {', '.join([*SHARED, 'models'])}")
    return raw


def read_yaml(path: Path) -> Any:
    """Whatever a YAML file of the project holds; errors are those of `read`."""
    text = _text(path)
    try:
        _check_size(text)
        return YAML(typ="safe").load(text)
    except PipelineError as error:
        raise PipelineError(f"{path}: {error}") from None
    except Exception as error:
        # What Python says of a value that it cannot make, such as a date in month 13, passes
        # through the parser as it is; so it may be anything.
        raise PipelineError(not_yaml(path, error)) from None


def not_yaml(path: Path, error: Exception) -> str:
    """What the parser, or what it calls, has against a file, on one line."""
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        return f"{path}{where}: not valid YAML: {problem}"
    reason = " ".join(str(error).partition(' in "<')[0].partition(";")[0].split())
    return f"{path}: not valid YAML: {reason or type(error).__name__}"


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise PipelineError(f"{path}: not a file; restore it from git")
        # Not the size that is told beforehand, which a device has none of.
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise PipelineError(f"{path}: more than {LARGEST_FILE:,} bytes; restore it from git")
        return content.decode("utf-8")
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; run this from the project's folder") from None
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path}: not UTF-8 text ({error.reason})") from None
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read: {error.strerror}") from None


def _check_size(text: str) -> None:
    """Refuse what would take the parser forever, or end the process.

    Looks at the parts of the text one after the other, before any value is made of them.

    Raises:
        PipelineError: if blocks are nested too deeply, or aliases stand for too much.
    """
    known: dict[str, tuple[int, int]] = {}  # of each anchor: values and levels
    blocks: list[list[Any]] = [[None, 0, 0]]  # those that are open: anchor, values, levels

    def close(anchor: str | None, values: int, levels: int) -> None:
        if anchor is not None:
            known[anchor] = values, levels
        blocks[-1][1] += values
        blocks[-1][2] = max(blocks[-1][2], levels)
        if len(blocks) + levels > DEEPEST:
            raise PipelineError(f"blocks are nested more than {DEEPEST} deep")
        if blocks[-1][1] > MOST_VALUES:
            raise PipelineError(f"more than {MOST_VALUES:,} values, with aliases written out")

    for event in YAML(typ="safe").parse(text):
        if isinstance(event, CollectionStartEvent):
            blocks.append([event.anchor, 1, 0])
            if len(blocks) > DEEPEST:
                raise PipelineError(f"blocks are nested more than {DEEPEST} deep")
        elif isinstance(event, CollectionEndEvent):
            anchor, values, levels = blocks.pop()
            close(anchor, values, levels + 1)
        elif isinstance(event, ScalarEvent):
            close(event.anchor, 1, 0)
        elif isinstance(event, AliasEvent):
            if any(event.anchor == block[0] for block in blocks):
                raise PipelineError(f"*{event.anchor} stands within what it stands for")
            close(None, *known.get(event.anchor, (1, 0)))


def section(raw: dict[str, Any], name: str, path: Path = paths.PARAMS) -> Any:
    """One shared section, validated; ``raw`` comes from `read`."""
    if name not in raw:
        raise PipelineError(f"{path}: {name}: missing section; see the commented original")
    return validate(SHARED[name], raw[name], name, path)


class _Titled(BaseModel):
    """Of the section ``data`` what results depend on, whatever its other keys are."""

    model_config = ConfigDict(strict=True)

    title: Title


def results(raw: dict[str, Any], path: Path = paths.PARAMS) -> paths.Results:
    """Where the results of the data set are that ``raw`` (from `read`) names.

    Raises:
        PipelineError: if its title is missing, or no name of a folder.
    """
    return paths.Results(validate(_Titled, raw.get("data"), "data", path).title)


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
        message = one_of("key", unknown[0], ENTRY)
        raise PipelineError(f"{path}: {joined(where, unknown[0])}: {message}")
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
        if not (isinstance(name, str) and re.fullmatch("[a-z_][a-z0-9_]{0,63}", name)):
            raise PipelineError(
                f"{path}: {joined('models', name)}: a model's name is lower-case letters, digits "
                "and _, at most 64"
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
    known, text = list(known), str(value) if isinstance(value, str) else shown(value)
    near = difflib.get_close_matches(text[:80], known, n=1)
    hint = f"known: {', '.join(known)}" if known else "there are none here"
    if near:
        hint = f"did you mean '{near[0]}'?"
    return f"unknown {what} {shown(text)}; {hint}"


def shown(value: object) -> str:
    """A value as Python writes it, on one line and not longer than a person reads."""
    return SHORT.repr(value)


def joined(*keys: object) -> str:
    """The path of a key, on one line."""
    texts = [key if isinstance(key, str) else shown(key) for key in keys]
    return ".".join(
        text if text.isprintable() and len(text) <= SHORT.maxstring else shown(text)
        for text in texts
    )


def _lines(
    schema: type[BaseModel], error: ValidationError, where: str, path: Path
) -> Iterable[str]:
    details = error.errors()
    suggested = set()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            keys = _keys(schema, detail["loc"])
            suggested.update(difflib.get_close_matches(detail["loc"][-1], keys, n=1))
    absent: dict[str, list[Any]] = {}
    for detail in details:
        key = joined(where, *detail["loc"])
        told = f"{path}: {key} = {shown(detail['input'])}"
        if detail["type"] == "extra_forbidden":
            message = one_of("key", detail["loc"][-1], _keys(schema, detail["loc"]))
            yield f"{told}: {message}"
        elif detail["type"] == "missing":
            if detail["loc"][-1] not in suggested:
                absent.setdefault(joined(where, *detail["loc"][:-1]), []).append(detail["loc"][-1])
        elif detail["type"] == "invalid_key":
            yield f"{path}: {key}: a key is a word; known: {', '.join(schema.model_fields)}"
        elif detail["type"] == "model_type":
            yield f"{told}: should be a block of keys, each with its value"
        else:
            message = detail["msg"].removeprefix("Value error, ")
            yield f"{told}: {message.replace('Input should', 'should')}"
    for block, keys in absent.items():
        if len(keys) == 1:
            yield f"{path}: {joined(block, keys[0])}: missing"
        else:
            yield f"{path}: {block}: missing keys: {', '.join(map(str, keys))}"


def _keys(schema: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The keys that are known where an unknown one was found, which may be in an inner block."""
    for part in place[:-1]:
        found = schema.model_fields.get(str(part))
        inner = found.annotation if found is not None else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        schema = inner
    return list(schema.model_fields)
