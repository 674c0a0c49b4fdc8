"""What a training logs: means over windows of steps, and the time of each."""

import csv
import io
import math
import time
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.core.errors import PipelineError


@dataclass
class History:
    """Means of what was logged, over windows of steps."""

    rows: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    times: list[tuple[int, float]] = field(default_factory=list)

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add one step's scalars; they stay on the device until the window ends."""
        for name, value in terms.items():
            value = value.detach().float()
            # A copy, since a step may log one tensor twice and a checkpoint keeps no such pair.
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def flush(self, step: int, images: int) -> dict[str, float]:
        """End the window and return its row.

        Raises:
            PipelineError: if a mean is not finite.
        """
        row: dict[str, float] = {"step": step, "images": images}
        for name, total in self.sums.items():
            row[name] = total.item() / self.counts[name]
            if not math.isfinite(row[name]):
                raise PipelineError(
                    f"training diverged: {name} is {row[name]} at step {step}; "
                    "lower training.learning_rate"
                )
        self.rows.append(row)
        self.times.append((step, time.time()))
        self.sums, self.counts = {}, {}
        return row

    def to_csv(self) -> str:
        """``step, images, <group>/<term>...``, six significant digits."""
        names = sorted({name for row in self.rows for name in row} - {"step", "images"})
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["step", "images", *names])
        for row in self.rows:
            values = [f"{row[name]:.6g}" if name in row else "" for name in names]
            writer.writerow([int(row["step"]), int(row["images"]), *values])
        return out.getvalue()
