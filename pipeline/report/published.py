"""What papers report of some families, beside what a run here gives: a scale, and no race."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A result of a paper.

    Attributes:
        model: of params.yaml, which stands beside it.
        result: as the paper states it.
        images: what it is of.
        budget: how long it was trained, as far as that was found.
        source: which paper says so.
        number: of it on arXiv.
    """

    model: str
    result: str
    images: str
    budget: str
    source: str
    number: str


EVERY = (
    Published(
        "ddpm", "FID 3.17, ≤ 3.75 bits/dim", "CIFAR-10, 32x32 in colour",
        "800,000 steps of 128 images", "Ho et al. 2020, table 1", "2006.11239",
    ),
    Published(
        "vdm", "≤ 2.65 bits/dim", "CIFAR-10, not augmented",
        "10 million steps of 128 images (the authors' code)",
        "Kingma et al. 2021, table 1", "2107.00630",
    ),
    Published(
        "flow_matching", "FID 6.35 at 142 evaluations, 2.99 bits/dim", "CIFAR-10",
        "not looked up", "Lipman et al. 2023, table 1", "2210.02747",
    ),
    Published(
        "flow", "1.06 bits/dim (RealNVP), 1.05 (Glow)", "MNIST, 60,000 training images",
        "not stated", "Grathwohl et al. 2019", "1810.01367",
    ),
    Published(
        "vqvae", "4.67 bits/dim, where a VAE has 4.51", "CIFAR-10", "250,000 steps of 128 images",
        "van den Oord et al. 2017, section 4.1", "1711.00937",
    ),
)  # fmt: skip


def table(results: Mapping[str, str]) -> str:
    """All of them as a table.

    Args:
        results: what the run here gave each model, in words; models that it lacks are left out.
    """
    lines = [
        "| model | here | published | of | trained for | source |",
        "|---|---|---|---|---|---|",
    ]
    for each in EVERY:
        if each.model in results:
            source = f"[{each.source}](https://arxiv.org/abs/{each.number})"
            cells = [each.model, results[each.model], each.result, each.images, each.budget, source]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
