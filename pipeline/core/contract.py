"""The contract of a family: what the trainer, the sampler and the judges ask of a model.

A family owns the *order* of its training; `pipeline.training.trainer` owns the *mechanics*. What a
family cannot do it does not define, and the comparison says n/a: there are no proxies.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.core.errors import NotFinite
from pipeline.core.images import ImageSpec
from pipeline.core.params import ModelParams, Rate, Section


@dataclass(frozen=True)
class Batch:
    """Images, uint8 [B, C, H, W], and their labels, int64 [B].

    Where several processes share a batch (`core.ranks`) it is this one's rows of it.

    ``others`` are as many images of a second domain, drawn independently, where a family is
    trained on two (`Family.data`).
    """

    images: Tensor
    labels: Tensor
    others: Tensor | None = None


@dataclass(frozen=True)
class TrainingImages:
    """What is known of the images that a model will be trained on before they are there.

    Attributes:
        spec: their shape, and how many classes there are.
        count: how many; of two domains, those of the smaller one.
        by_class: how many of each class; None where the data are two domains.
    """

    spec: ImageSpec
    count: int
    by_class: Sequence[int] | None = None


@dataclass
class Group:
    """Parameters that one optimiser updates, such as a generator's or a critic's.

    Attributes:
        parameters: what is updated.
        optimiser: makes the optimiser from the parameters.
        schedule: factor on the learning rate as a function of the fraction of training that
            is done (0 to 1); constant if None.
        clip: largest gradient norm, or None.
        ema: decay of the exponential moving average whose weights are the final ones, or None.
        after_step: called after each update, for example to clip a critic's weights.
    """

    parameters: list[nn.Parameter]
    optimiser: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    schedule: Callable[[float], float] | None = None
    clip: float | None = None
    ema: float | None = None
    after_step: Callable[[], None] | None = None


Update = Callable[[str, Tensor], None]
"""``update(group, loss)``: zero_grad, backward into that group's parameters alone, clip, step."""

Bound = Literal["exact", "elbo", "vlb"]


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihood of discrete 256-level images, or a lower bound of it.

    Attributes:
        nats: log p(x) or its bound, float [B], natural logarithm, per image.
        bound: ``exact``, ``elbo`` (Kingma & Welling 2014) or ``vlb`` (Ho et al. 2020).
        terms: named summands of ``nats``, each [B].
        iwae: the tighter bound of Burda et al. 2016 (arXiv:1509.00519), [B], where there is one.
        iwae_samples: the number K of draws in it.
        of: what the bound is of, where the same network allows more than one.
    """

    nats: Tensor
    bound: Bound
    terms: dict[str, Tensor]
    iwae: Tensor | None = None
    iwae_samples: int | None = None
    of: str | None = None


class NoHyperparameters(Section):
    """A block that must be ``{}``."""


class TrainingParams(Section):
    """What every family's training block has."""

    counts: ClassVar[Sequence[str]] = ()
    """Keys of the family's own that count images of the training, as ``images`` does."""

    images: int = Field(ge=1, le=10**9)
    batch: int = Field(64, ge=2, le=65_536)
    learning_rate: Rate = 1e-3
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def steps(self) -> int:
        """So many batches are as near to ``images`` as can be; at least one."""
        return self._batches(self.images)

    def scaled(self, budget: float) -> Self:
        """A copy with all counts of images times ``budget``, which is `core.params.Train`'s.

        ``images`` become whole batches, one at least; the other counts are rounded, and none that
        is not 0 becomes 0, which may mean something else.
        """
        counts = {key: getattr(self, key) for key in self.counts}
        return self.model_copy(
            update={key: max(1, round(n * budget)) if n else 0 for key, n in counts.items()}
            | {"images": self._batches(self.images * budget) * self.batch}
        )

    def _batches(self, images: float) -> int:
        return max(1, round(images / self.batch))


class Family(nn.Module, ABC):
    """A generative model. Subclasses declare their hyperparameters as nested classes."""

    Network: ClassVar[type[Section]]
    Training: ClassVar[type[TrainingParams]]
    Sampling: ClassVar[type[Section]] = NoHyperparameters
    Scoring: ClassVar[type[Section]] = NoHyperparameters

    data: ClassVar[Literal["processed", "domains"]] = "processed"
    """The folder below data/ that it is trained on: the images, or two unpaired domains."""

    conditional: bool = False
    """Whether the model is given labels: where it is, no method is called without them."""

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        """Build the network with initial weights from torch's global generator.

        It is also built without values (`on_paper`), so no tensor must be looked at here.

        Raises:
            PipelineError: if the family does not take images of this shape.
        """
        super().__init__()
        self.spec = spec
        self.params = params

    @classmethod
    def unsupported(
        cls, params: ModelParams, device: torch.device, images: TrainingImages | None = None
    ) -> str | None:
        """Why such a model would be refused later, and what to set instead; else None.

        Everything that is known before a training starts: what the device cannot do, what cannot
        be had of so many images, which blocks do not go together. What the constructor refuses
        need not be told here. The reason begins with the key, below the model's own, that has to
        be set otherwise.

        Args:
            params: the model's; blocks that the caller does not depend on are None, and its
                training is `TrainingParams.scaled`.
            device: where it is to be trained or sampled.
            images: what it is to be trained on, where that is known.
        """
        if images is not None and params.training is not None:
            batch = params.training.batch
            if batch > images.count:
                return (
                    f"training.batch = {batch}: there are only {images.count:,} images to train "
                    "on; lower it"
                )
        return None

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @abstractmethod
    def groups(self) -> dict[str, Group]:
        """The groups that training updates, by name."""

    @abstractmethod
    def training_step(
        self, batch: Batch, update: Update, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Do one step: compute losses and call ``update`` as the algorithm wants.

        Losses are means over the batch, of which this process may have a part; noise for its
        images is drawn by `core.seeds.BatchNoise`. ``rng`` is on the model's device and belongs to
        this step. Returns detached scalars to log, named ``<group>/<term>``.
        """

    def finish(self, batches: Iterator[Batch], rng: torch.Generator) -> None:
        """Do what follows training once the final weights are in place; nothing by default.

        For example, fit BatchNorm's statistics to averaged weights. ``batches`` are training
        batches, an epoch of them at the least.
        """

    @property
    def network_evaluations(self) -> int:
        """How many times networks run one after the other for one sample: 1 unless overridden."""
        return 1

    def facts(self) -> dict[str, str]:
        """What a reader of the results must know about the model, such as what it samples from."""
        return {}


@runtime_checkable
class Samples(Protocol):
    """A family that draws images."""

    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """uint8 [n, C, H, W] for n seeds (int64 [n]); image i depends on ``seeds[i]`` alone."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """A family that encodes images and decodes them again."""

    reconstruction_kind: str
    """What is decoded, such as 'posterior mean'."""

    def reconstruct(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """uint8 [B, C, H, W] from uint8 [B, C, H, W]."""
        ...


@runtime_checkable
class Inverts(Protocol):
    """A family without an encoder that looks for what it would have to draw to get an image."""

    inversion_kind: str
    """How it looks, such as 'gradient descent on the noise'."""

    def invert(self, images: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        """The nearest that it finds, uint8 [B, C, H, W], to uint8 [B, C, H, W].

        Where the search starts anywhere, image i starts by ``seeds[i]`` alone.
        """
        ...


@runtime_checkable
class Quantises(Protocol):
    """A family that encodes images as codes, each one of so many."""

    code_count: int
    """How many there are to choose from."""

    def codes(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """int64 [B, ...], from 0 to below ``code_count``, of uint8 [B, C, H, W]."""
        ...


@runtime_checkable
class HasLikelihood(Protocol):
    """A family with a likelihood, or a lower bound of one."""

    def log_likelihood(self, images: Tensor, labels: Tensor | None, seeds: Tensor) -> Likelihood:
        """Score uint8 [B, C, H, W]; any randomness of image i comes from ``seeds[i]`` alone."""
        ...


@runtime_checkable
class Translates(Protocol):
    """A family that turns images of domain A into images of domain B and back."""

    def translate(self, images: Tensor, direction: Literal["ab", "ba"]) -> Tensor:
        """uint8 [B, C, H, W] from uint8 [B, C, H, W]."""
        ...


@runtime_checkable
class MeasuresItself(Protocol):
    """A family with errors of its own, which no other family has and no table ranks."""

    def own_errors(self, images: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """Named values [B] of uint8 images [B, C, H, W], reported as means under these names."""
        ...


@runtime_checkable
class Illustrates(Protocol):
    """A family with pictures of its own, beside samples and reconstructions."""

    def illustrate(self, batch: Batch, seeds: Tensor) -> dict[str, Tensor]:
        """Named pictures: uint8 [rows, columns, C, H, W], at most 10 rows and 12 columns.

        Where each column is a class there may be more of these (`core.images.PICTURED_CLASSES`):
        wide rows are folded.

        ``batch`` holds 10 test images, one of each class in turn where there are so many, and
        ``seeds`` (int64 [10]) name the randomness. Needs the network and sampling blocks alone.
        """
        ...


def to_signed(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 -1..1, where one level is 2/255 wide."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Float -1..1 to uint8: clipped and rounded to the nearest level.

    Raises:
        NotFinite: if a value is not finite, since that is no image.
    """
    if not torch.isfinite(images).all():
        raise NotFinite(
            "the model produced values that are not finite; its training went wrong: try a lower "
            "training.learning_rate"
        )
    return ((images.float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)


class _Undrawn(TorchFunctionMode):
    """Leaves out what draws initial weights: to do nothing, torch would import its compiler."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "trunc_normal_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def on_paper(family: type[Family], spec: ImageSpec, params: ModelParams) -> Family:
    """A model on torch's device ``meta``, where tensors have shapes and neither values nor memory.

    It tells in milliseconds what the constructor refuses, and how large the model would be.

    Raises:
        PipelineError: as the constructor.
        RuntimeError: if there are no tensors so large.
    """
    with torch.device("meta"), _Undrawn():
        return family(spec, params)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable values; tied tensors count once."""
    return sum(each.numel() for each in module.parameters())
