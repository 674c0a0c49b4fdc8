from pathlib import Path

import pytest

from pipeline import readme
from pipeline.errors import PipelineError

ROOT = Path(__file__).parents[1]


def test_the_committed_readme_shows_the_committed_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = readme.README.read_text(encoding="utf-8")
    assert readme.rendered(text) == text


def test_what_stands_around_the_results_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("metrics").mkdir()
    Path("metrics/comparison.md").write_text("# Comparison\n\n## Quality\n\n| a |\n")
    text = readme.rendered(f"top\n{readme.BEGIN}\nold\n{readme.END}\nbottom\n")
    assert text == f"top\n{readme.BEGIN}\n\n### Quality\n\n| a |\n\n{readme.END}\nbottom\n"


def test_a_missing_marker_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match="must hold"):
        readme.rendered("no markers")
