"""A step through fixed buffers, as a GPU's graphs need it, computes what the plain step does."""

from pathlib import Path
from types import MethodType
from weakref import ref

import pytest
import torch

from codellama.runtime import graphs, load_engine
from codellama.runtime.errors import InvalidRequest
from codellama.runtime.graphs import GraphedModel, StaticStep
from codellama.runtime.linear import Fp8Linear
from codellama.runtime.model import Transformer


@pytest.mark.parametrize("cache", ["none", "int8"])
def test_static_steps_are_plain_steps(tiny: Path, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    """Logits after each of many steps, over the border of a span, and after the cache has grown."""
    monkeypatch.setattr(graphs, "SPAN", 16)
    model = load_engine(str(tiny), device="cpu", quantize_cache=cache).model
    assert isinstance(model, Transformer)
    graphed = GraphedModel(model)
    ids = torch.tensor([[*range(97, 123), *range(65, 91), *range(97, 123)]])
    plain, static = model.new_cache(128), graphed.new_cache(40)
    with torch.inference_mode():
        torch.testing.assert_close(graphed(ids[:, :10], static), model(ids[:, :10], plain))
        for n in range(10, 60):
            if n == 36:
                static.grow(128)
            step = ids[:, n : n + 1]
            torch.testing.assert_close(graphed(step, static), model(step, plain), atol=1e-4, rtol=1e-4)
            assert static.length == n + 1
        static.rewind(30)
        plain.rewind(30)
        torch.testing.assert_close(
            graphed(ids[:, :1], static), model(ids[:, :1], plain), atol=1e-4, rtol=1e-4
        )


def test_a_span_is_captured_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps within one span of one cache share a capture; another cache, or more room, needs its own."""
    captured: list[StaticStep] = []

    def capture(compute: MethodType, device: torch.device) -> MethodType:
        captured.append(compute.__self__)
        return compute

    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(graphs, "SPAN", 16)
    graphed = GraphedModel(load_engine(str(tiny), device="cpu").model)  # type: ignore[arg-type]
    first, second = graphed.new_cache(64), graphed.new_cache(64)
    with torch.inference_mode():
        for _ in range(20):
            graphed(torch.tensor([[97]]), first)
        assert [step.span for step in captured] == [16, 32]
        graphed(torch.tensor([[97]]), second)
        assert len(captured) == 3
        first.grow(128)
        graphed(torch.tensor([[97]]), first)
    assert len(captured) == 4


def test_a_cache_that_is_dropped_is_gone(tiny: Path) -> None:
    """Its memory comes back at once, without the garbage collector, which knows nothing of a GPU's."""
    graphed = GraphedModel(load_engine(str(tiny), device="cpu").model)  # type: ignore[arg-type]
    cache = graphed.new_cache(64)
    keys, kept = ref(cache.keys), ref(cache)
    with torch.inference_mode():
        graphed(torch.tensor([[97]]), cache)
    del cache
    assert kept() is None
    assert keys() is None


def test_an_engine_answers_through_them(tiny: Path) -> None:
    """Whole requests give the ids of the plain model."""
    engine, plain = (load_engine(str(tiny), device="cpu") for _ in range(2))
    model = GraphedModel(plain.model)  # type: ignore[arg-type]
    stepped = type(engine)("graphed", model, engine.tokenizer)
    for prompt in ("def a(b):", "return de" * 20):
        assert stepped.complete(prompt, max_tokens=12).ids == engine.complete(prompt, max_tokens=12).ids


def test_fp8_loses_what_eight_bits_lose() -> None:
    """Rows and weights in e4m3: a few percent of the product, biases whole, every row by itself."""
    chance = torch.Generator().manual_seed(0)
    weight, x = torch.randn(64, 128, generator=chance), torch.randn(2, 3, 128, generator=chance)
    x[0, 0] *= 1000
    layer = Fp8Linear(weight, torch.ones(64))
    expected = x @ weight.T + 1
    assert layer(x).shape == expected.shape
    assert ((layer(x) - expected).norm(dim=-1) < 0.05 * expected.norm(dim=-1)).all()
    torch.testing.assert_close(layer(x[:1, 1:2]), layer(x)[:1, 1:2])


def test_fp8_needs_its_units(tiny: Path) -> None:
    """On a device without them the sentence says what to choose."""
    with pytest.raises(InvalidRequest, match="fp8"):
        load_engine(str(tiny), device="cpu", quantize="fp8")
