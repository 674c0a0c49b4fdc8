"""Mirror results into MLflow; this writes nothing that DVC knows of."""

from pipeline import check, tracking
from pipeline.core import stage


def main() -> None:
    """Bring MLflow in line with the results of all models."""
    with stage.guard("track") as guard:
        check.check()
        results, missing = tracking.read()
        guard.confirm()
        tracking.mirror(results, missing)


if __name__ == "__main__":
    stage.run(main)
