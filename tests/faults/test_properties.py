"""Files that hypothesis makes up: whoever reads them takes them or tells why not, in single lines.

The examples are the same each time unless FAULT_SEED is set, and what it finds it makes smaller.
FAULT_EXAMPLES is a factor on their number, 1 for two minutes in all.
"""

import copy
import io
import json
import os
import resource
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from clone import ROOT
from faults import harness
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from ruamel.yaml import YAML

from pipeline.comparison import dvc_lock, results, spread
from pipeline.core import arrays, files, owned, params, tensors
from pipeline.core.errors import PipelineError
from pipeline.datasets import folder_scan, image_files, sources
from pipeline.datasets.store import Store
from pipeline.evaluation import external, judge
from pipeline.gate import baseline
from pipeline.gate import rules as gate_rules
from pipeline.models import entries
from pipeline.orchestration import check_params

pytestmark = pytest.mark.slow
CHOSEN = os.environ.get("FAULT_SEED")
FACTOR = float(os.environ.get("FAULT_EXAMPLES", "1"))
SECONDS = 5
"""The longest that one example may take."""
MEMORY = 6 << 30
"""Bytes of address space beyond what there is that a reader may take."""
COMMITTED = YAML(typ="safe").load((ROOT / "params.yaml").read_text())


def examples(n):
    """Run a test on so many examples, the same each time unless FAULT_SEED says which."""

    def decorate(test):
        chosen = settings(
            max_examples=max(1, int(FACTOR * n)),
            derandomize=CHOSEN is None,
            database=None,
            deadline=1000 * SECONDS,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        )(test)
        return chosen if CHOSEN is None else seed(int(CHOSEN))(chosen)

    return decorate


class Hangs(BaseException):
    pass


def _hangs(number, frame):
    raise Hangs(f"more than {4 * SECONDS} s")


@pytest.fixture(autouse=True)
def limited():
    """Little memory, so that what takes too much ends the example and not the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    old = signal.signal(signal.SIGALRM, _hangs)
    yield
    signal.signal(signal.SIGALRM, old)
    resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def told_well(path, *others):
    """Let nothing out but a PipelineError of single lines that name the file, in time."""
    signal.alarm(4 * SECONDS)
    try:
        yield
    except PipelineError as error:
        lines = str(error).split("\n")
        assert len(lines) <= 100, f"{len(lines)} lines"
        for line in lines:
            assert line.isprintable(), f"no single line: {line!r}"
            assert len(line) < 2000, f"{len(line)} characters: {line[:200]!r}"
            names = (path.name, *others)
            assert any(name in line for name in names), f"it names no file: {line!r}"
    finally:
        signal.alarm(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("properties")


@pytest.fixture
def tried(count):
    """Counts examples."""
    total = [0]

    def one():
        total[0] += 1

    yield one
    count("made-up files", total[0])


NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(10**30), 10**30),
    st.sampled_from([0, 1, -1, 2**31, 2**63, 2**64, 10**9, 10**21, 10**400]),
    st.floats(allow_subnormal=False),
    st.sampled_from([1e308, -1e308, 5e-324, float("inf"), float("-inf"), float("nan"), -0.0]),
)
TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["", "~", "null", "yes", "0x10", "1e3", "../..", "/", "*a", "&a b", "\0", "é" * 99]
    ),
)
SCALARS = st.one_of(NUMBERS, TEXTS, st.booleans(), st.none())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(TEXTS, SCALARS), inner, max_size=4)
    ),
    max_leaves=12,
)


def places(value, path=()):
    """The paths of all keys and items in a nested value."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


def replaced(value, path, new):
    changed = copy.deepcopy(value)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = new
    return changed


def dumped(value):
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(value, stream)
    return stream.getvalue()


def spoiled(content):
    """Bytes like ``content``: with some of them changed, cut, repeated or put in between."""
    n = len(content)
    place = st.integers(0, n)
    change = st.one_of(
        st.tuples(st.just("set"), place, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("cut"), place, place),
        st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("end"), place, st.just(b"")),
        st.tuples(st.just("twice"), place, place),
    )

    def apply(changes):
        made = bytearray(content)
        for how, at, what in changes:
            if how == "set":
                made[at : at + len(what)] = what
            elif how == "cut":
                del made[min(at, what) : max(at, what)]
            elif how == "insert":
                made[at:at] = what
            elif how == "end":
                del made[at:]
            else:
                made += made[min(at, what) : max(at, what)]
        return bytes(made)

    return st.lists(change, min_size=1, max_size=4).map(apply)


# params.yaml

SMALL = {
    **COMMITTED,
    "models": {name: COMMITTED["models"][name] for name in harness.FAMILIES},
}
PLACES = list(places(SMALL))
SHARED = [place for place in PLACES if place[0] != "models"]


def validate(path):
    """What ``python -m pipeline check`` does."""
    check_params.check(path, {"gate": gate_rules.section})


@examples(130)
@given(place=st.sampled_from(SHARED), value=VALUES)
def test_any_value_of_a_shared_key(folder, tried, place, value):
    tried()
    path = folder / "params.yaml"
    raw = replaced(SMALL, place, value)
    path.write_text(dumped(raw), encoding="utf-8", errors="surrogatepass")
    with told_well(path):
        validate(path)


@examples(250)
@given(name=st.sampled_from(list(harness.FAMILIES)), data=st.data())
def test_any_value_of_a_model_s_key(folder, tried, name, data):
    tried()
    path = folder / "params.yaml"
    chosen = {**SMALL, "models": {name: SMALL["models"][name]}}
    place = data.draw(st.sampled_from([each for each in places(chosen) if each[0] == "models"]))
    path.write_text(dumped(replaced(chosen, place, data.draw(VALUES))), encoding="utf-8")
    with told_well(path):
        validate(path)


@examples(150)
@given(content=spoiled((ROOT / "params.yaml").read_bytes()))
def test_any_bytes_in_params(folder, tried, content):
    tried()
    path = folder / "params.yaml"
    path.write_bytes(content)
    with told_well(path):
        raw = params.read(path)
        for name in params.SHARED:
            params.section(raw, name, path)
        for name in params.model_blocks(raw, path):
            entries.read(raw, name, path=path)


@examples(300)
@given(where=TEXTS)
def test_any_path_of_the_user_s(tried, where):
    tried()
    with told_well(Path("params.yaml")):
        owned.refuse(Path(where), "params.yaml: data.folder")


# JSON and YAML of our own

REFERENCE = json.loads((ROOT / "metrics/mnist-5k/reference.json").read_text())
METRICS = json.loads((ROOT / "metrics/mnist-5k/models/vae.json").read_text())


def _store(path):
    (path.parent / "meta").mkdir(exist_ok=True)
    os.replace(path, path.parent / "meta/meta.json")
    Store(path.parent / "meta")


def _judge(path):
    (path.parent / "judge").mkdir(exist_ok=True)
    os.replace(path, path.parent / "judge/judge.json")
    judge.judge_facts(path.parent / "judge")


JSON_FILES = {
    "metrics": (METRICS, lambda path: results.of_model("vae", path), "vae.json"),
    "reference": (REFERENCE, results.of_references, "reference.json"),
    "baseline": (
        json.loads((ROOT / "metrics/mnist-5k/baseline.json").read_text()),
        baseline.read,
        "baseline.json",
    ),
    "thorough": (
        json.loads((ROOT / "metrics/mnist-5k/thorough/vae.json").read_text()),
        lambda path: spread.read(path, METRICS, COMMITTED),
        "vae.json",
    ),
    "data": (
        {
            "name": "toy",
            "classes": ["a"],
            "shape": [1, 8, 8],
            "counts": {"train": 3},
            "sha256": {"train.images.npy": "0" * 64},
        },
        _store,
        "meta.json",
    ),
    "judge": (
        {
            "features": 64,
            "why": "",
            "kinds": [
                {
                    "kind": "classifier",
                    "recipe": "r",
                    "judges": [{"seed": 1, "scale": 1.0, "accuracy": 0.9}],
                }
            ],
        },
        _judge,
        "judge.json",
    ),
    "arrays": (
        {"arrays": {"nats": {"dtype": "float64", "shape": [3], "sha256": "0" * 64}}},
        lambda path: arrays.load(path.parent, "nats", "make it again"),
        "arrays.json",
    ),
}


@pytest.mark.parametrize("kind", JSON_FILES)
@examples(120)
@given(data=st.data())
def test_any_value_in_a_file_of_results(folder, tried, kind, data):
    tried()
    right, reader, name = JSON_FILES[kind]
    path = folder / name
    if data.draw(st.booleans()):
        place = data.draw(st.sampled_from([(), *places(right)]))
        new = data.draw(VALUES)
        made = replaced(right, place, new) if place else new
        text = json.dumps(made, default=str, skipkeys=True)
        path.write_text(text, encoding="utf-8")
    else:
        path.write_bytes(data.draw(spoiled(json.dumps(right).encode())))
    with told_well(path, "nats.npy"):
        reader(path)


@examples(200)
@given(content=spoiled((ROOT / "dvc.lock").read_bytes()[:6000]))
def test_any_bytes_in_the_lock(folder, tried, content):
    tried()
    path = folder / "dvc.lock"
    path.write_bytes(content)
    with told_well(path):
        dvc_lock.read(path)


@examples(300)
@given(content=spoiled((ROOT / "metrics/mnist-5k/curves/vae.csv").read_bytes()[:2000]))
def test_any_bytes_in_a_curve(folder, tried, content):
    tried()
    path = folder / "vae.csv"
    path.write_bytes(content)
    with told_well(path):
        results.curve(path)


# Arrays, tensors and original files


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


HEADERS = st.fixed_dictionaries(
    {
        "descr": st.one_of(
            st.sampled_from(
                ["|u1", "<f4", "<i8", "|O", "<U4", ">f16", "|V0", "<M8[ns]", [("a", "<f4")]]
            ),
            SCALARS,
        ),
        "fortran_order": st.one_of(st.booleans(), SCALARS),
        "shape": st.one_of(st.tuples(st.integers(-3, 10**20), st.integers(0, 40)), VALUES),
    }
)


@examples(500)
@given(data=st.data())
def test_any_array_file(folder, tried, data):
    tried()
    path = folder / "images.npy"
    right = npy(np.zeros((3, 1, 4, 4), np.uint8))
    if data.draw(st.booleans()):
        head = repr(data.draw(HEADERS)).encode("utf-8", "surrogatepass")
        length = min(len(head), 65_535)
        path.write_bytes(b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + head + bytes(48))
    else:
        path.write_bytes(data.draw(spoiled(right)))
    with told_well(path):
        found = arrays.read(path, remedy="make it again")
        found.sum() if found.dtype.kind in "iuf" and found.size < 10**6 else None
    with told_well(path):
        external.read_images(path, external.ImageSpec(1, 4, 4, 10))
    with told_well(path):
        external.read_labels(path, folder, 3, ["a", "b"])


@examples(250)
@given(data=st.data())
def test_any_file_of_tensors(folder, tried, data):
    import torch

    tried()
    path = folder / "weights.safetensors"
    tensors.save(path, {"a": torch.zeros(3, 2), "b": torch.ones(1)}, name="x")
    path.write_bytes(data.draw(spoiled(path.read_bytes())))
    with told_well(path):
        tensors.load(path, "make it again")


IDX = {
    "train-images-idx3-ubyte": bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28])
    + bytes(1568),
    "train-labels-idx1-ubyte": bytes([0, 0, 8, 1, 0, 0, 0, 2, 3, 4]),
    "t10k-images-idx3-ubyte": bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 28, 0, 0, 0, 28])
    + bytes(784),
    "t10k-labels-idx1-ubyte": bytes([0, 0, 8, 1, 0, 0, 0, 1, 9]),
}


@examples(400)
@given(name=st.sampled_from(list(IDX)), data=st.data())
def test_any_original_file(folder, tried, name, data):
    tried()
    raw = folder / "MNIST/raw"
    raw.mkdir(parents=True, exist_ok=True)
    for each, content in IDX.items():
        (raw / each).write_bytes(content)
    (raw / name).write_bytes(data.draw(spoiled(IDX[name])))
    part = name.partition("-")[0]
    with told_well(raw / name, f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
        sources.load("mnist").read(folder)


# Images


def encoded(kind, mode="L", **options):
    stream = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (28, 28, 4), np.uint8)
    picture = Image.fromarray(values[:, :, :3]).convert(mode)
    picture.save(stream, kind, **options)
    return stream.getvalue()


PICTURES = {
    "PNG": encoded("PNG"),
    "PNG of a palette": encoded("PNG", "P"),
    "JPEG": encoded("JPEG", "RGB"),
    "progressive JPEG": encoded("JPEG", "RGB", progressive=True),
    "JPEG of CMYK": encoded("JPEG", "CMYK"),
    "BMP": encoded("BMP"),
    "GIF": encoded("GIF"),
    "TIFF": encoded("TIFF"),
    "packed TIFF": encoded("TIFF", compression="tiff_lzw"),
    "WEBP": encoded("WEBP", "RGB"),
}


@pytest.mark.parametrize("kind", PICTURES)
@examples(250)
@given(data=st.data())
def test_any_image_file(folder, tried, kind, data):
    tried()
    path = folder / f"{data.draw(st.sampled_from(['x.png', 'x.jpg', 'x.tif']))}"
    content = data.draw(spoiled(PICTURES[kind]))
    if data.draw(st.booleans()):  # the end of another kind of image
        other = PICTURES[data.draw(st.sampled_from(list(PICTURES)))]
        place = data.draw(st.integers(0, len(content)))
        content = content[:place] + other[place:]
    path.write_bytes(content)
    with told_well(path):
        image_files.read(path)
    with told_well(path):
        image_files.read(path, (28, 28))
    with told_well(path):
        folder_scan.decoded(path, folder_scan.Decoding(8, "pad", "auto", (1, 2, 3)))


@examples(200)
@given(content=spoiled(b"name,class\n1.png,a\nx/2.png,b\n10.png,a\n"))
def test_any_table_of_labels(folder, tried, content):
    tried()
    source = folder / "labelled"
    (source / "x").mkdir(parents=True, exist_ok=True)
    for name in ("1.png", "x/2.png", "10.png"):
        (source / name).touch()
    path = folder / "labels.csv"
    path.write_bytes(content)
    with told_well(path):
        external.read_labels(path, source, 3, ["a", "b"])


@examples(200)
@given(
    content=st.one_of(
        st.binary(max_size=200), TEXTS.map(lambda text: text.encode("utf-8", "ignore"))
    )
)
def test_any_json(folder, tried, content):
    tried()
    path = folder / "any.json"
    path.write_bytes(content)
    with told_well(path):
        files.read_json(path)
