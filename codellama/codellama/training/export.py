"""Writes a trained model as a Hugging Face folder, in float16, with its tokenizer."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from codellama.runtime.model import Transformer


def export(model: Transformer, tokenizer: Path, folder: Path) -> None:
    """Writes `config.json`, `model.safetensors` and `tokenizer.model` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    description = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "codellama_family": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_dim,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_context,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    weights = {
        name if name.startswith("lm_head") else f"model.{name}": weight.detach().to(torch.float16)
        for name, weight in model.named_parameters()
    }
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    shutil.copyfile(tokenizer, folder / "tokenizer.model")
