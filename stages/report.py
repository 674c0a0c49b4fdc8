"""Write the report: metrics, curves and pictures in, one page that works offline out."""

from pipeline.comparison import collect
from pipeline.core import files, params, stage
from pipeline.report import page


def main() -> None:
    """Show all models and reference rows on one page."""
    with stage.guard("report") as guard:
        raw = params.read()
        home = params.results(raw)
        html = page.render(raw, collect.read_reference(home.reference))
        guard.confirm()
        with files.replacing_folder(home.report) as folder:
            (folder / home.page.name).write_text(html, encoding="utf-8")
        print(f"{home.page}: {len(html) / 1e6:.1f} MB")


if __name__ == "__main__":
    stage.run(main)
