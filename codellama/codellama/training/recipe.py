"""What a run is made of: sizes, rates, and the model and the optimisers that they give."""

from dataclasses import dataclass

import torch
from torch import nn

from codellama.runtime.config import ModelConfig
from codellama.runtime.model import Transformer
from codellama.training.muon import Muon


@dataclass(frozen=True, slots=True)
class Recipe:
    """Lengths in tokens, `minutes` of time that is spent in updates. The defaults are for two CPU cores."""

    minutes: float
    pieces: int = 8_186
    dim: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 688
    length: int = 768
    rows: int = 2
    long_length: int = 2_048  # of rows with long samples
    long_rows: int = 1
    turns: str = "sssl"  # batches in turn: short; long, with several extras
    muon_rate: float = 0.015
    adam_rate: float = 0.003
    decay: float = 0.4  # the share of the time over which the rates fall
    every: int = 8  # updates between two means of the processes' weights
    seed: int = 0


def gpu_recipe(minutes: float) -> Recipe:
    """For one large GPU: 28 million weights, 131,072 tokens an update."""
    return Recipe(
        minutes,
        dim=512,
        layers=8,
        heads=8,
        kv_heads=4,
        ffn=1_408,
        length=1_024,
        rows=128,
        long_rows=64,
        muon_rate=0.03,
        decay=0.5,
        every=1,
    )


def new_model(recipe: Recipe, vocabulary: int) -> Transformer:
    """A model of the recipe's shape, its weights drawn from torch's generator."""
    config = ModelConfig(
        vocab_size=vocabulary,
        dim=recipe.dim,
        n_layers=recipe.layers,
        n_heads=recipe.heads,
        n_kv_heads=recipe.kv_heads,
        head_dim=recipe.dim // recipe.heads,
        ffn_dim=recipe.ffn,
        rope_theta=1e6,
        max_context=recipe.long_length,
        tie_embeddings=True,
        family="pocket",
    )
    model = Transformer(config)
    draw(model)
    return model


@torch.no_grad()
def draw(model: Transformer) -> None:
    """Draws all weights anew."""
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            nn.init.normal_(weight, std=0.02 if "embed" in name else weight.shape[1] ** -0.5)
        else:
            nn.init.ones_(weight)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(weight)  # each layer starts as the identity


def optimizers(recipe: Recipe, model: Transformer) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embeddings and norms."""
    matrices = [w for n, w in model.named_parameters() if w.dim() == 2 and "layers" in n]
    others = [w for n, w in model.named_parameters() if w.dim() != 2 or "layers" not in n]
    return [
        Muon(matrices, lr=recipe.muon_rate, weight_decay=0.01, steps=4),
        torch.optim.AdamW(
            others, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=others[0].is_cuda
        ),
    ]


def set_rates(recipe: Recipe, among: list[torch.optim.Optimizer], progress: float) -> None:
    """The rates at a share of the time: up within a hundredth, then full, then linearly down to nothing."""
    factor = min(1.0, progress / 0.01 + 0.02, (1 - progress) / recipe.decay)
    for optimizer in among:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("full_lr", group["lr"]) * max(factor, 0.0)
