"""The shape of a Llama, read from a checkpoint's own description. Free of torch.

Reads Hugging Face's `config.json`; the readers of other formats fill the same `ModelConfig`. What the
transformer in `model` does not compute is refused here, with the key that says so, rather than computed
wrongly.
"""

import math
from dataclasses import dataclass
from typing import Any

from codellama.runtime.errors import CheckpointError, UnsupportedArchitecture

NATIVE = ("llama", "llama4", "llama4_text")  # what `model_type` in a config.json may be

_MOST_LAYERS = 2**12  # far above any Llama's; lists of so many are made before the files are looked at


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Every rotary frequency divided by `factor` (arXiv 2306.15595)."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's rotary frequencies: long waves divided by `factor`, short ones kept, a ramp between.

    A wave is long above `original_context / low_freq_factor` positions and short below
    `original_context / high_freq_factor`. Where the two factors are equal there is no ramp.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True)
class FrequencyDivisors:
    """Each rotary frequency divided by a number of its own, as GGUF's tensor `rope_freqs` gives them."""

    divisors: tuple[float, ...]  # [head_dim / 2]


RopeScaling = LinearScaling | Llama3Scaling | FrequencyDivisors


@dataclass(frozen=True, slots=True)
class Llama4:
    """What Llama 4's text decoder has beyond a Llama; layers are counted from 0.

    `expert_dim` is the width inside each expert and inside the shared expert, `chunk` the number of
    positions that a layer with rotary embeddings looks within (None: all). Layers in `nope_layers` have
    no positions and look at everything; their queries grow by
    `1 + temperature_scale * log(1 + floor((position + 1) / floor_scale))`, a scale of 0 leaves them alone.
    """

    experts: int
    experts_per_token: int
    expert_dim: int
    moe_layers: tuple[int, ...]
    nope_layers: tuple[int, ...]
    chunk: int | None = 8192
    qk_norm: bool = True
    floor_scale: float = 8192
    temperature_scale: float = 0.1


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One checkpoint's shape and abilities.

    `dim` is the residual width, `ffn_dim` the width inside SwiGLU (in Llama 4, of the layers without
    experts), `max_context` the number of tokens (prompt and answer together) that the model was made for,
    `rope_theta` the base of the rotary embedding (1e6 in Code Llama: arXiv 2308.12950, section 2.4).
    `rope_interleaved` says how the rows of q_proj and k_proj are ordered: pairs side by side, as Meta's
    files and Llama 4 have them, or, as Hugging Face's Llamas, all real parts before all imaginary ones.
    """

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    norm_eps: float = 1e-5
    rope_theta: float = 1e4
    rope_scaling: RopeScaling | None = None
    rope_interleaved: bool = False
    max_context: int = 2048
    tie_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    llama4: Llama4 | None = None
    family: str = "llama"
    can_infill: bool = False
    can_chat: bool = False

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise CheckpointError(f"{problem}: its description is damaged, fetch the checkpoint again.")

    def _problems(self) -> list[str]:
        sizes = (self.vocab_size, self.dim, self.n_layers, self.n_heads, self.n_kv_heads, self.head_dim)
        if min(*sizes, self.ffn_dim, self.max_context) < 1:
            return ["The model has a size below 1"]
        found = []
        if self.n_heads % self.n_kv_heads:
            found.append(
                f"The model's {self.n_heads} attention heads cannot share {self.n_kv_heads} key/value "
                "heads evenly"
            )
        if self.head_dim % 2:
            found.append(
                f"The model's head size {self.head_dim} is odd, which rotary embeddings do not allow"
            )
        if not 0 < self.norm_eps < 1:
            found.append(f"The model's norm_eps is {self.norm_eps}, which is no small number above 0")
        if not 0 < self.rope_theta < math.inf or not _scaling_fits(self.rope_scaling, self.head_dim):
            found.append("The model's rotary embedding has a base or a scaling that is no such thing")
        if self.llama4 and not 1 <= self.llama4.experts_per_token <= self.llama4.experts:
            found.append(
                f"The model asks {self.llama4.experts_per_token} of {self.llama4.experts} experts for a token"
            )
        if self.llama4 and (self.llama4.chunk is not None and self.llama4.chunk < 1):
            found.append(f"The model's attention chunk has {self.llama4.chunk} positions")
        return found

    @property
    def parameters(self) -> int:
        """Number of weights, tied embeddings counted once."""
        queries, shared = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        attention = 2 * self.dim * (queries + shared)
        if self.attention_bias:
            attention += queries + 2 * shared + self.dim
        dense = 3 * self.dim * self.ffn_dim + (2 * self.ffn_dim + self.dim if self.mlp_bias else 0)
        sparse = 0
        if self.llama4:
            expert = 3 * self.dim * self.llama4.expert_dim
            sparse = (self.llama4.experts + 1) * expert + self.llama4.experts * self.dim
        sparse_layers = len(self.llama4.moe_layers) if self.llama4 else 0
        layers = self.n_layers * (attention + 2 * self.dim)
        layers += sparse_layers * sparse + (self.n_layers - sparse_layers) * dense
        embeddings = self.vocab_size * self.dim * (1 if self.tie_embeddings else 2)
        return layers + embeddings + self.dim

    @classmethod
    def from_hugging_face(cls, data: dict[str, Any], source: str) -> "ModelConfig":
        """Reads the fields of a `config.json`; `source` names the file in errors.

        Raises UnsupportedArchitecture where it asks for what `model` does not compute, CheckpointError
        where a field is missing or no size.
        """
        kind = data.get("model_type")
        if kind not in NATIVE:
            raise UnsupportedArchitecture(
                f"{source} describes a {kind!r} model, and only {', '.join(map(repr, NATIVE))} are "
                "understood: choose a Llama checkpoint."
            )
        if kind == "llama4":  # text and vision; the text decoder has a table of its own
            text = data.get("text_config")
            if not isinstance(text, dict):
                raise CheckpointError(f"{source} has no text_config: fetch the checkpoint again.")
            tied = data.get("tie_word_embeddings", False)
            data = {"tie_word_embeddings": tied} | text | {"model_type": "llama4_text"}
        _refuse_unsupported(data, source)
        try:
            if int(data["num_hidden_layers"]) > _MOST_LAYERS:
                raise ValueError(f"{data['num_hidden_layers']} layers")
            return cls(**_fields(data, source))
        except KeyError as error:
            raise CheckpointError(
                f"{source} has no {error}: it does not describe a Llama; name a folder that holds one."
            ) from error
        except (TypeError, ValueError, IndexError, ArithmeticError) as error:
            raise CheckpointError(
                f"{source} holds a value that is no size ({error}): fetch the checkpoint again."
            ) from error


def _fields(data: dict[str, Any], source: str) -> dict[str, Any]:
    heads = int(data["num_attention_heads"])
    dim = int(data["hidden_size"])
    llama4 = data["model_type"] == "llama4_text"
    return {
        "vocab_size": int(data["vocab_size"]),
        "dim": dim,
        "n_layers": int(data["num_hidden_layers"]),
        "n_heads": heads,
        "n_kv_heads": int(data.get("num_key_value_heads") or heads),
        "head_dim": int(data.get("head_dim") or dim // heads),
        "ffn_dim": int(data["intermediate_size_mlp" if llama4 else "intermediate_size"]),
        "norm_eps": float(data.get("rms_norm_eps", 1e-5 if llama4 else 1e-6)),
        "rope_theta": _rope_theta(data, 5e5 if llama4 else 1e4),
        "rope_scaling": _rope_scaling(data, source),
        "rope_interleaved": llama4,
        "max_context": int(data.get("max_position_embeddings", 131072 if llama4 else 2048)),
        "tie_embeddings": bool(data.get("tie_word_embeddings", False)),
        "attention_bias": bool(data.get("attention_bias", False)),
        "mlp_bias": bool(data.get("mlp_bias", False)),
        "llama4": _llama4(data) if llama4 else None,
        "family": str(data.get("codellama_family", "llama4" if llama4 else "llama")),
    }


def _llama4(data: dict[str, Any]) -> Llama4:
    """The defaults are those of transformers' Llama4TextConfig, which leaves out what equals them."""
    layers = range(int(data["num_hidden_layers"]))
    step = int(data.get("interleave_moe_layer_step", 1))
    moe = data.get("moe_layers")
    with_rope = data.get("no_rope_layers") or []  # despite its name: 1 where a layer has RoPE
    interval = int(data.get("no_rope_layer_interval", 4))
    chunk = data.get("attention_chunk_size", 8192)
    tempered = data.get("attn_temperature_tuning", True)
    return Llama4(
        experts=int(data.get("num_local_experts", 16)),
        experts_per_token=int(data.get("num_experts_per_tok", 1)),
        expert_dim=int(data["intermediate_size"]),
        moe_layers=tuple(int(n) for n in moe) if moe is not None else tuple(layers)[step - 1 :: step],
        nope_layers=tuple(n for n in layers if (not with_rope[n] if with_rope else (n + 1) % interval == 0)),
        chunk=int(chunk) if chunk is not None else None,
        qk_norm=bool(data.get("use_qk_norm", True)),
        floor_scale=float(data.get("floor_scale", 8192)),
        temperature_scale=float(data.get("attn_scale", 0.1)) if tempered else 0.0,
    )


def _rope_parameters(data: dict[str, Any]) -> dict[str, Any]:
    # transformers 5 writes rope_parameters; earlier releases rope_scaling and a bare rope_theta.
    table: dict[str, Any] = data.get("rope_parameters") or data.get("rope_scaling") or {}
    return table


def _rope_theta(data: dict[str, Any], default: float) -> float:
    return float(_rope_parameters(data).get("rope_theta", data.get("rope_theta", default)))


def _rope_kind(data: dict[str, Any]) -> str:
    table = _rope_parameters(data)
    return str(table.get("rope_type", table.get("type", "default")))


def _rope_scaling(data: dict[str, Any], source: str) -> RopeScaling | None:
    table, kind = _rope_parameters(data), _rope_kind(data)
    if kind == "linear":
        return LinearScaling(float(table["factor"]))
    if kind == "llama3":
        original = table.get("original_max_position_embeddings") or data.get("max_position_embeddings")
        if original is None:
            raise CheckpointError(
                f"{source} asks for RoPE scaling 'llama3' without original_max_position_embeddings: "
                "fetch the checkpoint again."
            )
        low, high = float(table["low_freq_factor"]), float(table["high_freq_factor"])
        return Llama3Scaling(float(table["factor"]), low, high, int(original))
    return None


def _scaling_fits(scaling: RopeScaling | None, head_dim: int) -> bool:
    if isinstance(scaling, FrequencyDivisors):
        return len(scaling.divisors) == head_dim // 2 and min(scaling.divisors) > 0
    if isinstance(scaling, Llama3Scaling):
        ordered = 0 < scaling.low_freq_factor <= scaling.high_freq_factor
        return ordered and scaling.factor > 0 and scaling.original_context > 0
    return scaling is None or scaling.factor > 0


def _refuse_unsupported(data: dict[str, Any], source: str) -> None:
    for key in ("rope_parameters", "rope_scaling"):
        if not isinstance(data.get(key) or {}, dict):
            raise CheckpointError(f"{source} has no table of RoPE parameters: fetch the checkpoint again.")
    kind = _rope_kind(data)
    if kind not in ("default", "linear", "llama3"):
        raise UnsupportedArchitecture(
            f"{source} asks for RoPE scaling {kind!r}, which this release does not compute: "
            "choose a checkpoint with 'llama3' scaling or none."
        )
    if data.get("hidden_act", "silu") != "silu":
        raise UnsupportedArchitecture(
            f"{source} asks for the activation {data['hidden_act']!r}, and Llamas use 'silu': "
            "choose a Llama checkpoint."
        )
