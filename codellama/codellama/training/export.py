"""Writes a trained model as a Hugging Face folder, in float16, with its tokenizer."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from codellama.runtime.model import Transformer
from codellama.runtime.tokenizer_files import load_tokenizer
from codellama.runtime.weights.description import description


def export(model: Transformer, tokenizer: Path, folder: Path) -> None:
    """Writes `config.json`, `model.safetensors` and `tokenizer.model` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    described = description(model.config, load_tokenizer(tokenizer), "float16", tokenizer)
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
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
