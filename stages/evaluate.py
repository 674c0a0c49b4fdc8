"""Evaluate one model: weights and samples in, metrics/models/<model>.json out."""

import numpy as np

from pipeline import evaluation, files, judge, params, paths, protocol, stage, weights
from pipeline.datasets.store import Store


def main(model: str) -> None:
    """Judge ``model`` by the rules that hold for all."""
    with stage.guard("evaluate", model) as guard:
        raw = params.read()
        section: params.Evaluate = params.section(raw, "evaluate")
        chosen = params.model(raw, model, blocks=("network", "scoring"))
        device = stage.prepare_torch(params.section(raw, "runtime"))
        store = Store()
        samples = np.load(paths.samples_dir(model) / "samples.npy")
        reference = protocol.reference_images(store, section.split, len(samples), section.seed)
        family, facts = weights.load(paths.model_dir(model), chosen, store.spec, device)
        images = store.split(section.split).images
        common = protocol.protocol(
            store, judge.read_facts(paths.JUDGE), len(samples), section.split, section.seed
        )
        result = {
            "model": model,
            "family": chosen.family,
            "parameters": facts["parameters"],
            "images_seen": facts["images_seen"],
            **common,
            "protocol": protocol.protocol_id(common),
            **evaluation.sample_quality(
                judge.load(paths.JUDGE, store.spec, device), samples, reference
            ),
            **evaluation.reconstruction_error(family, images, section.batch),
            **evaluation.likelihood(
                family, images, seed=section.seed, batch=section.batch, label=f"score {model}"
            ),
        }
        guard.confirm()
        files.write_json(paths.model_metrics(model), files.rounded(result))


if __name__ == "__main__":
    stage.run(main)
