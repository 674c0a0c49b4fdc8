"""Train the judges: small classifiers whose features carry FID."""

import numpy as np
import torch

from pipeline.core import params, paths, stage
from pipeline.datasets.store import Store
from pipeline.evaluation import judge


def main() -> None:
    """Processed images in, one classifier per seed and their feature scales out."""
    with stage.guard("judge") as guard:
        raw = params.read()
        section: params.Judge = params.section(raw, "judge")
        device = stage.prepare_torch(params.section(raw, "runtime"))
        store = Store()
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
        guard.confirm()
        judge.save(paths.JUDGE, nets, section, facts)


if __name__ == "__main__":
    stage.run(main)
