"""JSON files with a schema: whoever reads one says what must be in it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.core import files, params


class Record(BaseModel):
    """What a file of ours holds: immutable, no silent change of type, no NaN and no infinity.

    Keys that the schema does not name are kept in ``model_extra``: files may say more than one
    reader needs.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)


R = TypeVar("R", bound=BaseModel)


def read(path: Path, schema: type[R], remedy: str) -> R:
    """Read a JSON file.

    Args:
        path: the file.
        schema: what it must hold.
        remedy: what to do if it holds anything else; it ends each message.

    Raises:
        FileNotFoundError: if there is none.
        files.Unreadable: one line for each mistake, with file, key, value and what would be right.
    """
    try:
        value = files.read_json(path)
    except files.Unreadable as error:
        raise files.Unreadable(f"{error}; {remedy}") from None
    return parse(value, schema, path, remedy)


def parse(value: Any, schema: type[R], path: Path, remedy: str) -> R:
    """What was read from ``path``, validated; otherwise as `read`."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        lines = [f"{path}: {line}; {remedy}" for line in mistakes(error)]
        raise files.Unreadable("\n".join(lines)) from None


def mistakes(error: ValidationError) -> Iterable[str]:
    """What pydantic found, a line each: the key, its value, and what it should be."""
    for detail in error.errors():
        key = params.joined(*detail["loc"])
        if detail["type"] == "missing":
            yield f"{key}: missing"
            continue
        message = detail["msg"].removeprefix("Value error, ").replace("Input should", "should")
        yield f"{key} = {params.shown(detail['input'])}: {message}" if key else message
