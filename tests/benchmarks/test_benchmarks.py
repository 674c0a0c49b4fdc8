import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import page, results, scale
from pipeline.core.errors import PipelineError

ROOT = Path(__file__).parents[2]


def run(*arguments, folder=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=folder,
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_the_page_is_made_of_the_committed_numbers(monkeypatch):
    monkeypatch.setattr(results, "FOLDER", ROOT / results.FOLDER)
    assert page.text() == (ROOT / page.PAGE).read_text(encoding="utf-8")


def test_data_for_which_there_is_no_room_are_refused(tmp_path):
    told = "10,000,000,000,000 images take 30720000 GB"
    with pytest.raises(PipelineError, match=told):
        scale._write(tmp_path / "a.npy", 10**13)
    assert list(tmp_path.iterdir()) == []


def test_a_map_is_written_as_numpy_would(tmp_path):
    import numpy as np

    scale._write(tmp_path / "a.npy", 20_003)
    found = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert found.shape == (20_003, *scale.SPEC.shape)
    assert np.array_equal(found[:3], found[20_000:])


@pytest.mark.slow
def test_sizes_are_measured(tmp_path):
    done = run(
        *("scale", "--images", "3000", "--samples", "80", "--steps", "2"),
        *("--results", str(tmp_path), "--folder", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "scale.json").read_text())
    assert [row["model"] for row in found["training"]] == list(scale.MODELS)
    assert all(row["microseconds_per_image"] > 0 for row in found["training"])
    assert [row["samples"] for row in found["judging"]] == [80]
    assert not (tmp_path / "images.npy").exists()
