"""Models of random weights at Code Llama's shapes, built on their device a tensor at a time."""

import zlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import LlamaConfig

from codellama.runtime.cache import CacheKind, KVCache, PackedKVCache, new_cache
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


def small_shape() -> Shape:
    """A shape that a CPU checks in a moment, with the heads of the large ones."""
    return Shape(
        ModelConfig(vocab_size=512, dim=512, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=128, ffn_dim=768)
    )


def random_model(
    shape: Shape, device: torch.device, dtype: torch.dtype, quantize: Quantisation | None
) -> tuple[LanguageModel, int]:
    """A model as it would be loaded, and the bytes that a step reads of it."""
    with torch.device("meta"):
        model = Transformer(shape.config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    # Made on the CPU where devices are compared: each has a generator of its own.
    here = shape.config.dim < 1024

    def load(name: str, kind: torch.dtype) -> Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shapes[name], device=device, dtype=kind)
        if here:
            # By name, since kinds load in orders of their own; rounded alike, so that arithmetic differs.
            chance = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            some = torch.randn(shapes[name], generator=chance) * shape.config.dim**-0.5
            return some.bfloat16().to(device, kind)
        return torch.empty(shapes[name], device=device, dtype=kind).normal_(0, 0.02)

    fill(model, set(shapes), load, dtype, quantize)
    tensors = [*model.parameters(), *model.buffers()]
    read = sum(t.nbytes for t in tensors) - model.embed_tokens.weight.nbytes
    return GraphedModel(model), read


def cache_of(model: LanguageModel, capacity: int, filled: int, kind: CacheKind | None = None) -> KVCache:
    """A cache whose first positions hold noise: zeros would be read faster, and attended to otherwise."""
    config = model.config
    cache = new_cache(config, capacity, model.device, model.dtype, kind)
    for part in (cache.keys, cache.values):
        for layer in part:  # [1, KV, capacity, D]; no second copy of the whole
            place = layer[:, :, :filled]
            place.copy_(
                torch.randn(place.shape, device=place.device, dtype=model.dtype).mul_(20 if kind else 1)
            )
    if isinstance(cache, PackedKVCache):
        for scale in cache._parts[2:]:
            scale.fill_(1 / 20)
    cache.reach(filled)
    return cache


def ids_of(count: int) -> list[int]:
    """Some ids."""
    return [1 + n % 97 for n in range(count)]


def quantised_error(
    width: int, device: torch.device, dtype: torch.dtype, kind: Quantisation, rows: int
) -> float:
    """How far one layer's products are off, relative to those of its plain weights."""
    weight = torch.randn(width, width, device=device) * 0.02
    x = torch.randn(rows, width, device=device, dtype=dtype)
    expected = x.float() @ weight.T
    found = quantised(weight, None, kind)(x).float()
    return float((found - expected).norm() / expected.norm())
