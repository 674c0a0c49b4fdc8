"""The whole graph, driven by DVC, in a copy of the project with models of seconds."""

import json
import shutil

import numpy as np
import pytest
from clone import Clone
from filelock import FileLock
from PIL import Image

MODELS = ("ddpm", "pixelcnn", "dcgan", "vae", "cvae", "cyclegan")
"""At least one with each capability."""
CHAIN = ("train", "sample", "evaluate")
KEYS = {
    "model",
    "family",
    "dataset",
    "n_samples",
    "n_reference",
    "reference_split",
    "fid",
    "fid_min",
    "fid_max",
    "reconstruction_mse",
    "reconstruction_psnr",
    "reconstruction_kind",
    "nats_per_image",
    "bits_per_dim",
    "bits_per_dim_stderr",
    "likelihood_bound",
    "parameters",
    "images_seen",
    "fid_features",
    "protocol",
}
ALWAYS = {"inputs", "report", "track"}
"""What DVC is told to run always; `make repro` knows when there is nothing to do."""
AFTER = {"compare", *ALWAYS}

pytestmark = pytest.mark.xdist_group("pipeline")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A clone after a serial run of the whole graph, by the DVC that does not start each time.

    ``told`` is what `pipeline repro` says then.
    """
    clone = Clone(tmp_path_factory.mktemp("serial"), MODELS)
    clone.run("pipeline.orchestration.dvc_process", "repro")
    clone.told = clone.run("pipeline", "repro").stdout
    return clone


def copied(finished, folder):
    """A copy of the finished clone."""
    shutil.copytree(finished.folder, folder / "copy", symlinks=True)
    copy = Clone.__new__(Clone)
    copy.folder = folder / "copy"
    copy.params = json.loads(json.dumps(finished.params))
    return copy


@pytest.fixture
def clone(finished, tmp_path):
    """A copy of the finished clone that a test may change."""
    return copied(finished, tmp_path)


@pytest.fixture(scope="module")
def one_model(finished, tmp_path_factory):
    """A copy without dcgan, and with other parameters of vae and ddpm, of which only vae was run.

    ``told`` is what was said.
    """
    clone = copied(finished, tmp_path_factory.mktemp("one"))
    del clone.params["models"]["dcgan"]
    clone.params["models"]["vae"]["scoring"]["posterior_samples"] = 1
    clone.params["models"]["ddpm"]["sampling"]["steps"] = 4
    clone.write_params()
    clone.told = clone.run("pipeline", "repro", "--models", "vae").stdout
    return clone


def chain(model, start="train"):
    return {f"{stage}@{model}" for stage in CHAIN[CHAIN.index(start) :]}


def metrics(clone, model):
    return json.loads(clone.text(f"metrics/mnist-5k/models/{model}.json"))


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_the_shared_keys(finished, model):
    found = metrics(finished, model)
    assert set(found) >= KEYS
    assert found["model"] == model
    assert found["n_samples"] == found["n_reference"] == 20


def test_what_a_family_cannot_do_is_null(finished):
    dcgan, pixelcnn = metrics(finished, "dcgan"), metrics(finished, "pixelcnn")
    assert dcgan["bits_per_dim"] is dcgan["reconstruction_mse"] is None
    assert dcgan["likelihood_bound"] is None
    assert pixelcnn["reconstruction_mse"] is None
    assert pixelcnn["likelihood_bound"] == "exact"
    assert metrics(finished, "vae")["likelihood_bound"] == "elbo"
    assert metrics(finished, "ddpm")["likelihood_bound"] == "vlb"


def test_outputs_stand_where_people_look_for_them(finished):
    names = ["comparison.csv", "comparison.md", "samples.png", "curves.csv", "reference.json"]
    assert all((finished.folder / "metrics/mnist-5k" / name).stat().st_size for name in names)
    for model in MODELS:
        assert list((finished.folder / f"metrics/mnist-5k/pictures/{model}").glob("*.png"))
        assert model in finished.text("metrics/mnist-5k/comparison.md")


def test_a_conditional_model_is_judged_by_its_labels(finished):
    found = metrics(finished, "cvae")
    assert 0 <= found["label_accuracy"] <= 1 and 0 <= found["label_accuracy_real"] <= 1
    assert found["bits_per_dim_given_label"] != found["bits_per_dim"]
    assert (finished.folder / "data/samples/cvae/labels.npy").exists()
    assert metrics(finished, "vae")["label_accuracy"] is None


def test_a_translator_is_judged_by_its_translations(finished):
    found = metrics(finished, "cyclegan")
    assert found["fid"] is found["reconstruction_mse"] is None
    assert found["translation_fid_ab"] > 0 and found["cycle_mse"] > 0
    samples = finished.folder / "data/samples/cyclegan"
    arrays = {"a_to_b.npy", "b_to_a.npy", "arrays.json"}
    assert {path.name for path in samples.iterdir()} == {*arrays, "cost.json"}
    assert "translation_fid_ab" not in metrics(finished, "vae")


def test_no_checkpoint_and_no_half_written_file_is_left(finished):
    left = [str(p) for p in finished.folder.rglob("*.ckpt")]
    left += [str(p) for p in (finished.folder / "data").rglob(".*") if p.name != ".gitignore"]
    left += [str(p) for p in (finished.folder / "metrics").rglob(".*") if p.name != ".gitignore"]
    assert not left


def test_a_second_repro_finds_nothing_to_do(finished):
    assert finished.stale() == ALWAYS


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("vae", "network", "latent"), 5, chain("vae")),
        (("dcgan", "training", "beta1"), 0.4, chain("dcgan")),
        (("ddpm", "sampling", "steps"), 4, chain("ddpm", "sample")),
        (("ddpm", "scoring", "times"), 3, chain("ddpm", "evaluate")),
    ],
)
def test_a_hyperparameter_reruns_its_model_from_where_it_matters(clone, path, value, expected):
    model, block, key = path
    clone.params["models"][model][block][key] = value
    clone.write_params()
    first = min(expected, key=lambda name: CHAIN.index(name.split("@")[0]))
    stale = clone.stale()
    assert first in stale
    assert {name for name in stale if "@" in name} <= expected


def changed(before, after):
    """Stages whose entries in two dvc.lock differ."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


@pytest.mark.slow
def test_only_the_named_models_run(finished, one_model):
    found = changed(finished.lock(), one_model.lock())
    assert "evaluate@vae" in found
    assert found <= {"evaluate@vae"} | chain("dcgan") | AFTER


@pytest.mark.slow
def test_a_removed_model_leaves_no_ghost(one_model):
    assert not [name for name in one_model.lock() if "dcgan" in name]
    assert "dcgan" not in one_model.text("metrics/mnist-5k/comparison.md")


@pytest.mark.slow
def test_a_run_ends_with_the_table_what_to_take_and_where_the_report_is(one_model):
    told = one_model.told
    table, answer, report = (
        told.index(each) for each in ("\nmodel ", "\nmnist-5k: ", "\nthe report")
    )
    assert table < answer < report
    assert "git add" not in told and "dvc push" not in told
    assert "judging vae: done" in told


@pytest.mark.slow
def test_what_a_change_does_not_reach_stays_as_it_was(one_model, tmp_path):
    clone = copied(one_model, tmp_path)
    clone.run("pipeline", "repro")
    found = changed(one_model.lock(), clone.lock())
    assert "sample@ddpm" in found
    assert found <= chain("ddpm", "sample") | AFTER


def test_another_domain_reruns_what_translates_and_nothing_else(clone):
    clone.params["domains"]["transformation"] = "invert"
    clone.write_params()
    stale = clone.stale()
    assert "domains" in stale
    assert {name for name in stale if "@" in name} <= chain("cyclegan")


def test_editing_a_family_reruns_its_models_alone(clone):
    clone.replace(
        "pipeline/families/gan.py", "class LeastSquares:", "class LeastSquares:  # edited"
    )
    stale = clone.stale()
    assert "train@dcgan" in stale
    assert {name for name in stale if "@" in name} <= chain("dcgan")


def test_editing_what_shows_or_gates_results_reruns_no_model(clone):
    for name in ("report/page", "gate/compare", "tracking/mirror", "orchestration/repro"):
        file = clone.folder / f"pipeline/{name}.py"
        file.write_text(file.read_text() + "# edited\n")
    assert clone.stale() == ALWAYS


def test_editing_how_results_are_compared_compares_again_and_no_more(clone):
    file = clone.folder / "pipeline/comparison/tables.py"
    file.write_text(file.read_text() + "# edited\n")
    assert clone.stale() == AFTER


def test_a_comment_and_a_runtime_knob_rerun_nothing(clone):
    text = clone.text("params.yaml")
    (clone.folder / "params.yaml").write_text("# a comment\n" + text)
    clone.replace("params.yaml", "checkpoint_seconds: 20", "checkpoint_seconds: 7")
    assert clone.stale() == ALWAYS


@pytest.mark.slow
def test_what_changed_is_shown_by_dvc_and_tried_as_an_experiment(clone):
    """The commands by which a change is looked at; each needs a commit."""
    clone.commit()
    change = "models.vae.scoring.posterior_samples=1"
    clone.run("dvc", "exp", "run", "-S", change, "evaluate@vae")
    assert "posterior_samples: 1" in clone.text("params.yaml")
    shown = clone.run("dvc", "metrics", "diff").stdout
    assert (
        "metrics/mnist-5k/models/vae.json" in shown
        and "metrics/mnist-5k/models/ddpm.json" not in shown
    )
    clone.run("dvc", "plots", "diff")
    assert (clone.folder / "dvc_plots/index.html").exists()


def test_nothing_to_do_is_told_and_nothing_is_shown_twice(finished, clone):
    first = finished.told
    assert "Nothing changed" in first and "track: done" in first
    second = clone.run("pipeline", "repro").stdout
    assert "Nothing changed" in second and "track" not in second and "report: done" not in second


@pytest.mark.slow
def test_plain_dvc_gives_the_same_lock(clone, finished):
    clone.run("dvc", "repro", "--force")
    assert clone.lock() == finished.lock()


@pytest.mark.slow
def test_side_by_side_and_forced_gives_the_same_lock_as_serial(clone, finished):
    clone.run("pipeline", "repro", "--jobs", "2", "--force")
    assert clone.lock() == finished.lock()
    assert list(clone.lock()) == sorted(clone.lock())
    assert "Nothing changed" in clone.run("pipeline", "repro").stdout


def test_a_stage_that_runs_by_itself_is_refused_before_anything_is_removed(clone):
    clone.params["models"]["vae"]["scoring"]["posterior_samples"] = 1
    clone.write_params()
    with FileLock(clone.folder / "work/locks/evaluate@vae.lock"):
        done = clone.run("pipeline", "repro", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: evaluate@vae is already running")
    assert len(done.stderr.splitlines()) == 1
    assert (clone.folder / "metrics/mnist-5k/models/vae.json").exists()
    assert (clone.folder / "data/scores/vae").exists()


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda folder: shutil.rmtree(folder / ".git"), "dvc config --local core.no_scm true"),
        (lambda folder: (folder / "dvc.lock").write_text("a: [\n"), "not valid YAML"),
        (lambda folder: (folder / "dvc.lock").write_text(""), "dvc.lock: schema: missing"),
    ],
)
def test_where_dvc_can_do_nothing_one_line_says_why(clone, break_it, told):
    break_it(clone.folder)
    done = clone.run("pipeline", "repro", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert told in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_command_that_is_named_for_a_folder_without_git_helps(clone):
    shutil.rmtree(clone.folder / ".git")
    clone.run("dvc", "config", "--local", "core.no_scm", "true")
    assert "Nothing changed" in clone.run("pipeline", "repro").stdout


def test_a_list_of_locks_that_a_full_disk_cut_is_begun_anew(clone):
    (clone.folder / ".dvc/tmp/rwlock").write_text('{"read": {"')
    assert "Nothing changed" in clone.run("pipeline", "repro").stdout


@pytest.mark.slow
def test_private_memories_and_a_deleted_store_are_never_the_users_problem(clone):
    damaged = {"durations.json": '{"train@vae": "long"}', "shown.json": "{", "inputs.json": "null"}
    for name, text in damaged.items():
        (clone.folder / "work" / name).write_text(text)
    (clone.folder / "mlflow.db").unlink()
    told = clone.run("pipeline", "repro").stdout
    assert "Nothing changed" in told and "track: done" in told
    assert (clone.folder / "mlflow.db").exists()
    assert json.loads(clone.text("work/shown.json"))["page"]


@pytest.mark.slow
def test_a_failed_model_does_not_hide_the_others(clone):
    defect = "def training_step(self, *_):\n        raise ZeroDivisionError\n\n    def never("
    clone.replace("pipeline/families/gan.py", "def training_step(", defect)
    done = clone.run("pipeline", "repro", check=False)
    assert done.returncode != 0
    # Why stands at the end, once more and together, and where the rest is.
    assert done.stderr.splitlines()[-1].startswith("error: failed: dcgan; ")
    assert "work/logs/dcgan.log" in done.stderr.splitlines()[-1]
    assert any(line.startswith("error: dcgan: ") for line in done.stderr.splitlines())
    assert "ZeroDivisionError" in (clone.folder / "work/logs/dcgan.log").read_text()
    assert not (clone.folder / "metrics/mnist-5k/models/dcgan.json").exists()
    comparison = clone.text("metrics/mnist-5k/comparison.md")
    assert "failed" in comparison
    assert "vae" in comparison


def test_a_mistake_in_params_stops_before_anything_is_written(clone):
    clone.replace("params.yaml", "threads: 1", "threads: none")
    before = sorted((p, p.stat().st_mtime_ns) for p in (clone.folder / "data").rglob("*"))
    done = clone.run("pipeline", "repro", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml: runtime.threads = 'none'")
    after = sorted((p, p.stat().st_mtime_ns) for p in (clone.folder / "data").rglob("*"))
    assert after == before


def test_an_unknown_model_is_told_with_the_nearest(clone):
    done = clone.run("pipeline", "repro", "--models", "vea", check=False)
    assert done.returncode == 1
    assert "did you mean 'vae'" in done.stderr


def photos(folder, number):
    """So many pictures in each of the four folders of two unpaired sets."""
    rng = np.random.default_rng(0)
    for name in ("trainA", "trainB", "testA", "testB"):
        (folder / name).mkdir(parents=True)
        for place in range(number):
            picture = rng.integers(256, size=(16, 16, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / name / f"{place:02}.png")


@pytest.mark.slow
def test_images_of_ones_own_are_looked_at_each_time_and_left_alone(tmp_path):
    (tmp_path / "project").mkdir()
    clone = Clone(tmp_path / "project", ("vae",))
    photos(tmp_path / "photos", 40)
    clone.params["data"] |= {
        "name": "unpaired-folder",
        "title": "photos",
        "folder": "../photos",
        "size": 16,
    }
    clone.write_params()
    clone.run("pipeline", "repro", "--no-compare")
    again = clone.run("pipeline", "repro", "--no-compare").stdout
    assert "Nothing changed" in again and "done" not in again
    # A copy of the project finds them, too, and its end is not theirs.
    assert "vae: verified" in clone.run("pipeline", "verify", "vae").stdout
    files = [path for path in (tmp_path / "photos").rglob("*") if path.is_file()]
    assert len(files) == 4 * 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "project"]
    before = clone.lock()
    shutil.copy(files[1], files[0])
    changed = clone.run("pipeline", "repro", "--no-compare").stdout
    assert "Nothing changed" not in changed and "training vae: done" in changed
    assert clone.lock()["download"] != before["download"]
    assert "Nothing changed" in clone.run("pipeline", "repro", "--no-compare").stdout
    shutil.rmtree(tmp_path / "photos")
    gone = clone.run("pipeline", "repro", "--no-compare", check=False)
    assert gone.returncode == 1 and len(gone.stderr.splitlines()) == 1, gone.stderr
    assert "photos" in gone.stderr and (clone.folder / "data/raw").exists()
