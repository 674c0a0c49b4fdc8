"""An autoregressive prior over maps of codes, such as those of a vector-quantised autoencoder.

p(codes) is a product over the positions of a map, row by row and from left to right, each factor a
softmax over all codes given those before it. A Transformer reads them
(`pipeline.blocks.transformer`): a token stands for the position whose code comes next. It holds
where that is and the vectors of the code just before and of those just above, so that neighbours
need not be looked for, and codes with similar vectors need not be learned one by one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.blocks import transformer
from pipeline.blocks.distributions import categorical_sample
from pipeline.blocks.transformer import Block, Cache

ABOVE = (-1, 0, 1)
"""Columns to the right of a position whose codes in the row above stand in its token."""


class CodePrior(nn.Module):
    """log p(codes) of maps of K codes, whose vectors have d numbers, and draws from it."""

    def __init__(
        self,
        *,
        codes: int,
        code_width: int,
        height: int,
        width: int,
        features: int,
        blocks: int,
        heads: int,
        classes: int = 0,
    ) -> None:
        """Build the Transformer.

        Args:
            codes: K.
            code_width: d.
            height: rows of a map.
            width: its columns.
            features: width of the Transformer.
            blocks: how many it has.
            heads: of attention, in each.
            classes: of the labels that it is given; 0 if it is given none.
        """
        super().__init__()
        self.height, self.width = height, width
        self.embedding = nn.Linear((1 + len(ABOVE)) * code_width, features)
        self.position = nn.Parameter(torch.empty(height * width, features))
        self.label = nn.Embedding(classes, features) if classes else None
        self.blocks = nn.ModuleList(Block(i, features, heads) for i in range(blocks))
        self.norm = nn.LayerNorm(features)
        self.logits = nn.Linear(features, codes)
        given = [self.position] if self.label is None else [self.position, self.label.weight]
        transformer.initialise(self.blocks, given)

    def forward(self, tokens: Tensor, labels: Tensor | None, cache: Cache) -> Tensor:
        """Logits, float32 [B, T, K], of the codes at the next T positions.

        Args:
            tokens: vectors of the codes just before and above these positions, [B, T, 4 d].
            labels: int64 [B], where there are classes.
            cache: of what was read before; takes in these.
        """
        x = self.embedding(tokens) + self.position[cache.length : cache.length + tokens.shape[1]]
        if self.label is not None:
            x = x + self.label(labels)[:, None]
        cache.length += tokens.shape[1]
        for block in self.blocks:
            x = block(x, cache)
        return self.logits(self.norm(x)).float()

    def log_prob(self, codes: Tensor, vectors: Tensor, labels: Tensor | None = None) -> Tensor:
        """log P of each code given those before it, in nats, float32 [B, h, w].

        Args:
            codes: int64 [B, h, w].
            vectors: those of all codes, [K, d].
            labels: int64 [B], where there are classes.
        """
        known = vectors[codes]
        # At the start of a row, the code before is the last one of the row above.
        before = F.pad(known.flatten(1, 2)[:, :-1], [0, 0, 1, 0])
        rows = _framed(known)
        above = [rows[:, :-1, 1 + right : 1 + right + self.width].flatten(1, 2) for right in ABOVE]
        logits = self(torch.cat([before, *above], dim=2), labels, Cache())
        found = -F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none")
        return found.view_as(codes)

    def fill(
        self,
        codes: Tensor,
        vectors: Tensor,
        uniform: Tensor,
        labels: Tensor | None = None,
        start_row: int = 0,
    ) -> Tensor:
        """Overwrite ``codes``, int64 [n, h, w], from ``start_row`` on; the rest is given.

        Nothing is computed twice: the blocks keep keys and values. ``uniform`` are variates
        [n, h, w], the others as in `log_prob`. Returns the codes.
        """
        rows, cache = _framed(vectors[codes]), Cache()
        before = torch.zeros_like(rows[:, 0, 0])
        for row in range(self.height):
            for column in range(self.width):
                above = [rows[:, row, 1 + column + right] for right in ABOVE]
                token = torch.cat([before, *above], dim=1)
                logits = self(token[:, None], labels, cache)[:, 0]
                if row >= start_row:
                    codes[:, row, column] = categorical_sample(logits, uniform[:, row, column])
                before = vectors[codes[:, row, column]]
                rows[:, 1 + row, 1 + column] = before
        return codes


def _framed(vectors: Tensor) -> Tensor:
    """Vectors [B, h, w, d] with zeros around: a row above, and a column at either side."""
    return F.pad(vectors, [0, 0, 1, 1, 1, 0])
