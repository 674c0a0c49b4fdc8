import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import optimisers, page, results, scale, scale_page, small_data
from pipeline.core import params
from pipeline.core.errors import PipelineError
from pipeline.models import entries

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


def test_what_suits_adam_is_of_models_that_there_are(monkeypatch):
    monkeypatch.chdir(ROOT)
    with_choice = {
        name
        for name, entry in params.model_blocks(params.read()).items()
        if "optimiser" in entry["training"]
    }
    assert optimisers.ADAM.keys() == with_choice
    for name in optimisers.ADAM:
        adam, muon = (optimisers.chosen(name, kind, 1.0) for kind in optimisers.KINDS)
        assert (adam.training.optimiser, muon.training.optimiser) == ("adam", "muon")
        assert muon == entries.scaled(entries.read(params.read(), name), 1.0)
        # A key that is none of the block would be added to it, and change nothing.
        for block in ("network", "training"):
            there = getattr(muon, block).model_dump().keys()
            assert getattr(adam, block).model_dump().keys() == there


def rows_of_small_data():
    return [
        {
            "model": "dcgan",
            "images": images,
            "variant": variant,
            "seed": seed,
            "budget": budget,
            "fid": 4.0 + seed + budget,
            "coverage": 0.5,
            "from_the_middle": 2.0,
        }
        for budget in (1.0, 4.0)
        for images in (250, 500)
        for variant in small_data.VARIANTS
        for seed in (0, 1)
    ]


def test_the_page_of_small_data_has_a_table_for_each_budget():
    found = {"dataset": "d", "n_samples": 9, "from_the_middle": 2.0, "rows": rows_of_small_data()}
    page = small_data._measured(found)
    assert page.count("FID, without") == 2 and "Trained 4 times as long" in page
    assert "5.5 (5.0..6.0)" in page and "8.5 (8.0..9.0)" in page


def test_what_was_measured_before_stays_unless_it_is_measured_again(monkeypatch):
    before, again = rows_of_small_data(), rows_of_small_data()[:3]
    monkeypatch.setattr(
        results, "read", lambda name: {"dataset": "d", "n_samples": 9, "rows": before}
    )
    for row in again:
        row["fid"] = 1.0
    found = small_data._with_those_of_before(again, "d", 9)
    assert len(found) == len(before) and sum(row["fid"] == 1.0 for row in found) == 3
    for other in (("other", 9), ("d", 10)):
        assert small_data._with_those_of_before(again, *other) == again
