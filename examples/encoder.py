"""An encoder's layer: every token sees both sides, padding is hidden, and classes come from the mean."""

import torch
from torch import Tensor, nn

from wavepos import Position, Wavelet, attention


class Encoder(nn.Module):
    """One layer of self-attention over both sides, then a class.

    Args:
        position: one that serves causal=False: wavelets, RoPE, ALiBi, or T5Bias(bidirectional=True), …
        width: of the embeddings, a multiple of 4 heads.
    """

    def __init__(self, position: Position, width: int = 64, vocabulary: int = 100, classes: int = 2) -> None:
        super().__init__()
        self.position = position
        self.embedding, self.qkv = nn.Embedding(vocabulary, width), nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """Tokens [batch, length] and which of them are real, bool of that shape, to logits [batch, classes]."""
        q, k, v = (x.unflatten(-1, (4, -1)).transpose(1, 2) for x in self.qkv(self.embedding(tokens)).chunk(3, -1))
        seen = attention(q, k, v, position=self.position, causal=False, key_padding_mask=real)
        seen = seen.transpose(1, 2).flatten(2) * real[..., None]
        logits: Tensor = self.head(seen.sum(1) / real.sum(1, keepdim=True))
        return logits


if __name__ == "__main__":
    torch.manual_seed(0)
    encoder = Encoder(Wavelet(16, direction="past"))
    tokens, real = torch.randint(100, (2, 12)), torch.ones(2, 12, dtype=torch.bool)
    real[1, 8:] = False
    padded, short = encoder(tokens, real), encoder(tokens[1:, :8], real[1:, :8])
    print(f"padding changes the logits by {float((padded[1] - short[0]).detach().abs().max()):.1e}")
