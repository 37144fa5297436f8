"""What test_fused_step runs in a process of its own, whose kernels are interpreted from the start."""

import sys
from pathlib import Path

import torch
from torch.nn import functional

from codellama.runtime import fused_step, fused_tuning
from codellama.runtime.cache import CacheKind, KVCache
from codellama.runtime.config import ModelConfig
from codellama.runtime.fused_products import Activations, Matrix, Product, Tile
from codellama.runtime.fused_step import FusedStep, fits
from codellama.runtime.int4 import unpack_words
from codellama.runtime.layers import RMSNorm
from codellama.runtime.linear import Int4Linear, Int8Linear, Quantisation
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


def integers(bits: int, rows: int, gated: bool) -> float:
    """How far a product of packed rows is off, and what it packs: behind its norm, gated or added."""
    chance = torch.Generator().manual_seed(0)
    whole = torch.randn(64, 192, generator=chance)
    layer = Int4Linear(whole, words=True) if bits == 4 else Int8Linear(whole)
    weight = (
        unpack_words(layer.packed, layer.scales, layer.group).float()
        if isinstance(layer, Int4Linear)
        else layer.dequantised()
    )
    norm, then = RMSNorm(192, 1e-5), RMSNorm(32 if gated else 64, 1e-5)
    then.weight.data.fill_(2)
    device = torch.device("cpu")
    x, out = Activations(192, device, packed=True), Activations(32 if gated else 64, device, packed=True)
    x.values.copy_(torch.randn(16, 192, generator=chance))
    x.pack()
    out.values.fill_(1)
    wanted = norm(x.values[:rows]) @ weight.T
    wanted = functional.silu(wanted[:, :32]) * wanted[:, 32:] if gated else wanted + 1
    tile = Tile(16, 4, 4, 1)  # which does not divide the inputs
    Product(Matrix.of(layer), norm, gated, not gated, then, tile, tile).launch(x, out, rows)
    assert (out.values[4:] == 1).all(), "other rows are left alone"
    packed = out.unpacked()[:rows]
    squares = out.numbers[:rows, 2].sum(-1)
    return max(
        _off(out.values[:rows], wanted), _off(packed, 2 * wanted), _off(squares, wanted.square().sum(-1))
    )


def chosen(folder: Path) -> float:
    """Whether the fastest tile that computes rightly is taken, and known again: 0 or 1."""
    chance = torch.Generator().manual_seed(0)
    layers = [Int8Linear(torch.randn(64, 64, generator=chance)) for _ in range(2)]
    places = [[Product(Matrix.of(layer), RMSNorm(64, 1e-5), gated=True) for layer in layers]]
    slow, quick, outrun = Tile(16, 4, 4, 1), Tile(16, 2, 4, 1), Tile(16, 8, 4, 1)
    broken = Tile(16, 3, 4, 1)  # no power of two
    fused_tuning.PACKED_TILES[True, "int8"] = (slow, broken, quick, outrun)
    times = {slow: 2.0, quick: 1.0, outrun: 3.0}
    fused_tuning._seconds = lambda products, *_: times[products[0].few]  # type: ignore[assignment, index]
    fused_tuning.torch.cuda.get_device_name = lambda _: "none"  # type: ignore[attr-defined]
    found = fused_tuning.choose(places, few=True, packed=True, folder=folder)
    fused_tuning._seconds = None  # type: ignore[assignment]
    again = fused_tuning.choose(places, few=True, packed=True, folder=folder)
    fused_tuning._seconds = lambda *_: 1.0  # type: ignore[assignment]
    fused_tuning.off = lambda *_: 0.5  # type: ignore[assignment]
    try:
        wrong = bool(fused_tuning.choose(places * 2, few=True, packed=True, folder=folder))
    except RuntimeError:
        wrong = False
    return float(wrong or (found, again) != ([quick], [quick]))


if __name__ == "__main__":
    fused_step._PROGRAMS = 4  # the interpreter runs one after another
    if sys.argv[1] == "step":
        print(a_step(int(sys.argv[2]), *(None if word == "none" else word for word in sys.argv[3:])))  # type: ignore[arg-type]
    elif sys.argv[1] == "chosen":
        print(chosen(Path(sys.argv[2])))
    else:
        print(max(integers(*case) for case in ((4, 1, True), (4, 3, False), (8, 1, False), (8, 3, True))))
