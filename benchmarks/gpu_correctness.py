"""Whether the runtime on a GPU computes what float32 on the CPU does: a section of the benchmark."""

import copy
from collections.abc import Iterator
from functools import partial

import torch
from benchmarks.gpu_bench import Bench, Record
from benchmarks.gpu_models import cache_of, ids_of, quantised_error, random_model, small_shape
from benchmarks.report import Figure
from torch import Tensor, nn

from codellama.runtime import fused_prefill
from codellama.runtime.cache import KVCache
from codellama.runtime.generation import LanguageModel, prefill
from codellama.runtime.linear import Fp8Linear, Int4Linear, Int8Linear, Quantisation
from codellama.runtime.model import Transformer


def correctness(bench: Bench, record: Record) -> None:
    """A small model here and on the CPU; what quantised layers lose at a real width."""

    def greedy() -> Iterator[Figure]:
        """In float32, ids must be the same: positions, masks and caches are right."""
        found, total = 0, 32
        for _, token, other, _ in _beside(bench, torch.float32, None, total):
            found += token == other
        yield Figure("float32 greedy ids as on the CPU, of 32", found, "", "all", found == total)

    def near(precision: Quantisation | None) -> Iterator[Figure]:
        """In 16 bits and less, logits of a prompt in blocks and of steps behind it, against float32.

        Arithmetic is held against the same weights: what rounding them costs is told beside it, for random
        weights, which are harder to round than trained ones. torch's fp8 products round a prompt's
        activations to three bits as well.
        """
        most, same, lost = 0.0, 0, 0.0
        for error, token, other, loss in _beside(bench, bench.dtype, precision, 16):
            most, same, lost = max(most, error), same + (token == other), max(lost, loss)
        bound = 0.2 if precision == "fp8" else 0.04
        name = f"{precision or 'bf16'} logits against float32 of the same weights, largest relative error"
        note = f"{same} of 16 ids alike" + (f"; against the weights before {lost:.2g}" if precision else "")
        yield Figure(name, most, "", f"under {bound}", most < bound, note)

    def layers(precision: Quantisation) -> Iterator[Figure]:
        width = bench.shape("7b").config.dim
        for rows in (8, 1, 300):
            error = quantised_error(width, bench.device, bench.dtype, precision, rows)
            name = f"{precision} layer, {rows} rows, relative error"
            yield Figure(name, error, "", "under 0.15", error < 0.15)

    def batch() -> Iterator[Figure]:
        """Steps of several sequences together against steps of each."""
        model, _ = random_model(small_shape(), bench.device, bench.dtype, None)
        with torch.inference_mode():
            alone, beside = ([model.new_cache(400) for _ in range(3)] for _ in range(2))
            for n, pair in enumerate(zip(alone, beside, strict=True)):
                for cache in pair:
                    prefill(model, cache, ids_of(100 + 90 * n))
            ids = torch.tensor([5, 6, 7], device=bench.device)
            rows = model.together(ids, beside)
            expected = torch.stack([model(ids[n].view(1, 1), cache)[0, -1] for n, cache in enumerate(alone)])
        error = float((rows.float() - expected.float()).norm() / expected.float().norm())
        yield Figure("a batch's logits against single steps", error, "", "under 0.03", error < 0.03)

    def kernels() -> Iterator[Figure]:
        """What the prompt's fused kernels are off."""
        if not bench.cuda:
            return
        error = fused_prefill.attention_error(128, 1, bench.device, bench.dtype)
        yield Figure("fused attention, relative error", error, "", "under 0.02", error < 0.02)
        error = fused_prefill.gate_error(bench.device, bench.dtype)
        yield Figure("fused gate, relative error", error, "", "under 0.02", error < 0.02)
        for packed in (torch.int8, torch.float8_e4m3fn):
            error = fused_prefill.unpacking_error(packed, bench.device, bench.dtype)
            yield Figure(f"unpacked {packed}, relative error", error, "", "under 0.02", error < 0.02)

    record.take("fused kernels", kernels)
    record.take("greedy ids", greedy)
    for precision in bench.precisions:
        record.take(f"{precision or 'bf16'} logits", partial(near, precision))
    record.take("batch", batch)
    for precision in bench.precisions[1:]:
        assert precision is not None
        record.take(f"{precision} layers", partial(layers, precision))


def _beside(
    bench: Bench, dtype: torch.dtype, precision: Quantisation | None, steps: int
) -> Iterator[tuple[float, int, int, float]]:
    """After a prompt in two passes and each step: the logits' relative error, both likeliest ids, the loss.

    The error is that against the CPU's float32 with the same weights; the loss that against whole weights.
    """
    here, _ = random_model(small_shape(), bench.device, dtype, precision)
    whole, _ = random_model(small_shape(), torch.device("cpu"), torch.float32, None)
    models = [here, _same_weights(here), whole] if precision else [here, whole]
    ids = ids_of(400)
    caches = [cache_of(model, 440, 0) for model in models]
    with torch.inference_mode():
        for part in (ids[:250], ids[250:]):
            rows = [_last(m, c, part) for m, c in zip(models, caches, strict=True)]
        for _ in range(steps):
            tokens = [int(row.argmax()) for row in rows]
            yield _off(rows[0], rows[1]), tokens[0], tokens[1], _off(rows[0], rows[-1])
            rows = [_last(m, c, [tokens[1]]) for m, c in zip(models, caches, strict=True)]


def _off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _same_weights(model: LanguageModel) -> Transformer:
    """A quantised model's weights as they are computed with, in float32 on the CPU."""
    plain = copy.deepcopy(getattr(model, "_model", model))
    assert isinstance(plain, Transformer)
    for name, module in list(plain.named_modules()):
        if isinstance(module, Int8Linear | Int4Linear | Fp8Linear):
            parent, _, last = name.rpartition(".")
            linear = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
            weight = _dequantised(module).cpu()
            linear.weight = nn.Parameter(weight, requires_grad=False)
            setattr(plain.get_submodule(parent), last, linear)
    return plain.float().cpu()


def _dequantised(layer: Int8Linear | Int4Linear | Fp8Linear) -> Tensor:
    """[N, K] float32."""
    if isinstance(layer, Int8Linear):
        return layer.dequantised()
    if isinstance(layer, Fp8Linear):
        return layer.weight.float() * layer.scale.T
    identity = torch.eye(layer.in_features, device=layer.packed.device)
    return layer(identity).T.contiguous()  # exact: each output is one weight in bfloat16


def _last(model: LanguageModel, cache: KVCache, ids: list[int]) -> Tensor:
    rows = torch.tensor([ids], device=model.device)
    logits: Tensor = model(rows, cache, last_only=True)[0, -1]
    return logits.float().cpu()
