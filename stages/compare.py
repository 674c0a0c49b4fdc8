"""Compare all models: metrics, curves and samples in, tables and a picture out."""

import sys

from pipeline.comparison import collect, tables
from pipeline.core import files, params, paths, stage
from pipeline.datasets.store import Store
from pipeline.sampling import pictures


def main() -> None:
    """Put all models of params.yaml and the reference rows side by side."""
    with stage.guard("compare") as guard:
        raw = params.read()
        models = params.model_blocks(raw)
        reference = collect.read_reference(paths.REFERENCE)
        rows = collect.project_rows(raw, reference)
        curves = collect.curves(models, paths.curve)
        real = Store().split(reference["reference_split"]).images
        picture = pictures.labelled_rows(collect.pictured(rows, paths.samples_dir, real))
        guard.confirm()
        with files.together() as made:
            for path, text in (
                (paths.COMPARISON_CSV, collect.to_csv(rows)),
                (paths.COMPARISON_MD, tables.to_markdown(rows, reference)),
                (paths.ALL_CURVES, curves),
            ):
                made.file(path).write_text(text, encoding="utf-8")
            pictures.save_png(made.file(paths.SAMPLES_PICTURE), picture)
        for line in tables.problems(rows):
            print(line, file=sys.stderr)
        print(tables.summary(rows))


if __name__ == "__main__":
    stage.run(main)
