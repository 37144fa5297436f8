"""Quantised layers compute what their weights say, row by row."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runtime_support import write_llama

from codellama.runtime import Engine, linear, load_engine
from codellama.runtime.errors import InvalidRequest
from codellama.runtime.int4 import quantise_int4
from codellama.runtime.linear import GROUPS, Int4Linear, Int8Linear, quantised, split_int8


def _weight(outputs: int = 128, inputs: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) * 0.02


def _off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_int8_loses_only_the_weights_rounding() -> None:
    """Against the rounded weights many rows are exact to 15 bits, few to bfloat16, an outlier included."""
    weight, x = _weight(), torch.randn(2, 25, 256)
    x[0, 0, 7] = 80.0
    layer = Int8Linear(weight, bias=torch.ones(128))
    assert _off(layer(x), x @ layer.dequantised().T + 1) < 5e-4
    assert _off(layer(x[:, :5]), x[:, :5] @ layer.dequantised().T + 1) < 5e-3
    assert 1e-3 < _off(layer(x), x @ weight.T + 1) < 0.02


@given(st.integers(1, 16) | st.just(40), st.integers(0, 1000))
def test_rows_do_not_influence_each_other(rows: int, seed: int) -> None:
    """A row's result is bit for bit the same alone and among others."""
    x = (
        torch.randn(rows, 256, generator=torch.Generator().manual_seed(seed))
        * torch.logspace(-3, 3, rows)[:, None]
    )
    layer = Int8Linear(_weight())
    alone = layer.in_bfloat16 if rows <= 16 else layer.in_halves
    assert torch.equal(layer(x), torch.cat([alone(row[None]) for row in x]))


def test_the_split_gives_rows_back() -> None:
    """Coarse and fine halves together are the row, to a 508th of its step; zeros stay zeros."""
    rows = torch.randn(4, 64) * torch.tensor([[1e-6], [1.0], [1e4], [0.0]])
    halves, step = split_int8(rows)
    again = step * (halves[:4].float() + halves[4:].float() / 254)
    assert ((again - rows).abs() <= step / 500).all()
    assert not again[3].any()


@pytest.mark.parametrize("group", GROUPS)
def test_int4_computes_with_its_steps(group: int) -> None:
    """The kernel's packing is undone by nothing but itself: its result is that of the unpacked steps."""
    weight, x = _weight(), torch.randn(3, 256)
    steps, scale, middle = quantise_int4(weight, group)
    assert steps.min() >= 0
    assert steps.max() <= 15
    unpacked = ((steps.view(128, -1, group) - 8) * scale[..., None] + middle[..., None]).view_as(weight)
    layer = Int4Linear(weight, bias=torch.ones(128), group=group)
    assert _off(layer(x), x @ unpacked.T + 1) < 0.01
    assert _off(unpacked, weight) < 0.12


def test_smaller_groups_lose_less() -> None:
    """What a group costs in memory it gives back in accuracy."""
    weight = _weight()
    errors = []
    for group in GROUPS:
        steps, scale, middle = quantise_int4(weight, group)
        unpacked = ((steps.view(128, -1, group) - 8) * scale[..., None] + middle[..., None]).view_as(weight)
        errors.append(_off(unpacked, weight))
    assert errors == sorted(errors)


def test_shapes_without_an_int4_kernel_get_int8() -> None:
    """A width that groups do not divide, or outputs that the kernel cannot tile, fall back."""
    assert isinstance(quantised(_weight(128, 256), None, "int4"), Int4Linear)
    assert isinstance(quantised(_weight(128, 250), None, "int4"), Int8Linear)
    assert isinstance(quantised(_weight(100, 256), None, "int4"), Int8Linear)


def _distance(engine: Engine, other: Engine, ids: list[int]) -> float:
    """Mean KL divergence of the other's next-token distributions from the engine's."""
    first, second = (torch.log_softmax(e.logits(ids), -1) for e in (engine, other))
    return float((first.exp() * (first - second)).sum(-1).mean())


def test_the_pocket_model_keeps_its_quality() -> None:
    """On real code int8 stays within 0.002 of float32, and int4 beats llama.cpp's Q4_0 in the same place."""
    plain = load_engine("pocket", device="cpu")
    ids = [plain.tokenizer.bos_id, *plain.tokenizer.encode(Path(linear.__file__).read_text())][:500]
    for cache in ("none", "int8"):
        eights = load_engine("pocket", device="cpu", quantize="int8", quantize_cache=cache)
        assert 0 < _distance(plain, eights, ids) <= 0.002
    assert (
        0 < _cached_distance(plain, load_engine("pocket", device="cpu", quantize_cache="int8"), ids) <= 0.002
    )
    fours = load_engine("pocket", device="cpu", quantize="int4")
    assert 0.002 < _distance(plain, fours, ids) <= 1.2 * _distance(plain, _as_q4_0(), ids)


def _cached_distance(engine: Engine, other: Engine, ids: list[int]) -> float:
    """The same through each one's cache, which `logits` leaves out where torch computes."""
    first, second = (
        torch.log_softmax(e._model(torch.tensor([ids]), e._model.new_cache(len(ids)))[0], -1)
        for e in (engine, other)
    )
    return float((first.exp() * (first - second)).sum(-1).mean())


def _as_q4_0() -> Engine:
    """The same model with the weights of its layers rounded as ggml's Q4_0 does where its blocks fit."""
    other = load_engine("pocket", device="cpu")
    for name, weight in other._model.named_parameters():  # type: ignore[attr-defined]
        if name.startswith("layers.") and weight.ndim == 2 and weight.shape[1] % 32 == 0:
            groups = weight.data.view(weight.shape[0], -1, 32)
            largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
            scale = (largest / -8).half().float()
            steps = (groups / scale + 8.5).floor().clamp(0, 15)
            weight.data = ((steps - 8) * scale).view_as(weight)
    return other


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_loading_quantised(tmp_path: Path, tied: bool, kind: str) -> None:
    """Joined and quantised layers compute nearly what the checkpoint's do, tied embeddings or not."""
    write_llama(tmp_path, tied=tied)
    plain = load_engine(str(tmp_path), device="cpu")
    other = load_engine(str(tmp_path), device="cpu", quantize=kind, kernels="torch")
    layers = [m for m in other._model.modules() if isinstance(m, Int8Linear | Int4Linear)]  # type: ignore[attr-defined]
    assert len(layers) == 2 * 4 + 1, "qkv, o, gate and up, down in each layer, and the head"
    ids = [264, *range(97, 123), *b"return ab"]
    bound = 0.1 if kind == "int8" else 0.7  # random weights forgive little; a wrong order is beyond 1
    assert _off(other.logits(ids), plain.logits(ids)) < bound
    assert other.complete("ab", max_tokens=4).ids == other.complete("ab", max_tokens=4).ids


def test_unknown_kinds_are_refused(tiny: Path) -> None:
    """The sentence names what there is."""
    with pytest.raises(InvalidRequest, match="int8, int4 or fp8"):
        load_engine(str(tiny), device="cpu", quantize="int3")
