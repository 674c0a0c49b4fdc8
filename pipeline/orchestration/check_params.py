"""Validate the whole of ``params.yaml`` before anything runs: what a stage would refuse, too."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.comparison import results
from pipeline.core import owned, params, paths, stage
from pipeline.core.contract import TrainingImages
from pipeline.core.errors import PipelineError
from pipeline.datasets import domains, sources
from pipeline.datasets.sources import Expected
from pipeline.datasets.store import Split
from pipeline.evaluation import protocol, reference
from pipeline.models import entries


def check(
    path: Path = paths.PARAMS, sections: Mapping[str, Callable[[dict[str, Any]], Any]] | None = None
) -> None:
    """Validate every section and every model, each also against the images that there will be.

    A stage validates what it depends on; this finds the mistakes in the rest before an hour of
    training is spent.

    Args:
        path: the file.
        sections: what reads the sections that no stage depends on, by name.

    Raises:
        PipelineError: one line for each mistake, with the file, the key path, the value and
            what would be right.
    """
    raw = params.read(path)
    known = [*params.SHARED, *(sections or {}), "models"]
    problems = [
        f"{path}: {params.joined(key)}: {params.one_of('section', key, known)}"
        for key in raw
        if key not in known
    ]

    @contextmanager
    def collected() -> Iterator[None]:
        try:
            yield
        except PipelineError as error:
            problems.extend(str(error).splitlines())

    shared: dict[str, Any] = {}
    absent = [name for name in (*params.SHARED, "models") if name not in raw]
    if len(absent) > 1:  # the file was cut off: one mistake, one line
        problems.append(
            f"{path}: the sections {', '.join(absent)} are missing; restore the file from git"
        )
    for name in params.SHARED:
        if len(absent) > 1 and name in absent:
            continue
        with collected():
            shared[name] = params.section(raw, name, path)
            problems += _without_defaults(shared[name], raw[name], name, path)
    models: dict[str, Any] = {}
    if not (len(absent) > 1 and "models" in absent):
        with collected():
            models = params.model_blocks(raw, path)
    images, device = None, torch.device("cpu")  # where it is not known, that is as good as any
    if "data" in shared:
        with collected():
            sources.check_title(shared["data"], path)
            _check_results(shared["data"], path)
        with collected():
            images = images_of(shared["data"], path)
    if shared.keys() >= {"data", "train"} and shared["train"].flips:
        with collected():
            sources.check_flips(shared["data"], path)
    if "runtime" in shared:
        with collected():
            device = stage.device_of(shared["runtime"])
            stage.check_devices(shared["runtime"], path)
    if images is not None and shared.keys() >= {"judge", "sample", "evaluate"}:
        problems += _of_images(images, shared, path)
    if "evaluate" in shared:
        with collected():
            _check_outside(shared["evaluate"], path)
    trained_on: dict[str, TrainingImages] = {}
    if images is not None:
        trained_on["processed"] = _training(images)
        if "domains" in shared:
            with collected():
                trained_on["domains"] = _of_domains(images, shared, path)
    for name in models:
        with collected():
            model = entries.read(raw, name, path=path)
            if "train" in shared:
                model = entries.scaled(model, shared["train"].budget)
            given = trained_on.get(model.data)
            entries.check_device(model, device, given, path)
            if "runtime" in shared:
                entries.check_batch(model, shared["runtime"].devices, path)
            if given is not None:
                entries.check_network(model, device, given, path)
    for read in (sections or {}).values():
        with collected():
            read(raw)
    if problems:
        raise PipelineError("\n".join(dict.fromkeys(problems)))


def _without_defaults(
    section: params.Section, raw: dict[str, Any], name: str, path: Path
) -> Iterator[str]:
    """Keys that are missing: stages know what is meant, but DVC refuses to run without the keys
    that dvc.yaml names."""
    missing = {
        key: params.shown(value)
        for key, value in section.model_dump().items()
        if key not in raw and key not in section.unhashed
    }
    if len(missing) == 1:
        ((key, value),) = missing.items()
        yield f"{path}: {name}.{key}: missing; its default is {value}"
    elif missing:
        told = ", ".join(f"{key}: {value}" for key, value in missing.items())
        yield f"{path}: {name}: missing keys; their defaults are {told}"


class Images:
    """Stands for a `pipeline.datasets.store.Store` of which only the numbers are known."""

    def __init__(self, name: str, expected: Expected) -> None:
        self.name, self.spec, self.by_class = name, expected.spec, expected.by_class
        self.classes = [str(label) for label in range(expected.spec.classes)]

    @property
    def counts(self) -> dict[str, int]:
        """How many images each split will have."""
        return {name: sum(counts) for name, counts in self.by_class.items()}

    def split(self, name: str) -> Split:
        """As many labels of each class as there will be, and images of one pixel."""
        counts = self.by_class[name]
        labels = np.repeat(np.arange(len(counts)), counts)
        return Split(np.zeros((len(labels), 1, 1, 1), np.uint8), labels)


def images_of(data: params.Data, path: Path) -> Images | None:
    """What the data set will hold; None if nobody knows before it is there.

    Raises:
        PipelineError: if the section does not describe one, or `preprocess` would refuse it.
    """
    source = sources.load(data.name, path).configured(data, path)
    found = source.limited(data)
    return None if found is None else Images(data.name, found)


def _check_results(data: params.Data, path: Path) -> None:
    """Refuse a title whose results are of other images, which the next run would replace."""
    home = paths.Results(data.title)
    try:
        dataset = results.of_references(home.reference)["dataset"]
    except PipelineError:
        return  # there are none; or they are damaged, which is told by whoever needs them
    if dataset != data.name:
        raise PipelineError(
            f"{path}: data.title = '{data.title}': the results in {home.folder} are of {dataset}, "
            f"and data.name is {data.name}; set data.title to a name of its own, or delete that "
            "folder"
        )


def _training(images: Images) -> TrainingImages:
    counts = images.by_class["train"]
    return TrainingImages(images.spec, sum(counts), counts)


def _of_domains(images: Images, shared: dict[str, Any], path: Path) -> TrainingImages:
    """What `domains` will make of the images.

    Raises:
        PipelineError: if it would refuse them, or too few would be left to measure anything.
    """
    section: params.Domains = shared["domains"]
    where = f"{path}: domains.transformation = '{section.transformation}'"
    try:
        splits, names = domains.make(images, section)
    except PipelineError as error:
        text = str(error)
        raise PipelineError(text if "domains." in text else f"{where}: {text}") from None
    sizes = {key: min(len(each.images), len(each.others)) for key, each in splits.items()}
    judged = shared["evaluate"].split if "evaluate" in shared else "test"
    if sizes[judged] < 2:
        raise PipelineError(
            f"{where}: the {judged} split has only {sizes[judged]} image of '{names[0]}' or "
            f"'{names[1]}', and FID needs 2"
        )
    return TrainingImages(images.spec, sizes["train"])


def _of_images(images: Images, shared: dict[str, Any], path: Path) -> list[str]:
    """What is wrong with the shared sections for these images, one line for each mistake."""
    problems = []
    n, split, batch = shared["sample"].n, shared["evaluate"].split, shared["judge"].batch
    try:
        n = protocol.sample_count(n, images.counts, split)
        for name in dict.fromkeys([split, "train"]):  # images of both stand beside the samples
            protocol.check_size(images, name, n)
    except PipelineError as error:
        problems.append(str(error))
    count = sum(images.by_class["train"])
    kind, classes = shared["judge"].kind, images.spec.classes
    if kind == "classifier" and classes < 2:
        problems.append(
            f"{path}: judge.kind = 'classifier': there is only one class to tell apart; take "
            "'auto' or 'label_free'"
        )
    if batch > count:
        problems.append(
            f"{path}: judge.batch = {batch}: there are only {count:,} training images; lower it"
        )
    there = entries.memory()
    height, width = images.spec.height, images.spec.width
    needed = reference.memory(count, images.spec.dimensions)
    if needed > there:
        problems.append(
            f"{path}: data.size = {height}: the histograms and principal components of "
            f"{height}x{width} images, which stand beside the models, take {needed / 1e9:,.1f} GB, "
            f"and there are {there / 1e9:,.1f} GB here; make it smaller"
        )
    return problems


def _check_outside(section: params.Evaluate, path: Path) -> None:
    """Refuse weights that the evaluation could not load."""
    from pipeline.evaluation import outside

    weights = section.inception.weights
    if weights:
        owned.refuse(Path(weights), f"{path}: evaluate.inception.weights")
    for network in outside.asked_for(section):
        network.check()
        network.network()
