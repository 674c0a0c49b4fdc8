"""Train the judges: small networks whose features carry FID."""

from typing import Any

import numpy as np
import torch

from pipeline.core import params, paths, stage
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.mapped import Mapped
from pipeline.datasets.store import Split, Store
from pipeline.evaluation import classifier, judge, label_free, protocol
from pipeline.evaluation.protocol import Kind

TRIES = 4
"""How often a judge is trained whose features come out constant."""
HEADLINE: dict[str, Kind] = {"grey": "label_free", "in colour": "classifier"}
"""Where both kinds can be had and params.yaml does not say: the one whose blindest spot is the
least blind, by the evidence in docs/judges.md. A rule, and not what is measured in a run: another
processor must not come to another kind."""


def main() -> None:
    """Processed images in, one network per seed and kind, and their feature scales, out."""
    with stage.guard("judge") as guard:
        raw = params.read()
        section: params.Judge = params.section(raw, "judge")
        device = stage.prepare_torch(params.section(raw, "runtime"))
        store = Store()
        train, test = store.split("train"), store.split("test")
        known = protocol.training_images(store, 0)

        kinds: dict[Kind, judge.Trained]
        headline: Kind

        def trained(kind: Kind) -> judge.Trained:
            nets, facts = {}, []
            for seed in section.seeds:
                nets[seed], found = _alive(
                    kind, seed, train, known, test, store.spec, section, device
                )
                facts.append(found)
            for each in facts:
                if each["accuracy"] is not None:
                    share = f"{100 * each['accuracy']:.1f} % of the test images right"
                    print(f"judge {each['seed']}, {kind}: {share}")
            return judge.Trained(kind, nets, facts)

        kinds = {"label_free": trained("label_free")}
        headline, why = "label_free", "the images have no labels"
        if store.spec.classes > 1:
            kinds["classifier"] = trained("classifier")
            mean = float(np.mean([each["accuracy"] for each in kinds["classifier"].facts]))
            colour = "grey" if store.spec.channels == 1 else "in colour"
            headline = HEADLINE[colour]
            why = f"the labels can be learnt and the images are {colour}: see docs/judges.md"
            if not classifier.learnt(mean, test.labels):
                share = np.bincount(test.labels).max() / len(test.labels)
                headline, why = (
                    "label_free",
                    f"the labels cannot be learnt: classifiers name {100 * mean:.1f} % of the test "
                    f"images right, and the most frequent class alone is {100 * share:.1f} %",
                )
                if section.kind != "classifier":
                    del kinds["classifier"]  # an opinion that is none
        if section.kind != "auto":
            headline, why = section.kind, f"{paths.PARAMS} says so"
        ordered = sorted(kinds.values(), key=lambda each: each.kind != headline)
        guard.confirm()
        judge.save(paths.JUDGE, ordered, section, why)
        others = "".join(f", and of the kind {each.kind} beside them" for each in ordered[1:])
        print(f"judges: {len(section.seeds)} of the kind {headline}, since {why}{others}")


def _alive(
    kind: Kind,
    seed: int,
    train: Split,
    known: Split,
    test: Split,
    spec: ImageSpec,
    section: params.Judge,
    device: torch.device,
) -> tuple[judge.Net, dict[str, Any]]:
    """One judge of the images ``train``, and what `judge.facts` says of it by those of ``known``.

    Of few features all may die, which a lower learning rate avoids: it is halved then, by a rule
    that is the same on every machine.

    Raises:
        PipelineError: if that does not help either.
    """
    images, labels = Mapped(train.images), torch.from_numpy(np.array(train.labels))
    for tries_left in reversed(range(TRIES)):
        if kind == "classifier":
            net = classifier.train(images, labels, spec, section, seed, device)
        else:
            net = label_free.train(images, spec, section, seed, device)
        try:
            return net, judge.facts(net, kind, seed, known, test, device)
        except PipelineError:
            if not tries_left:
                raise
        block = getattr(section, kind)
        lower = block.model_copy(update={"learning_rate": block.learning_rate / 2})
        section = section.model_copy(update={kind: lower})
        print(
            f"judge {seed}, {kind}: its features are constant; once more with learning_rate "
            f"{lower.learning_rate:g}"
        )
    raise AssertionError("the last try returns or raises")


if __name__ == "__main__":
    stage.run(main)
