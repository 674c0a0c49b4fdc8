"""The files of results, each kind read in one place and against a schema.

A number in them is finite and of its kind (a share, a distance), and numbers that are measured
together are there together: who measures FID has its range over judges, too. Whatever is not so
was edited by hand or is damaged, and is refused with its file, key and what would be right,
before it is ranked or shown.
"""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, create_model, field_validator, model_validator

from pipeline.core import files, records
from pipeline.core.errors import PipelineError

COLUMNS = (
    "kind",
    "status",
    "model",
    "label",
    "family",
    "conditional",
    "fid",
    "fid_min",
    "fid_max",
    "second_fid",
    "second_fid_min",
    "second_fid_max",
    "kid",
    "kid_min",
    "kid_max",
    "coverage",
    "coverage_min",
    "coverage_max",
    "density",
    "precision",
    "recall",
    "authenticity",
    "authenticity_real",
    "authenticity_pixels",
    "authenticity_pixels_real",
    "label_accuracy",
    "label_accuracy_real",
    "class_fid",
    "class_fid_real",
    "class_fid_max",
    "class_fid_worst",
    "class_fid_n",
    "bits_per_dim",
    "bits_per_dim_stderr",
    "bits_per_dim_behind",
    "bits_per_dim_behind_stderr",
    "likelihood_bound",
    "nats_per_image",
    "iwae_bits_per_dim",
    "iwae_bits_per_dim_stderr",
    "iwae_nats_per_image",
    "iwae_samples",
    "bits_per_dim_given_label",
    "bits_per_dim_given_label_stderr",
    "nats_per_image_given_label",
    "label_gain_nats",
    "label_gain_nats_stderr",
    "reconstruction_mse",
    "reconstruction_psnr",
    "reconstruction_ssim",
    "reconstruction_kind",
    "translation_fid_ab",
    "translation_fid_ab_floor",
    "translation_fid_ba",
    "translation_fid_ba_floor",
    "translation_fid_identity",
    "translation_mse",
    "translation_mse_ab",
    "translation_mse_ba",
    "translation_mse_identity",
    "translation_label_accuracy",
    "translation_label_accuracy_real",
    "translation_label_accuracy_identity",
    "translation_n",
    "cycle_mse",
    "parameters",
    "images_seen",
    "training_flops_per_image",
    "sampling_flops",
    "network_evaluations",
)
"""The first columns of the comparison's table, always there; all other keys follow by name."""
TEXT = ("class_fid_worst", "likelihood_bound", "reconstruction_kind")
"""Those that say something in words."""
SAID = ("kind", "status", "model", "label", "family", "conditional")
"""Those that say which row it is, and of what."""
NUMBERS = tuple(key for key in COLUMNS if key not in (*SAID, *TEXT))
SHARES = ("coverage", "precision", "recall", "authenticity", "label_accuracy", "translation_label")
"""How the names of numbers from 0 to 1 begin."""
SIGNED = (
    "kid",
    "inception_kid",
    "imagenet_kid",
    "bits_per_dim",
    "nats_per_image",
    "iwae",
    "label_gain",
)
SIGNED += ("reconstruction_psnr", "reconstruction_ssim")
"""How the names of numbers begin that may be below 0; a likelihood's estimate may, in theory."""
COSTS = (
    "parameters",
    "images_seen",
    "training_flops_per_image",
    "sampling_flops",
    "network_evaluations",
)
"""What every model has, where it stands at all."""
TOGETHER = (
    ("fid", "fid_min", "fid_max"),
    ("second_fid", "second_fid_min", "second_fid_max"),
    ("kid", "kid_min", "kid_max"),
    ("coverage", "coverage_min", "coverage_max"),
    ("density", "precision", "recall"),
    ("authenticity", "authenticity_real", "authenticity_pixels", "authenticity_pixels_real"),
    ("label_accuracy", "label_accuracy_real"),
    ("class_fid", "class_fid_real", "class_fid_max", "class_fid_worst", "class_fid_n"),
    ("bits_per_dim", "nats_per_image", "likelihood_bound"),
    ("iwae_bits_per_dim", "iwae_nats_per_image", "iwae_samples"),
    ("bits_per_dim_given_label", "nats_per_image_given_label", "label_gain_nats"),
    ("reconstruction_mse", "reconstruction_psnr", "reconstruction_kind"),
    ("translation_fid_ab", "translation_fid_ba", "translation_fid_identity", "cycle_mse"),
    ("translation_mse", "translation_mse_ab", "translation_mse_ba", "translation_mse_identity"),
    (
        "translation_label_accuracy",
        "translation_label_accuracy_real",
        "translation_label_accuracy_identity",
    ),
)
"""Either all of these are there, or none."""
DRAWN = ("fid", "kid", "coverage", "density", "authenticity")
"""What judges say of samples: of these none is null where another is not."""
RANGES = ("fid", "second_fid", "kid", "coverage")
"""What lies between a ``_min`` and a ``_max``, up to rounding."""
LARGEST = 1e100
"""No result is larger; what is drawn is computed with."""

NOT_SHARED = ("rows", "judges", "images")
"""What a file of reference rows holds beside the facts of the protocol, which all rows share."""

REDO = "restore it from git, or run `make repro`"
JUDGE_AGAIN = "judge these images again (`python -m pipeline evaluate-images`), or delete the file"


def number(value: Any) -> int | float:
    """A finite number, as it is.

    Raises:
        ValueError: if it is anything else, such as true.
    """
    wrong = isinstance(value, bool) or not isinstance(value, int | float)
    if wrong or not abs(value) <= LARGEST:
        raise ValueError("should be a finite number")
    return value


def share(value: Any) -> int | float:
    """A `number` from 0 to 1."""
    if not 0 <= number(value) <= 1:
        raise ValueError("should be a share, from 0 to 1")
    return value


def size(value: Any) -> int | float:
    """A `number` that is not below 0."""
    if not number(value) >= 0:
        raise ValueError("should be 0 or more")
    return value


def scalar(value: Any) -> Any:
    """What any other key may hold: a number, text, true, false or null."""
    if value is None or isinstance(value, str | bool):
        return value
    if not isinstance(value, int | float):
        raise ValueError("should be a number, text, true, false or null")
    return number(value)


def text(value: Any) -> str:
    """Some text."""
    if not isinstance(value, str):
        raise ValueError("should be text")
    return value


def kind_of(key: str) -> Callable[[Any], Any]:
    """What checks the value of one of `NUMBERS`."""
    if key.startswith(SHARES):
        return share
    return number if key.startswith(SIGNED) else size


def _or_null(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


class Measured(records.Record):
    """Metrics, of a model or of a reference; keys that nothing here names are `scalar`."""

    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(scalar)]]
    together: ClassVar[tuple[tuple[str, ...], ...]] = TOGETHER

    @model_validator(mode="after")
    def _whole(self) -> Self:
        found = self.model_dump(exclude_unset=True)
        there = {key for key, value in found.items() if value is not None}
        groups = [*self.together, tuple(key for key in DRAWN if key in found)]
        for group in groups:
            known = [key for key in group if key in there]
            for key in group if known else ():
                if key not in there:
                    state = "null" if key in found else "missing"
                    raise ValueError(f"{key} is {state}, though {known[0]} is there")
        for key in RANGES:
            if key in there:
                low, value, high = (found[each] for each in (f"{key}_min", key, f"{key}_max"))
                slack = 1e-6 * abs(value) + 1e-9
                if not low - slack <= value <= high + slack:
                    raise ValueError(
                        f"{key} = {value} should be between {key}_min and {key}_max, {low} and "
                        f"{high}"
                    )
        return self


OUTSIDE = ("inception", "imagenet")
"""How the names of columns begin that networks from outside have."""
_NUMBERS = (
    *NUMBERS,
    *(f"{name}_{key}" for name in OUTSIDE for key in ("fid", "fid_real", "kid", "kid_real")),
)
_Measured = create_model(
    "_Measured",
    __base__=Measured,
    **{
        key: (Annotated[Any, AfterValidator(_or_null(kind_of(key)))], None)
        for key in _NUMBERS
        if key not in COSTS
    },
    **{key: (Annotated[Any, AfterValidator(size)], None) for key in COSTS},
    **{key: (Annotated[Any, AfterValidator(_or_null(text))], None) for key in TEXT},
)


class Metrics(_Measured):
    """``models/<model>.json`` and ``external/<name>.json`` of a data set."""

    model: str = Field(min_length=1)
    family: str = Field(min_length=1)
    dataset: str = Field(min_length=1)
    protocol: str = Field(min_length=1)
    n_samples: int | None = Field(None, ge=1)
    conditional: bool | None = None

    @model_validator(mode="after")
    def _costed(self) -> Self:
        if self.training_flops_per_image is not None and self.images_seen is None:
            raise ValueError("images_seen is missing, though training_flops_per_image is there")
        if self.bits_per_dim is not None and self.bits_per_dim_stderr is None:
            raise ValueError("bits_per_dim_stderr is missing, though bits_per_dim is there")
        return self


class ReferenceRow(_Measured):
    """One of the rows in `Reference`."""

    name: str = Field(min_length=1)
    label: str


Fids = Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)]
"""One for each judge, or each way to choose images."""


class _Ranking(records.Record):
    ranks: bool
    reasons: list[str]

    @model_validator(mode="after")
    def _reasoned(self) -> Self:
        if self.ranks == bool(self.reasons):
            raise ValueError("reasons should be there if ranks is false, and only then")
        return self


class Rung(records.Record):
    """What judges said of one step of known damage."""

    ladder: str
    label: str
    fid: Fids


class OfKind(_Ranking):
    """What the judges of one kind were found to be worth."""

    kind: Literal["classifier", "label_free"]
    accuracy: list[Annotated[float, Field(ge=0, le=1)] | None]
    rungs: list[Rung]

    @field_validator("rungs")
    @classmethod
    def _from_real(cls, rungs: list[Rung]) -> list[Rung]:
        if [each.ladder for each in rungs].count("real") != 1 or len(rungs) < 2:
            raise ValueError("should be real images, once, and damage to them")
        if len({len(each.fid) for each in rungs}) > 1:
            raise ValueError("should have FIDs of as many judges each")
        return rungs


class Verdict(_Ranking):
    """What all judges were found to be worth; see `pipeline.evaluation.verdict`."""

    shift: float = Field(ge=0)
    shifted: bool
    floor_n: int = Field(ge=1)
    floor: Fids
    kinds: list[OfKind] = Field(min_length=1, max_length=2)


class Images(records.Record):
    """What the images of a data set are, and how many each split has."""

    shape: list[Annotated[int, Field(ge=1)]] = Field(min_length=3, max_length=3)
    classes: list[str] = Field(min_length=1)
    train: int = Field(ge=1)
    val: int = Field(ge=1)
    test: int = Field(ge=1)


class Reference(records.Record):
    """``reference.json``: the facts of the protocol, and rows that need no training."""

    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(scalar)]]

    dataset: str = Field(min_length=1)
    protocol: str = Field(min_length=1)
    n_samples: int = Field(ge=1)
    n_reference: int = Field(ge=1)
    reference_split: str = Field(pattern="^(val|test)$")
    fid_features: str
    second_features: str | None = None
    judges: Verdict | None = None
    images: Images | None = None
    rows: list[ReferenceRow]


def of_model(model: str, path: Path) -> dict[str, Any]:
    """The metrics of a model, as they stand in its file.

    Args:
        model: its name.
        path: the file.

    Raises:
        FileNotFoundError: if there is none.
        PipelineError: one line for each mistake in it.
    """
    return _metrics(path, model, REDO)


def of_external(path: Path) -> dict[str, Any]:
    """The metrics of images that another generator made; errors are those of `of_model`."""
    try:
        return _metrics(path, path.stem, JUDGE_AGAIN)
    except FileNotFoundError:
        raise files.Unreadable(f"{path}: a link that leads nowhere; {JUDGE_AGAIN}") from None


def of_references(path: Path) -> dict[str, Any]:
    """The reference rows, and the facts of their protocol.

    Raises:
        PipelineError: if the stage ``reference`` has not run, or one line for each mistake.
    """
    try:
        return records.read(path, Reference, REDO).model_dump(exclude_unset=True)
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; run `dvc repro reference`") from None


def curve(path: Path) -> list[dict[str, str]]:
    """The lines of a training curve: step, images and the terms, with their digits as they stand.

    A cell is empty where a term was not logged.

    Raises:
        FileNotFoundError: if there is none.
        PipelineError: if it is no such table.
    """

    def wrong(what: str) -> files.Unreadable:
        return files.Unreadable(f"{path}: {what}; {REDO}")

    try:
        with path.open(newline="", encoding="utf-8") as stream:
            head, *lines = list(csv.reader(stream, strict=True)) or [[]]
    except FileNotFoundError:
        raise
    except OSError as error:
        raise wrong(f"cannot be read: {files.reason(error)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise wrong(f"not a table in UTF-8 ({error})") from None
    if head[:2] != ["step", "images"] or len(set(head)) < len(head) or "" in head:
        raise wrong("its first line should be step,images and the names of terms, each once")
    for place, line in enumerate(lines, start=2):
        if len(line) != len(head):
            raise wrong(f"line {place} has {len(line)} cells, but {len(head)} columns have names")
        for name, cell in zip(head, line, strict=True):
            counted = name in ("step", "images")
            if not (_whole(cell) if counted else cell == "" or _finite(cell)):
                should = "a whole number" if counted else "a finite number, or empty"
                raise wrong(f"line {place}: {name} = {cell!r} should be {should}")
    return [dict(zip(head, line, strict=True)) for line in lines]


def _metrics(path: Path, name: str, remedy: str) -> dict[str, Any]:
    found = records.read(path, Metrics, remedy).model_dump(exclude_unset=True)
    if found["model"] != name:
        raise files.Unreadable(
            f"{path}: model = {found['model']!r}: should be {name!r}, as the file is called; "
            f"{remedy}"
        )
    return found


def _whole(cell: str) -> bool:
    return cell.isascii() and cell.isdigit() and len(cell) <= 18


def _finite(cell: str) -> bool:
    try:
        return cell.isascii() and math.isfinite(float(cell)) and abs(float(cell)) <= LARGEST
    except ValueError:
        return False
