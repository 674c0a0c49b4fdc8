import ast
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from imports import closure, imported
from registered import ROOT, samples
from registered import project as project
from tracked import migrated as migrated

from pipeline import families
from pipeline.core import params, paths
from pipeline.tracking import registry, shipping

CHANGE = """
def to_uint8(images: Tensor) -> Tensor:
    return 255 - _to_uint8(images)


def _to_uint8(images: Tensor) -> Tensor:
"""
LOAD = """
import json, sys, warnings
import numpy as np
import mlflow
if sys.argv[1] == "before":
    import pipeline
drawn = []
for folder in sys.argv[3:]:
    drawn.append(mlflow.pyfunc.load_model(folder, suppress_warnings=True))
import pipeline
print(json.dumps({
    "images": [each.predict({"n": 12, "seed": 3}).tolist() for each in drawn],
    "foreign": pipeline.MARK,
    "packages": [name for name in sys.modules if name.startswith(sys.argv[2]) and "." not in name],
}))
"""


def other_version(folder, change):
    """A copy of the package, one of whose files `change` has changed."""
    for file in paths.CODE.rglob("*.py"):
        target = folder / file.relative_to(paths.CODE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.read_text())
    change(folder)
    return folder


def inverted(folder):
    """Black is white in what models draw."""
    contract = folder / "core" / "contract.py"
    source = contract.read_text()
    changed = source.replace("\ndef to_uint8(images: Tensor) -> Tensor:\n", CHANGE)
    assert changed != source
    contract.write_text(changed)


@pytest.fixture(scope="module")
def two(project, tmp_path_factory):
    """A model saved with the code as it is, and with code that draws the opposite."""
    raw = params.read()
    folder = tmp_path_factory.mktemp("two")
    registry.save(folder / "ours", "dcgan", raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CODE", other_version(folder / "changed", inverted))
        registry.save(folder / "others", "dcgan", raw)
    return folder / "ours", folder / "others"


def load(tmp_path, when, *folders):
    """What a program prints that has a module of its own called pipeline, and loads these."""
    (tmp_path / "pipeline.py").write_text("MARK = 'foreign'\n")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, when, shipping.PREFIX, *map(str, folders)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("when", ["before", "after"])
def test_two_versions_and_a_foreign_module_live_in_one_process(two, tmp_path, when):
    ours, others = two
    order = (ours, others) if when == "before" else (others, ours)
    found = load(tmp_path, when, *order)
    drawn = dict(zip(order, np.array(found["images"], np.uint8), strict=True))
    np.testing.assert_array_equal(drawn[ours], samples("dcgan"))
    np.testing.assert_array_equal(drawn[others], 255 - samples("dcgan"))
    assert found["foreign"] == "foreign"
    assert len(found["packages"]) == 2


def test_the_name_is_that_of_the_content(project, tmp_path, monkeypatch):
    name = shipping.name()
    monkeypatch.setattr(paths, "CODE", other_version(tmp_path / "same", lambda _: None))
    assert shipping.name() == name
    (paths.CODE / "core" / "notes.txt").write_text("no code")
    assert shipping.name() == name
    inverted(paths.CODE)
    assert shipping.name() != name


def test_what_is_shipped_imports_nothing_of_ours_by_its_old_name(project, tmp_path):
    package, script = shipping.ship(tmp_path)
    found = sorted(package.rglob("*.py"))
    assert {file.relative_to(package) for file in found} == {
        file.relative_to(paths.CODE) for file in paths.CODE.rglob("*.py")
    }
    for file in (*found, script):
        tree = ast.parse(file.read_text())
        names = {name.partition(".")[0] for name in imported(tree)}
        assert not names & {"pipeline", "stages"}, file
        plain = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
                 for alias in node.names]  # fmt: skip
        assert not [name for name in plain if name.startswith(package.name)], (
            f"{file}: `import a.b` uses the name `a`, which was not renamed there"
        )


def test_the_script_needs_what_the_sampler_needs(project, tmp_path):
    package, _ = shipping.ship(tmp_path)
    used = set().union(
        *(closure(ROOT, "pipeline/tracking/serving.py", each) for each in families.names())
    )
    for name in used:
        assert (package / name.removeprefix("pipeline/")).exists()


def test_what_was_loaded_from_a_folder_that_is_gone_is_loaded_anew(two, tmp_path):
    code = """
import shutil, sys
import mlflow
first, second = sys.argv[1:]
mlflow.pyfunc.load_model(first, suppress_warnings=True)
shutil.rmtree(first)
for name in [name for name in sys.modules if ".families." in name]:
    del sys.modules[name]  # as if the first were of another family
print(mlflow.pyfunc.load_model(second, suppress_warnings=True).predict({"n": 2}).shape)
"""
    for each in ("first", "second"):
        shutil.copytree(two[0], tmp_path / each)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "first"), str(tmp_path / "second")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(2, 1,")
