"""MLflow tells its makers nothing of what the project's commands do."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OTHERS = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST")
"""What may have switched it off before."""
CODE = """
from pipeline.tracking import mlflow_store
with mlflow_store.opened("sqlite:///mlflow.db"):
    from mlflow.telemetry import get_telemetry_client
    from mlflow.telemetry.utils import is_telemetry_disabled
    print(is_telemetry_disabled(), get_telemetry_client())
"""


def test_there_is_no_client_that_could(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key not in OTHERS}
    # If it were on, it would reach nobody from here.
    environment |= {"HTTPS_PROXY": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["True", "None"], done.stderr
