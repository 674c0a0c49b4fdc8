import io
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import comparison, paths, stage
from pipeline.datasets.store import Split, write
from pipeline.errors import PipelineError
from pipeline.pictures import GAP
from stages import compare

PROTOCOL = {
    "dataset": "toy",
    "data_sha256": "d" * 64,
    "judge_recipe": "r" * 64,
    "n_samples": 20,
    "n_reference": 20,
    "reference_split": "test",
    "fid_features": "judge-64x3",
    "metric_version": "1",
    "protocol": "0123456789abcdef",
}
NOTHING = dict.fromkeys(
    (
        "fid",
        "fid_min",
        "fid_max",
        "nats_per_image",
        "bits_per_dim",
        "bits_per_dim_stderr",
        "likelihood_bound",
        "reconstruction_mse",
        "reconstruction_psnr",
        "reconstruction_kind",
    )
)
MODELS = {
    "zeta": {"family": "vae"},
    "alpha": {"family": "gan"},
    "broken": {"family": "ddpm"},
    "exact": {"family": "pixelcnn"},
    "stranger": {"family": "vae"},
}


def fid(value):
    return {"fid": value, "fid_min": value * 0.9, "fid_max": value * 1.1}


def reference():
    named = [
        {"name": "real", "label": "real training images", **NOTHING, **fid(0.5)},
        {"name": "noise", "label": "uniform noise", **NOTHING, **fid(200.0)},
        {"name": "png", "label": "PNG", **NOTHING, "bits_per_dim": 1.8,
         "likelihood_bound": "code length", "nats_per_image": 966.0},
        {"name": "pca_32", "label": "PCA-32", **NOTHING, "reconstruction_mse": 0.016,
         "reconstruction_psnr": 18.4, "reconstruction_kind": "32 numbers"},
    ]  # fmt: skip
    return {**PROTOCOL, "rows": named}


def metrics():
    cost = {"parameters": 1000, "images_seen": 50000}
    likelihood = {"bits_per_dim_stderr": 0.0125, "nats_per_image": 680.0}
    decoded = {
        "reconstruction_mse": 0.0071,
        "reconstruction_psnr": 21.9,
        "reconstruction_kind": "posterior mean",
    }
    zeta = {"bits_per_dim": 1.25, "likelihood_bound": "elbo", "likelihood_kl_nats": 30.5}
    return {
        "zeta": {**NOTHING, **cost, **fid(6.0), **likelihood, **decoded, **zeta},
        "alpha": {**NOTHING, **cost, **fid(5.0), "parameters": 2000000},
        "exact": {
            **NOTHING, **cost, **fid(3.5), **likelihood,
            "bits_per_dim": 0.9, "likelihood_bound": "exact",
        },
        "stranger": {**NOTHING, **cost, **fid(0.1), "protocol": "f" * 16, "n_samples": 10},
    }  # fmt: skip


def images(n, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, 1, 28, 28), dtype=np.uint8)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder in which the stages before ``compare`` have run; ``broken`` failed."""
    monkeypatch.chdir(tmp_path)
    blocks = "".join(f"  {name}: {{family: {each['family']}}}\n" for name, each in MODELS.items())
    paths.PARAMS.write_text(f"models:\n{blocks}")
    paths.DVC_YAML.write_text(
        "stages:\n  compare:\n    deps: [metrics/models, metrics/reference.json]\n"
        "    params: [models]\n"
    )
    write(
        paths.PROCESSED,
        "toy",
        ["a", "b", "c"],
        {name: Split(images(20, i), np.arange(20) % 3) for i, name in enumerate(("train", "test"))},
    )
    paths.CURVES.mkdir(parents=True)
    paths.MODEL_METRICS.mkdir(parents=True)
    paths.REFERENCE.write_text(json.dumps(reference()))
    for i, (name, found) in enumerate(metrics().items()):
        row = {**PROTOCOL, "model": name, "family": MODELS[name]["family"], **found}
        paths.model_metrics(name).write_text(json.dumps(row))
        paths.samples_dir(name).mkdir(parents=True)
        np.save(paths.samples_dir(name) / "samples.npy", images(20, 10 + i))
    paths.curve("zeta").write_text(
        "step,images,model/elbo,model/kl\n10,160,700.125,\n20,320,690.5,1e-05\n"
    )
    paths.curve("alpha").write_text("step,images,critic/loss\n10,160,-0.10\n")
    return tmp_path


@pytest.fixture
def rows(project):
    return comparison.rows(MODELS, paths.model_metrics, reference())


def page(rows):
    return comparison.to_markdown(rows, reference())


def section(markdown, title):
    """The cells of the table under a heading, without its head."""
    body = markdown.split(f"## {title}")[1].split("\n## ")[0]
    lines = [line for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# --- rows and the table for programs -----------------------------------------------------------


def test_models_come_in_the_order_of_params_then_the_references(rows):
    assert [row["model"] for row in rows] == [*MODELS, "real", "noise", "png", "pca_32"]
    assert [row["kind"] for row in rows] == ["model"] * 5 + ["reference"] * 4
    assert [row["status"] for row in rows[:5]] == ["ok", "ok", "failed", "ok", "other protocol"]


def test_files_of_models_that_are_not_in_params_are_ignored(project):
    shutil.copy(paths.model_metrics("zeta"), paths.model_metrics("ghost"))
    found = comparison.rows(MODELS, paths.model_metrics, reference())
    assert "ghost" not in [row["model"] for row in found]


def test_csv_has_all_keys_and_empty_cells_where_there_is_nothing(rows):
    text = comparison.to_csv(rows)
    table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False).set_index("model")
    assert list(table.index) == [row["model"] for row in rows]
    assert [text.split("\n")[0].split(",")[i] for i in range(5)] == list(comparison.COLUMNS[:5])
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


def test_no_reference_names_the_stage_that_makes_it(tmp_path):
    with pytest.raises(PipelineError, match="dvc repro reference"):
        comparison.read_reference(tmp_path / "reference.json")


# --- the page for people -----------------------------------------------------------------------


def test_fids_are_sorted_with_the_references_in_their_place(rows):
    table = section(page(rows), "How good are the samples?")
    assert [row[0] for row in table] == [
        "*real training images*", "exact", "alpha", "zeta", "*uniform noise*", "broken",
    ]  # fmt: skip
    assert table[1] == ["exact", "3.50", "3.15 to 3.85", "a"]
    assert table[-1] == ["broken", "failed", "", ""]


def test_ties_are_marked_and_references_have_none(rows):
    table = {row[0]: row[3] for row in section(page(rows), "How good are the samples?")}
    assert table["exact"] == "a"
    assert table["alpha"] == "a b"
    assert table["zeta"] == "b"
    assert table["*real training images*"] == table["*uniform noise*"] == ""


@pytest.mark.parametrize(
    ("fids", "letters"),
    [
        ([], []),
        ([4.0], ["a"]),
        ([1.0, 1.5], ["a", "a"]),
        ([1.0, 1.51], ["a", "b"]),
        ([1.0, 1.4, 1.5, 9.0], ["a", "a", "a", "b"]),
        ([1.0, 1.4, 2.0, 2.9], ["a", "a b", "b c", "c"]),
        ([0.0, 0.0, 1.0], ["a", "a", "b"]),
    ],
)
def test_ties(fids, letters):
    assert comparison.ties(fids) == letters


def test_letters_are_shared_by_ties_and_by_nothing_else():
    fids = sorted(np.random.default_rng(0).uniform(1, 2000, 90))
    marks = [set(each.split()) for each in comparison.ties(fids)]
    assert len(set.union(*marks)) > 26, "more groups than the alphabet has letters"
    for i, low in enumerate(fids):
        for j in range(i, len(fids)):
            assert bool(marks[i] & marks[j]) == (fids[j] <= 1.5 * low)


def test_likelihoods_show_error_and_bound(rows):
    table = section(page(rows), "How well is an unseen image predicted?")
    assert table == [
        ["exact", "0.900 ± 0.013", "exact", "680.0"],
        ["zeta", "1.250 ± 0.013", "elbo", "680.0"],
        ["*PNG*", "*1.800*", "*code length*", "*966.0*"],
        ["alpha", "n/a", "n/a", "n/a"],
        ["broken", "failed", "", ""],
    ]
    assert "upper bounds on the true bits/dim" in page(rows)


def test_reconstructions(rows):
    table = section(page(rows), "How much of an image survives encoding?")
    assert table[:2] == [
        ["zeta", "0.00710", "21.9", "posterior mean"],
        ["*PCA-32*", "*0.01600*", "*18.4*", "*32 numbers*"],
    ]
    assert [row[1] for row in table[2:]] == ["n/a", "n/a", "failed"]


def test_cost(rows):
    table = section(page(rows), "What did it cost?")
    assert table[0] == ["zeta", "1,000", "50,000", "vae"]
    assert [row[0] for row in table] == ["zeta", "exact", "alpha", "broken"]


def test_another_protocol_is_listed_apart_and_never_ranked(rows):
    markdown = page(rows)
    assert "stranger" not in markdown.split("## Not comparable: other protocol")[0]
    table = section(markdown, "Not comparable: other protocol")
    assert table == [["stranger", "n_samples 10, not 20", "0.10", "n/a", "n/a", "n/a"]]
    assert "stranger" not in comparison.summary(rows)


def test_one_protocol_needs_no_such_list(rows):
    same = [row for row in rows if row["model"] != "stranger"]
    assert "Not comparable" not in page(same)


def test_a_model_may_bear_the_name_of_a_reference_row(project):
    shutil.copy(paths.model_metrics("alpha"), paths.model_metrics("noise"))
    text = paths.model_metrics("noise").read_text().replace('"alpha"', '"noise"')
    paths.model_metrics("noise").write_text(text)
    found = comparison.rows({"noise": {"family": "gan"}}, paths.model_metrics, reference())
    table = section(page(found), "How good are the samples?")
    assert [[row[0], row[3]] for row in table] == [
        ["*real training images*", ""], ["noise", "a"], ["*uniform noise*", ""],
    ]  # fmt: skip


def test_failed_models_are_named_first(rows):
    assert "**Failed**, so without numbers: broken." in page(rows).split("## ")[0]


def test_the_summary_is_short_and_plain(rows):
    lines = comparison.summary(rows).splitlines()
    assert lines[0].split() == ["model", "FID", "tie", "bits/dim", "bound"]
    names = [line.split()[0] for line in lines[1:]]
    assert names == ["(real)", "exact", "alpha", "zeta", "(noise)", "broken", "(png)"]
    assert lines[2].split() == ["exact", "3.50", "a", "0.900", "exact"]
    assert comparison.summary(rows).isascii()


# --- curves and pictures -----------------------------------------------------------------------


def test_curves_are_long_and_copied_digit_by_digit(project):
    assert comparison.curves(MODELS, paths.curve) == (
        "model,curve,step,images,value\n"
        "zeta,model/elbo,10,160,700.125\n"
        "zeta,model/elbo,20,320,690.5\n"
        "zeta,model/kl,20,320,1e-05\n"
        "alpha,critic/loss,10,160,-0.10\n"
    )


def test_no_curves_leave_the_header():
    assert comparison.curves([], paths.curve) == "model,curve,step,images,value\n"


def test_rows_of_the_picture(rows):
    real = images(20, 1)
    np.save(paths.samples_dir("alpha") / "labels.npy", np.array([2, 0, 2, 1] + [0] * 16))
    (paths.samples_dir("exact") / "samples.npy").unlink()
    found = dict(comparison.pictured(rows, paths.samples_dir, real))
    assert list(found) == [
        "real images", "zeta", "alpha", "broken (failed)", "exact (no samples)", "stranger",
    ]  # fmt: skip
    np.testing.assert_array_equal(found["real images"], real[:12])
    np.testing.assert_array_equal(found["zeta"], images(20, 10)[:12])
    np.testing.assert_array_equal(found["alpha"], images(20, 11)[[1, 3, 0]])
    assert found["broken (failed)"].shape == (0, 1, 28, 28)


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
