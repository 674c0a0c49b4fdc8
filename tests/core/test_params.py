import os
import subprocess
import sys

import pytest
from params_files import COMMITTED, complaint, edited, validate
from ruamel.yaml import YAML

from pipeline import families
from pipeline.core import params
from pipeline.core.errors import PipelineError

VAE = "\n  vae:\n"


def refusal(path):
    """What `params.read` has against a file."""
    with pytest.raises(PipelineError) as caught:
        params.read(path)
    return str(caught.value)


def test_the_committed_file_is_valid():
    validate(COMMITTED)


def test_every_knob_of_every_model_is_written_out():
    raw = params.read(COMMITTED)
    for name, entry in raw["models"].items():
        family = families.load(entry["family"])
        for block in params.BLOCKS:
            schema = getattr(family, block.capitalize())
            assert set(entry[block]) == set(schema.model_fields), f"models.{name}.{block}"
    for name, schema in params.SHARED.items():
        assert set(raw[name]) == set(schema.model_fields), name


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "  features: 64",
            "  feature: 8",
            "judge.feature = 8: unknown key 'feature'; did you mean 'features'?",
        ),
        ("  device: auto", "  devcie: auto", "runtime.devcie = 'auto': unknown key 'devcie'; did"),
        ("  device: auto", "  device: gpu", "runtime.device = 'gpu': should be 'auto', 'cpu' or"),
        ("  threads: 1", "  threads: one", "runtime.threads = 'one': should be a valid integer"),
        ("  threads: 1", "  threads: true", "runtime.threads = True: should be a valid integer"),
        (
            "  threads: 1",
            "  threads: 0",
            "runtime.threads = 0: should be greater than or equal to 1",
        ),
        (r"images: \d+", "images: 0", "training.images = 0: should be greater than or"),
        (r"images: \d+", "imagse: 5", "training.imagse = 5: unknown key 'imagse'; did"),
        (
            "data: processed",
            "data: domains",
            "data = 'domains': models of the family",
        ),
        (
            "family: vae",
            "family: vea",
            "vae.family: unknown family 'vea'; did you mean 'vae'",
        ),
        (
            "name: mnist-5k",
            "name: mnits",
            "data.name: unknown data set 'mnits'; did you mean 'mnist",
        ),
        ("judge: ", "jugde: ", "jugde: unknown section 'jugde'; did you mean 'judge'?"),
        ("budget: 1.0", "budget: .nan", "train.budget = nan: should be"),
        (r"    sampling: \{\}", "    sampling: {n: 3}", "sampling.n = 3: unknown key 'n'"),
        (
            r"    sampling: \{\}",
            "    samplign: {}",
            "samplign: unknown key 'samplign'; did you mean 'sampl",
        ),
        ("split: test", "split: train", "evaluate.split = 'train': should be 'val' or 'test'"),
        ("    - 102\n", "    - 101\n", "judge.seeds = [101, 101, 103]: must be distinct"),
    ],
)
def test_a_mistake_is_one_line_with_file_key_value_and_remedy(tmp_path, old, new, expected):
    path = edited(tmp_path, old, new)
    lines = [line for line in complaint(path).splitlines() if expected in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"{path}: ")


def test_one_typo_makes_one_line(tmp_path):
    assert len(complaint(edited(tmp_path, "images: ", "imags: ", after=VAE)).splitlines()) == 1


def test_several_mistakes_are_all_told(tmp_path):
    path = edited(tmp_path, "threads: 1", "threads: 0")
    path.write_text(path.read_text().replace("family: ddpm", "family: x"))
    assert len(complaint(path).splitlines()) == 2


def test_syntax_errors_and_repeated_keys_name_the_line(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("data:\n  name: [\n")
    assert f"{path}:" in complaint(path)
    path.write_text("data:\n  seed: 0\n  seed: 1\n")
    assert "params.yaml:3:3: not valid YAML" in complaint(path)


def test_a_missing_file_and_an_empty_one_are_told(tmp_path):
    assert "no such file" in complaint(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("")
    assert "must hold the sections" in complaint(tmp_path / "params.yaml")


NOT_YAML = {
    "a NUL byte": "train:\n  seed: \0\n",
    "a control character": "train:\n  seed: \x01\n",
    "no such date": "train:\n  seed: 2024-13-45\n",
    "no such time zone": "train: 2001-12-14t21:59:43.10-99:00\n",
    "an endless number": "train:\n  seed: " + "1" * 5000,
    "no whole number": "train:\n  seed: !!int one\n",
    "no truth value": "train: !!bool perhaps\n",
    "a dot": "train:\n  budget: ._\n",
    "a Python object": "train: !!python/object:os.system ls\n",
    "a list as a key": "? {a: 1}\n: 2\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "an anchor that is not there": "a: *b\n",
    "marks of a conflict": "<<<<<<< HEAD\ntrain:\n=======\n>>>>>>> other\n",
    "a tab": "train:\n\tseed: 0\n",
}


@pytest.mark.parametrize("text", NOT_YAML.values(), ids=NOT_YAML)
def test_what_is_no_yaml_is_one_line_whatever_the_parser_raises(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    told = refusal(path)
    assert told.startswith(f"{path}") and "not valid YAML: " in told
    assert len(told.splitlines()) == 1 and len(told) < 300


ENDLESS = {
    "lists in lists": "a: " + "[" * 100_000,
    "closed lists in lists": "a: " + "[" * 20_000 + "]" * 20_000,
    "blocks in blocks": "\n".join(" " * level + "a:" for level in range(1000)),
    "a list that holds itself": "a: &a [1, *a]",
    "a block that holds itself": "a: &a {b: {c: *a}}",
    "aliases of aliases": "a0: &a0 [1, 1]\n"
    + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)),
    "merged blocks": "a0: &a0 {x: 1}\n"
    + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40)),
    "aliases in a row": "a0: &a0 [1]\n"
    + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 1000)),
}


def test_what_would_end_the_parser_or_never_end_is_one_line(tmp_path):
    """In a process of its own: some of it ends the process where it is not refused."""
    for number, text in enumerate(ENDLESS.values()):
        (tmp_path / str(number)).write_text(text)
    code = """if True:
        import sys
        from pathlib import Path
        from pipeline.core import errors, params
        for number in range(int(sys.argv[1])):
            try:
                params.read(Path(str(number)))
            except errors.PipelineError as error:
                print(error, flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(len(ENDLESS))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(COMMITTED.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    for number, name in enumerate(ENDLESS):
        assert number < len(lines) and lines[number].startswith(f"{number}: "), name
    assert len(lines) == len(ENDLESS) and done.returncode == 0, done.stderr


def test_aliases_and_merged_blocks_of_a_usual_size_are_taken(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: &a {x: 1, y: [2]}\nb: {<<: *a, x: 3}\nc: *a\n")
    assert params.read(path) == {
        "a": {"x": 1, "y": [2]},
        "b": {"x": 3, "y": [2]},
        "c": {"x": 1, "y": [2]},
    }


def test_what_is_no_readable_file_is_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    assert refusal(tmp_path / "folder") == f"{tmp_path}/folder: not a file; restore it from git"
    os.mkfifo(tmp_path / "pipe")
    assert "not a file" in refusal(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read: Too many levels" in refusal(tmp_path / "loop")
    (tmp_path / "large").write_bytes(b"#" * 2_000_000)
    assert "more than 1,000,000 bytes" in refusal(tmp_path / "large")
    (tmp_path / "latin").write_bytes(b"a: \xe4")
    assert "not UTF-8" in refusal(tmp_path / "latin")


def test_a_file_without_permission_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "params.yaml"
    path.write_text("a: 1")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)  # whoever is root may read everything
    assert refusal(path) == f"{path}: cannot be read: Permission denied"


RAW = params.read(COMMITTED)
FAMILIES = {each["family"]: each for each in RAW["models"].values()}
BLOCKS = [
    *((schema, RAW[name], name) for name, schema in params.SHARED.items()),
    (params.Inception, RAW["evaluate"]["inception"], "evaluate.inception"),
    *(
        (getattr(families.load(name), block.capitalize()), entry[block], f"models.x.{block}")
        for name, entry in FAMILIES.items()
        for block in params.BLOCKS
    ),
]
"""Every schema with the values that stand in params.yaml, and its place there."""
NUMBERS = [
    (schema, block, where, key)
    for schema, block, where in BLOCKS
    for key, value in block.items()
    if type(value) in (int, float)
]
NAN = float("nan")


@pytest.mark.parametrize(
    ("schema", "block", "where", "key"),
    NUMBERS,
    ids=[f"{schema.__name__}.{key}" for schema, _, _, key in NUMBERS],
)
def test_every_number_has_bounds_and_is_nothing_else(schema, block, where, key):
    beyond = [10**21, 10**400, -(10**21), 1e308, -1e308, NAN, float("inf"), -float("inf")]
    for value in [*beyond, True, None, "1", "x" * 1000, [], [1], {}, {"a": 1}]:
        if schema.__name__ == "BeganTraining" and key == "eta" and value is True:
            continue  # a choice of two, of which True is one
        with pytest.raises(PipelineError) as caught:
            params.validate(schema, {**block, key: value}, where)
        (line,) = str(caught.value).splitlines()
        assert line.startswith(f"params.yaml: {where}.{key} = ")
        assert "should be" in line and len(line) < 250


@pytest.mark.parametrize(
    ("schema", "block", "where"), BLOCKS, ids=[f"{each[2]}-{each[0].__name__}" for each in BLOCKS]
)
def test_every_block_refuses_unknown_keys_and_what_is_no_block(schema, block, where):
    for key in ("nonsense", "two\nlines", "x" * 10_000, 7, None, ("a",), "\0"):
        with pytest.raises(PipelineError) as caught:
            params.validate(schema, {**block, key: 1}, where)
        (line,) = str(caught.value).splitlines()
        assert line.startswith(f"params.yaml: {where}.") and len(line) < 500
    for value in (None, 3, "x", [], [block], True):
        with pytest.raises(PipelineError) as caught:
            params.validate(schema, value, where)
        (line,) = str(caught.value).splitlines()
        assert line.startswith(f"params.yaml: {where} = ") and "block of keys" in line


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "    weights: ",
            "    weigths: ",
            "inception.weigths = '': unknown key 'weigths'; did you mean 'weights'",
        ),
        ("  n: 1000", "  n: 5", "sample.n = 5: should be greater than or equal to 6"),
        ("  n: 1000", "  n: many", "sample.n = 'many': should be a valid integer, or auto"),
        ("threads: 1 ", "threads: 1025 ", "threads = 1025: should be less than or equal to 1024"),
        ("    - 102\n", "    - -1\n", "judge.seeds.1 = -1: should be greater than or equal to 0"),
        ("budget: 1.0", "budget: .inf", "train.budget = inf: should be a finite number"),
        (
            "budget: 1.0",
            "budget: 1e308",
            "train.budget = 1e+308: should be less than or equal to 10",
        ),
        (
            "learning_rate: [0-9.]+",
            "learning_rate: 1.5",
            "learning_rate = 1.5: should be less than or equal to 1",
        ),
    ],
)
def test_a_refusal_names_the_bound_and_the_nearest_key(tmp_path, old, new, expected):
    (line,) = complaint(edited(tmp_path, old, new)).splitlines()
    assert expected in line


@pytest.mark.parametrize("name", ["../evil", "Vae", "a b", "1x", "é", "", "a\\nb", "x" * 65])
def test_a_models_name_is_a_safe_file_name(tmp_path, name):
    path = edited(tmp_path, "\n  vae:\n", f'\n  "{name}":\n')
    assert "a model's name is lower-case" in complaint(path)


def test_block_style_and_comments_throughout():
    lines = COMMITTED.read_text().splitlines()
    flow = [line for line in lines if set("{[") & set(line.split("#")[0]) and "{}" not in line]
    assert not flow, "`dvc exp run -S` rewrites flow style"
    assert YAML(typ="safe").load("\n".join(lines))
