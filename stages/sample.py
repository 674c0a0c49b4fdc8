"""Sample one model: weights in, uint8 images and pictures out."""

import time

from pipeline.core import arrays, files, params, paths, precision, ranks, stage
from pipeline.datasets.store import Store
from pipeline.evaluation import protocol
from pipeline.models import entries, weights
from pipeline.sampling import drawing, illustration, pictures


def main(model: str) -> None:
    """Draw ``sample.n`` images from ``model``, or translate the test images if it does that."""
    with stage.guard("sample", model) as guard:
        raw = params.read()
        home = params.results(raw)
        section: params.Sample = params.section(raw, "sample")
        chosen = entries.read(raw, model, blocks=("network", "sampling"))
        device = stage.prepare_torch(params.section(raw, "runtime"))
        entries.check_device(chosen, device)
        precision.warn_if_emulated(device, chosen.sampling, f"models.{model}.sampling")
        split = params.section(raw, "evaluate").split
        n = protocol.sample_count(section.n, Store().counts, split)
        store = Store(paths.DATA / chosen.data)
        family, _ = weights.load(paths.model_dir(model), chosen, store.spec, device)
        started = time.time()
        drawn = drawing.everything(family, store, section, n, label=f"sample {model}")
        seconds = time.time() - started
        if not ranks.first():
            return
        counted = drawing.cost_of(family, store)
        shown = illustration.everything(family, store, drawn, section.seed)
        guard.confirm()
        with files.together() as made:
            folder = made.folder(paths.samples_dir(model))
            arrays.save(folder, drawn)
            files.write_json(folder / "cost.json", counted)
            folder = made.folder(home.pictures_dir(model))
            for name, picture in shown.items():
                pictures.save_rows(folder / f"{name}.png", picture)
        stage.remark(
            paths.timing("sample", model, weights.digest(paths.model_dir(model))),
            {"started": started, "seconds": seconds, "device": stage.device_name(device)},
        )


if __name__ == "__main__":
    stage.run(main, shared=True)
