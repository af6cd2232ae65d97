"""A GPT of one's own with any position: python examples/own_model.py --method wavelet; --compile for torch.compile."""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from wavepos import Position, attention
from wavepos.positions import build_position, parse_position

WIDTH, HEADS, LAYERS, VOCABULARY = 64, 4, 2, 256


class Block(nn.Module):
    """A layer before whose parts stands a norm; its position is its own, for it may learn."""

    def __init__(self, position: Position) -> None:
        super().__init__()
        self.position = position
        self.norm, self.norm_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """x and what is returned: [batch, length, width]."""
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        seen = attention(q, k, v, position=self.position)  # the one line that differs from any other GPT
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(self.norm_mlp(x))
        return out


class GPT(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, method: str) -> None:
        super().__init__()
        config = parse_position(method)
        positions = (build_position(config, head_dim=WIDTH // HEADS, num_heads=HEADS) for _ in range(LAYERS))
        self.embedding, self.blocks = nn.Embedding(VOCABULARY, WIDTH), nn.Sequential(*map(Block, positions))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, length] to [batch, length, 256]."""
        logits: Tensor = self.head(self.norm(self.blocks(self.embedding(tokens))))
        return logits


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="wavelet", help="wavelet, rotary, alibi, nope, …")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    text = torch.tensor(list(Path(argparse.__file__).read_bytes()))
    model = GPT(given.method)
    step = torch.compile(model) if given.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(given.steps):
        starts = torch.randint(len(text) - 65, (8,))
        rows = torch.stack([text[start : start + 65] for start in starts])
        loss = cross_entropy(step(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch's
        optimizer.step()
    with torch.no_grad():
        long = cross_entropy(model(text[None, :512])[0], text[1:513])
    print(f"{given.method}: loss {loss:.3f} at 64 bytes, {long:.3f} read whole at 512")
