"""Evaluate one model: weights and samples in, metrics/models/<model>.json out."""

from pathlib import Path

import numpy as np

from pipeline import evaluation, inception, judge, protocol, translation
from pipeline.core import files, params, paths, stage, weights
from pipeline.core.family import Translates
from pipeline.datasets.store import Store


def main(model: str) -> None:
    """Judge ``model`` by the rules that hold for all."""
    with stage.guard("evaluate", model) as guard:
        raw = params.read()
        section: params.Evaluate = params.section(raw, "evaluate")
        n = params.section(raw, "sample").n
        chosen = params.model(raw, model, blocks=("network", "scoring"))
        device = stage.prepare_torch(params.section(raw, "runtime"))
        store = Store()
        reference = protocol.reference_images(store, section.split, n, section.seed)
        judges = judge.load(paths.JUDGE, store.spec, device)
        samples = _array(paths.samples_dir(model) / "samples.npy")
        wanted = _array(paths.samples_dir(model) / "labels.npy")
        family, facts = weights.load(paths.model_dir(model), chosen, store.spec, device)
        split, train = store.split(section.split), store.split("train")
        shares = np.bincount(train.labels, minlength=store.spec.classes) / len(train)
        common = protocol.protocol(
            store, judge.read_facts(paths.JUDGE), n, section.split, section.seed
        )
        likelihood, nats = evaluation.likelihood(
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
            **files.read_json(paths.samples_dir(model) / "cost.json"),
            **common,
            "protocol": protocol.protocol_id(common),
            **evaluation.sample_quality(judges, samples, reference),
            **evaluation.memorisation(judges, samples, np.array(train.images), reference),
            **evaluation.label_fidelity(judges, samples, wanted, split, train),
            **evaluation.reconstruction_error(family, split.images, split.labels, section.batch),
            **evaluation.own_errors(family, split.images, split.labels, section.batch),
            **likelihood,
            **inception.quality(section.inception, samples, reference, train.images, device),
        }
        if isinstance(family, Translates):
            result |= translation.quality(
                family,
                judges,
                Store(paths.DATA / chosen.data),
                section.split,
                seed=section.seed,
                batch=section.batch,
            )
        guard.confirm()
        with files.replacing_folder(paths.scores_dir(model)) as folder:
            np.save(folder / "nats.npy", np.empty(0) if nats is None else nats)
        files.write_json(paths.model_metrics(model), files.rounded(result))


def _array(path: Path) -> np.ndarray | None:
    return np.load(path) if path.exists() else None


if __name__ == "__main__":
    stage.run(main)
