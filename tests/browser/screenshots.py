"""Take the README's pictures of MLflow's pages: `python tests/browser/screenshots.py`.

After `make repro`, whose runs they show; it starts the server, and stops it again.
"""

import re
import signal
import subprocess
import sys
from pathlib import Path

from pages import visiting

DOCS = Path(__file__).parents[2] / "docs"
SIZES = {"leaderboard": (1800, 760), "families": (1800, 2500)}


def main() -> None:
    """Write docs/mlflow-<view>.png of each view."""
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "pipeline", "ui"], stdout=subprocess.PIPE, text=True
    )
    seen: set[str] = set()
    try:
        for line in server.stdout:
            print(line, end="")
            found = re.search(r"(http\S+viewStateShareKey=(\w+)\S*)", line)
            if found and found.group(2) not in seen:
                address, view = found.groups()
                width, height = SIZES[view]
                with visiting(address, width=width, height=height) as visit:
                    visit.page.get_by_text("ddpm", exact=True).first.wait_for()
                    visit.page.wait_for_timeout(20_000)  # charts draw as they come into sight
                    close = visit.page.get_by_role("button", name="Close")
                    if close.count():
                        close.first.click()  # of an assistant that needs a server elsewhere
                        visit.page.wait_for_timeout(3_000)
                    visit.page.screenshot(path=DOCS / f"mlflow-{view}.png", timeout=120_000)
                seen.add(view)
            if seen == set(SIZES):
                break
            if line.startswith("stop it"):
                break
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


if __name__ == "__main__":
    main()
