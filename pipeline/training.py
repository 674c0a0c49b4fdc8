"""The one training loop: devices, precision, averages, clipping, checkpoints, progress, history.

A step's randomness is derived from (seed, purpose, step) and the order of the data from (seed,
epoch), so a checkpoint needs weights, optimisers, averages, history and the step, and a resumed
training is bit for bit the one that was not interrupted.
"""

import csv
import io
import json
import math
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.blocks.nets import Ema
from pipeline.core import cost, files, precision, seeds
from pipeline.core.errors import PipelineError
from pipeline.core.family import Batch, Family, Group, count_parameters
from pipeline.core.progress import Progress

HISTORY_POINTS = 100


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
            self.sums[name] = self.sums[name] + value if name in self.sums else value
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


class Trainer:
    """Trains one family on images that fit into memory as uint8."""

    def __init__(
        self,
        family: Family,
        images: Tensor,
        labels: Tensor,
        *,
        others: Tensor | None = None,
        seed: int,
        steps: int,
        checkpoint: Path | None = None,
        checkpoint_seconds: float = 20.0,
        label: str = "train",
    ) -> None:
        """Prepare to train ``family`` for ``steps`` steps.

        Args:
            family: the model, on the device where it is to be trained.
            images: uint8 [N, C, H, W]; moved to that device once.
            labels: int64 [N].
            others: uint8 [M, C, H, W] of a second domain, shuffled independently.
            seed: names the randomness of this training.
            steps: how many times `Family.training_step` is called in all.
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
        self.seed = seed
        self.steps = steps
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
        self._updated: list[str] = []
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
        """
        if self.checkpoint is not None and self.checkpoint.exists():
            self.load(self.checkpoint)
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
                due = time.monotonic() - saved > self.checkpoint_seconds
                if self.checkpoint is not None and due and self.step < self.steps:
                    self.save(self.checkpoint)
                    saved = time.monotonic()
        if self.step == self.steps:
            for average in self.averages.values():
                average.apply()
            self.family.eval()
            rng = seeds.generator(self.seed, "finish", device=self.device)
            batches = max(self.steps, len(self.images) // self.batch)
            self.family.finish((self._batch(step) for step in range(batches)), rng)
        self.family.eval()

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
        with tempfile.TemporaryDirectory() as folder:
            before = Path(folder) / "before.ckpt"
            self.save(before)
            with cost.Counter() as counter:
                self._call_training_step()
            kind = "+".join(self._updated)
            self.load(before)
        self.flops[kind] = counter.flops

    def _call_training_step(self) -> dict[str, Tensor]:
        # Modules such as dropout draw from the global generator: name its state by the step too.
        torch.manual_seed(seeds.derive(self.seed, "modules", self.step))
        rng = seeds.generator(self.seed, "noise", self.step, device=self.device)
        self._updated = []
        with precision.autocast(self.device, self.hyperparameters.precision):
            return self.family.training_step(self._batch(self.step), self._update, rng)

    def _batch(self, step: int) -> Batch:
        """Batch number ``step`` of an endless run of shuffled epochs; the tail is dropped."""
        index = self._shuffled(step, len(self.images), "order")
        others = None
        if self.others is not None:
            others = self.others[self._shuffled(step, len(self.others), "order of others")]
        return Batch(self.images[index], self.labels[index], others)

    def _shuffled(self, step: int, n: int, purpose: str) -> Tensor:
        """Which of n images are in batch number ``step``, int64 [batch]."""
        epoch, place = divmod(step, n // self.batch)
        if self._orders.get(purpose, (None,))[0] != epoch:
            rng = seeds.generator(self.seed, purpose, epoch)
            self._orders[purpose] = (epoch, torch.randperm(n, generator=rng).to(self.device))
        return self._orders[purpose][1][place * self.batch : (place + 1) * self.batch]

    def _update(self, name: str, loss: Tensor) -> None:
        group, optimiser = self.groups[name], self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        with precision.autocast(self.device, "fp32"):
            loss.backward(inputs=group.parameters)
        if group.clip is not None:
            torch.nn.utils.clip_grad_norm_(group.parameters, group.clip)
        if group.schedule is not None:
            factor = group.schedule(self.step / self.steps)
            for each, rate in zip(optimiser.param_groups, self.base_rates[name], strict=True):
                each["lr"] = rate * factor
        optimiser.step()
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
        """Write everything that resuming needs to one safetensors file, atomically."""
        state = {f"family/{k}": v for k, v in self.family.state_dict().items()}
        scalars: dict[str, Any] = {
            "step": self.step,
            "updates": self.updates,
            "kinds": self.kinds,
            "flops": self.flops,
            "rows": self.history.rows,
            "counts": self.history.counts,
            "times": self.history.times,
            "averages": {k: a.updates for k, a in self.averages.items()},
        }
        for name, value in self.history.sums.items():
            state[f"sums/{name}"] = value
        for name, average in self.averages.items():
            for i, shadow in enumerate(average.shadow):
                state[f"average/{name}/{i}"] = shadow
        for name, optimiser in self.optimisers.items():
            for i, entry in optimiser.state_dict()["state"].items():
                for key, value in entry.items():
                    state[f"optimiser/{name}/{i}/{key}"] = torch.as_tensor(value)
        encoded = json.dumps(scalars, sort_keys=True).encode()
        state["scalars"] = torch.tensor(list(encoded), dtype=torch.uint8)
        with files.replacing(path) as temporary:
            save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, temporary)

    def load(self, path: Path) -> None:
        """Continue from what `save` wrote.

        Raises:
            PipelineError: if the file is damaged.
        """
        try:
            state = load_file(path)
            scalars = json.loads(bytes(state.pop("scalars").tolist()))
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise PipelineError(f"{path}: not a readable checkpoint ({error}); delete it") from None
        self.step = scalars["step"]
        self.updates = scalars["updates"]
        self.kinds = scalars["kinds"]
        self.flops = scalars["flops"]
        self.history.rows = scalars["rows"]
        self.history.counts = scalars["counts"]
        self.history.times = [(step, at) for step, at in scalars["times"]]
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            kind, rest = key.split("/", 1)
            parts.setdefault(kind, {})[rest] = value
        self.family.load_state_dict(parts["family"])
        self.history.sums = {k: v.to(self.device) for k, v in parts.get("sums", {}).items()}
        for name, average in self.averages.items():
            average.updates = scalars["averages"][name]
            for i, shadow in enumerate(average.shadow):
                shadow.copy_(parts["average"][f"{name}/{i}"])
        for name, optimiser in self.optimisers.items():
            entries: dict[int, dict[str, Tensor]] = {}
            for key, value in parts.get("optimiser", {}).items():
                group, i, entry = key.split("/", 2)
                if group == name:
                    entries.setdefault(int(i), {})[entry] = value
            current = optimiser.state_dict()
            optimiser.load_state_dict({**current, "state": entries})
            for parameter, entry in optimiser.state.items():
                for key, value in entry.items():
                    if value.shape == parameter.shape:
                        # Fused optimisers pair raw memory, so the strides must be the same too.
                        entry[key] = torch.empty_like(parameter).copy_(value)


def steps_of(training: Any, budget: float) -> int:
    """Steps that make a model see ``training.images * budget`` images, at least one."""
    return max(1, round(training.images * budget / training.batch))
