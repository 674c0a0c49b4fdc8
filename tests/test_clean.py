"""`make clean` removes what can be made again, and nothing else."""

import shutil
import subprocess
from pathlib import Path

from pipeline.core import owned, paths

ROOT = Path(__file__).parents[1]
MINE = ("data/mine/photo.png", "data/notes.txt", "work/mine/notes.json", "work/notes.json")
KEPT = (
    *MINE,
    "params.yaml",
    "metrics/mnist-5k/models/vae.json",
    "mlflow.db",
    ".dvc/cache/x",
    "my.egg-info/x",
)


def made() -> list[Path]:
    """A file in each place of data/ and work/ that the tools write."""
    below = [each for each in owned.OWNED if each.is_relative_to(paths.DATA)]
    constants = [each for each in vars(paths).values() if isinstance(each, Path)]
    below += [each for each in constants if each.is_relative_to(paths.WORK) and each != paths.WORK]
    below += [paths.checkpoint("vae", "0" * 64), paths.WORK / "vae-0000000000000000.damaged"]
    return [each if each.suffix else each / "x" for each in below] + [Path(".venv/x")]


def test_clean_leaves_what_is_somebodys_own(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    assert len(made()) > 15
    for each in (*made(), *map(Path, KEPT)):
        (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / each).write_text("x")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    left = {str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()}
    assert left == {"Makefile", *KEPT}


def test_clean_removes_empty_folders_and_can_be_done_twice(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "data" / "raw").mkdir(parents=True)
    for _ in range(2):
        subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert [each.name for each in tmp_path.iterdir()] == ["Makefile"]
