import json
import re
import shlex
from pathlib import Path

import pytest

from pipeline.__main__ import COMMANDS
from pipeline.comparison import collect, spread
from pipeline.evaluation import outside, quality, translation

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
METRICS = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
NAMES = re.findall(r"`([a-z_<>0-9]+)`", METRICS)
PATTERNS = [re.compile(re.sub("<[a-z]+>", ".+", name) + "$") for name in NAMES]
RUN = {
    "make repro": (".ci/run", "make repro FORCE=1"),
    "make repro IMAGES=": ("tests/orchestration/test_own_images.py", '"--images", "../photos"'),
    "make repro MODELS=": ("tests/orchestration/test_graph.py", '"--models", "vae"'),
    "make repro SCHEDULER=": ("tests/orchestration/test_cluster.py", '"--scheduler", dask.address'),
    "dvc --wait-for-lock repro": ("tests/orchestration/test_cluster.py", "repro(clone, dask)"),
    "dask scheduler": ("tests/clusters.py", "distributed.cli.dask_"),
    "dask worker": ("tests/clusters.py", "distributed.cli.dask_"),
    "make repro JOBS=": ("tests/orchestration/test_graph.py", '"--jobs", "2"'),
    "make repro TORCH_INDEX=": (".github/workflows/ci.yml", "TORCH_INDEX:"),
    "make test": (".ci/run", "make test\n"),
    "make test-as": (".ci/run", "make test-as"),
    "make test-slow": (".ci/run", "make test-slow"),
    "make test-browser": (".ci/run", "make test-browser"),
    "make test-cuda": ("tests/cuda/test_cuda.py", "pytest.mark.cuda"),
    "make check": (".ci/run", "make check"),
    "make lint": (".ci/run", "make lint"),
    "make clean": ("tests/test_clean.py", '"make", "clean"'),
    "make setup": ("tests/report/test_docs.py", "test_cleaning_and_installing"),
    "make verify MODEL=": (".ci/run", "make verify MODEL="),
    "make clean setup": ("tests/report/test_docs.py", "test_cleaning_and_installing"),
    "make help": ("tests/report/test_docs.py", "test_help_lists"),
    "make gate": (".ci/run", "make gate BASE="),
    "make recommend": (".ci/run", "make recommend"),
    "make docs": (".ci/run", "make docs"),
    "make register": (".ci/run", "make register MODEL="),
    "make ui": ("tests/tracking/test_ui.py", "ui.serve("),
    "make live": ("tests/tracking/test_live.py", "live.follow("),
    "make thorough": (".github/workflows/ci.yml", "make thorough"),
    "make baseline": (".github/workflows/ci.yml", "make baseline SEEDS=3"),
    "make PYTHON=": ("Makefile", "PYTHON ?="),
    "python -m pipeline preset": ("tests/orchestration/test_preset.py", '"preset", "64"'),
    "python -m pipeline plan": ("tests/orchestration/test_time_budget.py", '"plan", "--minutes"'),
    "python -m pipeline inspect": ("tests/orchestration/test_own_images.py", '"inspect"'),
    "python -m pipeline judges": ("tests/test_commands.py", '["judges"]'),
    "python -m pipeline evaluate-images": (".ci/run", "pipeline evaluate-images"),
    "python -m pipeline gate --all": (".ci/run", "pipeline gate --all"),
    "python -m pipeline gate --accept": ("tests/gate/test_command.py", "accept"),
    "python -m pipeline gate": (".ci/run", "make gate"),
    "python -m pipeline repro": ("tests/orchestration/test_graph.py", '"pipeline", "repro"'),
    "python -m pipeline COMMAND --help": ("tests/test_commands.py", "help"),
    "make bench": ("Makefile", "python -m benchmarks samplers"),
    "python -m benchmarks samplers": (".ci/run", "python -m benchmarks samplers"),
    "python -m benchmarks trainers": (".ci/run", "python -m benchmarks trainers"),
    "python -m benchmarks optimisers": (".ci/run", "python -m benchmarks optimisers"),
    "python -m benchmarks small_data": (".ci/run", "python -m benchmarks small_data"),
    "python -m benchmarks drawing": (".ci/run", "python -m benchmarks drawing"),
    "python -m benchmarks peers": (".ci/run", "python -m benchmarks peers"),
    "python -m benchmarks growth": (".ci/run", "python -m benchmarks growth"),
    "python -m benchmarks page": ("tests/benchmarks/test_benchmarks.py", "page.text()"),
    "python -m benchmarks planned": (".ci/run", "python -m benchmarks planned"),
    "python -m benchmarks scale": ("tests/benchmarks/test_benchmarks.py", '"scale", "--images"'),
    "python -m stages.train": ("tests/cuda/test_default_run.py", "evaluate@pixelcnn"),
    "python tests/browser/screenshots.py": ("tests/browser/screenshots.py", "__main__"),
    "python -m pip install -c constraints.txt -e": (
        "tests/remotes.py",
        "pip install -c constraints.txt -e '.[s3-test]'",
    ),
    "dvc remote add": ("tests/orchestration/test_remotes.py", '"dvc", "remote", "add"'),
    "dvc remote modify": ("tests/orchestration/test_remotes.py", '"dvc", "remote", "modify"'),
    "dvc push": ("tests/orchestration/test_remotes.py", '"dvc", "push", "--run-cache"'),
    "dvc pull": ("tests/orchestration/test_remotes.py", '("dvc", "pull", "--run-cache")'),
    "dvc repro": ("tests/orchestration/test_graph.py", '"dvc", "repro"'),
    "dvc metrics show": ("tests/orchestration/test_data_sets.py", '"dvc", "metrics", "show"'),
    "dvc plots show": ("tests/orchestration/test_data_sets.py", '"dvc", "plots", "show"'),
    "python -m pipeline datasets": ("tests/orchestration/test_data_sets.py", '"datasets"'),
    "dvc metrics diff": (".ci/run", "dvc metrics diff"),
    "dvc plots": ("tests/orchestration/test_graph.py", '"dvc", "plots", "diff"'),
    "dvc exp run": ("tests/orchestration/test_graph.py", '"dvc", "exp", "run"'),
    "chromium --headless": ("tests/browser/test_report_page.py", '"--headless"'),
    ". .venv/bin/activate": ("Makefile", "VENV := .venv"),
}
"""How each command of README and docs begins, the file that runs it, and where in it."""


def committed():
    """The keys of all results that stand in metrics/."""
    found = set()
    for path in (ROOT / "metrics/mnist-5k/models").glob("*.json"):
        found |= json.loads(path.read_text()).keys()
    return found


def commands(text):
    """Commands in a page: lines of code blocks, and what stands between backticks."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    begins = ("make ", "python ", "dvc ", "dask ", "chromium ", ". .venv")
    found = [line.split(" #")[0].strip() for line in lines if line.startswith(begins)]
    return [each for each in found if " is already " not in each]


DOCUMENTED = sorted({each for page in PAGES for each in commands(page.read_text("utf-8"))})


@pytest.mark.parametrize(
    "keys",
    [
        collect.COLUMNS,
        quality.KEYS,
        quality.COPYING_KEYS,
        quality.CLASS_KEYS,
        translation.KEYS,
        outside.keys("inception"),
        outside.keys("imagenet"),
        spread.COLUMNS,
        sorted(committed()),
    ],
    ids=lambda keys: keys[0],
)
def test_every_column_is_explained(keys):
    unknown = [key for key in keys if not any(pattern.match(key) for pattern in PATTERNS)]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_readme_is_read_in_one_go():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert len(text) <= 12_000
    heads = [line for line in text.splitlines() if re.match(r"\| model \|", line)]
    assert all(line.count("|") - 1 <= 8 for line in heads)


def test_there_are_commands_to_look_at():
    assert len(DOCUMENTED) > 30


@pytest.mark.parametrize("command", DOCUMENTED)
def test_every_command_is_run_by_a_test_or_by_ci(command):
    known = [start for start in RUN if command.startswith(start)]
    assert known, f"nothing runs `{command}`"
    file, text = RUN[max(known, key=len)]
    assert text in (ROOT / file).read_text(encoding="utf-8"), (command, file)


@pytest.mark.parametrize("command", [each for each in DOCUMENTED if each.startswith("make ")])
def test_every_target_is_one_of_the_makefile(command):
    makefile = (ROOT / "Makefile").read_text()
    for word in shlex.split(command)[1:]:
        name, equals, _ = word.partition("=")
        assert re.search(rf"\$\({name}\)|^{name} \?=" if equals else rf"^{name}:", makefile, re.M)


@pytest.mark.parametrize("command", [each for each in DOCUMENTED if "-m pipeline " in each])
def test_every_option_is_one_of_the_command(command):
    name, *words = shlex.split(command.partition("-m pipeline ")[2])
    if name == "COMMAND":
        return
    known = {flag for flags, _ in COMMANDS[name].arguments for flag in flags}
    assert {word for word in words if word.startswith("--")} <= known


def test_help_lists_every_target_that_is_for_people():
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.M)
    described = set(re.findall(r"^([a-z-]+):.*?## ", makefile, re.M))
    assert described == set(phony.split())


def test_cleaning_and_installing_are_targets_without_a_way_to_fail_halfway():
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.partition("$(STAMP): pyproject.toml constraints.txt\n")[2].split("\n\n")[0]
    assert recipe.index("install.py") < recipe.index("touch $@")


def test_paths_in_the_documents_are_there():
    pattern = r"`((?:pipeline|stages|tests|docs|metrics)/[\w./-]*[\w/])`"
    for page in PAGES:
        for name in re.findall(pattern, page.read_text(encoding="utf-8")):
            made = re.match("metrics/[^/]+/(pictures|report|external)|docs/results/", name)
            assert made or (ROOT / name).exists(), (page.name, name)


def test_the_map_names_every_module():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    block = re.search(r"```\n(.*?)```", text, re.S)[1]
    words = set(re.findall(r"[\w-]+", block))
    for path in (ROOT / "pipeline").rglob("*.py"):
        name = path.parent.name if path.name == "__init__.py" else path.stem
        assert name in words, path
