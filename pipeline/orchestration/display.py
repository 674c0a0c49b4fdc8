"""What a person sees of a run: one panel that stays in place, or plain lines without a terminal."""

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from pipeline.core import files, paths
from pipeline.orchestration import dvc_output
from pipeline.orchestration.estimate import Durations, Expects, clock, left

QUIET_SECONDS = 30.0
"""Without a terminal, the longest time in which nothing is printed."""
WORDS = {"train": "training", "sample": "sampling", "evaluate": "judging", "judge": "judges"}


class Display:
    """Counts stages as they start and end, and shows how far all of them are.

    Whatever stages print goes to ``work/logs/``; warnings are shown, and so is why one failed.
    """

    def __init__(
        self,
        chains: dict[str, list[str]],
        slots: int,
        home: paths.Results,
        expects: Expects | None = None,
    ) -> None:
        """Show the stages of each chain (a model's, or others'), of which ``slots`` run at once.

        ``home`` has the results of the last run, by which times are guessed where ``expects``
        knows none.
        """
        self.durations = Durations(home, expects)
        self.slots = slots
        self.chains = chains
        self.total = sum(map(len, chains.values()))
        self.done: dict[str, str] = {}
        self.running: dict[str, tuple[float, float, str]] = {}  # since when, share, what it says
        self.errors: dict[str, list[str]] = {}
        self.unfinished: set[str] = set()  # of those, the ones in which nothing is wrong
        self.logging = True
        self._said: dict[str, list[str]] = {}
        self._current: dict[str, str] = {}
        self._began = self._printed = time.monotonic()
        self._live: Any = nullcontext()
        self._lock = threading.RLock()
        self._waiting: list[str] = []
        self._ended = threading.Event()
        self.terminal = sys.stdout.isatty()

    def __enter__(self) -> "Display":
        if self.terminal:
            from rich.live import Live

            self._live = Live(get_renderable=self._panel, refresh_per_second=4, transient=True)
            self._live.__enter__()
        else:
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        if self.terminal:
            self._live.__exit__(*error)
        self.durations.save()

    def line(self, chain: str, text: str) -> None:
        """Take in one line of the output of a chain."""
        found = dvc_output.parse(text)
        with self._lock:
            self._log(chain, text)
            if found.kind == "started":
                self._finish(chain)
                self._current[chain] = found.text
                self._said[chain] = []
                self.running[found.text] = (time.monotonic(), 0.0, "")
            elif found.kind in ("unchanged", "restored"):
                self._finish(chain)
                self._end(found.text, "restored" if found.kind == "restored" else "unchanged")
            elif found.kind == "progress" and chain in self._current:
                since, *_ = self.running[self._current[chain]]
                self.running[self._current[chain]] = (since, found.share, found.text)
            elif found.kind == "said":
                self._said.setdefault(chain, []).append(text)
                if text.startswith("warning:"):
                    self._waiting.append(f"{chain}: {text}")
        self._print_waiting()

    def finished(self, chain: str, code: int) -> None:
        """A call of DVC for a chain has ended."""
        with self._lock:
            if code == 0:
                self._finish(chain)
            else:
                self._fail(chain, code)
        self._print_waiting()

    def _fail(self, chain: str, code: int) -> None:
        stage = self._current.pop(chain, None)
        self.running.pop(stage, None)
        found = dvc_output.failure(self._said.get(chain, []), code)
        self.errors[chain] = found.lines
        if found.unfinished:
            self.unfinished.add(chain)
        self._waiting.append(f"{stage or chain}: {'STOPPED' if found.unfinished else 'FAILED'}")

    def _print_waiting(self) -> None:
        """Print lines above the panel.

        Without our lock: rich holds its own while it asks for the panel, which takes ours.
        """
        while True:
            with self._lock:
                if not self._waiting:
                    return
                text = self._waiting.pop(0)
                self._printed = time.monotonic()
            if self.terminal:
                self._live.console.print(text, markup=False, highlight=False)
            else:
                print(text, flush=True)

    def _finish(self, chain: str) -> None:
        stage = self._current.pop(chain, None)
        if stage is not None:
            since, *_ = self.running.pop(stage)
            seconds = time.monotonic() - since
            self.durations.took(stage, seconds)
            self._end(stage, f"done in {clock(seconds)}")

    def _end(self, stage: str, how: str) -> None:
        if stage in self.done:
            return
        self.done[stage] = how
        if not self.terminal:
            self._waiting.append(f"{_words(stage)}: {how}   [{self._summary()}]")

    def _log(self, chain: str, text: str) -> None:
        if not self.logging:
            return
        path = log(chain)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as stream:
                stream.write(text + "\n")
        except OSError as error:
            # No result is lost because of a log.
            self.logging = False
            reason = files.reason(error)
            self._waiting.append(f"warning: {path}: cannot be written: {reason}; no logs are kept")

    def _summary(self) -> str:
        gone = time.monotonic() - self._began
        return (
            f"{len(self.done)} of {self.total} stages, {clock(gone)} gone, "
            f"about {clock(self.remaining())} left"
        )

    def remaining(self) -> float:
        """Seconds that the stages which did not end will take, about."""
        chains = []
        now = time.monotonic()
        for names in self.chains.values():
            chain = []
            for name in names:
                if name in self.done:
                    continue
                expected = self.durations.expected(name)
                if name in self.running:
                    since, share, _ = self.running[name]
                    gone = now - since
                    if share > 0.05:
                        expected = gone / share
                    expected = max(expected - gone, 1.0)
                chain.append(expected)
            chains.append(chain)
        # Those that run come first: they hold the slots.
        started = set(self.running)
        order = sorted(
            zip(self.chains.values(), chains, strict=True),
            key=lambda each: not started & set(each[0]),
        )
        return left([chain for _, chain in order], self.slots)

    def _beat(self) -> None:
        while not self._ended.wait(1.0):
            if time.monotonic() - self._printed > QUIET_SECONDS:
                with self._lock:
                    shown = ", ".join(
                        f"{_words(name)} {100 * share:.0f} %" if share else _words(name)
                        for name, (_, share, _) in self.running.items()
                    )
                    self._waiting.append(f"running: {shown or 'DVC'}   [{self._summary()}]")
                self._print_waiting()

    def _panel(self) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            table = Table.grid(padding=(0, 2), expand=True)
            table.add_column(no_wrap=True)
            table.add_column(width=24)
            table.add_column(justify="right", no_wrap=True)
            table.add_column(ratio=1, no_wrap=True, overflow="ellipsis", style="dim")
            now = time.monotonic()
            for name, (since, share, text) in self.running.items():
                bar = ProgressBar(total=1.0, completed=share or None, pulse=not share, width=24)
                table.add_row(_words(name), bar, clock(now - since), Text(text))
            waiting = [
                chain
                for chain, names in self.chains.items()
                if not any(n in self.running for n in names)
                and not all(n in self.done for n in names)
                and chain not in self.errors
            ]
            rest = Text(f"waiting: {', '.join(waiting)}" if waiting else "", style="dim")
            title = self._summary()
            if self.errors:
                title += f", [red]failed: {', '.join(self.errors)}[/red]"
            return Panel(Group(table, rest), title=title, title_align="left")


def _words(stage: str) -> str:
    kind, _, model = stage.partition("@")
    return f"{WORDS.get(kind, kind)} {model}".strip() if model else stage


def log(chain: str) -> Path:
    """Where all is that a chain printed."""
    return paths.LOGS / f"{chain}.log"


def forget_logs(chains: Sequence[str]) -> None:
    """Begin the logs of these chains anew."""
    for chain in chains:
        with suppress(OSError):  # what writes them tells
            log(chain).unlink(missing_ok=True)
