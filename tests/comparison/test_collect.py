import io
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from compared import HOME, MODELS, NOTHING, PROTOCOL, fid, images, reference, rewrite
from compared import project as project
from PIL import Image

from pipeline.comparison import collect
from pipeline.core import arrays, params, paths, stage
from pipeline.core.errors import PipelineError
from pipeline.datasets.store import Split
from pipeline.evaluation import quality, translation
from pipeline.evaluation.reference import KEYS
from pipeline.sampling.pictures import CAPTION_SIZE, GAP, PAPER, labelled_rows
from stages import compare

ABC = ["a", "b", "c"]


def split(labels=None, n=20):
    """Real images of three classes in turn, or of any."""
    return Split(images(n, 1), np.arange(n) % 3 if labels is None else np.array(labels))


@pytest.fixture
def rows(project):
    return collect.rows(MODELS, HOME.model_metrics, reference())


def score(name, nats):
    """Leave the nats of each image, and metrics that agree with them."""
    paths.scores_dir(name).mkdir(parents=True, exist_ok=True)
    arrays.save(paths.scores_dir(name), {"nats": nats})
    rewrite(HOME.model_metrics(name), nats_per_image=float(f"{nats.mean():.8g}"))


def test_how_far_behind_is_a_paired_difference(project):
    hard = np.linspace(500, 800, 40)
    gaps = np.random.default_rng(0).normal(3, 1, 40)
    score("exact", hard)
    score("zeta", hard + gaps)
    paths.scores_dir("alpha").mkdir()
    listed = collect.rows(MODELS, HOME.model_metrics, reference())
    found = {
        row["model"]: row for row in collect.behind(listed, paths.scores_dir, HOME.model_metrics)
    }
    unit = 1.25 / (hard + gaps).mean()
    assert found["zeta"]["bits_per_dim_behind"] == pytest.approx(unit * gaps.mean())
    stderr = gaps.std(ddof=1) / np.sqrt(40)
    assert found["zeta"]["bits_per_dim_behind_stderr"] == pytest.approx(unit * stderr)
    assert stderr < 0.02 * (hard + gaps).std(ddof=1) / np.sqrt(40) * 10, "pairing is the point"
    for name in ("exact", "alpha", "broken", "stranger", "real"):
        assert "bits_per_dim_behind" not in found[name]


def spoil_index(**values):
    index = paths.scores_dir("zeta") / arrays.INDEX
    found = json.loads(index.read_text())
    found["arrays"]["nats"] |= values
    index.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda file: file.unlink(), "nats.npy: no such file"),
        (lambda file: file.write_bytes(b""), "nats.npy: damaged"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?"), "nats.npy: damaged"),
        (lambda file: (file.parent / arrays.INDEX).unlink(), "arrays.json does not list nats.npy"),
        (lambda file: (file.parent / arrays.INDEX).write_text("{"), "arrays.json: not valid JSON"),
        (lambda file: spoil_index(shape=[41]), "nats.npy: shape [40], but it should be [41]"),
        (lambda file: spoil_index(dtype="int64"), "nats.npy: float64 values"),
        (lambda file: spoil_index(sha256=5), "arrays.nats.sha256 = 5: should be a valid string"),
        (lambda file: score("zeta", np.full(39, 600.0)), "zeta/nats.npy: 39 images, but data/sco"),
        (lambda file: score("zeta", np.full((40, 1), 600.0)), "nats.npy: shape [40, 1]"),
        (lambda file: score("zeta", np.full(40, 600, np.float32)), "40 values of float32"),
        (lambda file: score("zeta", np.full(1, 600.0)), "1 values of float64, but it should hold"),
        (lambda file: rewrite(HOME.model_metrics("zeta"), nats_per_image=1), "are not of one eva"),
        (
            lambda file: rewrite(
                HOME.model_metrics("zeta"),
                **dict.fromkeys(("nats_per_image", "bits_per_dim", "likelihood_bound")),
            ),
            "bits_per_dim is None, but data/scores/zeta/arrays.json lists nats.npy",
        ),
    ],
)
def test_scores_that_are_not_those_of_the_metrics_are_named(project, spoil, told):
    for name in ("exact", "zeta"):
        score(name, np.linspace(600, 700, 40))
    spoil(paths.scores_dir("zeta") / "nats.npy")
    with pytest.raises(PipelineError) as raised:
        collect.project_rows(params.read(), reference())
    (line,) = str(raised.value).splitlines()
    assert "zeta" in line and told in line and "make repro" in line


def test_where_no_scores_are_nothing_is_said_of_them(project):
    found = collect.project_rows(params.read(), reference())
    assert not any("bits_per_dim_behind" in row for row in found)


# --- rows and the table for programs -----------------------------------------------------------


def test_models_come_in_the_order_of_params_then_the_references(rows):
    assert [row["model"] for row in rows] == [*MODELS, "real", "noise", "png", "pca_32"]
    assert [row["kind"] for row in rows] == ["model"] * 5 + ["reference"] * 4
    assert [row["status"] for row in rows[:5]] == ["ok", "ok", "no metrics", "ok", "other protocol"]


def test_files_of_models_that_are_not_in_params_are_ignored(project):
    shutil.copy(HOME.model_metrics("zeta"), HOME.model_metrics("ghost"))
    found = collect.rows(MODELS, HOME.model_metrics, reference())
    assert "ghost" not in [row["model"] for row in found]


def test_what_others_made_stands_after_the_models(project):
    theirs = {**PROTOCOL, "model": "mine", "family": "external", **NOTHING, **fid(4.0)}
    HOME.external.mkdir()
    HOME.external_metrics("mine").write_text(json.dumps(theirs))
    old = {**theirs, "model": "old", "protocol": "f" * 16}
    HOME.external_metrics("old").write_text(json.dumps(old))
    (HOME.external / "README.md").write_text("no metrics")
    (HOME.external / ".mine.1234.tmp.json").write_text("{")
    found = collect.rows(MODELS, HOME.model_metrics, reference(), HOME.external)
    added = found[len(MODELS) : len(MODELS) + 2]
    assert [(row["model"], row["label"], row["kind"], row["status"]) for row in added] == [
        ("mine", "mine", "model", "ok"),
        ("old", "old", "model", "other protocol"),
    ]
    assert found[len(MODELS) + 2]["kind"] == "reference"
    HOME.external_metrics("zeta").write_text(json.dumps(theirs))
    with pytest.raises(PipelineError, match=r"zeta\.json: a model"):
        collect.rows(MODELS, HOME.model_metrics, reference(), HOME.external)


def test_every_broken_file_is_named_at_once(project):
    HOME.external.mkdir()
    HOME.external_metrics("stray").write_text("")
    HOME.external_metrics("foreign").write_text('{"fid": 3}')
    rewrite(HOME.model_metrics("zeta"), fid=float("nan"))
    rewrite(HOME.model_metrics("alpha"), fid=None)
    with pytest.raises(PipelineError) as raised:
        compare.main()
    lines = str(raised.value).splitlines()
    assert [line.partition(": ")[0] for line in dict.fromkeys(lines)] == [
        "metrics/toy/models/zeta.json", "metrics/toy/models/alpha.json",
        *["metrics/toy/external/foreign.json"] * 4, "metrics/toy/external/stray.json",
    ]  # fmt: skip
    assert "NaN is no finite number" in lines[0]
    assert "fid is null, though fid_min is there" in lines[1]
    assert all("or delete the file" in line for line in lines[2:])
    assert not any(path.exists() for path in OUTPUTS)


def test_a_file_cannot_pass_for_what_it_is_not(project):
    rewrite(
        HOME.model_metrics("zeta"),
        kind="reference", status="no metrics", label="best", fid_trained_low=1.0, tie="a",
    )  # fmt: skip
    (row,) = [row for row in collect.rows(MODELS, HOME.model_metrics, reference())
              if row["model"] == "zeta"]  # fmt: skip
    assert (row["kind"], row["status"], row["label"]) == ("model", "ok", "zeta")
    assert "fid_trained_low" not in row


@pytest.mark.parametrize("block", [None, 5, {}, {"family": 3}])
def test_a_model_without_a_family_is_named(project, block):
    with pytest.raises(PipelineError, match=r"models\.zeta: must be a block with the key 'family'"):
        collect.rows({"zeta": block}, HOME.model_metrics, reference())


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
    assert table.loc["broken", "status"] == "no metrics"
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


def change(rows, name, **values):
    return [row | values if row["model"] == name else row for row in rows]


# --- curves and pictures -----------------------------------------------------------------------


def test_curves_are_long_and_copied_digit_by_digit(project):
    assert collect.curves(MODELS, HOME.curve) == (
        "model,curve,step,images,value\n"
        "zeta,model/elbo,10,160,700.125\n"
        "zeta,model/elbo,20,320,690.5\n"
        "zeta,model/kl,20,320,1e-05\n"
        "alpha,critic/loss,10,160,-0.10\n"
    )


def test_no_curves_leave_the_header():
    assert collect.curves([], HOME.curve) == "model,curve,step,images,value\n"


def test_rows_of_the_picture(rows):
    real = split([2] * 9 + [1] * 4 + [0] * 7)
    labels = np.array([2, 0, 2, 1, 0, 1, 1, 1] + [0] * 12)
    arrays.save(paths.samples_dir("alpha"), {"samples": images(20, 11), "labels": labels})
    rows = change(rows, "alpha", label_accuracy=0.9)
    shutil.rmtree(paths.samples_dir("exact"))
    rows = change(rows, "exact", fid=None)
    found = dict(collect.pictured(rows, paths.samples_dir, HOME.model_metrics, real, ABC))
    assert list(found) == [
        "real images", "zeta", "alpha (by class)", "broken (no metrics)", "exact (no samples)",
        "stranger",
    ]  # fmt: skip
    shown = [13, 9, 0, 14, 10, 1, 15, 11, 2, 16, 12, 3]
    np.testing.assert_array_equal(found["real images"], real.images[shown])
    np.testing.assert_array_equal(found["zeta"], images(20, 10)[:12])
    told = found["alpha (by class)"]
    assert len(told) == 12, "it is as wide as the others"
    np.testing.assert_array_equal(told[:6], images(20, 11)[[1, 3, 0, 4, 5, 2]])
    np.testing.assert_array_equal(told[[8, 11]], np.full((2, 1, 28, 28), PAPER), "class c ran out")
    assert found["broken (no metrics)"].shape == (0, 1, 28, 28)
    assert collect.captions(real, ABC) == [["a", "b", "c"] * 4]


@pytest.mark.parametrize(
    ("classes", "lines", "told"),
    [
        (1, [12], ""),
        (5, [12], "by class"),
        (10, [12], "by class"),
        (26, [12, 12, 2], "by class"),
        (108, [12] * 9, "by class"),
        (120, [12] * 9, "the first 108 of 120 classes"),
    ],
)
def test_every_class_is_seen_however_many_there_are(rows, classes, lines, told):
    labels, names = np.arange(240) % classes, [f"c{i}" for i in range(classes)]
    drawn = images(240, 3)
    arrays.save(paths.samples_dir("alpha"), {"samples": drawn, "labels": labels})
    rows = change(rows, "alpha", label_accuracy=0.9, n_samples=240)
    real = split(labels[::-1], 240)
    found = collect.pictured(rows, paths.samples_dir, HOME.model_metrics, real, names)
    start = [name for name, _ in found].index(f"alpha ({told})" if told else "alpha")
    shown = [each for _, each in found[start : start + len(lines)]]
    assert [name for name, _ in found[start + 1 : start + len(lines)]] == [""] * (len(lines) - 1)
    assert [len(each) for each in shown] == lines
    whole, n = np.concatenate(shown), min(classes, 108)
    np.testing.assert_array_equal(whole[:n], drawn[:n])
    assert (whole[n:] == PAPER).all() or classes < 12
    # Real images stand in the same order, below their names.
    above = collect.captions(real, names)
    assert [name for row in above for name in row][:n] == (names[:n] if classes > 1 else [])
    top = np.concatenate([each for _, each in found[: max(1, len(above))]])
    expected = np.array([np.flatnonzero(real.labels == label)[0] for label in range(n)])
    np.testing.assert_array_equal(top[:n], real.images[expected])


def test_real_digits_show_all_ten():
    digits = [str(digit) for digit in range(10)]
    real = split([3, 3, 1, *range(10), *[5] * 7])
    ((_, shown),) = collect.pictured([], paths.samples_dir, HOME.model_metrics, real, digits)
    np.testing.assert_array_equal(shown[:10], real.images[[3, 2, 5, 0, 7, 8, 9, 10, 11, 12]])


def test_numbers_are_no_names():
    digits = [str(digit) for digit in range(10)]
    assert collect.captions(split([0] * 20), digits) == []
    assert collect.captions(split([0] * 20), ["images"]) == []


def test_a_model_that_only_translates_shows_domain_b_as_domain_a(rows):
    folder, real = paths.samples_dir("exact"), split()
    made = {"a_to_b": images(20, 31), "b_to_a": images(20, 32)}
    rows = change(rows, "exact", translation_fid_ab=3.0)
    arrays.save(folder, {**made, "samples": images(20, 30)})
    assert "exact" in dict(collect.pictured(rows, paths.samples_dir, HOME.model_metrics, real, ABC))
    rows = change(rows, "exact", fid=None)
    arrays.save(folder, made)
    found = dict(collect.pictured(rows, paths.samples_dir, HOME.model_metrics, real, ABC))
    np.testing.assert_array_equal(found["exact (B to A)"], images(20, 32)[:12])


def test_images_of_another_shape_leave_their_row_empty(rows):
    arrays.save(paths.samples_dir("exact"), {"b_to_a": np.zeros((5, 3, 64, 64), np.uint8)})
    rows = change(rows, "exact", translation_fid_ab=3.0, fid=None)
    found = collect.pictured(rows, paths.samples_dir, HOME.model_metrics, split(), ABC)
    assert dict(found)["exact (another shape)"].shape == (0, 1, 28, 28)
    assert labelled_rows(found).height > 6 * 56


SPOILT = {
    "count": ({"samples": images(19, 0)}, "samples.npy: shape [19, 1, 28, 28], but it should be"),
    "shape": ({"samples": images(20, 0)[..., :27]}, "samples.npy: shape [20, 1, 28, 27], but it"),
    "dtype": ({"samples": images(20, 0).astype(np.float32)}, "samples.npy: float32 values, but"),
    "none": ({}, "fid is 5.0, but data/samples/alpha/arrays.json does not list samples.npy"),
    "more": (
        {"samples": images(20, 0), "b_to_a": images(20, 0)},
        "translation_fid_ab is missing, but data/samples/alpha/arrays.json lists b_to_a.npy",
    ),
    "labels": (
        {"samples": images(20, 0), "labels": np.arange(20)},
        "label_accuracy is missing, but data/samples/alpha/arrays.json lists labels.npy",
    ),
}


@pytest.mark.parametrize(("made", "told"), SPOILT.values(), ids=SPOILT)
def test_samples_that_were_not_judged_are_named(project, made, told):
    arrays.save(paths.samples_dir("alpha"), made)
    with pytest.raises(PipelineError) as raised:
        compare.main()
    (line,) = str(raised.value).splitlines()
    assert told in line and line.endswith("delete data/samples/alpha and run `make repro`")
    assert not any(path.exists() for path in OUTPUTS)


def test_a_model_that_was_not_run_shows_nothing_of_other_images(rows):
    """What it drew of another data set may lie there, of any shape."""
    paths.samples_dir("broken").mkdir(parents=True)
    for size in (28, 64):
        drawn = np.zeros((20, 1, size, size), np.uint8)
        arrays.save(paths.samples_dir("broken"), {"samples": drawn})
        found = collect.pictured(rows, paths.samples_dir, HOME.model_metrics, split(), ABC)
        assert dict(found)["broken (no metrics)"].shape == (0, 1, 28, 28)
        labelled_rows(found)


def test_where_judges_know_no_labels_none_are_judged(rows):
    """As of images that have none: a conditional model is asked for the one class there is."""
    made = {"samples": images(20, 11), "labels": np.zeros(20, np.int64)}
    arrays.save(paths.samples_dir("alpha"), made)
    real = split(np.zeros(20, np.int64))
    unknown = change(rows, "alpha", fid_features="label-free-64x3", second_features=None)
    found = collect.pictured(unknown, paths.samples_dir, HOME.model_metrics, real, ABC)
    np.testing.assert_array_equal(dict(found)["alpha (by class)"], made["samples"][:12])
    second = change(rows, "alpha", fid_features="label-free-64x3", second_features="judge-64x3")
    with pytest.raises(PipelineError, match="label_accuracy is missing"):
        collect.pictured(second, paths.samples_dir, HOME.model_metrics, real, ABC)


def test_labels_of_another_count_are_named(rows):
    made = {"samples": images(20, 11), "labels": np.arange(19)}
    arrays.save(paths.samples_dir("alpha"), made)
    rows = change(rows, "alpha", label_accuracy=0.9)
    with pytest.raises(PipelineError, match=r"labels\.npy: shape \[19\], but it should be \[20\]"):
        collect.pictured(rows, paths.samples_dir, HOME.model_metrics, split(), ABC)


def test_samples_that_are_gone_are_named(project):
    shutil.rmtree(paths.samples_dir("alpha"))
    with pytest.raises(PipelineError, match=r"alpha\.json: fid is 5\.0, but data/samples/alpha"):
        compare.main()


# --- the stage ---------------------------------------------------------------------------------

OUTPUTS = (
    HOME.comparison_csv,
    HOME.comparison_md,
    HOME.all_curves,
    HOME.samples_picture,
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
    with Image.open(HOME.samples_picture) as picture:
        names = CAPTION_SIZE + 2 * GAP  # of the classes, above the real images
        assert picture.height == 6 * 56 + 5 * GAP + 2 * 8 + names
        assert picture.width > 12 * 56 + 11 * GAP + 2 * 8


def test_nothing_is_written_when_the_inputs_move(project, monkeypatch):
    def move(self):
        raise PipelineError("moved")

    monkeypatch.setattr(stage.Guard, "confirm", move)
    with pytest.raises(PipelineError, match="moved"):
        compare.main()
    assert not any(path.exists() for path in OUTPUTS)


def test_no_models_is_an_error(project):
    paths.PARAMS.write_text("data: {title: toy}\nmodels: {}\n")
    with pytest.raises(PipelineError, match="at least one model"):
        compare.main()
