"""Two data sets in one project, each with results of its own, and the way there and back."""

import hashlib
import sqlite3

import numpy as np
import pytest
from clone import Clone
from PIL import Image

from pipeline.core import paths

FIRST, SECOND = paths.Results("mnist-5k"), paths.Results("mine")
MODELS = ("vae", "dcgan")


def tree(folder):
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def current(clone):
    """Models whose runs are current, by experiment."""
    with sqlite3.connect(clone.folder / "mlflow.db") as store:
        found = store.execute(
            "select e.name, m.value from runs r join experiments e using (experiment_id)"
            " join tags t on t.run_uuid = r.run_uuid join tags m on m.run_uuid = r.run_uuid"
            " where t.key = 'current' and t.value = 'true' and m.key = 'model'"
        ).fetchall()
    by_title = {}
    for name, model in found:
        by_title.setdefault(name.partition(" ·")[0], []).append(model)
    return {title: sorted(models) for title, models in by_title.items()}


@pytest.mark.slow
def test_a_second_data_set_leaves_the_first_alone_and_back_again_nothing_is_trained(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for place in range(40):
            picture = rng.integers(256, size=(16, 16, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "photos" / name / f"{place:02}.png")
    (tmp_path / "project").mkdir()
    clone = Clone(tmp_path / "project", MODELS)
    clone.run("pipeline", "repro")
    clone.commit()
    first, lock = tree(clone.folder / FIRST.folder), clone.lock()
    weights = tree(clone.folder / paths.MODELS)

    clone.params["data"] |= {"name": "unpaired-folder", "folder": "../photos", "size": 16}
    clone.write_params()
    refused = clone.run("pipeline", "check", check=False)
    assert refused.returncode == 1
    assert "data.title = 'mnist-5k': another data set is called so" in refused.stderr
    refused = clone.run("dvc", "repro", check=False)
    assert "set data.title to unpaired-folder, or to a name of your own" in refused.stderr
    assert tree(clone.folder / FIRST.folder) == first
    assert tree(clone.folder / paths.MODELS) == weights

    clone.params["data"]["title"] = SECOND.title
    clone.write_params()
    told = clone.run("pipeline", "repro").stdout
    assert all(f"training {model}: done" in told for model in MODELS)
    assert tree(clone.folder / FIRST.folder) == first
    assert (clone.folder / SECOND.page).exists()
    assert current(clone) == {FIRST.title: sorted(MODELS), SECOND.title: sorted(MODELS)}
    shown = clone.run("dvc", "metrics", "show").stdout
    assert str(SECOND.model_metrics("vae")) in shown
    clone.run("dvc", "plots", "show")
    second = tree(clone.folder / SECOND.folder)

    listed = clone.run("pipeline", "datasets", "--switch", FIRST.title).stdout
    assert f"that of {SECOND.title} is kept" in listed
    assert [line.split()[0] for line in listed.splitlines()[2:]] == [SECOND.title, "*"]
    told = clone.run("pipeline", "repro").stdout
    for model in MODELS:
        for stage in ("training", "sampling", "judging"):
            assert f"{stage} {model}: restored" in told, told
    assert "judge: restored" in told and "reference: restored" in told
    assert clone.lock() == lock
    assert tree(clone.folder / FIRST.folder) == first
    assert tree(clone.folder / paths.MODELS) == weights
    assert tree(clone.folder / SECOND.folder) == second
    assert "Nothing changed" in clone.run("pipeline", "repro").stdout
    # No model here needs the domains.
    assert clone.stale() == {"domains", "inputs", "report", "track"}
    assert current(clone) == {FIRST.title: sorted(MODELS), SECOND.title: sorted(MODELS)}
