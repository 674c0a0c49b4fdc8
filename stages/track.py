"""Mirror results into MLflow; this writes nothing that DVC knows of."""

from pipeline.core import stage
from pipeline.tracking import mirror


def main() -> None:
    """Bring MLflow in line with the results of all models."""
    with stage.guard("track") as guard:
        found = mirror.read()
        guard.confirm()
        mirror.mirror(*found)


if __name__ == "__main__":
    stage.run(main)
