"""The results in README.md, copied from the committed comparison so that nobody types a number."""

from pathlib import Path

from pipeline import files, paths
from pipeline.errors import PipelineError

README = Path("README.md")
BEGIN = "<!-- results: written by `python -m pipeline readme` -->"
END = "<!-- end of results -->"


def write() -> None:
    """Put metrics/comparison.md between the markers of README.md.

    Raises:
        PipelineError: if either file or a marker is missing.
    """
    files.write_text(README, rendered(README.read_text(encoding="utf-8")))


def rendered(text: str) -> str:
    """``text`` with the comparison between its markers, its headings one level lower."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise PipelineError(f"{README}: must hold {BEGIN} and {END} once each")
    if not paths.COMPARISON_MD.exists():
        raise PipelineError(f"{paths.COMPARISON_MD}: no comparison; run make repro")
    _, _, comparison = paths.COMPARISON_MD.read_text(encoding="utf-8").partition("\n")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    lowered = f"\n{comparison.strip()}".replace("\n## ", "\n### ").strip()
    return f"{before}{BEGIN}\n\n{lowered}\n\n{END}{after}"
