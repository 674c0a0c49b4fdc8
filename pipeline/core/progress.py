"""Progress: a bar on a terminal, a line every few seconds otherwise."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from pipeline.core import ranks

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Shows steps, rate in images per second and the latest numbers on stderr, on rank 0 alone."""

    def __init__(self, label: str, total: int, start: int = 0, *, unit_scale: int = 1) -> None:
        """Show ``total`` steps of ``unit_scale`` images each, ``start`` of them done already."""
        self.label = label
        self.total = total
        self.done = self.start = start
        self.scale = unit_scale
        self.numbers = ""
        self._began = self._printed = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and ranks.first():
            self._bar = tqdm(
                total=total * unit_scale,
                initial=start * unit_scale,
                desc=label,
                unit="image",
                unit_scale=True,
                dynamic_ncols=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self.done > self.start:
            self._line()

    def show(self, row: dict[str, float]) -> None:
        """Show these numbers from now on."""
        shown = {k: v for k, v in row.items() if k not in ("step", "images")}
        self.numbers = " ".join(f"{name} {value:.4g}" for name, value in shown.items())
        if self._bar is not None:
            self._bar.set_postfix_str(self.numbers, refresh=False)

    def advance(self, steps: int = 1) -> None:
        """Count ``steps`` as done."""
        self.done += steps
        if self._bar is not None:
            self._bar.update(steps * self.scale)
        elif time.monotonic() - self._printed > SECONDS_BETWEEN_LINES:
            self._line()

    def _line(self) -> None:
        self._printed = time.monotonic()
        if not ranks.first():
            return
        rate = (self.done - self.start) * self.scale / max(self._printed - self._began, 1e-9)
        print(
            f"{self.label}: {100 * self.done / self.total:.0f}% "
            f"{self.done * self.scale:,} of {self.total * self.scale:,} images, "
            f"{rate:,.0f}/s {self.numbers}",
            file=sys.stderr,
            flush=True,
        )
