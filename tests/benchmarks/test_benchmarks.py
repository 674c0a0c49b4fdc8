import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import page, results, scale, scale_page
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


def test_what_happens_at_other_sizes_is_made_of_them_too(monkeypatch):
    monkeypatch.setattr(results, "FOLDER", ROOT / results.FOLDER)
    assert scale_page.text() == (ROOT / scale_page.PAGE).read_text(encoding="utf-8")


def test_costs_are_carried_on_as_a_line_or_as_a_power():
    line = [{"n": n, "cost": 5 + 2 * n} for n in (3, 10, 30)]
    assert scale_page.at(line, "n", "cost", 100) == pytest.approx(205)
    assert scale_page.at(line, "n", "cost", 5) == pytest.approx(15)
    assert scale_page.at(line, "n", "cost", 1) == pytest.approx(7)
    power = [{"n": n, "cost": 0.5 * n**1.5} for n in (30, 3, 10)]
    assert scale_page.exponent(power, "n", "cost") == pytest.approx(1.5)
    assert scale_page.at(power, "n", "cost", 1000) == pytest.approx(0.5 * 1000**1.5)
    assert scale_page.at(power, "n", "cost", 10) == pytest.approx(0.5 * 10**1.5)
    with pytest.raises(ValueError, match="one size of n says nothing of others"):
        scale_page.at(line[:1], "n", "cost", 5)


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
