"""Seconds for a sample, and for a pixel of it, as images grow.

Models of the presets of 28, 32 and 64 pixels, untrained: what they draw costs the same. Of loops
whose steps all cost the same a few steps are executed (`core.cost.clocked`).
"""

import argparse
import time
from typing import Any

import numpy as np

from benchmarks import results
from pipeline.core import cost, params, stage
from pipeline.core.images import ImageSpec
from pipeline.models import entries, weights
from pipeline.orchestration import params_text, preset
from pipeline.sampling import drawing

SIZES = {28: 1, 32: 3, 64: 3}
"""Channels by pixels a side."""
MODELS = ("pixelcnn", "lstm", "gpt", "ddpm")
IMAGES = 50


def options(parser: argparse.ArgumentParser) -> None:
    """What may be said on the command line."""
    parser.add_argument("--models", nargs="+", default=MODELS, help="of params.yaml")
    parser.add_argument("--sizes", type=int, nargs="+", default=[*SIZES], help="of images")


def run(given: argparse.Namespace) -> None:
    """Measure, and write the rows."""
    raw = params.read()
    device = stage.prepare_torch(params.section(raw, "runtime"))
    rows: list[dict[str, Any]] = []
    for name in given.models:
        first = None
        for size in given.sizes:
            sized = params_text.with_values(raw, preset.values(preset.of_size(size), raw))
            spec = ImageSpec(SIZES.get(size, 3), size, size, classes=10)
            family = weights.build(entries.read(sized, name), spec, 0, device).eval()
            n = min(IMAGES, params.section(sized, "sample").batch)
            labels = np.arange(n) % spec.classes if family.conditional else None
            took = []
            for _ in range(2):  # the first time is slow
                with cost.clocked(time.perf_counter) as clock:
                    drawing.draw(family, n, seed=0, batch=n, labels=labels)
                    took.append(clock.total / n)
            pixel = took[-1] / size**2
            first = first or pixel
            rows.append(
                {
                    "model": name,
                    "shape": list(spec.shape),
                    "seconds_per_image": took[-1],
                    "microseconds_per_pixel": 1e6 * pixel,
                    "of_first": pixel / first,
                }
            )
            print(results.line(rows[-1]), flush=True)
    results.write("drawing", {"rows": rows})
