"""A decoder-only Transformer over rows: exact autoregressive likelihood.

- gpt: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, as the decoder alone
  (Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training"), with its
  norms before attention and perceptron and scaled residual weights (Radford et al. 2019, "Language
  Models are Unsupervised Multitask Learners"; Xiong et al. 2020, arXiv:2002.04745). Chen et al.
  2020, "Generative Pretraining from Pixels", model images so, and Parmar et al. 2018, "Image
  Transformer", arXiv:1802.05751.

A token is a row of pixels instead of a pixel: attention is over as many tokens as an image has
rows, and the pixels of the next row depend on each other by `blocks.rows.RowDecoder`. The first
token stands for what is above the image, and holds the label where the model is conditional.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.blocks.rows import RowNetwork, RowTokens
from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.params import ModelParams


class GptNetwork(RowNetwork):
    """Size of the Transformer, beside that of what is inside a row."""

    width: int = Field(128, ge=4, le=65_536)
    blocks: int = Field(3, ge=1, le=256)
    attention_heads: int = Field(4, ge=1, le=1024)
    conditional: bool = False


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

    def __init__(self, number: int, network: GptNetwork) -> None:
        super().__init__()
        width = network.width
        self.number = number
        self.heads = network.attention_heads
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


class Gpt(RowTokens):
    """Blocks over row tokens with learned positions."""

    Network: ClassVar = GptNetwork

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        network = params.network
        if network.width % network.attention_heads:
            raise PipelineError(
                f"{paths.PARAMS}: models.{params.name}.network.attention_heads = "
                f"{network.attention_heads}: must divide width, which is {network.width}"
            )
        self.conditional = network.conditional
        self.embedding = nn.Linear(self.token, network.width)
        self.start = nn.Embedding(spec.classes if self.conditional else 1, network.width)
        self.position = nn.Parameter(torch.empty(spec.height, network.width))
        self.blocks = nn.ModuleList(Block(i, network) for i in range(network.blocks))
        self.norm = nn.LayerNorm(network.width)
        self.known = nn.Linear(network.width, self.outputs)
        self._initialise()

    def _initialise(self) -> None:
        """As GPT-2: a narrow normal, and the sums over blocks as wide as one of them."""
        for weight in (self.start.weight, self.position):
            nn.init.normal_(weight, std=0.02)
        for block in self.blocks:
            for layer in (block.queries_keys_values, block.perceptron_in):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
            for layer in (block.attention_out, block.perceptron_out):
                nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * len(self.blocks)))
                nn.init.zeros_(layer.bias)

    def read(
        self, tokens: Tensor, labels: Tensor | None, state: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        """See `RowTokens.read`; the state is the cache of keys and values."""
        cache = state or Cache()
        x = self.embedding(tokens)
        if state is None:
            x = torch.cat([self._first(tokens, labels), x[:, 1:]], dim=1)
        x = x + self.position[cache.length : cache.length + tokens.shape[1]]
        cache.length += tokens.shape[1]
        for block in self.blocks:
            x = block(x, cache)
        return self.known(self.norm(x)), cache

    def _first(self, tokens: Tensor, labels: Tensor | None) -> Tensor:
        """The token above the image, [B, 1, width]: one for each label, or one for all."""
        if not self.conditional:
            labels = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        return self.start(labels)[:, None]


FAMILY = Gpt
