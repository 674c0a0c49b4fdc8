"""Turn the original files into uint8 arrays, split into train, val and test."""

from pipeline.core import params, paths, stage
from pipeline.datasets import sources, splits, store


def main() -> None:
    """Original files in, uint8 arrays in three splits out."""
    with stage.guard("preprocess") as guard:
        data = params.section(params.read(), "data")
        raw = sources.load(data.name).configured(data).read(paths.RAW)
        parts = splits.split(raw, data)
        guard.confirm()
        store.write(paths.PROCESSED, data.name, raw.classes, parts)
        counts = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
        shape = "x".join(map(str, parts["train"].images.shape[1:]))
        print(f"{data.name}: {counts} images of {shape} in {paths.PROCESSED}")


if __name__ == "__main__":
    stage.run(main)
