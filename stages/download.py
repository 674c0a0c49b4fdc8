"""Fetch the original files of the data set into data/raw."""

from pipeline.core import files, params, paths, stage
from pipeline.datasets import sources


def main() -> None:
    """Data set's name in, its original files out."""
    with stage.guard("download") as guard:
        data = params.section(params.read(), "data")
        source = sources.load(data.name).configured(data)
        with files.replacing_folder(paths.RAW) as folder:
            source.fetch(folder)
            guard.confirm()
        size = sum(each.stat().st_size for each in paths.RAW.rglob("*") if each.is_file())
        print(f"{data.name}: {size / 1e6:.1f} MB of original files in {paths.RAW}")


if __name__ == "__main__":
    stage.run(main)
