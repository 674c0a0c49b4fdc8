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

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.blocks import transformer
from pipeline.blocks.rows import RowNetwork, RowTokens
from pipeline.blocks.transformer import Block, Cache
from pipeline.core.images import ImageSpec
from pipeline.core.params import ModelParams


class GptNetwork(RowNetwork):
    """Size of the Transformer, beside that of what is inside a row."""

    width: int = Field(128, ge=4, le=65_536)
    blocks: int = Field(3, ge=1, le=256)
    attention_heads: int = Field(4, ge=1, le=1024)
    conditional: bool = False


class Gpt(RowTokens):
    """Blocks over row tokens with learned positions."""

    Network: ClassVar = GptNetwork

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        network = params.network
        transformer.check(params)
        self.conditional = network.conditional
        self.embedding = nn.Linear(self.token, network.width)
        self.start = nn.Embedding(spec.classes if self.conditional else 1, network.width)
        self.position = nn.Parameter(torch.empty(spec.height, network.width))
        self.blocks = nn.ModuleList(
            Block(i, network.width, network.attention_heads) for i in range(network.blocks)
        )
        self.norm = nn.LayerNorm(network.width)
        self.known = nn.Linear(network.width, self.outputs)
        transformer.initialise(self.blocks, (self.start.weight, self.position))

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
