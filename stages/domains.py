"""Make two unpaired domains of the preprocessed images."""

from pipeline.core import params, paths, stage
from pipeline.datasets import domains, store


def main() -> None:
    """Images in three splits in, two domains in three splits out."""
    with stage.guard("domains") as guard:
        section: params.Domains = params.section(params.read(), "domains")
        whole = store.Store()
        splits, names = domains.make(whole, section)
        guard.confirm()
        store.write(paths.DOMAINS, whole.name, whole.classes, splits, names)
        for letter, name, part in zip("AB", names, ("images", "others"), strict=True):
            counts = ", ".join(f"{len(getattr(s, part)):,} {key}" for key, s in splits.items())
            print(f"domain {letter}: {name}: {counts} images in {paths.DOMAINS}")


if __name__ == "__main__":
    stage.run(main)
