"""The config of the Llama family and its named sizes."""

from typing import Any, ClassVar, final, get_args

from transformers import LlamaConfig

from wavepos.models.positioned_config import PositionedConfig, with_family_scales
from wavepos.names import LlamaSize
from wavepos.positions import LayersLike, PositionConfig
from wavepos.positions.rotary import RotaryConfig

_OF_WINDOWS = ("layer_types", "sliding_window")
_OF_A_LLAMA = "; wavepos.models.from_llama takes over a Llama's config and weights"
_UNSERVED = {
    "native_rotation": "position='rotary' is a Llama's own rotation",
    "rope_parameters": "theta and scaling stand in position={'method': 'rotary', …}" + _OF_A_LLAMA,
    "rope_theta": "it stands in position={'method': 'rotary', 'theta': …}" + _OF_A_LLAMA,
    "rope_scaling": "it stands in position={'method': 'rotary', 'scaling': {…}}" + _OF_A_LLAMA,
}


@final
class WaveposLlamaConfig(PositionedConfig):
    """Llama's sizes and a positional method; the defaults are `LlamaConfig`'s, with the paper's wavelets (section 7.1).

    Args:
        vocab_size: V.
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads: the usual sizes.
        num_key_value_heads: G; None: as many as query heads.
        head_dim: D; None: hidden_size / num_attention_heads.
        hidden_act: of the gated feed-forward network.
        max_position_embeddings: the length trained on, in tokens; it bounds nothing here.
        initializer_range: standard deviation of the initial weights.
        rms_norm_eps: ε of the norms.
        use_cache: keep keys and values where the caller does not say; in evaluation only.
        attention_bias, mlp_bias: whether the linear maps have biases.
        attention_dropout: on attention weights, in training; above 0 it takes the dense reference backend.
        pad_token_id, bos_token_id, eos_token_id, tie_word_embeddings: as everywhere.
        position: a method's name, its config or its JSON object, such as {"method": "rotary", "theta": 5e5}; a list of
            these, one per layer; or a pattern, {"local": …, "global": …, "every": 4}: layers 4, 8, … are global.
            Scales of a wavelet with a formula that are not given are 2² … 2⁹.

    `layer_types` and `sliding_window` follow from the windows of `position` and stand in config.json where there are
    any, for transformers' caches and for other libraries; a layer is "sliding_attention" if a cache may drop what its
    window has left.

    Raises:
        ValueError: sizes that do not fit, an unknown position, an unknown field or one that would have no effect.
    """

    model_type = "wavepos_llama"
    native_rotation: ClassVar[bool] = False
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]  # Trainer adds it to a list
    base_model_tp_plan = LlamaConfig.base_model_tp_plan
    unserved: ClassVar[dict[str, str]] = _UNSERVED

    def __init__(  # noqa: PLR0913 - a transformers config: one argument a property
        self,
        vocab_size: int = 32000,
        hidden_size: int = 4096,
        intermediate_size: int = 11008,
        num_hidden_layers: int = 32,
        num_attention_heads: int = 32,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        hidden_act: str = "silu",
        max_position_embeddings: int = 2048,
        initializer_range: float = 0.02,
        rms_norm_eps: float = 1e-6,
        use_cache: bool = True,
        attention_bias: bool = False,
        mlp_bias: bool = False,
        attention_dropout: float = 0.0,
        pad_token_id: int | None = None,
        bos_token_id: int | None = 1,
        eos_token_id: int | list[int] | None = 2,
        tie_word_embeddings: bool = False,
        position: LayersLike = "wavelet",
        **kwargs: Any,
    ) -> None:
        groups = num_attention_heads if num_key_value_heads is None else num_key_value_heads
        _check_heads(num_attention_heads, groups, hidden_size if head_dim is None else None)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = groups
        self.head_dim = hidden_size // num_attention_heads if head_dim is None else head_dim
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.use_cache = use_cache
        self.attention_bias = attention_bias
        self.mlp_bias = mlp_bias
        self.attention_dropout = attention_dropout
        self.pad_token_id = pad_token_id
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.tie_word_embeddings = tie_word_embeddings
        given = {name: kwargs.pop(name) for name in _OF_WINDOWS if name in kwargs}
        super().__init__(position=with_family_scales(position), **kwargs)
        for name, value in given.items():
            if value not in (None, False, getattr(self, name)):
                raise ValueError(
                    f"{name} follows from position in WaveposLlamaConfig, where it is {getattr(self, name)}: windows "
                    f"stand in position={{'method': …, 'window': …}}, of all layers or of each; got {name}={value!r}"
                )
        self.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}  # of the rotation that ours replaces

    @classmethod
    def of(cls, theirs: Any, position: LayersLike, native_rotation: bool) -> "WaveposLlamaConfig":
        """The config of our family with a Llama's sizes."""
        sizes = {name: getattr(theirs, name) for name in cls.field_names() if name not in ("position", "use_cache")}
        return cls(**sizes, position=position, native_rotation=native_rotation)

    @property
    def relative_bias(self) -> bool:
        return self.attention_bias

    @property
    def layer_types(self) -> list[str] | None:
        """What each layer's cache has to keep, in transformers' words; None where all keep everything."""
        types = ["sliding_attention" if _may_slide(own) else "full_attention" for own in self.position_configs]
        return types if "sliding_attention" in types else None

    @property
    def sliding_window(self) -> int | None:
        """Keys that the caches of "sliding_attention" layers hold: the widest window of these."""
        return max((own.window for own in self.position_configs if own.window and _may_slide(own)), default=None)

    def to_dict(self) -> dict[str, Any]:
        """transformers' own, with `layer_types` and `sliding_window` where layers slide."""
        derived = {name: getattr(self, name) for name in _OF_WINDOWS}
        data = super().to_dict()
        data.pop("rope_parameters", None)
        return {**data, **{name: value for name, value in derived.items() if value is not None}}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As `PositionedConfig`; with another position the saved `layer_types` and `sliding_window` are not read."""
        saved = {key: x for key, x in config_dict.items() if kwargs.get("position") is None or key not in _OF_WINDOWS}
        asked = {name: kwargs.pop(name) for name in _OF_WINDOWS if name in kwargs}
        return super().from_dict({**saved, **asked}, **kwargs)


def llama_config(size: LlamaSize, vocab_size: int, position: LayersLike = "wavelet") -> WaveposLlamaConfig:
    """The config of a named size: "tiny" (CPU), "small" (one GPU, minutes), "1b" (1.1B), "7b" (the paper's Llama 2)."""
    sizes: dict[str, Any]
    match size:
        case "tiny":
            sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4}
            sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
        case "small":
            sizes = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8}
            sizes |= {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 1024}
        case "1b":
            sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22}
            sizes |= {"num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 2048}
        case "7b":
            sizes = {"max_position_embeddings": 4096}
        case _:
            raise ValueError(f"size of a Llama must be one of {', '.join(get_args(LlamaSize))}, got {size!r}")
    return WaveposLlamaConfig(vocab_size=vocab_size, rms_norm_eps=1e-5, position=position, **sizes)  # Llama 2's ε


def _check_heads(num_heads: int, num_kv_heads: int, hidden_size: int | None) -> None:
    """Raise ValueError unless heads fit their groups and, where it gives head_dim, hidden_size its heads."""
    if hidden_size is not None and hidden_size % num_heads:
        raise ValueError(f"hidden_size must be a multiple of num_attention_heads, got {hidden_size} and {num_heads}")
    if num_heads % num_kv_heads:
        raise ValueError(f"num_key_value_heads must divide num_attention_heads, got {num_kv_heads} and {num_heads}")


def _may_slide(own: PositionConfig) -> bool:
    """Whether a cache may drop keys that the window has left: not where a query must know how many came before."""
    follows_length = isinstance(own, RotaryConfig) and own.follows_length
    return own.window is not None and own.temperature is None and not follows_length
