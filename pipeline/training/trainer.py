"""The one training loop: devices, precision, averages, clipping, checkpoints, progress, history.

A step's randomness is derived from (seed, purpose, step) and the order of the data from (seed,
epoch), so a checkpoint needs weights, optimisers, averages, history and the step, and a resumed
training is bit for bit the one that was not interrupted.

Several processes may train one model (`core.ranks`): each computes its rows of every batch, and
all of them hold the same weights, optimisers and averages, of which rank 0 writes checkpoints.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.blocks import global_batch
from pipeline.blocks.nets import Ema
from pipeline.core import collectives, cost, files, paths, precision, ranks, seeds
from pipeline.core.contract import Batch, Family, Group, count_parameters
from pipeline.core.errors import PipelineError
from pipeline.core.mapped import Mapped, sent
from pipeline.core.progress import Progress
from pipeline.training import checkpoints
from pipeline.training.history import History

HISTORY_POINTS = 100


class Trainer:
    """Trains one family on uint8 images, which need not fit into memory (`core.mapped`)."""

    def __init__(
        self,
        family: Family,
        images: Tensor | Mapped,
        labels: Tensor,
        *,
        others: Tensor | Mapped | None = None,
        seed: int,
        steps: int,
        flips: bool = False,
        checkpoint: Path | None = None,
        checkpoint_seconds: float = 20.0,
        label: str = "train",
    ) -> None:
        """Prepare to train ``family`` for ``steps`` steps.

        Args:
            family: the model, on the device where it is to be trained.
            images: uint8 [N, C, H, W]; moved to that device once, if they fit there.
            labels: int64 [N].
            others: uint8 [M, C, H, W] of a second domain, shuffled independently.
            seed: names the randomness of this training.
            steps: how many times `Family.training_step` is called in all.
            flips: mirror every second image, left to right.
            checkpoint: a file to resume from if it exists, and to write to meanwhile.
            checkpoint_seconds: time between checkpoints.
            label: shown in front of the progress bar.

        Raises:
            PipelineError: if there are fewer images than a batch holds.
        """
        self.family = family
        self.device = family.device
        self.hyperparameters: Any = family.params.training
        self.batch = self.hyperparameters.batch
        self.images = images.to(self.device)
        self.labels = labels.to(self.device)
        self.others = None if others is None else others.to(self.device)
        for each in (self.images, self.others):
            if each is not None and len(each) < self.batch:
                raise PipelineError(
                    f"training.batch is {self.batch}, but there are only {len(each)} images"
                )
        if ranks.size() > 1:
            global_batch.share(family)
        self.seed = seed
        self.steps = steps
        self.flips = flips
        self.checkpoint = checkpoint
        self.checkpoint_seconds = checkpoint_seconds
        self.label = label

        self.step = 0
        self.history = History()
        self.groups: dict[str, Group] = family.groups()
        self.optimisers = {k: g.optimiser(g.parameters) for k, g in self.groups.items()}
        self.base_rates = {
            k: [each["lr"] for each in o.param_groups] for k, o in self.optimisers.items()
        }
        self.averages = {
            k: Ema(g.parameters, g.ema) for k, g in self.groups.items() if g.ema is not None
        }
        self.updates = dict.fromkeys(self.groups, 0)
        self.kinds: dict[str, int] = {}
        self.flops: dict[str, int] = {}
        self._counter: cost.Counter | None = None
        self._replicated = 0
        self._updated: list[str] = []
        self._complaint = ""
        self._orders: dict[str, tuple[int, Tensor]] = {}

    @property
    def images_seen(self) -> int:
        """Training images drawn so far."""
        return self.step * self.batch

    def facts(self) -> dict[str, Any]:
        """What a description of the trained model holds."""
        return {
            "model": self.family.params.name,
            "family": self.family.params.family,
            "parameters": count_parameters(self.family),
            "images_seen": self.images_seen,
            "steps": self.step,
            "updates": self.updates,
            "training_flops_per_image": self.flops_per_image,
            **self.family.facts(),
        }

    @property
    def flops_per_image(self) -> int | None:
        """Floating-point operations (`pipeline.core.cost`) for each image drawn so far.

        Steps of one kind, that is with the same updates in the same order, cost the same; one of
        each kind is counted. None if training ended before some kind came a second time.
        """
        if not self.kinds or self.kinds.keys() - self.flops.keys():
            return None
        total = sum(count * self.flops[kind] for kind, count in self.kinds.items())
        return round(total / self.images_seen)

    def run(self, stop_at: int | None = None) -> None:
        """Train to the end, or to step ``stop_at``, from the checkpoint where there is one.

        Afterwards the family holds its final weights (the averages where it keeps them), unless
        training was stopped early.

        Raises:
            PipelineError: if it diverged, or came to its end without an update of some group.
        """
        if self.checkpoint is not None:
            self._find(self.checkpoint)
        last = self.steps if stop_at is None else min(stop_at, self.steps)
        window = max(1, self.steps // HISTORY_POINTS)
        saved = time.monotonic()
        self.family.train()
        with Progress(self.label, self.steps, self.step, unit_scale=self.batch) as progress:
            while self.step < last:
                self._train_one_step()
                if self.step % window == 0 or self.step == self.steps:
                    progress.show(self.history.flush(self.step, self.images_seen))
                progress.advance()
                due = time.monotonic() - saved > self.checkpoint_seconds and ranks.first()
                if self.checkpoint is not None and due and self.step < self.steps:
                    self._try_to_save(self.checkpoint)
                    saved = time.monotonic()
        if self.step == self.steps:
            self._check_updates()
            for average in self.averages.values():
                average.apply()
            self.family.eval()
            rng = seeds.generator(self.seed, "finish", device=self.device)
            batches = max(self.steps, len(self.images) // self.batch)
            with ranks.alone():
                self.family.finish((self._batch(step) for step in range(batches)), rng)
        self.family.eval()

    def _check_updates(self) -> None:
        """Refuse weights of which some are as they were drawn: nobody could tell from a result."""
        for name, count in self.updates.items():
            if count == 0:
                model = self.family.params.name
                raise PipelineError(
                    f"{paths.PARAMS}: models.{model}.training.images: {model}'s {name} had no "
                    f"update in all {self.steps:,} steps, so that it is not trained; raise it, or "
                    "train.budget"
                )

    def _find(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one that rank 0 can read; all ranks do, or none.

        Raises:
            files.Unreadable: if another rank cannot.
        """
        if ranks.first() and os.path.lexists(path):
            self._resume(path)
        if collectives.told(self.step) != self.step:
            self.load(path)

    def _resume(self, path: Path) -> None:
        """Go on from a checkpoint; one that is of no use is set aside, since it is only a cache."""
        try:
            self.load(path)
            return
        except files.Unreadable as error:
            told = str(error).splitlines()[0].removesuffix(f"; {checkpoints.REMEDY}")
        aside = path.with_suffix(".damaged")
        try:
            files.remove(aside)
            os.replace(path, aside)
            kept = f"it is kept as {aside.name}"
        except OSError as error:
            kept = f"it cannot be moved ({files.reason(error)})"
        print(
            f"warning: {told}; {kept}, and this training starts from the beginning",
            file=sys.stderr,
            flush=True,
        )

    def _try_to_save(self, path: Path) -> None:
        """Write a checkpoint; a training that cannot be resumed is better than none."""
        try:
            self.save(path)
            self._complaint = ""
        except PipelineError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                print(
                    f"warning: {error}; {self.label} goes on, and tries again every "
                    f"{self.checkpoint_seconds:g} s",
                    file=sys.stderr,
                    flush=True,
                )

    def _train_one_step(self) -> None:
        # Of which kind a step is, is known after it, so steps are counted until no kind is left.
        if not self.kinds or self.kinds.keys() - self.flops.keys():
            self._count_one_step()
        terms = self._call_training_step()
        kind = "+".join(self._updated)
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        self.history.add(terms)
        self.step += 1

    def _count_one_step(self) -> None:
        """Do the next step, count its operations and undo it: counting may change last bits."""
        before = checkpoints.remember(self)
        self._replicated = 0
        with cost.Counter() as self._counter:
            self._call_training_step()
        flops, self._counter = self._counter.flops, None
        kind = "+".join(self._updated)
        checkpoints.restore(self, *before)
        # Each rank has its share of the images, and all do the same to the weights.
        self.flops[kind] = (flops - self._replicated) * ranks.size() + self._replicated

    def _call_training_step(self) -> dict[str, Tensor]:
        # Modules such as dropout draw from the global generator: name its state by the step too.
        seeds.seed_modules(seeds.derive(self.seed, "modules", self.step), self.device)
        rng = seeds.generator(self.seed, "noise", self.step, device=self.device)
        self._updated = []
        with precision.autocast(self.device, self.hyperparameters.precision):
            terms = self.family.training_step(self._batch(self.step), self._update, rng)
        return collectives.means(terms)

    def _batch(self, step: int) -> Batch:
        """Batch number ``step`` of an endless run of shuffled epochs; the tail is dropped.

        Of several processes each has its rows of it.
        """
        images = self._rows(self.images, step, "order")
        index = self._shuffled(step, self.images, "order")
        if index.device != self.labels.device:
            index = sent(index, self.labels.device)
        others = None
        if self.others is not None:
            others = self._rows(self.others, step, "order of others")
        return Batch(images, self.labels[index], others)

    def _rows(self, images: Tensor | Mapped, step: int, purpose: str) -> Tensor:
        """Batch number ``step`` of one domain; the next one is on its way from the disk then."""
        found = images[self._shuffled(step, images, purpose)]
        if self.flips:
            found = self._mirrored(found, step, purpose)
        if isinstance(images, Mapped) and (step + 1) % (len(images) // self.batch):
            images.ahead(self._shuffled(step + 1, images, purpose))
        return found

    def _mirrored(self, images: Tensor, step: int, purpose: str) -> Tensor:
        """Each image as it is or as in a mirror, with equal probability."""
        rng = seeds.generator(self.seed, "flips of " + purpose, step, device=self.device)
        mirrored = seeds.BatchNoise(rng).uniform(len(images), 1, 1, 1) < 0.5
        return torch.where(mirrored, images.flip(3), images)

    def _shuffled(self, step: int, images: Tensor | Mapped, purpose: str) -> Tensor:
        """Which images this rank has in batch number ``step``, int64, where they are looked up."""
        epoch, place = divmod(step, len(images) // self.batch)
        if self._orders.get(purpose, (None,))[0] != epoch:
            rng = seeds.generator(self.seed, purpose, epoch)
            order = torch.randperm(len(images), generator=rng)
            where = images.device if isinstance(images, Tensor) else order.device
            self._orders[purpose] = (epoch, order.to(where))
        whole = self._orders[purpose][1][place * self.batch : (place + 1) * self.batch]
        return ranks.rows(whole)

    def _update(self, name: str, loss: Tensor) -> None:
        group, optimiser = self.groups[name], self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        with precision.autocast(self.device, "fp32"):
            loss.backward(inputs=group.parameters)
        collectives.average([each.grad for each in group.parameters if each.grad is not None])
        if group.clip is not None:
            torch.nn.utils.clip_grad_norm_(group.parameters, group.clip)
        if group.schedule is not None:
            factor = group.schedule(self.step / self.steps)
            for each, rate in zip(optimiser.param_groups, self.base_rates[name], strict=True):
                each["lr"] = rate * factor
        before = 0 if self._counter is None else self._counter.flops
        # What an optimiser multiplies is float32, whatever the networks are trained in.
        with precision.autocast(self.device, "fp32"):
            optimiser.step()
        if self._counter is not None:
            self._replicated += self._counter.flops - before
        if group.after_step is not None:
            group.after_step()
        # Autocast caches bfloat16 copies of the weights, which are now out of date: without this
        # the other player's update, later in the same step, would face the old ones.
        torch.clear_autocast_cache()
        if name in self.averages:
            self.averages[name].update()
        self.updates[name] += 1
        self._updated.append(name)

    def save(self, path: Path) -> None:
        """Write everything that resuming needs to one file, atomically (`checkpoints`).

        Raises:
            PipelineError: if it cannot be written.
        """
        checkpoints.save(path, self)

    def load(self, path: Path) -> None:
        """Continue from what `save` wrote.

        Raises:
            files.Unreadable: if the file is not that, or is of another training; nothing is
                changed then.
        """
        checkpoints.load(path, self)
