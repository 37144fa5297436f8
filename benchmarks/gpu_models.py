"""Models of random weights at Code Llama's shapes, built on their device a tensor at a time."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig

from codellama.runtime.cache import CacheKind, KVCache
from codellama.runtime.catalogue import known_models
from codellama.runtime.config import ModelConfig
from codellama.runtime.generation import LanguageModel
from codellama.runtime.graphs import GraphedModel
from codellama.runtime.linear import Quantisation, quantised
from codellama.runtime.model import Transformer
from codellama.runtime.weights.loading import fill


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes, with room for 100,000 tokens and more."""

    config: ModelConfig

    def transformers(self) -> LlamaConfig:
        """The same for transformers."""
        config = self.config
        return LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            intermediate_size=config.ffn_dim,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            max_position_embeddings=config.max_context,
        )


def shapes() -> dict[str, Shape]:
    """Code Llama's four sizes."""
    found = {}
    for model in known_models():
        for size in ("7b", "13b", "34b", "70b"):
            if model.name.lower() == f"codellama/codellama-{size}-hf":
                found[size] = Shape(replace(model.shape, max_context=131_072))
    return found


def tiny_shapes() -> dict[str, Shape]:
    """The same names at sizes of no meaning; 34b and 70b share keys, as theirs do."""
    sizes = {"7b": 4, "70b": 2}
    return {
        name: Shape(
            ModelConfig(
                vocab_size=128, dim=64, n_layers=2, n_heads=4, n_kv_heads=heads, head_dim=16, ffn_dim=96
            )
        )
        for name, heads in sizes.items()
    }


def random_model(
    shape: Shape,
    device: torch.device,
    dtype: torch.dtype,
    quantize: Quantisation | None,
    cache: CacheKind | None = None,
) -> tuple[LanguageModel, int]:
    """A model as it would be loaded, and the bytes that a step reads of it."""
    with torch.device("meta"):
        model = Transformer(shape.config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    # Made on the CPU where devices are compared: each has a generator of its own.
    chance = torch.Generator().manual_seed(0)
    here = shape.config.dim < 1024

    def load(name: str, kind: torch.dtype) -> Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shapes[name], device=device, dtype=kind)
        if here:
            return (torch.randn(shapes[name], generator=chance) * 0.1).to(device, kind)
        return torch.empty(shapes[name], device=device, dtype=kind).normal_(0, 0.02)

    fill(model, set(shapes), load, dtype, quantize)
    model.cache_kind = cache
    tensors = [*model.parameters(), *model.buffers()]
    read = sum(t.nbytes for t in tensors) - model.embed_tokens.weight.nbytes
    return GraphedModel(model), read


def cache_of(model: LanguageModel, capacity: int, filled: int) -> Any:
    """A cache whose first positions count as filled: what stands there costs the same to read."""
    cache = model.new_cache(capacity)
    assert isinstance(cache, KVCache)
    cache.reach(filled)
    return cache


def ids_of(count: int) -> list[int]:
    """Some ids."""
    return [1 + n % 97 for n in range(count)]


def quantised_error(width: int, device: torch.device, dtype: torch.dtype, kind: Quantisation) -> float:
    """How far one layer's products are off, relative to those of its plain weights."""
    weight = torch.randn(width, width, device=device) * 0.02
    x = torch.randn(8, width, device=device, dtype=dtype)
    expected = x.float() @ weight.T
    found = quantised(weight, None, kind)(x).float()
    return float((found - expected).norm() / expected.norm())
