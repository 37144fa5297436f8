"""What test_fused_step runs in a process of its own, whose kernels are interpreted from the start."""

import sys

import torch
from torch.nn import functional

from codellama.runtime import fused_step
from codellama.runtime.cache import CacheKind, KVCache
from codellama.runtime.config import ModelConfig
from codellama.runtime.fused_step import FusedStep, Matrix, Product, Reading, fits
from codellama.runtime.int4 import unpack_words
from codellama.runtime.layers import RMSNorm
from codellama.runtime.linear import Int4Linear, Quantisation
from codellama.runtime.model import Transformer
from codellama.runtime.weights.loading import fill


def _model(shared: int, quantize: Quantisation | None, cache: CacheKind | None) -> Transformer:
    config = ModelConfig(
        vocab_size=48, dim=64, n_layers=2, n_heads=2, n_kv_heads=shared, head_dim=32, ffn_dim=128
    )
    with torch.device("meta"):
        model = Transformer(config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    chance = torch.Generator().manual_seed(0)

    def load(name: str, kind: torch.dtype) -> torch.Tensor:
        spread = torch.randn(shapes[name], generator=chance)
        return (1 + 0.1 * spread if name.endswith("norm.weight") else 0.1 * spread).to(kind)

    fill(model, set(shapes), load, torch.bfloat16, quantize)
    model.cache_kind = cache
    return model


def _off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@torch.inference_mode()
def a_step(shared: int, quantize: Quantisation | None, cache: CacheKind | None) -> float:
    """The most that logits and caches are off: first of an empty cache, then of two sequences at once."""
    model = _model(shared, quantize, cache)
    assert fits(model)
    step = FusedStep(model)
    kept = model.new_cache(8).keys.dtype
    assert step.reads(kept) == (shared == 2 or cache is None), "what no GPU has run is torch's"
    fused_step.READINGS.setdefault((shared < 2, kept), Reading(64, 4, 2))
    caches, plain = ([model.new_cache(room) for room in (8, 80)] for _ in range(2))
    prompt = torch.arange(70)[None] % 48
    for one in (caches[1], plain[1]):
        model(prompt, one)
    ids = torch.tensor([5, 9])
    errors = [_off(_step(step, ids[:1], caches[:1]), model(ids[None, :1], plain[0])[0])]
    wanted = [model(ids[n].view(1, 1), plain[n])[0] for n in range(2)]
    errors.append(_off(_step(step, ids, caches), torch.cat(wanted)))
    for mine, other in zip(caches, plain, strict=True):
        errors += [_off(part, of) for part, of in zip(mine.parts, other.parts, strict=True)]
    return max(errors)


def _step(step: FusedStep, ids: torch.Tensor, caches: list[KVCache]) -> torch.Tensor:
    step.set(ids, caches)
    logits = step.compute(len(caches), caches[0].keys.dtype).clone()
    for cache in caches:
        cache.reach(cache.length + 1)
    return logits


def four_bits(rows: int, gated: bool) -> float:
    """How far a product is off, with the norm before it, gated or added to what is there."""
    chance = torch.Generator().manual_seed(0)
    layer = Int4Linear(torch.randn(64, 512, generator=chance), layout="words")
    weight = unpack_words(layer.packed, layer.scales, layer.group).float()
    norm = RMSNorm(512, 1e-5)
    x, out = torch.randn(16, 512, generator=chance), torch.ones(16, 32 if gated else 64)
    wanted = norm(x[:rows]) @ weight.T
    wanted = functional.silu(wanted[:, :32]) * wanted[:, 32:] if gated else wanted + 1
    Product(Matrix.of(layer), norm, gated, add=not gated).launch(x, out, rows)
    assert (out[rows:] == 1).all(), "other rows are left alone"
    return _off(out[:rows], wanted)


if __name__ == "__main__":
    fused_step._PROGRAMS = 4  # the interpreter runs one after another
    if sys.argv[1] == "step":
        print(a_step(int(sys.argv[2]), *(None if word == "none" else word for word in sys.argv[3:])))  # type: ignore[arg-type]
    else:
        print(max(four_bits(rows, gated) for rows in (1, 3) for gated in (False, True)))
