"""Look whether the user's own images are those of the last run."""

from pipeline.core import files, params, paths, stage
from pipeline.datasets import inputs, sources


def main() -> None:
    """Data set's name and folder in, the fingerprint of the user's files out."""
    with stage.guard("inputs") as guard:
        raw = params.read()
        data, home = params.section(raw, "data"), params.results(raw)
        sources.check_title(data)
        found = inputs.current(data)
        files.sweep(paths.DVC_LOCK)  # this stage alone is part of every plain `dvc repro`
        guard.confirm()
        for folder in (home.external, home.thorough):  # `compare` needs them, and they may be empty
            with files.writing(lambda folder=folder: str(folder)):
                folder.mkdir(parents=True, exist_ok=True)
        files.write_json(paths.INPUTS, found)
        if found:
            print(f"{data.folder}: {found['files']:,} images, {found['bytes'] / 1e6:.1f} MB")


if __name__ == "__main__":
    stage.run(main)
