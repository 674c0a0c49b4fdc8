"""Find the noise from which a generator makes what is nearest to a given image.

Inversion by optimisation, as in section 5 of Zhu et al. 2016, "Generative Visual Manipulation on
the Natural Image Manifold", arXiv:1609.03552, from several starts and without their encoder.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.core.contract import to_signed, to_uint8

STARTS = 4
STEPS = 200
LEARNING_RATE = 0.1
KIND = f"noise by Adam, {STEPS} steps, best of {STARTS} starts"


def nearest(
    generate: Callable[[Tensor], Tensor], starts: Sequence[Tensor], images: Tensor
) -> Tensor:
    """uint8 [B, C, H, W], the nearest to each of uint8 ``images`` that was found.

    The squared error falls along its own gradient with respect to the noise, for each image by
    itself, and nothing holds the noise where it is likely: this tells what a generator can make,
    and not what it does make.

    Args:
        generate: noise [B, latent] to images in -1..1, each independent of the others.
        starts: noise to start from, each [B, latent].
        images: what to come near to.
    """
    wanted = to_signed(images)
    best = torch.zeros_like(images)
    least = torch.full((len(images),), torch.inf, device=images.device)
    for start in starts:
        noise = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([noise], lr=LEARNING_RATE)
        for _ in range(STEPS):
            with torch.enable_grad():
                errors = _errors(generate(noise), wanted)
                (noise.grad,) = torch.autograd.grad(errors.sum(), noise)
            optimiser.step()
        with torch.no_grad():
            found = to_uint8(generate(noise))
            errors = _errors(to_signed(found), wanted)
        nearer = errors < least
        best[nearer], least[nearer] = found[nearer], errors[nearer]
    return best


def _errors(made: Tensor, wanted: Tensor) -> Tensor:
    return (made.float() - wanted).square().flatten(1).mean(dim=1)
