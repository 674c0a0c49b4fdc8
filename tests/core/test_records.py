import json

import pytest

from pipeline.core import records
from pipeline.core.errors import PipelineError


class Point(records.Record):
    x: float
    name: str = ""


def test_a_mistake_names_file_key_value_and_remedy(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"x": "one", "name": 5}')
    with pytest.raises(PipelineError) as caught:
        records.read(path, Point, "do this")
    assert str(caught.value).splitlines() == [
        f"{path}: x = 'one': should be a valid number; do this",
        f"{path}: name = 5: should be a valid string; do this",
    ]


@pytest.mark.parametrize("content", ["[]", "5", "null", '"x"', "{}", '{"x": null}', "{"])
def test_what_is_no_record_is_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(PipelineError) as caught:
        records.read(path, Point, "do this")
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_other_keys_are_kept(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"x": 1, "more": [1]}')
    found = records.read(path, Point, "")
    assert (found.x, found.model_extra) == (1.0, {"more": [1]})
    with pytest.raises(FileNotFoundError):
        records.read(tmp_path / "b.json", Point, "")


def test_keys_and_values_of_whatever_characters_are_told_on_one_short_line(tmp_path):
    class Table(records.Record):
        rows: dict[str, int]

    path = tmp_path / "a.json"
    path.write_text(json.dumps({"rows": {"two\nlines\0": "x\n" * 1000}}))
    with pytest.raises(PipelineError, match=r"rows\.'two\\nlines\\x00' = 'x") as caught:
        records.read(path, Table, "do this")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
