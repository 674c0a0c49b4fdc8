"""Look whether the user's own images are those of the last run."""

from pipeline.core import files, params, paths, stage
from pipeline.datasets import inputs


def main() -> None:
    """Data set's name and folder in, the fingerprint of the user's files out."""
    with stage.guard("inputs") as guard:
        data = params.section(params.read(), "data")
        found = inputs.current(data)
        guard.confirm()
        files.write_json(paths.INPUTS, found)
        if found:
            print(f"{data.folder}: {found['files']:,} images, {found['bytes'] / 1e6:.1f} MB")


if __name__ == "__main__":
    stage.run(main)
