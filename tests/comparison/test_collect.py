import io
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from compared import MODELS, NOTHING, PROTOCOL, fid, images, reference
from compared import project as project
from PIL import Image

from pipeline.comparison import collect
from pipeline.core import paths, stage
from pipeline.core.errors import PipelineError
from pipeline.evaluation import quality, translation
from pipeline.evaluation.reference import KEYS
from pipeline.sampling.pictures import GAP, labelled_rows
from stages import compare


@pytest.fixture
def rows(project):
    return collect.rows(MODELS, paths.model_metrics, reference())


def test_how_far_behind_is_a_paired_difference(project):
    hard = np.linspace(500, 800, 40)
    gaps = np.random.default_rng(0).normal(3, 1, 40)
    for name, nats in (("exact", hard), ("zeta", hard + gaps)):
        paths.scores_dir(name).mkdir(parents=True)
        np.save(paths.scores_dir(name) / "nats.npy", nats)
    paths.scores_dir("alpha").mkdir()
    listed = collect.rows(MODELS, paths.model_metrics, reference())
    found = {row["model"]: row for row in collect.behind(listed, paths.scores_dir)}
    unit = 1.25 / 680
    assert found["zeta"]["bits_per_dim_behind"] == pytest.approx(unit * gaps.mean())
    stderr = gaps.std(ddof=1) / np.sqrt(40)
    assert found["zeta"]["bits_per_dim_behind_stderr"] == pytest.approx(unit * stderr)
    assert stderr < 0.02 * (hard + gaps).std(ddof=1) / np.sqrt(40) * 10, "pairing is the point"
    for name in ("exact", "alpha", "broken", "stranger", "real"):
        assert "bits_per_dim_behind" not in found[name]


# --- rows and the table for programs -----------------------------------------------------------


def test_models_come_in_the_order_of_params_then_the_references(rows):
    assert [row["model"] for row in rows] == [*MODELS, "real", "noise", "png", "pca_32"]
    assert [row["kind"] for row in rows] == ["model"] * 5 + ["reference"] * 4
    assert [row["status"] for row in rows[:5]] == ["ok", "ok", "failed", "ok", "other protocol"]


def test_files_of_models_that_are_not_in_params_are_ignored(project):
    shutil.copy(paths.model_metrics("zeta"), paths.model_metrics("ghost"))
    found = collect.rows(MODELS, paths.model_metrics, reference())
    assert "ghost" not in [row["model"] for row in found]


def test_what_others_made_stands_after_the_models(project):
    theirs = {**PROTOCOL, "model": "x", "family": "external", **NOTHING, **fid(4.0)}
    paths.EXTERNAL.mkdir()
    paths.external_metrics("mine").write_text(json.dumps(theirs))
    paths.external_metrics("old").write_text(json.dumps({**theirs, "protocol": "f" * 16}))
    (paths.EXTERNAL / "README.md").write_text("no metrics")
    found = collect.rows(MODELS, paths.model_metrics, reference(), paths.EXTERNAL)
    added = found[len(MODELS) : len(MODELS) + 2]
    assert [(row["model"], row["label"], row["kind"], row["status"]) for row in added] == [
        ("mine", "mine", "model", "ok"),
        ("old", "old", "model", "other protocol"),
    ]
    assert found[len(MODELS) + 2]["kind"] == "reference"
    paths.external_metrics("zeta").write_text(json.dumps(theirs))
    with pytest.raises(PipelineError, match=r"zeta\.json: a model"):
        collect.rows(MODELS, paths.model_metrics, reference(), paths.EXTERNAL)


def test_csv_has_all_keys_and_empty_cells_where_there_is_nothing(rows):
    text = collect.to_csv(rows)
    table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False).set_index("model")
    assert list(table.index) == [row["model"] for row in rows]
    assert [text.split("\n")[0].split(",")[i] for i in range(5)] == list(collect.COLUMNS[:5])
    assert {key for row in rows for key in row} <= {*table.columns, "model"}
    assert table.loc["zeta", "likelihood_kl_nats"] == "30.5"
    assert table.loc["alpha", "likelihood_kl_nats"] == ""
    assert table.loc["alpha", "bits_per_dim"] == ""
    assert table.loc["alpha", "parameters"] == "2000000"
    assert table.loc["broken", "status"] == "failed"
    assert table.loc["broken", "family"] == "ddpm"
    assert table.loc["broken", "fid"] == ""
    assert table.loc["png", "protocol"] == PROTOCOL["protocol"]
    assert not re.search("nan|None", text)


def test_columns_are_in_a_fixed_order_and_others_follow_by_name(rows):
    rows = [{**row, "zebra": 1, "aardvark": 2} for row in rows]
    header = collect.to_csv(rows).split("\n")[0].split(",")
    assert header[: len(collect.COLUMNS)] == list(collect.COLUMNS)
    others = header[len(collect.COLUMNS) :]
    assert others == sorted(others)
    assert {"zebra", "aardvark", "likelihood_kl_nats", "protocol"} <= set(others)
    assert len(set(header)) == len(header)


def test_what_judges_report_has_its_place_among_the_columns():
    assert {*translation.KEYS, *KEYS, *quality.COPYING_KEYS, *quality.CLASS_KEYS} <= {
        *collect.COLUMNS
    }


def test_no_reference_names_the_stage_that_makes_it(tmp_path):
    with pytest.raises(PipelineError, match="dvc repro reference"):
        collect.read_reference(tmp_path / "reference.json")


# --- curves and pictures -----------------------------------------------------------------------


def test_curves_are_long_and_copied_digit_by_digit(project):
    assert collect.curves(MODELS, paths.curve) == (
        "model,curve,step,images,value\n"
        "zeta,model/elbo,10,160,700.125\n"
        "zeta,model/elbo,20,320,690.5\n"
        "zeta,model/kl,20,320,1e-05\n"
        "alpha,critic/loss,10,160,-0.10\n"
    )


def test_no_curves_leave_the_header():
    assert collect.curves([], paths.curve) == "model,curve,step,images,value\n"


def test_rows_of_the_picture(rows):
    real = images(20, 1)
    np.save(paths.samples_dir("alpha") / "labels.npy", np.array([2, 0, 2, 1] + [0] * 16))
    (paths.samples_dir("exact") / "samples.npy").unlink()
    found = dict(collect.pictured(rows, paths.samples_dir, real))
    assert list(found) == [
        "real images", "zeta", "alpha (by class)", "broken (failed)", "exact (no samples)",
        "stranger",
    ]  # fmt: skip
    np.testing.assert_array_equal(found["real images"], real[:12])
    np.testing.assert_array_equal(found["zeta"], images(20, 10)[:12])
    np.testing.assert_array_equal(found["alpha (by class)"], images(20, 11)[[1, 3, 0]])
    assert found["broken (failed)"].shape == (0, 1, 28, 28)


def test_a_model_that_only_translates_shows_domain_b_as_domain_a(rows):
    folder = paths.samples_dir("exact")
    np.save(folder / "a_to_b.npy", images(20, 31))
    np.save(folder / "b_to_a.npy", images(20, 32))
    real = images(20, 1)
    assert "exact" in dict(collect.pictured(rows, paths.samples_dir, real))
    (folder / "samples.npy").unlink()
    found = dict(collect.pictured(rows, paths.samples_dir, real))
    np.testing.assert_array_equal(found["exact (B to A)"], images(20, 32)[:12])


def test_images_of_another_shape_leave_their_row_empty(rows):
    folder = paths.samples_dir("exact")
    (folder / "samples.npy").unlink()
    np.save(folder / "b_to_a.npy", np.zeros((5, 3, 64, 64), np.uint8))
    found = collect.pictured(rows, paths.samples_dir, images(20, 1))
    assert dict(found)["exact (another shape)"].shape == (0, 1, 28, 28)
    assert labelled_rows(found).height > 6 * 56


# --- the stage ---------------------------------------------------------------------------------

OUTPUTS = (
    paths.COMPARISON_CSV,
    paths.COMPARISON_MD,
    paths.ALL_CURVES,
    paths.SAMPLES_PICTURE,
)


def test_the_stage_succeeds_without_a_failed_model_and_says_so(project, capsys):
    compare.main()
    printed = capsys.readouterr()
    assert "warning: broken is not ranked: it has no metrics" in printed.err
    assert "warning: stranger is not ranked: it was judged by another protocol" in printed.err
    assert printed.out.startswith("model")
    assert all(path.exists() for path in OUTPUTS)


def test_running_twice_gives_the_same_bytes(project):
    compare.main()
    before = [path.read_bytes() for path in OUTPUTS]
    compare.main()
    assert [path.read_bytes() for path in OUTPUTS] == before


def test_the_picture_has_a_row_for_each_model_and_the_real_images(project):
    compare.main()
    with Image.open(paths.SAMPLES_PICTURE) as picture:
        assert picture.height == 6 * 56 + 5 * GAP + 2 * 8
        assert picture.width > 12 * 56 + 11 * GAP + 2 * 8


def test_nothing_is_written_when_the_inputs_move(project, monkeypatch):
    def move(self):
        raise PipelineError("moved")

    monkeypatch.setattr(stage.Guard, "confirm", move)
    with pytest.raises(PipelineError, match="moved"):
        compare.main()
    assert not any(path.exists() for path in OUTPUTS)


def test_no_models_is_an_error(project):
    paths.PARAMS.write_text("models: {}\n")
    with pytest.raises(PipelineError, match="at least one model"):
        compare.main()
