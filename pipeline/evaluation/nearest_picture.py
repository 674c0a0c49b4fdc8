"""The picture by which a person sees whether samples are copies of training images."""

import numpy as np

from pipeline.evaluation import protocol
from pipeline.evaluation.metrics import neighbours

COLUMNS = 10


def picture(samples: np.ndarray, training: np.ndarray) -> np.ndarray:
    """The samples that are likeliest to be copies, above the training images that they resemble.

    uint8 [2, columns, C, H, W], likeliest first: by the distance in pixels to the nearest training
    image, as a multiple of that one's distance to the next (see `metrics.neighbours.copied`). Of
    very many samples those are shown whose authenticity is measured (`protocol.MOST_SUSPECTS`).
    """
    samples = samples[: protocol.MOST_SUSPECTS]
    index, squared, own = neighbours.copied(
        samples.reshape(len(samples), -1), training.reshape(len(training), -1)
    )
    chosen = np.argsort(squared / np.maximum(own, 1), kind="stable")[:COLUMNS]
    return np.stack([samples[chosen], training[index[chosen]]])
