"""Evaluate one model: weights and samples in, metrics/<title>/models/<model>.json out."""

import numpy as np

from pipeline.core import arrays, files, params, paths, ranks, stage
from pipeline.core.contract import Translates
from pipeline.datasets.store import Store
from pipeline.evaluation import (
    judge,
    likelihood,
    nearest_picture,
    outside,
    protocol,
    quality,
    reconstruction,
    translation,
)
from pipeline.models import entries, weights
from pipeline.sampling import drawing, pictures


def main(model: str) -> None:
    """Judge ``model`` by the rules that hold for all."""
    with stage.guard("evaluate", model) as guard:
        raw = params.read()
        home = params.results(raw)
        section: params.Evaluate = params.section(raw, "evaluate")
        chosen = entries.read(raw, model, blocks=("network", "scoring"))
        device = stage.prepare_torch(params.section(raw, "runtime"))
        store = Store()
        n = params.section(raw, "sample").n
        n = protocol.sample_count(n, store.counts, section.split)
        protocol.check_size(store, section.split, n)
        judges = judge.load(paths.JUDGE, store.spec, device)
        family, facts = weights.load(paths.model_dir(model), chosen, store.spec, device)
        drawn = drawing.read(paths.samples_dir(model), family, n)
        samples, asked = drawn.get("samples"), drawn.get("labels")
        costs = drawing.read_cost(paths.samples_dir(model), family)
        split, train = store.split(section.split), store.split("train")
        shares = np.bincount(train.labels, minlength=store.spec.classes) / len(train)
        common = protocol.protocol(store, protocol.judge_facts(), n, section.split, section.seed)
        likely, nats = likelihood.measure(
            family,
            split.images,
            split.labels,
            shares,
            seed=section.seed,
            batch=section.batch,
            label=f"score {model}",
        )
        result = {
            "model": model,
            **{key: value for key, value in facts.items() if key not in ("steps", "updates")},
            **costs,
            # Of one class, the label says nothing.
            "conditional": family.conditional and store.spec.classes > 1,
            **common,
            "protocol": protocol.protocol_id(common),
            **quality.NOTHING,
            **reconstruction.measure(family, split.images, split.labels, section.batch),
            **reconstruction.own_errors(family, split.images, split.labels, section.batch),
            **reconstruction.code_usage(family, split.images, split.labels, section.batch),
            **likely,
        }
        if isinstance(family, Translates):
            result |= translation.measure(
                family,
                judges,
                Store(paths.DATA / chosen.data),
                section.split,
                seed=section.seed,
                batch=section.batch,
            )
        if not ranks.first():  # what follows asks the judges alone
            return
        if samples is not None:
            real = quality.real_images(store, judges, section.split, n, section.seed)
            result |= quality.of_samples(judge.see(judges, samples), asked, real)
            result |= outside.measure(section, samples, real.reference.images, train.images, device)
        guard.confirm()
        with files.together() as made:
            folder = made.folder(paths.scores_dir(model))
            arrays.save(folder, {} if nats is None else {"nats": nats})
            if samples is not None:
                picture = nearest_picture.picture(samples, real.train.images)
                pictures.save_rows(folder / "nearest.png", picture)
            written = files.as_json(files.rounded(result))
            made.file(home.model_metrics(model)).write_text(written, encoding="utf-8")


if __name__ == "__main__":
    stage.run(main, shared=True)
