"""Install what the project needs, and show that it lives: run by make with any Python, before it.

    python3 pipeline/orchestration/install.py .venv --extra-index-url ...

It needs the standard library alone. What pip prints is kept in ``<venv>/install.log``; shown is one
line that says how far it is.
"""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

CONSTRAINTS = Path("constraints.txt")
EXTRAS = "dev"
SIZE = "5.5 GB on disk with CUDA's libraries"
"""As measured, with the pinned versions."""
QUIET_SECONDS = 15.0
"""Between two lines, where there is no terminal to write over the last one."""
MEBI = 2**20


def main(venv: Path, options: list[str]) -> int:
    """Install into ``venv``, with pip's ``options``; returns pip's exit code."""
    python = venv / "bin" / "python"
    packages = sum(not line.startswith("#") for line in CONSTRAINTS.read_text().splitlines())
    cuda = "--extra-index-url" not in options
    size = SIZE if cuda else "far less than with CUDA's libraries"
    print(f"Installing about {packages} packages into {venv}, once: {size}, some minutes.")
    if cuda and sys.platform == "linux":
        print("Without a GPU, TORCH_INDEX=... (see README.md) spares most of that.")
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-color"]
    command += ["--progress-bar", "off", *options, "-c", str(CONSTRAINTS), "-e", f".[{EXTRAS}]"]
    log = venv / "install.log"
    pip = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    shown = Shown(venv, packages)
    with log.open("w", encoding="utf-8") as stream, shown:
        for line in pip.stdout:
            stream.write(line)
            shown.line(line)
    code = pip.wait()
    if code != 0:
        tail = log.read_text(encoding="utf-8").splitlines()
        errors = [line for line in tail if line.startswith("ERROR")] or tail[-5:]
        print("\n".join([*errors, f"error: the installation failed; all of it: {log}"]))
    return code


class Shown:
    """One line about how far pip is, written over the last one where there is a terminal."""

    def __init__(self, venv: Path, packages: int) -> None:
        self.venv, self.packages = venv, packages
        self.found: set[str] = set()
        self.what = "starting pip"
        self.began = self.told = time.monotonic()
        self.terminal = sys.stdout.isatty()
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Shown":
        self._beat.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._beat.join()
        self._tell(f"{'stopped' if error[0] else 'ended'}", last=True)

    def line(self, text: str) -> None:
        """Take in a line of pip's."""
        if found := re.match(r"\s*Collecting ([\w.-]+)", text):
            self.found.add(found[1])
            self.what = f"package {len(self.found)} of {self.packages}: {found[1]}"
        elif found := re.match(r"\s*Downloading (\S+?)(?:-py\S*|\.tar\S*|-cp\S*)? \((.+)\)", text):
            self.what = (
                f"package {len(self.found)} of {self.packages}: "
                f"downloading {found[1].rsplit('/', 1)[-1]} ({found[2]})"
            )
        elif text.startswith("Installing collected packages"):
            self.what = f"unpacking {self.packages} packages"

    def _run(self) -> None:
        while not self._ended.wait(0.5 if self.terminal else 1.0):
            if self.terminal or time.monotonic() - self.told > QUIET_SECONDS:
                self._tell(self.what)

    def _tell(self, what: str, *, last: bool = False) -> None:
        self.told = time.monotonic()
        minutes, seconds = divmod(round(self.told - self.began), 60)
        text = f"  {minutes}:{seconds:02}  {bytes_below(self.venv) / MEBI:,.0f} MB  {what}"
        if self.terminal:
            width = os.get_terminal_size().columns - 1
            print(f"\r\x1b[2K{text[:width]}", end="\n" if last else "", flush=True)
        else:
            print(text, flush=True)


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder; what vanishes meanwhile counts as nothing."""
    total, waiting = 0, [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
    except KeyboardInterrupt:
        print("\nstopped; make goes on from here the next time")
        sys.exit(130)
