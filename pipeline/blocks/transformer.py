"""The blocks of a decoder-only Transformer, whose tokens may come one by one.

Vaswani et al. 2017, arXiv:1706.03762, with norms before attention and perceptron and scaled
residual weights (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; Xiong
et al. 2020, arXiv:2002.04745).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.core.params import ModelParams


@dataclass
class Cache:
    """Keys and values [B, heads, T, width / heads] of the tokens that were read, per block."""

    length: int = 0
    blocks: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def extend(self, block: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add a block's newest keys and values; returns all it has."""
        if block in self.blocks:
            before = self.blocks[block]
            keys = torch.cat([before[0], keys], dim=2)
            values = torch.cat([before[1], values], dim=2)
        self.blocks[block] = keys, values
        return keys, values


class Block(nn.Module):
    """Causal self-attention, then a perceptron, each added to what it was given."""

    def __init__(self, number: int, width: int, heads: int) -> None:
        super().__init__()
        self.number = number
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron_in = nn.Linear(width, 4 * width)
        self.perceptron_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        """[B, T, width] of the next T tokens; ``cache`` takes in their keys and values."""
        x = x + self.attention_out(self._attend(self.attention_norm(x), cache))
        return x + self.perceptron_out(F.gelu(self.perceptron_in(self.perceptron_norm(x))))

    def _attend(self, x: Tensor, cache: Cache) -> Tensor:
        split = self.queries_keys_values(x).unflatten(2, (3, self.heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        keys, values = cache.extend(self.number, keys, values)
        # Written out: the fused kernels have no deterministic gradient on GPUs.
        scores = queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[3])
        ahead = torch.ones(scores.shape[2:], dtype=torch.bool, device=x.device)
        ahead = ahead.triu(diagonal=1 + keys.shape[2] - queries.shape[2])
        weights = scores.masked_fill(ahead, -math.inf).softmax(dim=3)
        return (weights @ values).transpose(1, 2).flatten(2)


def initialise(blocks: nn.ModuleList, embeddings: Iterable[Tensor]) -> None:
    """As GPT-2: a narrow normal, and the sums over blocks as wide as one of them."""
    for weight in embeddings:
        nn.init.normal_(weight, std=0.02)
    for block in blocks:
        for layer in (block.queries_keys_values, block.perceptron_in):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        for layer in (block.attention_out, block.perceptron_out):
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * len(blocks)))
            nn.init.zeros_(layer.bias)


def check(params: ModelParams) -> None:
    """Refuse heads that cannot share the width of a network evenly.

    Raises:
        PipelineError: if ``attention_heads`` does not divide ``width``.
    """
    network = params.network
    if network.width % network.attention_heads:
        raise PipelineError(
            f"{paths.PARAMS}: models.{params.name}.network.attention_heads = "
            f"{network.attention_heads}: must divide width, which is {network.width}"
        )
