"""A test from outside of all judges: can a classifier tell a model's samples from real images?

The classifier two-sample test (Lopez-Paz & Oquab 2017, arXiv:1610.06545). A small network learns to
tell one half of both, and is asked about the other half. It shares no features with FID, and what
is 99 % right for FID to be low of is a model that FID flatters. It ranks nothing by itself: samples
that it always tells are told by whatever gives them away first, be it ever so little.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import nn

from pipeline.core import arrays, params, paths, seeds, stage
from pipeline.core.batches import in_batches
from pipeline.core.contract import to_signed
from pipeline.core.images import ImageSpec
from pipeline.core.progress import Progress
from pipeline.datasets.store import Store
from pipeline.evaluation import protocol
from pipeline.evaluation.trunk import trunk

STEPS, BATCH = 150, 64
LEARNING_RATE = 2e-3


def told_apart(real: np.ndarray, samples: np.ndarray, seed: int, device: torch.device) -> float:
    """Area under the ROC curve of a classifier of real images and samples that it never saw.

    That is the share of pairs, of a real image and a sample, in which it takes the right one for
    real: 0.5 if it cannot tell, 1 if it always can; a little below 0.5 by chance.

    Args:
        real: uint8 [N, C, H, W].
        samples: likewise, as many.
        seed: of the halves, the weights and the order.
        device: where it is trained.
    """
    n = len(real)
    images = torch.from_numpy(np.concatenate([real, samples]))
    labels = torch.cat([torch.ones(n), torch.zeros(len(samples))])
    torch.manual_seed(seeds.derive(seed, "two samples"))
    spec = ImageSpec(*real.shape[1:], classes=2)
    body, size = trunk(spec)
    net = nn.Sequential(body, nn.Linear(size, 1)).to(device)
    rng = seeds.generator(seed, "two samples")
    order = torch.randperm(len(images), generator=rng)
    known, unknown = order[: len(order) // 2], order[len(order) // 2 :]
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    for _ in range(STEPS):
        index = known[torch.randint(len(known), (BATCH,), generator=rng)]
        logits = net(to_signed(images[index]).to(device))[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, labels[index].to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()
    with torch.no_grad():
        scores = torch.cat(
            [
                net(to_signed(images[unknown[index]]).to(device))[:there, 0].cpu()
                for index, there in in_batches(len(unknown), 250)
            ]
        )
    return float(roc_auc_score(labels[unknown].numpy(), scores.numpy()))


def of_models(
    rows: Iterable[Mapping[str, Any]], raw: dict[str, Any], trainings: int = 3
) -> dict[str, float]:
    """`told_apart` of each model that was judged, by name; the mean over classifiers.

    Args:
        rows: of models, with ``model``, ``kind`` and ``fid``.
        raw: what params.yaml holds.
        trainings: of classifiers with different seeds.

    Raises:
        PipelineError: if samples are missing or damaged.
    """
    section: params.Evaluate = params.section(raw, "evaluate")
    device = stage.prepare_torch(params.section(raw, "runtime"))
    store, found = Store(), {}
    names = [row["model"] for row in rows if row["kind"] == "model" and row.get("fid") is not None]
    with Progress("classifiers", len(names)) as progress:
        for name in names:
            remedy = f"run `dvc repro sample@{name}`"
            samples = np.array(arrays.load(paths.samples_dir(name), "samples", remedy))
            real = protocol.reference_images(store, section.split, len(samples), section.seed)
            areas = [told_apart(real, samples, seed, device) for seed in range(trainings)]
            found[name] = float(np.mean(areas))
            progress.advance()
    return found
