"""A recurrent network over rows: exact autoregressive likelihood.

- lstm: van den Oord et al. 2016, "Pixel Recurrent Neural Networks", arXiv:1601.06759, whose Row
  LSTM also goes down the image row by row.

A departure that makes it fit for processors: the state is one vector for the whole row instead of
one for each pixel, so an image takes as many steps as it has rows, each a product of large
matrices. What the state cannot hold, the exact places of things, the decoder sees for itself in the
rows just above (`blocks.rows.RowDecoder`).
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.blocks.rows import RowNetwork, RowTokens
from pipeline.core import precision
from pipeline.core.contract import TrainingImages
from pipeline.core.images import ImageSpec
from pipeline.core.params import ModelParams


class LstmNetwork(RowNetwork):
    """Size of the recurrent network, beside that of what is inside a row."""

    state: int = Field(256, ge=4, le=65_536)
    recurrent_layers: int = Field(1, ge=1, le=64)


class Lstm(RowTokens):
    """The state after a row, through a dense layer, is what is known of the next."""

    Network: ClassVar = LstmNetwork

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        network = params.network
        self.lstm = nn.LSTM(
            self.token, network.state, num_layers=network.recurrent_layers, batch_first=True
        )
        self.known = nn.Linear(network.state, self.outputs)

    @classmethod
    def unsupported(
        cls, params: ModelParams, device: torch.device, images: TrainingImages | None = None
    ) -> str | None:
        """See `Family.unsupported`: not every processor has a bfloat16 LSTM."""
        bf16 = params.training is not None and params.training.precision == "bf16"
        if bf16 and not precision.lstm_takes_bf16(device):
            return (
                f"training.precision = 'bf16': the family lstm needs a recurrent layer in "
                f"bfloat16, which this {device.type} does not have; use fp32"
            )
        return super().unsupported(params, device, images)

    def read(self, tokens: Tensor, labels: Tensor | None, state: Any = None) -> tuple[Tensor, Any]:
        """See `RowTokens.read`; the state is that of the LSTM, hidden and cell."""
        output, state = self.lstm(tokens, state)
        return self.known(output), state


FAMILY = Lstm
