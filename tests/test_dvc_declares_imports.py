"""Every stage declares every project file that it imports, and no more than it needs."""

import ast
from pathlib import Path

import pytest
from imports import closure
from ruamel.yaml import YAML

from pipeline import families
from pipeline.core import params, stage

ROOT = Path(__file__).parents[1]
PLAIN = [
    "inputs",
    "download",
    "preprocess",
    "domains",
    "judge",
    "reference",
    "compare",
    "report",
    "track",
]
PER_MODEL = ["train", "sample", "evaluate"]
COMMON = ["pipeline/core", "pipeline/blocks"]
"""Packages that are declared whole by whatever needs some of it; see dvc.yaml."""
SELDOM = {"pipeline/core/owned.py"}
"""What no training needs, and whose edits are few enough to rerun them."""
START = "stages/__init__.py"
"""It has every stage import pipeline.core.startup first, and is declared by none."""


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def code(declared: stage.Declared) -> dict[str, set[str]]:
    """The files of each dependency that is code: a file, or a folder of them."""
    return {
        str(path): {str(file) for file in ([path] if path.suffix else path.rglob("*.py"))}
        for path in declared.deps
        if path.suffix == ".py" or (path.parts[0] == "pipeline" and not path.suffix)
    }


def imported_by(name: str) -> set[str]:
    """The files that a stage uses, of a model of whichever family."""
    chosen = [None] if name in PLAIN else families.names()
    return set().union(*(closure(ROOT, f"stages/{name}.py", each) for each in chosen)) - {START}


def files_of(declared: stage.Declared) -> set[str]:
    return set().union(*code(declared).values())


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_stage_declares_what_it_imports_and_nothing_beside_it(name):
    used = imported_by(name)
    declared = stage.declared(name)
    assert used <= files_of(declared)
    for dependency, files in code(declared).items():
        assert files & used, f"{name} does not use {dependency}"


@pytest.mark.parametrize("name", PER_MODEL)
@pytest.mark.parametrize("model", list(params.read(ROOT / "params.yaml")["models"]))
def test_a_stage_of_a_model_declares_what_it_imports(name, model):
    family = params.read()["models"][model]["family"]
    used = closure(ROOT, f"stages/{name}.py", family) - {START}
    assert used <= files_of(stage.declared(name, model))


@pytest.mark.parametrize("name", PER_MODEL)
@pytest.mark.parametrize("model", list(params.read(ROOT / "params.yaml")["models"]))
def test_the_models_own_family_is_the_only_one_declared(name, model):
    declared = files_of(stage.declared(name, model))
    mentioned = {
        family for family in families.names() if f"pipeline/families/{family}.py" in declared
    }
    assert mentioned == {params.read()["models"][model]["family"]}


@pytest.mark.parametrize("name", PER_MODEL)
def test_nothing_is_declared_that_no_family_imports(name):
    used = imported_by(name)
    model = next(iter(params.read()["models"]))
    for dependency, files in code(stage.declared(name, model)).items():
        assert files & used, f"{name} does not use {dependency}"


@pytest.mark.parametrize("package", COMMON)
def test_every_file_of_a_package_that_all_share_is_used_by_stages_of_models(package):
    used = set().union(*(imported_by(name) for name in PER_MODEL))
    modules = {str(path) for path in Path(package).glob("*.py")}
    assert modules - used - SELDOM <= {f"{package}/__init__.py"}


def test_what_starts_every_stage_does_nothing_else():
    words, start = ast.parse(Path(START).read_text()).body
    assert isinstance(words.value, ast.Constant)
    assert ast.unparse(start) == "from pipeline.core import startup as startup"


@pytest.mark.parametrize("name", PLAIN + PER_MODEL)
def test_every_file_of_another_package_that_is_declared_whole_is_used_by_the_stage(name):
    model = next(iter(params.read()["models"])) if name in PER_MODEL else None
    used = imported_by(name)
    for dependency, files in code(stage.declared(name, model)).items():
        if not Path(dependency).suffix and dependency not in COMMON:
            assert {file for file in files - used if not file.endswith("__init__.py")} == set()


def test_no_family_imports_another():
    for family in families.names():
        others = {f"pipeline/families/{other}.py" for other in families.names()} - {
            f"pipeline/families/{family}.py"
        }
        assert not closure(ROOT, f"pipeline/families/{family}.py") & others


def test_every_stage_of_the_graph_is_looked_at():
    stages = YAML(typ="safe").load(Path("dvc.yaml").read_text())["stages"]
    assert set(stages) == {*PLAIN, *PER_MODEL}
    assert {name for name, each in stages.items() if "foreach" in each} == set(PER_MODEL)


def test_every_declared_file_exists():
    declared = [stage.declared(name) for name in PLAIN]
    declared += [stage.declared(name, m) for name in PER_MODEL for m in params.read()["models"]]
    for each in declared:
        assert all((ROOT / path).exists() for path in code(each))


def test_the_walk_finds_imports_inside_functions_and_packages(tmp_path):
    for folder in ("pipeline", "pipeline/families", "stages"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("x = 1")
    (tmp_path / "pipeline/families/__init__.py").write_text('"""Nothing but words."""')
    (tmp_path / "stages/a.py").write_text("def f():\n    from pipeline import b\n")
    (tmp_path / "pipeline/b.py").write_text("import pipeline.c as c\n")
    (tmp_path / "pipeline/c.py").write_text("import json\n")
    (tmp_path / "pipeline/families/vae.py").write_text("")
    assert closure(tmp_path, "stages/a.py", "vae") == {
        "stages/a.py",
        "stages/__init__.py",
        "pipeline/__init__.py",
        "pipeline/b.py",
        "pipeline/c.py",
        "pipeline/families/vae.py",
    }


def test_the_walk_passes_over_what_only_type_checkers_import(tmp_path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "stages/a.py").write_text(
        "import typing\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from pipeline import told\n"
        "if typing.TYPE_CHECKING:\n    import pipeline.said\nelse:\n    import pipeline.other\n"
        "if not TYPE_CHECKING:\n    import pipeline.run\n"
        "class A:\n    def f(self):\n        if self:\n            import pipeline.inside\n"
    )
    for name in ("told", "said", "other", "run", "inside"):
        (tmp_path / f"pipeline/{name}.py").write_text("")
    assert closure(tmp_path, "stages/a.py") == {
        "stages/a.py",
        "pipeline/other.py",
        "pipeline/run.py",
        "pipeline/inside.py",
    }


def test_nothing_of_the_project_is_imported_relatively():
    """The walk would not see it."""
    for path in [*Path("pipeline").rglob("*.py"), *Path("stages").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path
