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
        models, home = params.model_blocks(raw), params.results(raw)
        reference = collect.read_reference(home.reference)
        rows = collect.project_rows(raw, reference)
        curves = collect.curves(models, home.curve)
        store = Store()
        real = store.split(reference["reference_split"])
        picture = pictures.labelled_rows(
            collect.pictured(rows, paths.samples_dir, home.model_metrics, real, store.classes),
            collect.captions(real, store.classes),
        )
        guard.confirm()
        with files.together() as made:
            for path, text in (
                (home.comparison_csv, collect.to_csv(rows)),
                (home.comparison_md, tables.to_markdown(rows, reference, home.title)),
                (home.all_curves, curves),
            ):
                made.file(path).write_text(text, encoding="utf-8")
            pictures.save_png(made.file(home.samples_picture), picture)
        for line in [
            *(f"warning: {each}" for each in tables.cautions(reference, rows)),
            *tables.problems(rows, home),
        ]:
            print(line, file=sys.stderr)
        print(tables.summary(rows))


if __name__ == "__main__":
    stage.run(main)
