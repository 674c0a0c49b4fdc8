"""Train the judges: small networks whose features carry FID."""

from typing import Any

import numpy as np
import torch

from pipeline.core import params, paths, stage
from pipeline.datasets.store import Store
from pipeline.evaluation import judge, label_free


def main() -> None:
    """Processed images in, one network per seed and their feature scales out."""
    with stage.guard("judge") as guard:
        raw = params.read()
        section: params.Judge = params.section(raw, "judge")
        device = stage.prepare_torch(params.section(raw, "runtime"))
        store = Store()
        kind, why = _kind(section, store)
        if kind == "classifier":
            nets, facts = _classifiers(section, store, device)
            mean = float(np.mean([each["accuracy"] for each in facts]))
            labels = np.array(store.split("test").labels)
            if section.kind == "auto" and not judge.learnt(mean, labels):
                kind = "label_free"
                share = np.bincount(labels).max() / len(labels)
                why = (
                    f"the labels cannot be learnt: classifiers name {100 * mean:.1f} % of the test "
                    f"images right, and the most frequent class alone is {100 * share:.1f} %"
                )
        if kind == "label_free":
            nets, facts = _label_free(section, store, device)
        guard.confirm()
        judge.save(paths.JUDGE, nets, section, facts, kind=kind, why=why)
        print(f"judges: {len(nets)} of the kind {kind}, since {why}")


def _kind(section: params.Judge, store: Store) -> tuple[judge.Kind, str]:
    """The kind to try first, and why."""
    if section.kind != "auto":
        return section.kind, f"{paths.PARAMS} says so"
    if store.spec.classes < 2:
        return "label_free", "the images have no labels"
    return "classifier", "the images have labels that can be learnt"


def _classifiers(
    section: params.Judge, store: Store, device: torch.device
) -> tuple[dict[int, judge.Classifier], list[dict[str, Any]]]:
    train, test = store.split("train"), store.split("test")
    nets, facts = {}, []
    for seed in section.seeds:
        net = judge.train_classifier(
            torch.from_numpy(np.array(train.images)),
            torch.from_numpy(np.array(train.labels)),
            store.spec,
            section,
            seed,
            device,
        )
        found = judge.facts(net, seed, train, test, device)
        print(f"judge {seed}: {100 * found['accuracy']:.1f} % of the test images right")
        nets[seed] = net
        facts.append(found)
    return nets, facts


def _label_free(
    section: params.Judge, store: Store, device: torch.device
) -> tuple[dict[int, label_free.Encoder], list[dict[str, Any]]]:
    images = np.array(store.split("train").images)
    nets, facts = {}, []
    for seed in section.seeds:
        net = label_free.train(torch.from_numpy(images), store.spec, section, seed, device)
        nets[seed] = net
        facts.append(judge.label_free_facts(net, seed, images, device))
    return nets, facts


if __name__ == "__main__":
    stage.run(main)
