"""params.yaml is edited where a value stands, and stays as it is elsewhere."""

import pytest
from params_files import COMMITTED
from ruamel.yaml import YAML

from pipeline.orchestration.params_text import difference, edited, with_values

TEXT = COMMITTED.read_text()
TRICKY = [
    *("a b", "~/my photos", "it's", 'a "b"', "back\\slash", "a: b", "# no comment", " a ", "null"),
    *(
        "true",
        "1",
        "1e3",
        "",
        "übung/日本",
        "a\tb",
        "-x",
        "{a}",
        "*a",
        "2020-01-01",
        "a\u2028b",
        "0x1",
    ),
]


def load(text):
    return YAML(typ="safe").load(text)


@pytest.mark.parametrize("folder", TRICKY)
def test_any_folder_can_be_named(folder):
    made = edited(TEXT, {"data.name": "folder", "data.folder": folder, "sample.n": 73})
    wanted = load(TEXT)
    wanted["data"] |= {"name": "folder", "folder": folder}
    wanted["sample"]["n"] = 73
    assert load(made) == wanted
    before, after = TEXT.split("\n"), made.split("\n")
    assert len(before) == len(after)
    assert sum(x != y for x, y in zip(before, after, strict=True)) == 2 + (folder != "")
    assert edited(made, {"data.folder": folder}) == made


def test_comments_keep_their_columns():
    made = edited(TEXT, {"sample.n": 73})
    (old,) = [line for line in TEXT.split("\n") if line.startswith("  n: 1000")]
    (new,) = [line for line in made.split("\n") if line.startswith("  n: 73")]
    assert new.index("#") == old.index("#")
    assert new.partition("#")[2] == old.partition("#")[2]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("models.ddpm.training.images", 7),
        ("models.vae.network.latent", 123_456),  # and not that of another model
        ("models.ae.training.floor", 0.5),
        ("judge.label_free.steps", 9),
        ("evaluate.inception.weights", "a # b"),
        ("evaluate.imagenet", True),
        ("gate.metrics.kid.relative", 1e-05),
    ],
)
def test_keys_of_any_depth_are_edited_in_their_line(key, value):
    made = edited(TEXT, {key: value})
    assert load(made) == with_values(load(TEXT), {key: value}) != load(TEXT)
    before, after = TEXT.split("\n"), made.split("\n")
    [(old, new)] = [(x, y) for x, y in zip(before, after, strict=True) if x != y]
    assert new.partition("#")[2].endswith(old.partition("#")[2])
    assert edited(made, {key: value}) == made
    *block, _ = key.split(".")
    assert difference(TEXT, made)[2:] == [f"@ {'.'.join(block)}", f"-{old}", f"+{new}"]


def test_what_is_the_same_is_left_alone():
    assert edited(TEXT, {"data.size": 64, "data.labels": "auto", "data.folder": ""}) == TEXT
    plain = "data:\n  size: 64   # x\n"
    assert edited(plain, {"data.size": 64}) == plain


def test_keys_that_are_missing_are_added_to_their_section():
    text = "data:\n  name: a # x\n  # y\n\nsample:\n  n: 1\n"
    made = edited(text, {"data.folder": "b", "sample.seed": 3, "data.name": "c"})
    assert load(made) == {"data": {"name": "c", "folder": "b"}, "sample": {"n": 1, "seed": 3}}
    assert "# x" in made and "# y" in made


def test_deep_keys_are_added_where_their_block_is():
    text = "a:\n  b:\n    c: 1 # x\n    d:\n      e: 2\n  f: 3\n"
    made = edited(text, {"a.b.g": 4, "a.b.d.h": 5, "a.i": 6})
    assert load(made) == {"a": {"b": {"c": 1, "d": {"e": 2, "h": 5}, "g": 4}, "f": 3, "i": 6}}
    assert "c: 1 # x\n" in made and len(made.split("\n")) == len(text.split("\n")) + 3
    assert load(edited(text, {"a.new.k": 1, "b.k": 2}))["a"]["new"] == {"k": 1}


@pytest.mark.parametrize(
    "text",
    [
        "data: {name: a, folder: b} # x\nsample:\n  n: 1\n",
        "data:\n    name: a # x\n    folder: |\n      b\nsample: {n: 1}\n",
        "data:\n  name: &a\n    a # x\n  folder: *a\nsample:\n  n: 1\n",
    ],
)
def test_other_ways_to_write_it_are_understood(text):
    made = edited(text, {"data.folder": "c d", "sample.n": 2})
    assert load(made) == {"data": {"name": "a", "folder": "c d"}, "sample": {"n": 2}}
    assert "# x" in made
