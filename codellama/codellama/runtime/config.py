"""The shape of a Llama, read from a checkpoint's own description. Free of torch.

Reads Hugging Face's `config.json`. What the transformer in `model` does not implement is refused here,
with the key that says so, rather than computed wrongly.
"""

from dataclasses import dataclass
from typing import Any

from codellama.runtime.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One checkpoint's shape and abilities.

    `dim` is the residual width, `ffn_dim` the width inside SwiGLU, `max_context` the number of tokens
    (prompt and answer together) that the model was made for, `rope_theta` the base of the rotary
    embedding (1e6 in Code Llama: arXiv 2308.12950, section 2.4).
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
    max_context: int = 2048
    tie_embeddings: bool = False
    family: str = "llama"
    can_infill: bool = False
    can_chat: bool = False

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise CheckpointError(
                f"The model's {self.n_heads} attention heads cannot share {self.n_kv_heads} key/value "
                "heads evenly: its description is damaged, fetch the checkpoint again."
            )
        if self.head_dim % 2:
            raise CheckpointError(
                f"The model's head size {self.head_dim} is odd, which rotary embeddings do not allow: "
                "its description is damaged, fetch the checkpoint again."
            )

    @property
    def parameters(self) -> int:
        """Number of weights, tied embeddings counted once."""
        attention = self.dim * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        layer = attention + 3 * self.dim * self.ffn_dim + 2 * self.dim
        embeddings = self.vocab_size * self.dim * (1 if self.tie_embeddings else 2)
        return self.n_layers * layer + embeddings + self.dim

    @classmethod
    def from_hugging_face(cls, data: dict[str, Any], source: str) -> "ModelConfig":
        """Reads the fields of a `config.json`; `source` names the file in errors.

        Raises CheckpointError where a field is missing or asks for what `model` does not compute.
        """
        _refuse_unsupported(data, source)
        try:
            heads = int(data["num_attention_heads"])
            dim = int(data["hidden_size"])
            return cls(
                vocab_size=int(data["vocab_size"]),
                dim=dim,
                n_layers=int(data["num_hidden_layers"]),
                n_heads=heads,
                n_kv_heads=int(data.get("num_key_value_heads") or heads),
                head_dim=int(data.get("head_dim") or dim // heads),
                ffn_dim=int(data["intermediate_size"]),
                norm_eps=float(data.get("rms_norm_eps", 1e-6)),
                rope_theta=_rope_theta(data),
                max_context=int(data.get("max_position_embeddings", 2048)),
                tie_embeddings=bool(data.get("tie_word_embeddings", False)),
                family=str(data.get("codellama_family", data["model_type"])),
            )
        except KeyError as error:
            raise CheckpointError(
                f"{source} has no {error}: it does not describe a Llama; name a folder that holds one."
            ) from error
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise CheckpointError(
                f"{source} holds a value that is no size ({error}): fetch the checkpoint again."
            ) from error


def _rope_theta(data: dict[str, Any]) -> float:
    # transformers 5 writes rope_parameters, earlier releases a bare rope_theta.
    parameters = data.get("rope_parameters") or {}
    return float(parameters.get("rope_theta", data.get("rope_theta", 1e4)))


def _refuse_unsupported(data: dict[str, Any], source: str) -> None:
    if data.get("model_type") != "llama":
        raise CheckpointError(
            f"{source} describes a {data.get('model_type')!r} model, and only 'llama' is understood: "
            "choose a Llama checkpoint."
        )
    scaling = data.get("rope_parameters") or data.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise CheckpointError(f"{source} has no table of RoPE parameters: fetch the checkpoint again.")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        raise CheckpointError(
            f"{source} asks for RoPE scaling {kind!r}, which this release does not compute: "
            "choose a checkpoint without it, such as Code Llama."
        )
    for key in ("attention_bias", "mlp_bias"):
        if data.get(key):
            raise CheckpointError(
                f"{source} sets {key}, which this release does not compute: choose a checkpoint "
                "without biases, such as Code Llama."
            )
    if data.get("hidden_act", "silu") != "silu":
        raise CheckpointError(
            f"{source} asks for the activation {data['hidden_act']!r}, and Llamas use 'silu': "
            "choose a Llama checkpoint."
        )
