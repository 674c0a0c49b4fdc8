"""Write the report: metrics, curves and pictures in, one page that works offline out."""

from pipeline.comparison import collect
from pipeline.core import files, params, paths, stage
from pipeline.report import page


def main() -> None:
    """Show all models and reference rows on one page."""
    with stage.guard("report") as guard:
        html = page.render(params.read(), collect.read_reference(paths.REFERENCE))
        guard.confirm()
        with files.replacing_folder(paths.REPORT) as folder:
            (folder / "index.html").write_text(html, encoding="utf-8")
        print(f"{paths.REPORT / 'index.html'}: {len(html) / 1e6:.1f} MB")


if __name__ == "__main__":
    stage.run(main)
