"""Sample one model: weights in, uint8 images and a picture of them out."""

import time

import numpy as np

from pipeline import files, params, paths, pictures, precision, sampling, stage, weights
from pipeline.datasets.store import Store

PICTURED = 100
COLUMNS = 10


def main(model: str) -> None:
    """Draw ``sample.n`` images from ``model``."""
    with stage.guard("sample", model) as guard:
        raw = params.read()
        section: params.Sample = params.section(raw, "sample")
        chosen = params.model(raw, model, blocks=("network", "sampling"))
        device = stage.prepare_torch(params.section(raw, "runtime"))
        precision.warn_if_emulated(device, chosen.sampling, f"models.{model}.sampling")
        family, _ = weights.load(paths.model_dir(model), chosen, Store().spec, device)
        started = time.time()
        images = sampling.draw(
            family, section.n, seed=section.seed, batch=section.batch, label=f"sample {model}"
        )
        seconds = time.time() - started
        guard.confirm()
        with files.replacing_folder(paths.samples_dir(model)) as folder:
            np.save(folder / "samples.npy", images)
            pictures.save_png(folder / "grid.png", pictures.grid(images[:PICTURED], COLUMNS))
        files.write_json(
            paths.timing("sample", model, weights.digest(paths.model_dir(model))),
            {"started": started, "seconds": seconds, "device": stage.device_name(device)},
        )


if __name__ == "__main__":
    stage.run(main)
