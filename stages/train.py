"""Train one model: processed images in, weights and a training curve out."""

import time
from contextlib import suppress

import numpy as np
import torch

from pipeline.core import files, params, paths, precision, ranks, stage
from pipeline.core.mapped import Mapped
from pipeline.datasets.store import Store
from pipeline.models import entries, weights
from pipeline.training.trainer import Trainer


def main(model: str) -> None:
    """Train ``model``, resuming from its checkpoint where there is one."""
    with stage.guard("train", model) as guard:
        raw = params.read()
        home = params.results(raw)
        shared: params.Train = params.section(raw, "train")
        runtime: params.Runtime = params.section(raw, "runtime")
        chosen = entries.scaled(
            entries.read(raw, model, blocks=("network", "training")), shared.budget
        )
        entries.check_batch(chosen, runtime.devices)
        device = stage.prepare_torch(runtime)
        entries.check_device(chosen, device)
        precision.warn_if_emulated(device, chosen.training, f"models.{model}.training")
        store = Store(paths.DATA / chosen.data)
        split = store.split("train")
        family = weights.build(chosen, store.spec, shared.seed, device)
        checkpoint = paths.checkpoint(model, guard.fingerprint)
        trainer = Trainer(
            family,
            Mapped(split.images),
            torch.from_numpy(np.array(split.labels)),
            others=None if split.others is None else Mapped(split.others),
            seed=shared.seed,
            steps=chosen.training.steps,
            flips=shared.flips,
            checkpoint=checkpoint,
            checkpoint_seconds=runtime.checkpoint_seconds,
            label=f"train {model}",
        )
        started = time.time()
        trainer.run()
        seconds = time.time() - started
        guard.confirm()
        if not ranks.first():
            return
        with files.together() as made:
            weights.save(made.folder(paths.model_dir(model)), family, trainer.facts())
            made.file(home.curve(model)).write_text(trainer.history.to_csv(), encoding="utf-8")
        with suppress(OSError):
            checkpoint.unlink()
        stage.remark(
            paths.timing("train", model, weights.digest(paths.model_dir(model))),
            {
                "started": started,
                "seconds": seconds,
                "device": stage.device_name(device),
                "points": trainer.history.times,
            },
        )


if __name__ == "__main__":
    stage.run(main, shared=True)
