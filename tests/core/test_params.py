import pytest
from params_files import COMMITTED, complaint, edited, validate
from ruamel.yaml import YAML

from pipeline import families
from pipeline.core import params

VAE = "\n  vae:\n"


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
            "  epochs: 8",
            "  epoch: 8",
            "judge.epoch = 8: unknown key 'epoch'; did you mean 'epochs'?",
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


@pytest.mark.parametrize("name", ["../evil", "Vae", "a b", "1x"])
def test_a_models_name_is_a_safe_file_name(tmp_path, name):
    path = edited(tmp_path, "\n  vae:\n", f'\n  "{name}":\n')
    assert "a model's name is lower-case" in complaint(path)


def test_block_style_and_comments_throughout():
    lines = COMMITTED.read_text().splitlines()
    flow = [line for line in lines if set("{[") & set(line.split("#")[0]) and "{}" not in line]
    assert not flow, "`dvc exp run -S` rewrites flow style"
    assert YAML(typ="safe").load("\n".join(lines))
