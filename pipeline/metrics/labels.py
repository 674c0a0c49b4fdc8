"""Whether images show the class that they should, as the judges see it."""

from collections.abc import Sequence

import numpy as np

from pipeline.judge import Judge


def accuracy(judges: Sequence[Judge], images: np.ndarray, labels: np.ndarray) -> float:
    """Share of uint8 images [N, C, H, W] in whose label, int64 [N], a judge sees them.

    The mean over judges, 0 to 1; higher is better.
    """
    return float(np.mean([(judge.predictions(images) == labels).mean() for judge in judges]))
