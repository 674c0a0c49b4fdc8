"""Mixtures of Gaussians with full covariances, fitted to codes once training is over."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.blocks.distributions import categorical_sample
from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.core.seeds import ImageNoise


class CodeMixture(nn.Module):
    """A mixture of K Gaussians over codes of d numbers, for each of one or more groups.

    Everything is a buffer: it is saved with the model, and gradients never touch it.
    """

    fitted: Tensor
    weights: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, groups: int, components: int, dimensions: int) -> None:
        super().__init__()
        shape = (groups, components, dimensions)
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("weights", torch.full(shape[:2], 1 / components))
        self.register_buffer("means", torch.zeros(shape))
        # Lower Cholesky factors of the covariances.
        self.register_buffer("factors", torch.zeros(*shape, dimensions))
        self.factors.diagonal(dim1=2, dim2=3).fill_(1)

    def __str__(self) -> str:
        """What it is, for a reader of the results."""
        count = self.weights.shape[1]
        return (
            f"mixture of {count} full-covariance Gaussians"
            if count > 1
            else "full-covariance Gaussian"
        )

    def fit(self, codes: list[np.ndarray], floor: float, model: str) -> None:
        """Maximum likelihood by expectation maximisation from one k-means start per group.

        Args:
            codes: for each group, float [N, d] with N at least the number of components; a group
                without any stays standard normal.
            floor: added to the variances, as a fraction of the mean variance of all codes, so
                that no component collapses.
            model: whose codes they are, for the message.

        Raises:
            PipelineError: if a group has too few codes, or there is no such mixture.
        """
        from sklearn.mixture import GaussianMixture

        components = self.weights.shape[1]
        if not all(np.isfinite(each).all() for each in codes):
            raise PipelineError(
                f"{model}: codes are not finite: training diverged; lower training.learning_rate"
            )
        added = floor * float(
            np.concatenate([each for each in codes if len(each)]).var(axis=0).mean()
        )
        for group, each in enumerate(codes):
            if len(each) == 0:
                continue
            if len(each) < max(2, components):
                raise PipelineError(
                    f"{paths.PARAMS}: models.{model}.network.components = {components}: there are "
                    f"only {len(each)} codes to fit so many Gaussians to; lower it"
                )
            try:
                found = GaussianMixture(
                    components, covariance_type="full", reg_covar=added, random_state=0
                ).fit(each.astype(np.float64))
                factors = np.linalg.cholesky(found.covariances_)
            except (ValueError, np.linalg.LinAlgError):
                # scikit-learn's error for a Gaussian that collapsed.
                raise PipelineError(
                    f"{paths.PARAMS}: models.{model}.network.components = {components}: a Gaussian "
                    "collapsed to a point; lower it, or raise the floor where there is such a key"
                ) from None
            self.weights[group] = torch.from_numpy(found.weights_)
            self.means[group] = torch.from_numpy(found.means_)
            self.factors[group] = torch.from_numpy(factors)
        self.fitted.fill_(True)

    def log_density(self, codes: Tensor, groups: Tensor | None = None) -> Tensor:
        """log density in nats, float32 [B], of codes [B, d].

        ``groups``, int64 [B], are those that they are in; the first, if None.
        """
        groups = self._first(codes) if groups is None else groups
        factors, centred = self.factors[groups], codes[:, None] - self.means[groups]
        white = torch.linalg.solve_triangular(factors, centred[..., None], upper=False)[..., 0]
        log_scale = factors.diagonal(dim1=2, dim2=3).log().sum(2)
        constant = 0.5 * codes.shape[1] * math.log(2 * math.pi)
        each = -0.5 * (white**2).sum(2) - log_scale - constant
        return torch.logsumexp(self.weights[groups].log() + each, dim=1)

    def draw(self, noise: ImageNoise, groups: Tensor | None = None) -> Tensor:
        """A code for each image, float32 [B, d]; groups are those of `log_density`."""
        uniform = noise.uniform()
        groups = self._first(uniform) if groups is None else groups
        which = categorical_sample(self.weights[groups].log(), uniform)
        normal = noise.normal(self.means.shape[2])
        return self.means[groups, which] + torch.einsum(
            "bij,bj->bi", self.factors[groups, which], normal
        )

    def _first(self, each: Tensor) -> Tensor:
        return torch.zeros(len(each), dtype=torch.int64, device=each.device)
