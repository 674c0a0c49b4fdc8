"""Sample one model: weights in, uint8 images and pictures out."""

import time

import numpy as np

from pipeline.core import files, params, paths, precision, stage
from pipeline.datasets.store import Store
from pipeline.models import entries, weights
from pipeline.sampling import drawing, illustration, pictures


def main(model: str) -> None:
    """Draw ``sample.n`` images from ``model``, or translate the test images if it does that."""
    with stage.guard("sample", model) as guard:
        raw = params.read()
        section: params.Sample = params.section(raw, "sample")
        chosen = entries.read(raw, model, blocks=("network", "sampling"))
        device = stage.prepare_torch(params.section(raw, "runtime"))
        precision.warn_if_emulated(device, chosen.sampling, f"models.{model}.sampling")
        store = Store(paths.DATA / chosen.data)
        family, _ = weights.load(paths.model_dir(model), chosen, store.spec, device)
        started = time.time()
        drawn = drawing.everything(family, store, section, label=f"sample {model}")
        seconds = time.time() - started
        counted = drawing.cost_of(family, store)
        shown = illustration.everything(family, store, drawn, section.seed)
        guard.confirm()
        with files.replacing_folder(paths.samples_dir(model)) as folder:
            for name, array in drawn.items():
                np.save(folder / f"{name}.npy", array)
            files.write_json(folder / "cost.json", counted)
        with files.replacing_folder(paths.pictures_dir(model)) as folder:
            for name, picture in shown.items():
                pictures.save_rows(folder / f"{name}.png", picture)
        files.write_json(
            paths.timing("sample", model, weights.digest(paths.model_dir(model))),
            {"started": started, "seconds": seconds, "device": stage.device_name(device)},
        )


if __name__ == "__main__":
    stage.run(main)
