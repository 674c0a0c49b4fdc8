"""Draw images from a trained model: one seed per image, in batches of one fixed size."""

import numpy as np
import torch

from pipeline import seeds
from pipeline.family import Family, Samples, in_batches
from pipeline.progress import Progress


def draw(family: Family, n: int, *, seed: int, batch: int, label: str = "sample") -> np.ndarray:
    """uint8 [n, C, H, W]; image i depends on (seed, i) and the weights alone.

    Raises:
        TypeError: if the family does not sample.
        ValueError: if it returns anything but uint8 images of the right shape.
    """
    if not isinstance(family, Samples):
        raise TypeError(f"{type(family).__name__} does not sample")
    every = seeds.image_seeds(n, seed, "sample")
    drawn = []
    with Progress(label, n) as progress:
        for index, real in in_batches(n, batch):
            images = family.sample(every[index], None)
            if images.dtype != torch.uint8 or images.shape != (batch, *family.spec.shape):
                raise ValueError(
                    f"a sample must be uint8 images, not {images.dtype} {images.shape}"
                )
            drawn.append(images[:real].cpu())
            progress.advance(real)
    return torch.cat(drawn).numpy()
