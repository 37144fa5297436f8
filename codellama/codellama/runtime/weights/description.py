"""A model's shape as the `config.json` that transformers reads: the way back of `ModelConfig`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from codellama.runtime.config import (
    FrequencyDivisors,
    LinearScaling,
    Llama3Scaling,
    Llama4,
    ModelConfig,
)
from codellama.runtime.errors import CheckpointError
from codellama.runtime.rope import frequencies
from codellama.runtime.tokenizer import Tokenizer


def description(config: ModelConfig, tokenizer: Tokenizer, dtype: str, source: Path) -> dict[str, Any]:
    """The fields of `config.json`; `dtype` is torch's name of what the weights are stored in.

    Raises CheckpointError, naming `source`, where transformers has no words for the rotary scaling.
    """
    described = {
        "architectures": ["Llama4ForCausalLM" if config.llama4 else "LlamaForCausalLM"],
        "model_type": "llama4_text" if config.llama4 else "llama",
        "codellama_family": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling(config, source),
        "max_position_embeddings": config.max_context,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": dtype,
    }
    return described | generation(tokenizer) | (_llama4(config, config.llama4) if config.llama4 else {})


def generation(tokenizer: Tokenizer) -> dict[str, Any]:
    """The fields of `generation_config.json`: the ids that begin a text and those that end an answer."""
    others = sorted(tokenizer.stop_ids - {tokenizer.eos_id})
    end = [tokenizer.eos_id, *others] if others else tokenizer.eos_id
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": end}


def _llama4(config: ModelConfig, llama4: Llama4) -> dict[str, Any]:
    return {
        "intermediate_size": llama4.expert_dim,
        "intermediate_size_mlp": config.ffn_dim,
        "num_local_experts": llama4.experts,
        "num_experts_per_tok": llama4.experts_per_token,
        "moe_layers": list(llama4.moe_layers),
        "no_rope_layers": [int(layer not in llama4.nope_layers) for layer in range(config.n_layers)],
        "attention_chunk_size": llama4.chunk,
        "use_qk_norm": llama4.qk_norm,
        "attn_temperature_tuning": llama4.temperature_scale != 0,
        "floor_scale": int(llama4.floor_scale),
        "attn_scale": llama4.temperature_scale,
    }


def _scaling(config: ModelConfig, source: Path) -> dict[str, Any] | None:
    scaling = config.rope_scaling
    if isinstance(scaling, FrequencyDivisors):
        scaling = _recognised(config, scaling, source)
    if isinstance(scaling, LinearScaling):
        return {"rope_type": "linear", "factor": scaling.factor}
    if isinstance(scaling, Llama3Scaling):
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    return None


def _recognised(config: ModelConfig, divisors: FrequencyDivisors, source: Path) -> Llama3Scaling:
    """The scaling behind the divisors of a GGUF file: Llama 3's (bounds 1 and 4) or Llama 4's (1 and 1)."""
    wanted = frequencies(config)
    high = 1.0 if config.llama4 else 4.0
    for original in (2**n for n in range(4, 24)):
        scaling = Llama3Scaling(max(divisors.divisors), 1.0, high, original)
        found = frequencies(replace(config, rope_scaling=scaling))
        if torch.allclose(found, wanted, rtol=1e-5, atol=0):
            return scaling
    raise CheckpointError(
        f"{source} divides its rotary frequencies by numbers that are not Llama 3's or 4's, which a Hugging "
        "Face folder cannot say: keep the .gguf file."
    )
