from pathlib import Path

from pipeline.core import paths

HOME = paths.Results("toy")


def test_paths_are_relative_to_the_root():
    values = [value for value in vars(paths).values() if isinstance(value, Path)]
    assert values
    assert not any(value.is_absolute() for value in values)


def test_pictures_of_a_model_are_found_by_name_in_either_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert HOME.pictures("vae") == {}
    made = {
        "samples": HOME.pictures_dir("vae") / "samples.png",
        "prior": HOME.pictures_dir("vae") / "prior.png",
        "nearest": paths.scores_dir("vae") / "nearest.png",
    }
    others = [paths.scores_dir("vae") / "nats.npy", HOME.pictures_dir("gan") / "noise.png"]
    for path in (*made.values(), *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert HOME.pictures("vae") == made
