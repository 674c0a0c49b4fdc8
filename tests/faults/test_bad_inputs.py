"""Files that are not what they should be: each is refused in one line, or is no loss.

The first table says which files are spoiled, how, and who reads them; each file meets every way
to spoil it, and every one of its readers. A reader ends with an exit code that is not 0 and with
lines that name the file, or, where the file is a cache, as if it were not there. Nothing else in
the project changes.
"""

import json
import os
import re
import shutil
import struct
import zlib

import numpy as np
import pytest
from faults import harness
from PIL import Image
from ruamel.yaml import YAML

from pipeline.core import arrays

pytestmark = pytest.mark.slow

# Ways to spoil a file: each is given its path, at which nothing is, and its content.


def write(make):
    return lambda path, content: path.write_bytes(make(content))


def a_folder(path, content):
    path.mkdir()
    (path / "inside").write_text("")


def with_text(old, new):
    """The first match of a pattern replaced."""

    def make(content):
        changed, count = re.subn(old, new, content.decode(), count=1)
        assert count, f"no {old!r}"
        return changed.encode()

    return write(make)


MARKERS = b"<<<<<<< HEAD\n%s=======\n%s>>>>>>> theirs\n"
ANY = {
    "empty": write(lambda content: b""),
    "cut in half": write(lambda content: content[: len(content) // 2]),
    "HTML": write(lambda content: b"<!DOCTYPE html>\n<html><body>404</body></html>\n"),
    "NUL bytes": write(lambda content: bytes(len(content))),
    "not UTF-8": write(lambda content: b"\xff\xfe" + content),
    "a folder": a_folder,
    "a dangling link": lambda path, content: path.symlink_to("nowhere"),
    "a link to itself": lambda path, content: path.symlink_to(path.name),
}
TEXT = ANY | {
    "a bit flipped": write(lambda content: bytes([content[0] ^ 1]) + content[1:]),
    "conflict markers": write(lambda content: MARKERS % (content, content)),
}
RECORD = TEXT | {
    "a list": write(lambda content: b"[1, 2]"),
    "null": write(lambda content: b"null"),
    "a number": write(lambda content: b"3"),
    "no keys": write(lambda content: b"{}"),
    "a key twice": write(lambda content: b'{"a": 1, "a": 2}'),
    "nested deeply": write(lambda content: b"[" * 100_000),
    "a text of digits": write(lambda content: b'"123"'),
}
NO_TYPE = {"an unknown type": with_text('"dtype": "', '"dtype": "no ')}
CUT_BETWEEN_STAGES = {"without its last stages": with_text(r"(?s)\n  evaluate:.*", "\n")}
NUMBERS = {"NaN": "NaN", "infinity": "1e999", "text": '"0.5"', "a list": "[0.5]", "true": "true"}


def figures(key):
    """A record with numbers, of which the first of this name is edited by hand."""
    pattern = rf'("{key}": )-?\d+(\.\d+)?(e-?\d+)?'
    return RECORD | {
        f"{name} for a number": with_text(pattern, rf"\g<1>{value}")
        for name, value in NUMBERS.items()
    }


def flipped(share):
    def make(content):
        place = int(share * (len(content) - 1))
        return content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :]

    return write(make)


BINARY = ANY | {f"a bit flipped at {share}": flipped(share) for share in (0.01, 0.5, 1)}


def resaved(change):
    def spoil(path, content):
        path.write_bytes(content)
        array = change(np.load(path))
        np.save(path, array)

    return spoil


def as_archive(path, content):
    with path.open("wb") as stream:
        np.savez(stream, images=np.zeros(3))


def false_header(path, content):
    """Says that 10^10 images follow."""
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000, 1, 28, 28), }"
    head += b" " * (117 - len(head)) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content[128:])


def objects(path, content):
    np.save(path, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)


ARRAY = BINARY | {
    "of another type": resaved(lambda array: array.astype(np.float32)),
    "of another shape": resaved(lambda array: array[None]),
    "one less": resaved(lambda array: array[:-1]),
    "an archive": as_archive,
    "a false header": false_header,
    "objects": objects,
}

MODEL_FILES = {
    # file: (its readers, ways to spoil it)
    "params.yaml": (("check", "train vae", "compare", "recommend", "gate"), TEXT),
    "dvc.yaml": (("train vae", "report", "repro"), TEXT | CUT_BETWEEN_STAGES),
    "dvc.lock": (("report", "track", "repro"), TEXT | {"a list": RECORD["a list"]}),
    "data/raw/mnist_5k.csv.gz": (("preprocess",), BINARY),
    "data/processed/meta.json": (
        ("train vae", "judge", "domains", "reference", "evaluate vae", "compare", "sample dcgan"),
        RECORD,
    ),
    "data/processed/train.images.npy": (("train vae", "judge", "domains", "reference"), ARRAY),
    "data/processed/train.labels.npy": (("train dcgan", "judge", "evaluate vae"), ARRAY),
    "data/processed/test.images.npy": (("evaluate vae", "compare", "reference"), ARRAY),
    "data/domains/meta.json": (("train cyclegan", "sample cyclegan"), RECORD),
    "data/domains/train.others.npy": (("train cyclegan",), ARRAY),
    "data/domains/test.truth_ab.npy": (("evaluate cyclegan",), ARRAY),
    "data/judge/judge.json": (("reference", "evaluate dcgan", "evaluate-images"), RECORD),
    "data/judge/classifier-1.safetensors": (
        ("reference", "evaluate dcgan", "evaluate-images"),
        BINARY,
    ),
    "data/models/vae/model.json": (("sample vae", "evaluate vae"), RECORD),
    "data/models/vae/weights.safetensors": (("sample vae", "evaluate vae"), BINARY),
    "data/samples/vae/arrays.json": (("evaluate vae", "compare"), RECORD | NO_TYPE),
    "data/samples/vae/samples.npy": (("evaluate vae", "compare"), ARRAY),
    "data/samples/vae/cost.json": (("evaluate vae",), RECORD),
    "data/samples/cyclegan/b_to_a.npy": (("evaluate cyclegan", "compare"), ARRAY),
    "data/scores/vae/arrays.json": (("compare", "report"), RECORD),
    "data/scores/vae/nats.npy": (("compare", "report", "recommend"), ARRAY),
    "metrics/mnist-5k/pictures/vae/samples.png": (("report",), ANY),
    "metrics/mnist-5k/models/vae.json": (
        ("compare", "report", "track", "recommend", "gate", "docs"),
        figures("bits_per_dim"),
    ),
    "metrics/mnist-5k/reference.json": (("compare", "report", "recommend", "docs"), figures("fid")),
    "metrics/mnist-5k/curves/vae.csv": (("compare", "report"), TEXT),
    "metrics/mnist-5k/external/mine.json": (
        ("compare", "report", "recommend", "docs"),
        figures("fid"),
    ),
    "metrics/mnist-5k/thorough/vae.json": (
        ("compare", "report", "recommend", "docs"),
        figures("trained_mean"),
    ),
    "metrics/mnist-5k/baseline.json": (("gate",), figures("mean")),
    "mlflow.db": (("track", "register vae"), BINARY),
}
TABLE = [
    (file, how, readers[place % len(readers)])
    for file, (readers, ways) in MODEL_FILES.items()
    for place, how in enumerate(ways)
]
TABLE += [
    (file, "cut in half", reader)
    for file, (readers, _) in MODEL_FILES.items()
    for reader in readers
    if (file, "cut in half", reader) not in TABLE
]
TABLE.append(("dvc.yaml", "without its last stages", "repro"))
"""Each file with each way to spoil it, and with each of its readers."""
NO_LOSS = {
    ("dvc.yaml", "cut in half"): "the entry of a stage that is run by itself may be whole",
    ("dvc.lock", "empty"): "as if nothing was recorded yet",
    ("dvc.lock", "cut in half"): "at the end of an entry it is one with fewer stages",
    ("metrics/mnist-5k/curves/vae.csv", "cut in half"): "within a number it is a shorter one",
    ("metrics/mnist-5k/curves/vae.csv", "a dangling link"): "as if it were missing",
    ("metrics/mnist-5k/curves/vae.csv", "a link to itself"): "as if it were missing",
    ("params.yaml", "a bit flipped"): "another section, which only check misses",
    (
        "metrics/mnist-5k/models/vae.json",
        "a dangling link",
    ): "as if it were missing: the model failed",
    ("metrics/mnist-5k/thorough/vae.json", "a dangling link"): "as if it were missing",
    ("mlflow.db", "empty"): "to SQLite, a new store",
    **{("mlflow.db", f"a bit flipped at {share}"): "no checksums" for share in (0.01, 0.5, 1)},
}
"""What may go well, and why: it cannot be told from what is right."""
JUDGES_ARE_THERE = {"leave_out": "pipeline.orchestration.repro:make_judges"}


def command(reader):
    """What is called, and the server's options for it."""
    name, *model = reader.split()
    if name in ("check", "recommend", "gate", "docs", "register"):
        return ["pipeline", name, *model], {}
    if name == "repro":
        return ["pipeline", "repro", "--jobs", "1"], {}
    if name == "evaluate-images":
        source = "data/samples/dcgan/samples.npy"
        return ["pipeline", name, source, "--name", "other"], JUDGES_ARE_THERE
    return [f"stages.{name}", *model], {}


class Project:
    """A finished small project in which one thing is spoiled at a time."""

    def __init__(self, server, finished, folder):
        self.server, self.finished, self.folder = server, finished, folder
        self.aside = folder.with_name("aside")
        harness.copied(finished, folder)
        self.read("track").succeeded()  # the store learns where it is now
        self.store = (folder / "mlflow.db").read_bytes()
        self.expected = self.signature()

    def signature(self):
        return harness.tree(self.folder, but=(".git", ".dvc/tmp", ".dvc/cache", "work"))

    def read(self, reader, **options):
        called, more = command(reader)
        if reader == "repro":
            options["seconds"] = 300  # it mends what it can
        return self.server.call(self.folder, *called, **more, **options)

    def spoil(self, file, how):
        """Put the spoiled file into its place."""
        path = self.folder / file
        content = path.read_bytes()
        path.rename(self.aside)
        how(path, content)

    def restored(self, file):
        """Put the right file back; what else is not as it was, after which all is."""
        if os.path.lexists(self.aside):
            harness.remove(self.folder / file)
            self.aside.rename(self.folder / file)
        now = self.signature()
        changed = sorted(
            path
            for path in now.keys() | self.expected.keys()
            if now.get(path) != self.expected.get(path)
        )
        if changed:
            self.renew()
        return changed

    def renew(self):
        shutil.rmtree(self.folder)
        harness.remove(self.aside)
        harness.copied(self.finished, self.folder)
        (self.folder / "mlflow.db").write_bytes(self.store)


@pytest.fixture(scope="module")
def project(server, tmp_path_factory, worker_id):
    finished = harness.finished(tmp_path_factory, worker_id)
    return Project(server, finished, tmp_path_factory.mktemp("bad") / "project")


@pytest.mark.parametrize(("file", "how", "reader"), TABLE, ids=lambda text: text.replace(" ", "_"))
def test_a_spoiled_file_is_refused_by_its_name(project, file, how, reader, count):
    project.spoil(file, MODEL_FILES[file][1][how])
    done = project.read(reader)
    count("spoiled files")
    changed = project.restored(file)
    if (file, how) in NO_LOSS and done.code == 0:
        done.calm()
        return
    # Of several files of a folder, the folder may be named.
    done.refused(file if file.count("/") < 2 else file.rsplit("/", 1)[0])
    assert not changed, f"{changed[:10]} changed\n{done}"


KEYS = {"a new line": "a\nb", "an escape": "\x1b[31m", "a control": "\x1f", "long": "a" * 5000}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize(
    ("file", "reader"),
    [
        ("metrics/mnist-5k/models/vae.json", "compare"),
        ("metrics/mnist-5k/reference.json", "recommend"),
        ("metrics/mnist-5k/thorough/vae.json", "report"),
        ("metrics/mnist-5k/external/mine.json", "compare"),
        ("metrics/mnist-5k/baseline.json", "gate"),
        ("data/samples/vae/arrays.json", "compare"),
    ],
)
def test_a_key_of_whatever_characters_is_told_on_one_line(project, file, reader, key, count):
    def add(content):
        found = json.loads(content)
        (found.get("arrays", found))[key] = [1]
        return json.dumps(found).encode()

    project.spoil(file, write(add))
    done = project.read(reader)
    count("spoiled files")
    project.restored(file)
    done.refused(file.rsplit("/", 1)[0])
    assert all(os.path.basename(file) in line for line in done.errors), done


@pytest.mark.parametrize("how", ["without its last stages", "conflict markers", "empty"])
def test_results_stay_when_the_graph_is_damaged(project, how, count):
    """There is something to do, so that `repro` gets as far as it can."""
    clone = harness.opened(project.folder)
    clone.params["train"]["seed"] += 1
    clone.write_params()
    project.spoil("dvc.yaml", MODEL_FILES["dvc.yaml"][1][how])
    before = harness.tree(project.folder / "metrics")
    done = project.read("repro")
    after = harness.tree(project.folder / "metrics")
    count("spoiled files")
    project.restored("dvc.yaml")
    assert after == before, done
    done.refused("dvc.yaml")


# What is a private cache, or a remark: it is never anybody's problem.

CACHES = {
    "work/durations.json": "repro",
    "work/shown.json": "repro",
    "work/timings/train-vae-*.json": "track",
    "work/vae-*.ckpt": "train vae",
}


@pytest.mark.parametrize("how", [*RECORD, "a bit flipped at 0.5"])
@pytest.mark.parametrize("pattern", [p for p, reader in CACHES.items() if reader != "repro"])
def test_a_spoiled_cache_is_no_loss(project, pattern, how, count):
    ways = RECORD | BINARY
    if pattern.endswith(".ckpt"):
        done = project.read("train vae", kill_at=12)  # behind its third checkpoint
        assert done.code < 0, done
    (path,) = project.folder.glob(pattern)
    if pattern.endswith(".json") and "flipped at" in how:
        pytest.skip("in a file without checksums that may be another value")
    project.spoil(path.relative_to(project.folder), ways[how])
    done = project.read(CACHES[pattern])
    count("spoiled files")
    project.aside.unlink()
    changed = project.restored("")
    done.succeeded()
    assert not done.errors, done
    # The same weights came out, from the beginning or from where it was.
    assert not changed, f"{changed[:10]} changed\n{done}"
    if pattern.endswith(".ckpt") and how != "a dangling link":
        (told,) = done.warnings
        assert path.name in told, done
    for left in project.folder.glob("work/vae-*"):
        harness.remove(left)
    if "timings" in pattern:
        harness.remove(path)
        shutil.copy(project.finished / path.relative_to(project.folder), path)


@pytest.mark.parametrize("how", ["empty", "a folder", "nested deeply", "a list", "not UTF-8"])
def test_spoiled_notes_of_earlier_runs_are_no_loss(project, how, count):
    for name in ("work/durations/mnist-5k.json", "work/paces.json", "work/shown.json"):
        path = project.folder / name
        content = path.read_bytes() if path.is_file() else b"{}"
        harness.remove(path)
        RECORD[how](path, content)
        count("spoiled files")
    done = project.read("repro")
    project.restored("")
    done.succeeded()
    assert not done.errors, done


# Something stands where an output or a folder belongs.

PLACES = [
    ("data/models/vae", "a file", "sample vae"),
    ("data/models", "a file", "train vae"),
    ("data/samples", "a dangling link", "sample vae"),
    ("data/processed", "a file", "train vae"),
    ("metrics/mnist-5k/curves", "a file", "train vae"),
    ("metrics/mnist-5k/models", "a dangling link", "evaluate vae"),
    ("metrics/mnist-5k/report", "a file", "report"),
    ("data/judge", "a dangling link", "reference"),
    ("work", "a file", "train vae"),
    ("work/locks", "a file", "train vae"),
    ("work/locks/train@vae.lock", "a folder", "train vae"),
    ("work/locks/train@vae.lock", "a link to itself", "train vae"),
    ("mlflow.db", "a folder", "track"),
    ("mlartifacts", "a file", "register vae"),
    ("metrics/mnist-5k/external", "a file", "compare"),
    ("metrics/mnist-5k/thorough", "a file", "compare"),
    ("metrics/mnist-5k/comparison.csv", "a folder", "compare"),
    ("data", "a dangling link", "preprocess"),
]


@pytest.mark.parametrize(
    ("place", "what", "reader"), PLACES, ids=lambda text: text.replace(" ", "_")
)
def test_what_stands_in_the_way_is_named_or_replaced(project, place, what, reader, count):
    path = project.folder / place
    if os.path.lexists(path):
        path.rename(project.aside)
    if what == "a file":
        path.write_text("in the way")
    else:
        ANY[what](path, b"")
    done = project.read(reader)
    count("things in the way")
    harness.remove(path)
    if project.aside.exists():
        project.aside.rename(path)
    project.renew()
    if done.code != 0:
        done.refused(place.split("/")[0])
    done.calm()


# Images of another generator.


def image(values, mode="L", size=(28, 28)):
    return Image.new(mode, size, values)


def a_png(path, width=28, height=28, depth=8, colour=0, raw=b""):
    """A PNG whose header may lie, without an encoder that would notice."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def animated(path):
    image(1).save(path, save_all=True, append_images=[image(200)])


def a_photo_that_is_cut(path):
    image(3).save(path)
    path.write_bytes(path.read_bytes()[:-30])


def a_loop(path):
    path.with_suffix("").symlink_to(path.parent)


IMAGES = {
    "empty": ("x.png", lambda path: path.write_bytes(b"")),
    "HTML": ("x.png", lambda path: path.write_text("<html></html>")),
    "cut": ("x.png", a_photo_that_is_cut),
    "NUL bytes": ("x.png", lambda path: path.write_bytes(bytes(100))),
    "text": ("x.jpg", lambda path: path.write_text("not an image")),
    "1x1": ("x.png", lambda path: image(0, size=(1, 1)).save(path)),
    "16 bit": ("x.png", lambda path: Image.new("I;16", (28, 28)).save(path)),
    "float": ("x.tif", lambda path: Image.new("F", (28, 28)).save(path)),
    "in colour": ("x.png", lambda path: image((1, 2, 3), "RGB").save(path)),
    "transparent": ("x.png", lambda path: image((0, 0, 0, 9), "RGBA").save(path)),
    "animated": ("x.webp", animated),
    "several pages": ("x.tif", animated),
    "a bomb": ("x.png", lambda path: a_png(path, 200_000, 200_000)),
    "larger": ("x.png", lambda path: a_png(path, 20_000, 20_000, raw=bytes(10_000))),
    "no rows": ("x.png", lambda path: a_png(path, 28, 0)),
    "no pixels": ("x.png", lambda path: a_png(path)),
    "a folder": ("x.png", lambda path: (path.mkdir(), (path / "y.txt").touch())),
    "a pipe": ("x.png", os.mkfifo),
    "a dangling link": ("x.png", lambda path: path.symlink_to("nowhere.png")),
    "a link to itself": ("x.png", lambda path: path.symlink_to(path.name)),
    "a loop of folders": ("x.png", a_loop),
    "not UTF-8": ("x.png", lambda path: image(0).save(os.fsencode(path.parent) + b"/\xff.png")),
    "a new line": ("x\ny.png", lambda path: path.write_bytes(b"")),
    "a EPS": ("x.png", lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n")),
}
MAY_BE_LEFT_OUT = ("a folder",)
"""A folder is not refused for its name, as it holds no image."""
ARE_READ = ("16 bit", "transparent")
"""What becomes 8 bits, and is put on a background."""


@pytest.fixture(scope="module")
def drawn(project, tmp_path_factory):
    """A folder of images that are as they should be."""
    folder = tmp_path_factory.mktemp("images") / "drawn"
    folder.mkdir()
    samples = np.load(project.folder / "data/samples/dcgan/samples.npy")
    for place, each in enumerate(samples):
        Image.fromarray(each[0]).save(folder / f"{place}.png")
    return folder


def judge(project, source, *more):
    done = project.server.call(
        project.folder,
        *("pipeline", "evaluate-images", str(source), "--name", "other", *map(str, more)),
        **JUDGES_ARE_THERE,
    )
    harness.remove(project.folder / "metrics/mnist-5k/external/other.json")
    return done


def test_images_as_they_should_be_are_judged(project, drawn):
    judge(project, drawn).succeeded()


@pytest.mark.parametrize("how", IMAGES)
def test_a_bad_image_is_refused_by_its_name(project, drawn, tmp_path, how, count):
    source = tmp_path / "some"
    shutil.copytree(drawn, source)
    name, make = IMAGES[how]
    make(source / name)
    before = sorted(os.listdir(source))
    done = judge(project, source)
    count("bad images")
    assert sorted(os.listdir(source)) == before
    assert not project.restored("")
    if how in (*MAY_BE_LEFT_OUT, *ARE_READ) and done.code == 0:
        done.calm()
    else:
        done.refused(str(source))


@pytest.mark.parametrize("how", IMAGES)
@pytest.mark.parametrize("stage", ["inputs", "download"])
def test_a_bad_photo_is_refused_by_its_name(server, tmp_path, stage, how, count):
    clone = harness.small(tmp_path / "project", ("cyclegan",))
    clone.params["data"] |= {
        "name": "unpaired-folder",
        "title": "photos",
        "folder": "../photos",
        "size": 8,
    }
    clone.write_params()
    photos = tmp_path / "photos"
    for name in ("trainA", "trainB", "testA", "testB"):
        (photos / name).mkdir(parents=True)
        for place in range(12):
            image((place, 2, 3), "RGB").save(photos / name / f"{place}.png")
    name, make = IMAGES[how]
    make(photos / "trainB" / name)
    before = harness.tree(photos)
    done = server.call(clone.folder, f"stages.{stage}", seconds=20)
    count("bad images")
    assert harness.tree(photos) == before
    assert harness.temporaries(clone.folder) == []
    if done.code == 0:  # other sizes are scaled; `inputs` looks at names alone
        may = ("1x1", "in colour", "a folder", "a loop of folders", "larger", *ARE_READ)
        assert stage == "inputs" or how in may, done
        done.calm()
    else:
        done.refused("photos")
        assert not (clone.folder / "data/raw").exists()


BAD_ARRAYS = {
    "an archive": as_archive,
    "empty": ANY["empty"],
    "HTML": ANY["HTML"],
    "NUL bytes": ANY["NUL bytes"],
    "cut in half": ANY["cut in half"],
    "a false header": false_header,
    "objects": objects,
    "float": lambda path, content: np.save(path, np.zeros((30, 1, 28, 28), np.float32)),
    "another shape": lambda path, content: np.save(path, np.zeros((30, 1, 32, 32), np.uint8)),
    "none": lambda path, content: np.save(path, np.zeros((0, 1, 28, 28), np.uint8)),
    "too few": lambda path, content: np.save(path, np.zeros((3, 1, 28, 28), np.uint8)),
    "a number": lambda path, content: np.save(path, np.uint8(3)),
    "a folder": lambda path, content: path.mkdir(),
    "a pipe": lambda path, content: os.mkfifo(path),
    "a dangling link": ANY["a dangling link"],
}


@pytest.mark.parametrize("how", BAD_ARRAYS)
def test_a_bad_array_of_images_is_refused_by_its_name(project, tmp_path, how, count):
    path = tmp_path / "images.npy"
    content = (project.folder / "data/samples/dcgan/samples.npy").read_bytes()
    BAD_ARRAYS[how](path, content)
    done = judge(project, path)
    count("bad images")
    done.refused("images.npy")
    assert not project.restored("")


def lines(change):
    """A table of names and classes, changed line by line."""

    def make(path):
        rows = [f"{place}.png,{place % 10}" for place in range(20)]
        path.write_text("\n".join(change(rows)) + "\n")

    return make


LABELS = {
    "one missing": ("l.csv", lines(lambda rows: rows[:-1])),
    "one twice": ("l.csv", lines(lambda rows: [*rows, rows[0]])),
    "an unknown class": ("l.csv", lines(lambda rows: [*rows[:-1], "19.png,255"])),
    "an unknown file": ("l.csv", lines(lambda rows: [*rows, "20.png,1"])),
    "three columns": ("l.csv", lines(lambda rows: [*rows[:-1], "19.png,1,2"])),
    "a NUL in a name": ("l.csv", lines(lambda rows: [*rows[:-1], "19\0.png,1"])),
    "a new line in a name": ("l.csv", lines(lambda rows: [*rows[:-1], '"19\n.png",1'])),
    "an escape in a class": ("l.csv", lines(lambda rows: [*rows[:-1], "19.png,\x1b[31m"])),
    "a quote": ("l.csv", lines(lambda rows: ['"', *rows])),
    "empty table": ("l.csv", lambda path: path.write_bytes(b"")),
    "HTML table": ("l.csv", lambda path: path.write_text("<html>\n</html>\n")),
    "NUL table": ("l.csv", lambda path: path.write_bytes(bytes(100))),
    "UTF-16 table": ("l.csv", lambda path: path.write_text("0.png,1", encoding="utf-16")),
    "a huge cell": ("l.csv", lambda path: path.write_text("a" * 200_000 + ",1\n")),
    "a folder": ("l.csv", lambda path: path.mkdir()),
    "a pipe": ("l.csv", os.mkfifo),
    "one less": ("l.npy", lambda path: np.save(path, np.arange(19) % 10)),
    "class 255": ("l.npy", lambda path: np.save(path, np.full(20, 255, np.uint8))),
    "below 0": ("l.npy", lambda path: np.save(path, np.full(20, -1))),
    "float": ("l.npy", lambda path: np.save(path, np.zeros(20))),
    "two columns": ("l.npy", lambda path: np.save(path, np.zeros((20, 2), int))),
    "HTML": ("l.npy", lambda path: path.write_text("<html></html>")),
    "empty": ("l.npy", lambda path: path.write_bytes(b"")),
}


@pytest.mark.parametrize("how", LABELS)
def test_bad_labels_are_refused_by_their_name(project, drawn, tmp_path, how, count):
    name, make = LABELS[how]
    make(tmp_path / name)
    done = judge(project, drawn, "--labels", tmp_path / name)
    count("bad images")
    done.refused(name)
    assert not project.restored("")


# Original files in the format of MNIST.


def idx(array):
    head = bytes([0, 0, 8, array.ndim])
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


NAMES = {
    "images": "train-images-idx3-ubyte",
    "labels": "train-labels-idx1-ubyte",
    "t10k": "t10k-images-idx3-ubyte",
}
DIGITS = np.arange(300, dtype=np.int64) % 10
IDX = {
    "as it should be": ("labels", idx(DIGITS.astype(np.uint8))),
    "empty": ("images", b""),
    "HTML": ("images", b"<!DOCTYPE html>\n<html></html>\n"),
    "NUL bytes": ("images", bytes(1000)),
    "still packed": ("images", b"\x1f\x8b\x08" + bytes(1000)),
    "cut": ("images", idx(np.zeros((300, 28, 28), np.uint8))[:-5]),
    "longer": ("t10k", idx(np.zeros((300, 28, 28), np.uint8)) + b"0"),
    "a false header": ("images", bytes([0, 0, 8, 3]) + struct.pack(">III", 2**32 - 1, 28, 28)),
    "another type": ("images", bytes([0, 0, 13, 3]) + struct.pack(">III", 300, 28, 28)),
    "other sizes": ("images", idx(np.zeros((300, 32, 32), np.uint8))),
    "fewer labels": ("labels", idx(np.zeros(200, np.uint8))),
    "label 255": ("labels", idx(np.full(300, 255, np.uint8))),
    "two dimensions of labels": ("labels", idx(np.zeros((300, 1), np.uint8))),
    "no labels": ("labels", idx(np.zeros(0, np.uint8))),
    "one class": ("labels", idx(np.zeros(300, np.uint8))),
}


@pytest.mark.parametrize("how", IDX)
def test_bad_original_files_are_refused_by_their_name(server, tmp_path, how, count):
    clone = harness.small(tmp_path / "project", ("vae",))
    clone.params["data"]["name"] = "mnist"
    clone.write_params()
    raw = clone.folder / "data/raw/MNIST/raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = idx(np.zeros((300, 28, 28), np.uint8))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(DIGITS.astype(np.uint8)))
    name, content = IDX[how]
    (raw / NAMES[name]).write_bytes(content)
    done = server.call(clone.folder, "stages.preprocess")
    count("spoiled files")
    if how in ("as it should be", "one class"):  # of which the file is none to blame
        done.succeeded() if how == "as it should be" else done.refused("class '1' has 0 images")
    else:
        done.refused(NAMES[name])
        assert not (clone.folder / "data/processed").exists()


# Wrong content under a fingerprint that fits, as only somebody who means it would write.


@pytest.mark.parametrize("reader", ["evaluate vae", "compare"])
@pytest.mark.parametrize(
    "change",
    [lambda all: all[:-1], lambda all: all.astype(np.float32), lambda all: all[:, :, 1:]],
    ids=["one less", "of another type", "of another shape"],
)
def test_other_samples_are_refused_though_they_are_intact(project, change, reader, count):
    folder = project.folder / "data/samples/vae"
    arrays.save(folder, {"samples": change(np.load(folder / "samples.npy"))})
    done = project.read(reader)
    count("spoiled files")
    project.renew()
    done.refused("data/samples/vae")


# A few real processes, as a shell starts them.


@pytest.mark.parametrize(
    ("file", "how", "called"),
    [
        ("params.yaml", "NUL bytes", ("pipeline", "check")),
        ("metrics/mnist-5k/models/vae.json", "cut in half", ("pipeline", "recommend")),
        ("data/models/vae/weights.safetensors", "a bit flipped at 0.5", ("stages.sample", "vae")),
        ("metrics/mnist-5k/baseline.json", "NaN for a number", ("pipeline", "gate")),
        ("dvc.lock", "conflict markers", ("pipeline", "repro")),
    ],
)
def test_real_processes_say_the_same(project, file, how, called, count):
    clone = harness.opened(project.folder)
    project.spoil(file, MODEL_FILES[file][1][how])
    done = clone.run(*called, check=False)
    count("spoiled files")
    changed = project.restored(file)
    told = harness.Done([*called], done.returncode, done.stdout, done.stderr)
    told.refused(file if file.count("/") < 2 else file.rsplit("/", 1)[0])
    assert not changed
    assert YAML(typ="safe").load((project.folder / "params.yaml").read_text())
