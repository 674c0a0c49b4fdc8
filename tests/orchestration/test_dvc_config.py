"""DVC's settings in the repository, as DVC reads them."""

import shutil
from pathlib import Path

import pytest
from dvc import analytics
from dvc.updater import Updater

ROOT = Path(__file__).parents[2]
HOME = "[core]\n    analytics = true\n    check_update = true\n"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with the repository's settings, of a person whose own are the opposite."""
    for name in ("global", "system"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config").write_text(HOME)
        monkeypatch.setenv(f"DVC_{name.upper()}_CONFIG_DIR", str(tmp_path / name))
    for name in ("DVC_NO_ANALYTICS", "DVC_TEST"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "checkout"
    (folder / ".dvc").mkdir(parents=True)
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc")
    monkeypatch.chdir(folder)
    return folder


def test_dvc_neither_reports_what_is_run_nor_looks_for_updates(checkout):
    assert analytics.is_enabled() is False
    assert Updater(str(checkout)).is_enabled() is False


def test_without_these_settings_it_would(checkout):
    (checkout / ".dvc/config").write_text("")
    assert analytics.is_enabled() is True
    assert Updater(str(checkout)).is_enabled() is True
