"""Parameters by the size of images: what a preset is, and how params.yaml is made to be one.

A preset is a YAML file with some of the keys of params.yaml: sizes of networks, trainings, samples.
All have the same keys, so that one replaces another without a trace; 28 is the committed file.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.orchestration import params_text

FOLDER = Path(__file__).parent / "presets"
UP_TO = {28: "28", 32: "32", 90: "64", 1024: "128"}
"""The preset of images of so many pixels a side, and of smaller ones."""


def names() -> list[str]:
    """The presets that there are, the smallest first."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=int)


def of_size(size: int) -> str:
    """The preset for images of ``size`` pixels a side."""
    return next(name for most, name in UP_TO.items() if size <= most)


def values(name: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a preset sets of what ``raw`` (params.yaml) holds, by key, such as ``sample.n``.

    Models that are not there, or are of another family with other keys, are left out.

    Raises:
        PipelineError: if there is no such preset.
    """
    if name not in names():
        raise PipelineError(params.one_of("preset", name, names()))
    return dict(_flat(params.read_yaml(FOLDER / f"{name}.yaml"), raw))


def _flat(block: Mapping[str, Any], raw: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in block.items():
        if not isinstance(raw, Mapping) or key not in raw:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, raw[key], f"{above}{key}.")
        else:
            yield above + key, value


def apply(name: str, check: Callable[[Path], None], *, write: bool = True) -> None:
    """Have params.yaml say what a preset says, and show what that changes.

    Args:
        name: of the preset.
        check: refuses a file with mistakes.
        write: False only shows it.

    Raises:
        PipelineError: if there is no such preset, or params.yaml would be refused.
    """
    raw = params.read()
    data: params.Data = params.section(raw, "data")
    # Own images are seldom as many as those that the committed number is for.
    chosen = values(name, raw) | ({"sample.n": "auto"} if data.folder else {})
    if params_text.change(chosen, check, write=write) and not write:
        print(f"{paths.PARAMS}: left as it was; without --dry-run it says so")
    if data.folder and of_size(data.size) != name:
        print(
            f"data.size = {data.size} stays as it is; preset {of_size(data.size)} is meant for it"
        )
    known = params.read_yaml(FOLDER / f"{name}.yaml")["models"]
    others = [each for each in params.model_blocks(raw) if each not in known]
    if others:
        print(f"models that presets do not know, and that stay as they are: {', '.join(others)}")


def present(raw: Mapping[str, Any]) -> str | None:
    """The preset whose networks and trainings ``raw`` (params.yaml) has, if it is one."""
    for name in names():
        found = values(name, raw)
        wanted = {key: found[key] for key in found if key.startswith("models.")}
        if params_text.with_values(raw, wanted) == raw:
            return name
    return None
