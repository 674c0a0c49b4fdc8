"""Somebody's own folder of images: what is in it, what is chosen for it, and params.yaml for it."""

import os
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.comparison import data_sets
from pipeline.core import files, params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.datasets import counts, folder_layout, folder_scan, image_files, image_folder, sources
from pipeline.evaluation import protocol
from pipeline.orchestration import estimate, params_text, plan, preset

LOOKED_AT = 1000
"""As many headers, evenly spread, decide on the size."""
SMALL, MEDIUM = 32, 64
"""The sizes that are chosen; models of larger images take hours on processors."""
BORDER = 48
"""Images whose shorter side has fewer pixels become `SMALL`."""
KEPT_SIZES = (28, SMALL, MEDIUM)
"""Where all images are squares of one of these sizes, nothing is resized."""
FEATURES = {64: 512, 32: 256, 16: 64, 8: 0}
"""Features of the judges, and from how many samples on: with fewer images of each feature, what
chance adds to a FID hides damage; with fewer features, some judge of few images has none that
lives."""
TOLD = 3
"""Broken files that are named."""
WIDTH = 100
LABEL = 12
"""Characters of a line of text, and of what stands in front of it."""


@dataclass(frozen=True)
class Folder:
    """A folder that was read as a section ``data`` says, and what is chosen for it.

    Attributes:
        data: the section.
        scan: its images.
        layout: what its folders mean.
        splits: how many images each split has.
        problem: why it cannot be used, or ''.
        values: what params.yaml should say, by key.
        why: what was chosen, and the reasons.
        seconds: that a run of all models takes here, about.
        rough: whether they are guessed, since models of this kind were not timed here yet.
        slots: models at a time in it.
        models: how many there are.
    """

    data: params.Data
    scan: folder_scan.Scan
    layout: folder_layout.Layout
    splits: dict[str, int]
    problem: str
    values: dict[str, Any]
    why: list[str]
    seconds: float
    rough: bool
    slots: int
    models: int


@contextmanager
def _as_given(folder: str) -> Iterator[None]:
    """Have mistakes name a folder that params.yaml does not as the person wrote it."""
    try:
        yield
    except PipelineError as error:
        text = str(error)
        for each in (folder, os.path.expanduser(folder)):
            named = image_files.shown(Path(folder)) if folder else "''"
            text = text.replace(f"{paths.PARAMS}: data.folder = {each!r}: ", f"{named}: ")
        raise PipelineError(text) from None


def inspect(folder: str, raw: dict[str, Any]) -> Folder:
    """Read all images of a folder, and choose parameters for them.

    What params.yaml says of this folder already stays as it is; only ``sample.n`` and
    ``judge.batch`` are lowered where it has too few images for them.

    Args:
        folder: as the person wrote it; ~ is the home folder.
        raw: what params.yaml holds.

    Raises:
        PipelineError: if there is no such folder, no image in it, or it is owned by the tools.
    """
    with _as_given(folder):
        return _inspect(folder, raw)


def _inspect(folder: str, raw: dict[str, Any]) -> Folder:
    present: params.Data = params.section(raw, "data")
    known = present.name == image_folder.NAME and _same_folder(present.folder, folder)
    why = []
    if known:
        data = present
        why.append(f"size {data.size}, as {paths.PARAMS} has it")
    else:
        data = present.model_copy(
            update={"name": image_folder.NAME, "folder": folder}
            | {key: params.Data.model_fields[key].default for key in ("labels", "fit", "channels")}
        )
        source = sources.load(data.name).configured(data)
        size, reason = _size(list(source.inputs().values()))
        data = data.model_copy(update={"size": size})
        why.append(f"size {size}, {reason}")
    source = sources.load(data.name).configured(data)
    scan = folder_scan.scanned(source.folder, data)
    layout = folder_layout.layout(scan.rows, data)
    counted, problem = {}, ""
    try:
        image_folder.accept(scan, data)
        parts = folder_layout.by_part(scan.rows, layout, data)
        limits = counts.limits(data)
        counted = {name: min(len(rows), limits[name] or len(rows)) for name, rows in parts.items()}
    except PipelineError as error:
        problem = str(error)
    colour = sum(not row.grey for row in scan.rows)
    how = "as params.yaml says" if data.channels != "auto" else _of(colour, scan, "in colour")
    why.append(f"{scan.channels} channel{'s' * (scan.channels > 1)}, {how}")
    values: dict[str, Any] = {
        f"data.{key}": getattr(data, key)
        for key in ("name", "folder", "labels", "size", "fit", "channels")
    }
    if known:
        name = preset.present(raw)
        what = f"preset {name}" if name else "networks and trainings of no preset"
        why.append(f"{what}, as {paths.PARAMS} has it")
    else:
        name = preset.of_size(data.size)
        values |= {**preset.values(name, raw), "data.title": _title(source.folder)}
        why.append(f"preset {name}, networks and trainings for images of this size")
    n = 0
    if counted:
        try:
            n, more, reasons = _numbers(counted, raw, known)
            values |= more
            why += reasons
        except PipelineError as error:
            problem = str(error)
    raw = params_text.with_values(raw, values)
    models = params.model_blocks(raw)
    slots, _ = plan.default_jobs()
    from pipeline.orchestration.pace import Paces  # and torch

    spec = ImageSpec(scan.channels, data.size, data.size, len(layout.classes))
    paces = Paces(raw, spec)
    known = {model: paces[model] for model in models}
    seconds = estimate.of_all(raw, spec, sum(counted.values()), n, slots, known)
    rough = any(pace.train is None for pace in known.values())
    return Folder(
        data, scan, layout, counted, problem, values, why, seconds, rough, slots, len(models)
    )


def _title(folder: Path) -> str:
    """A name that no results have yet."""
    name, title, k = slug(folder), slug(folder), 1
    while paths.Results(title).folder.exists():
        k += 1
        title = f"{name[:36]}-{k}"
    return title


def _earlier(folder: str) -> paths.Results | None:
    """Where results of this folder are, made before params.yaml went to other images."""
    for path in sorted(paths.METRICS.glob("*/params.yaml")):
        with suppress(PipelineError):
            raw = params.read(path)
            data: params.Data = params.section(raw, "data", path)
            own = data.name == image_folder.NAME and data.title == path.parent.name
            if own and _same_folder(data.folder, folder):
                return paths.Results(data.title)
    return None


def _same_folder(one: str, other: str) -> bool:
    return bool(one) and os.path.realpath(os.path.expanduser(one)) == os.path.realpath(
        os.path.expanduser(other)
    )


def _size(found: Sequence[Path]) -> tuple[int, str]:
    """The size that images are brought to, by that of theirs, and why."""
    sizes = []
    for path in found[:: -(-len(found) // LOOKED_AT)]:
        try:
            with image_files.opened(path) as file:
                sizes.append(file.size)
        except PipelineError:
            continue  # it is broken, which is told later
    if not sizes:
        return MEDIUM, "as none of them can be read"
    if len(set(sizes)) == 1 and sizes[0][0] == sizes[0][1] and sizes[0][0] in KEPT_SIZES:
        return sizes[0][0], "which all images have"
    middle = int(np.median([min(size) for size in sizes]))
    size = SMALL if middle < BORDER else MEDIUM
    return size, f"since the shorter sides of the images have {middle:,} pixels (median)"


def _numbers(
    counted: dict[str, int], raw: dict[str, Any], known: bool
) -> tuple[int, dict[str, Any], list[str]]:
    """How many samples are judged, what so many images allow by key of params.yaml, and why."""
    split = params.section(raw, "evaluate").split
    asked = params.section(raw, "sample").n if known else "auto"
    allowed = min(counted[split], counted["train"])
    n = protocol.sample_count(asked, counted, split)
    if n > allowed:
        asked = n = allowed
    name = split if counted[split] == allowed else "train"
    of = "all images" if n == allowed else f"of {allowed:,} images"
    auto = "auto: " if asked == "auto" else ""
    why = [f"sample.n {auto}{n:,}, {of} of the {name} split"]
    judge: params.Judge = params.section(raw, "judge")
    default = params.Judge.model_fields
    batch = judge.batch if known else default["batch"].default
    fitting = batch
    while fitting > counted["train"] and fitting > 2:
        fitting //= 2
    if fitting != batch:
        why.append(f"judge.batch {fitting}, since there are {counted['train']:,} training images")
    values = {"sample.n": asked, "judge.batch": fitting}
    most = next(each for each, fewest in FEATURES.items() if n >= fewest)
    if not known:
        values["judge.features"] = most
        if most < max(FEATURES):
            why.append(f"judge.features {most}, as FIDs of {n:,} images tell no more apart")
    features = values.get("judge.features", judge.features)
    if features >= n:
        why.append(
            f"judge.features {features}, not below sample.n: covariances of {n:,} images are "
            f"singular then, and FIDs uncertain{f'; {most} would be better' * (most < features)}"
        )
    return n, values, why


def slug(folder: Path) -> str:
    """A name for results, of small letters, digits and dashes, made of a folder's."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    return name[:40].strip("-") or "images"


def told(found: Folder) -> str:
    """What is in a folder, for a terminal."""
    scan, rows, data = found.scan, found.scan.rows, found.data
    lines = [f"{image_files.shown(Path(data.folder))}: {_count(len(rows), 'image')}"]

    def say(label: str, *texts: str) -> None:
        for place, text in enumerate(filter(None, texts)):
            head = (label if place == 0 else "").ljust(LABEL)
            lines.extend(
                textwrap.wrap(
                    text,
                    WIDTH,
                    initial_indent=f"  {head}",
                    subsequent_indent="  " + " " * LABEL,
                    break_on_hyphens=False,
                )
            )

    if rows:
        say("formats", _counted(row.format for row in rows))
        clear = sum(row.clear for row in rows)
        behind = f"; partly transparent, and put on {data.background}: {clear:,}"
        say("modes", _counted(row.mode for row in rows) + behind * bool(clear))
        say("pixels", _pixels(rows, data.size))
    notes: dict[str, list[str]] = {}
    for note in found.layout.notes:
        label, _, text = note.partition(": ")
        notes.setdefault(label, []).append(text)
    say("labels", *notes.pop("labels", []))
    by = "" if "val" in found.layout.official else ", by content"
    made = ", ".join(f"{n:,} {name}" for name, n in found.splits.items())
    say("splits", *notes.pop("splits", []), made and f"used: {made}{by}")
    say("duplicates", *(notes.pop("duplicates", None) or ["none, pixel by pixel"]))
    say("skipped", *_skipped(scan))
    for place, text in enumerate(found.why):
        say("chosen" if place == 0 else "", text)
    if found.problem:
        say("problem", found.problem)
    else:
        cores = _count(found.slots, "core")
        say(
            "time",
            f"about {estimate.roughly(found.seconds)} for all {found.models} models on {cores}"
            + ", roughly" * found.rough,
        )
    return "\n".join(lines)


def _pixels(rows: Sequence[folder_scan.Row], size: int) -> str:
    sizes = Counter((row.width, row.height) for row in rows)
    if len(sizes) == 1:
        ((width, height),) = sizes
        text = f"all {width}x{height}"
    else:
        low, *_, high = sorted(sizes, key=lambda each: (each[0] * each[1], each))
        (width, height), n = sizes.most_common(1)[0]
        text = f"{low[0]}x{low[1]} to {high[0]}x{high[1]}, most often {width}x{height} ({n:,})"
    fewer = sum(min(row.width, row.height) < size for row in rows)
    return text + f"; smaller than {size}, and enlarged: {fewer:,}" * bool(fewer)


def _skipped(scan: folder_scan.Scan) -> list[str]:
    texts = []
    if scan.skipped:
        n = len(scan.skipped)
        texts.append(f"{_count(n, 'image')} that cannot be read{', such as' if n > TOLD else ''}:")
        texts += [each.reason for each in scan.skipped[:TOLD]]
    if scan.several:
        texts.append(f"all but the first picture of {_count(scan.several, 'file')} with several")
    if scan.others:
        texts.append(
            f"{_count(scan.others, 'file')} that are no images"
            if scan.others > 1
            else "1 file that is no image"
        )
    return texts or ["nothing"]


def _counted(values: Iterable[str]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in Counter(values).most_common())


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _of(n: int, scan: folder_scan.Scan, what: str) -> str:
    every = len(scan.rows)
    if n == every:
        return f"since all images are {what}"
    return f"since {n:,} of {every:,} images are {what}" if n else f"since no image is {what}"


def adopt(folder: str, check: Callable[[Path], None]) -> None:
    """Say what is in a folder, and have params.yaml name it with what was chosen for it.

    Where there are results of this folder, params.yaml becomes what it was for them. The file
    changes as a whole, or, where anything is wrong, not at all.

    Args:
        folder: as the person wrote it.
        check: refuses a file with mistakes.

    Raises:
        PipelineError: if the folder cannot be used, or params.yaml would be refused.
    """
    raw = params.read()
    present: params.Data = params.section(raw, "data")
    home = _earlier(folder)
    if home is not None and not _same_folder(present.folder, folder):
        check(home.params)
        data_sets.restore(home)
        print(f"{paths.PARAMS}: as it was for {home.folder}\n", flush=True)
        raw = params.read()
    found = inspect(folder, raw)
    print(told(found), end="\n\n", flush=True)
    if found.problem:
        raise PipelineError(found.problem)
    before, text = params.results(raw), files.read_text(paths.PARAMS)
    params_text.change(found.values, check)
    if params.results(params.read()).title != before.title and before.folder.exists():
        files.write_text(before.params, text)  # what a way back comes to, `datasets --switch`


def introduce() -> None:
    """Say what is in the folder of params.yaml, if it names one."""
    raw = params.read()
    data: params.Data = params.section(raw, "data")
    if data.name == image_folder.NAME:
        print(told(_inspect(data.folder, raw)), end="\n\n", flush=True)
