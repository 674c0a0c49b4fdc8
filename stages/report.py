"""Write the report: metrics, curves and pictures in, one page that works offline out."""

from pipeline import comparison, report
from pipeline.core import files, params, paths, stage


def main() -> None:
    """Show all models and reference rows on one page."""
    with stage.guard("report") as guard:
        page = report.render(params.read(), comparison.read_reference(paths.REFERENCE))
        guard.confirm()
        with files.replacing_folder(paths.REPORT) as folder:
            files.write_text(folder / "index.html", page)
        print(f"{paths.REPORT / 'index.html'}: {len(page) / 1e6:.1f} MB")


if __name__ == "__main__":
    stage.run(main)
