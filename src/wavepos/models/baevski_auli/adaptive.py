"""Adaptive input embeddings and the adaptive softmax tied to them (Baevski & Auli, 2019; Grave et al., 2017).

The vocabulary, most frequent first, is cut into bands; band i has embeddings of width hidden_size / factor^i and a
projection to hidden_size. The softmax reads both from the embedding, transposed, so nothing is stored twice.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, linear, log_softmax
from torch.nn.functional import embedding as look_up


@final
class AdaptiveEmbedding(nn.Module):
    """Token embeddings in bands of falling width, each projected to hidden_size.

    Args:
        vocab_size: V.
        hidden_size: width of the output.
        cutoffs: first token of the second band, of the third, …; rising, each below vocab_size. None at all: one band
            without projection, an ordinary embedding.
        factor: by what each band is narrower than the one before.
    """

    def __init__(self, vocab_size: int, hidden_size: int, cutoffs: Sequence[int], factor: int) -> None:
        super().__init__()
        edges = [0, *cutoffs, vocab_size]
        if any(low >= high for low, high in pairwise(edges)):
            raise ValueError(f"cutoffs must rise from above 0 to below vocab_size={vocab_size}, got {list(cutoffs)}")
        widths = [hidden_size // factor**band for band in range(len(edges) - 1)]
        if widths[-1] < 1:
            raise ValueError(
                f"hidden_size={hidden_size} leaves no width for {len(widths)} bands with adaptive_factor={factor}"
            )
        self.edges = edges
        self.bands = nn.ModuleList(
            nn.Embedding(high - low, width) for low, high, width in zip(edges, edges[1:], widths, strict=False)
        )
        self.projections = nn.ModuleList(
            nn.Linear(width, hidden_size, bias=False) for width in (widths if cutoffs else [])
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings [..., hidden_size] of token ids [...]."""
        if not self.projections:
            return look_up(ids, self.band_weight(0))  # its gradient is summed in a fixed order, an index's is not
        parts = torch.zeros((ids.numel(), self.projection_weight(0).shape[0]), device=ids.device)
        flat = ids.reshape(-1)
        for band, (low, high) in enumerate(pairwise(self.edges)):
            where = ((flat >= low) & (flat < high)).nonzero().squeeze(-1)
            embedded = linear(look_up(flat[where] - low, self.band_weight(band)), self.projection_weight(band))
            parts = parts.to(embedded.dtype).index_copy(0, where, embedded)
        return parts.view(*ids.shape, -1)

    @torch.no_grad()
    def resize(self, vocab_size: int) -> None:
        """Take words from the end of the last band, or add some, which begin at the mean of that band.

        Raises:
            ValueError: the last band would be left without a word.
        """
        low, last = self.edges[-2], self.bands[-1]
        if vocab_size <= low:
            raise ValueError(f"new_num_tokens must be more than {low}, where the last band begins, got {vocab_size}")
        assert isinstance(last, nn.Embedding)
        weight = last.weight
        resized = nn.Embedding(vocab_size - low, last.embedding_dim, device=weight.device, dtype=weight.dtype)
        kept = min(len(weight), len(resized.weight))
        resized.weight[:kept] = weight[:kept]
        resized.weight[kept:] = weight.mean(0)
        resized.weight.requires_grad_(weight.requires_grad)
        self.bands[-1] = resized
        self.edges[-1] = vocab_size

    def band_weight(self, band: int) -> Tensor:
        """Embeddings of a band, [size, width]."""
        weight: Tensor = self.bands[band].weight  # type: ignore[assignment] # ModuleList forgets its element type
        return weight

    def projection_weight(self, band: int) -> Tensor:
        """Projection of a band, [hidden_size, width]."""
        weight: Tensor = self.projections[band].weight  # type: ignore[assignment] # as above
        return weight


@final
class AdaptiveSoftmax(nn.Module):
    """log p(token | hidden) with the head over the first band and one class a further band, tied to the embedding.

    p(w) = softmax(head)[w] in the first band, softmax(head)[class i] · softmax(tail i)[w] in band i. Equal to torch's
    `AdaptiveLogSoftmaxWithLoss` with the same weights; that one cannot be tied. With a single band it is the softmax.

    Args:
        hidden_size: width of the input.
        num_tails: bands beyond the first.
        dropout: on the input and on each tail's narrow state, in training.
    """

    def __init__(self, hidden_size: int, num_tails: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.classes = nn.Linear(hidden_size, num_tails, bias=False) if num_tails else None

    def losses(self, hidden_NC: Tensor, targets_N: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        """−log p of each target, in nats, float32 [N]."""
        hidden_NC = dropout(hidden_NC, self.dropout, self.training)
        first = embedding.edges[1]
        head_targets = targets_N
        for band, low in enumerate(embedding.edges[1:-1]):
            head_targets = torch.where(targets_N >= low, first + band, head_targets)
        losses_N = cross_entropy(self._head(hidden_NC, embedding).float(), head_targets, reduction="none")
        for band in range(1, len(embedding.edges) - 1):
            low, high = embedding.edges[band], embedding.edges[band + 1]
            where = ((targets_N >= low) & (targets_N < high)).nonzero().squeeze(-1)
            logits = self._tail(hidden_NC[where], band, embedding)
            tail_losses = cross_entropy(logits.float(), targets_N[where] - low, reduction="none")
            losses_N = losses_N.index_add(0, where, tail_losses)
        return losses_N

    def log_probabilities(self, hidden: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        """log p of every token, float32 [..., V]."""
        first = embedding.edges[1]
        head = log_softmax(self._head(hidden, embedding).float(), dim=-1)
        parts = [head[..., :first]]
        for band in range(1, len(embedding.edges) - 1):
            tail = log_softmax(self._tail(hidden, band, embedding).float(), dim=-1)
            parts.append(tail + head[..., first + band - 1, None])
        return torch.cat(parts, dim=-1)

    def _head(self, hidden: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        words = linear(hidden, embedding.band_weight(0))
        return words if self.classes is None else torch.cat([words, self.classes(hidden)], dim=-1)

    def _tail(self, hidden: Tensor, band: int, embedding: AdaptiveEmbedding) -> Tensor:
        narrow = linear(hidden, embedding.projection_weight(band).mT)
        return linear(dropout(narrow, self.dropout, self.training), embedding.band_weight(band))
