"""The config of the Baevski–Auli model and its named sizes."""

from collections.abc import Sequence
from typing import Any, ClassVar, final, get_args

from wavepos.models.positioned_config import PositionedConfig
from wavepos.names import BaevskiAuliSize
from wavepos.positions import LayersLike, layers_json, parse_layers


@final
class BaevskiAuliConfig(PositionedConfig):
    """Sizes, dropouts and position of the model; the defaults are the paper's (A.7).

    Args:
        vocab_size: V, tokens ordered from frequent to rare where cutoffs are given.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: the usual sizes.
        dropout: on embeddings and residual branches.
        attention_dropout: on attention weights.
        activation_dropout: inside the feed-forward network.
        softmax_dropout: inside the adaptive softmax.
        cutoffs: bands of the adaptive input and softmax; empty: one tied embedding.
        adaptive_factor: by what each band is narrower.
        position: a method's name or its JSON object, such as {"method": "wavelet", "query_bias": "recency"}; a list of
            these, one per layer; or a pattern, {"local": …, "global": …, "every": 4}: layers 4, 8, … are global.
        use_cache: keep keys and values where the caller does not say; in evaluation only.
        pad_token_id, bos_token_id, eos_token_id: as everywhere.

    Raises:
        ValueError: sizes that do not fit, an unknown position, an unknown field or one that would have no effect.
    """

    model_type = "wavepos_baevski_auli"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]  # Trainer adds it to a list
    unserved: ClassVar[dict[str, str]] = {"tie_word_embeddings": "the softmax reads the one parameter of the embedding"}

    def __init__(  # noqa: PLR0913 - a transformers config: one argument a property
        self,
        vocab_size: int = 267744,
        hidden_size: int = 1024,
        num_hidden_layers: int = 16,
        num_attention_heads: int = 8,
        intermediate_size: int = 4096,
        dropout: float = 0.3,
        attention_dropout: float = 0.1,
        activation_dropout: float = 0.1,
        softmax_dropout: float = 0.2,
        cutoffs: Sequence[int] = (20000, 60000),
        adaptive_factor: int = 4,
        position: LayersLike = "wavelet",
        use_cache: bool = True,
        pad_token_id: int | None = None,
        bos_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        if hidden_size % num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, got {hidden_size} and {num_attention_heads}"
            )
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.activation_dropout = activation_dropout
        self.softmax_dropout = softmax_dropout
        self.cutoffs = list(cutoffs)
        self.adaptive_factor = adaptive_factor
        self.use_cache = use_cache
        self.pad_token_id = pad_token_id
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.tie_word_embeddings = False  # one parameter by construction: nothing to tie
        super().__init__(position=layers_json(parse_layers(position)), **kwargs)

    @property
    def head_dim(self) -> int:
        """D, width of a head."""
        return self.hidden_size // self.num_attention_heads


def baevski_auli_config(size: BaevskiAuliSize, vocab_size: int, position: LayersLike) -> BaevskiAuliConfig:
    """The config of a named size: "tiny" (the demo), "small" (minutes on one GPU), "paper" (247M parameters).

    "probe" has two layers of four heads of 32: it learns a probe (`wavepos.data.probe_tasks`) in a minute or two. With
    two heads ALiBi lacks steep slopes and recalls 0.7 in range; with heads of 16 RoPE and wavelets learn it late.
    """
    sizes: dict[str, Any]
    match size:
        case "tiny":
            sizes = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 768}
        case "small":
            sizes = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 2048}
        case "probe":
            sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
        case "paper":
            return BaevskiAuliConfig(vocab_size=vocab_size, position=position)
        case _:
            raise ValueError(f"size must be one of {', '.join(get_args(BaevskiAuliSize))}, got {size!r}")
    dropouts: dict[str, Any] = dict.fromkeys(
        ("dropout", "attention_dropout", "activation_dropout", "softmax_dropout"), 0.0
    )
    return BaevskiAuliConfig(vocab_size=vocab_size, position=position, cutoffs=(), **sizes, **dropouts)
