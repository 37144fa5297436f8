"""Tiny seeded models of every family: the real shape, scaled down, written by transformers.

Ratios are the family's own (heads to key/value heads, tied or not, base, scaling, head size against
width); sizes are tiny, and contexts so short that scaling and chunks show within a few hundred tokens.
"""

from pathlib import Path
from typing import Any

import torch
from runtime_support import write_tokenizer
from transformers import Llama4ForCausalLM, Llama4TextConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel


def _rope(theta: float, **scaling: Any) -> dict[str, Any]:
    return {"rope_theta": theta, "rope_type": "default"} | scaling


def _llama3(factor: float, low: float = 1.0, high: float = 4.0) -> dict[str, Any]:
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high}
    return _rope(5e5, **scaling, original_max_position_embeddings=128)


_LLAMA4 = {
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "hidden_size": 80,
    "intermediate_size": 48,
    "intermediate_size_mlp": 96,
    "num_hidden_layers": 4,
    "num_local_experts": 4,
    "attention_chunk_size": 48,
    "floor_scale": 32,
    "rope_parameters": _llama3(16.0, 1.0, 1.0),
}
# GGUF does not give these; llama.cpp takes them for granted, and that 128 experts go without qk norm.
LLAMA4_IN_GGUF = {"attention_chunk_size": 8192, "floor_scale": 8192, "attn_temperature_tuning": True}

LLAMAS: dict[str, dict[str, Any]] = {
    "llama-1": {"num_key_value_heads": 4, "rope_parameters": _rope(1e4), "rms_norm_eps": 1e-6},
    "llama-2-7b": {"num_key_value_heads": 4, "rope_parameters": _rope(1e4)},
    "llama-2-70b": {"num_attention_heads": 8, "num_key_value_heads": 1, "rope_parameters": _rope(1e4)},
    "code-llama-7b": {"num_key_value_heads": 4, "rope_parameters": _rope(1e6)},
    "code-llama-34b": {"num_attention_heads": 8, "num_key_value_heads": 1, "rope_parameters": _rope(1e6)},
    "llama-3-8b": {"num_key_value_heads": 1, "rope_parameters": _rope(5e5)},
    "llama-3.1-8b": {"num_key_value_heads": 1, "rope_parameters": _llama3(8.0)},
    "llama-3.2-1b": {
        "num_key_value_heads": 1,
        "head_dim": 8,
        "rope_parameters": _llama3(32.0),
        "tie_word_embeddings": True,
    },
    "llama-3.2-3b": {
        "hidden_size": 48,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_parameters": _llama3(32.0),
        "tie_word_embeddings": True,
    },
    "llama-3.3-70b": {"num_attention_heads": 8, "num_key_value_heads": 1, "rope_parameters": _llama3(8.0)},
    "linear": {"rope_parameters": _rope(1e4, rope_type="linear", factor=4.0)},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "llama-4-scout": _LLAMA4,
    "llama-4-maverick": _LLAMA4 | {"interleave_moe_layer_step": 2, "use_qk_norm": False},
    "llama-4-two-experts": _LLAMA4 | {"num_experts_per_tok": 2, "attn_temperature_tuning": False},
}


def write_family(folder: Path, family: str, **others: Any) -> PreTrainedModel:
    """Writes a checkpoint of LLAMAS[family], changed by `others`, to `folder`; returns the reference."""
    changes = LLAMAS[family] | others
    shape: dict[str, Any] = {
        "vocab_size": write_tokenizer(folder),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.2,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    torch.manual_seed(0)
    model: PreTrainedModel
    if family.startswith("llama-4"):
        model = Llama4ForCausalLM(Llama4TextConfig(**shape | changes))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape | changes))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)  # transformers begins them at 0, which tests nothing
    model.eval().save_pretrained(folder)
    return model
