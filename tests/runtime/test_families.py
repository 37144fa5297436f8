"""Every family of Llamas against transformers: the same numbers, cached or not, in blocks or whole."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from family_support import LLAMAS, write_family
from transformers import PreTrainedModel

from codellama.runtime import Engine, load_engine
from codellama.runtime.cache import KVCache
from codellama.runtime.config import ModelConfig
from codellama.runtime.generation import BLOCK, prefill

LENGTH = 2 * BLOCK + 44  # beyond two blocks of prefill and six chunks of the tiny Llama 4
IDS = random.Random(0).choices(range(256), k=LENGTH)


@dataclass(frozen=True)
class Pair:
    """Our engine, transformers' model, and transformers' logits of IDS."""

    engine: Engine
    reference: PreTrainedModel
    expected: torch.Tensor


def _expected(reference: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = reference(torch.tensor([ids]), use_cache=False).logits[0]
        return logits


@pytest.fixture(scope="module", params=list(LLAMAS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder: Path = tmp_path_factory.mktemp(request.param)
    reference = write_family(folder, request.param)
    return Pair(load_engine(str(folder), device="cpu"), reference, _expected(reference, IDS))


def _cache(engine: Engine) -> KVCache:
    return KVCache(engine.config, LENGTH, torch.device("cpu"), torch.float32)


def test_logits_equal_the_reference(pair: Pair) -> None:
    """Every position's logits, in one pass, within 1e-4 in float32."""
    torch.testing.assert_close(pair.engine.logits(IDS), pair.expected, atol=1e-4, rtol=0)


def test_what_equals_the_default_may_be_left_out(tmp_path: Path) -> None:
    """Llama 4's config.json, alone or inside a vision model's, with its lists or the rules they follow."""
    write_family(tmp_path, "llama-4-maverick")
    data = json.loads((tmp_path / "config.json").read_text())
    config = ModelConfig.from_hugging_face(data, "here")
    assert config.llama4 is not None
    assert (config.llama4.moe_layers, config.llama4.nope_layers) == ((1, 3), (3,))
    for key in ("moe_layers", "no_rope_layers", "layer_types", "attn_scale", "rms_norm_eps"):
        del data[key]
    assert ModelConfig.from_hugging_face(data, "here") == config
    assert ModelConfig.from_hugging_face({"model_type": "llama4", "text_config": data}, "here") == config


def test_prefill_in_blocks_equals_the_reference(pair: Pair) -> None:
    """Prefill by blocks, whatever the last one's length, gives the logits of the whole."""
    for length in (1, BLOCK, 2 * BLOCK + 1, LENGTH):
        last = prefill(pair.engine._model, _cache(pair.engine), IDS[:length])
        torch.testing.assert_close(last, pair.expected[length - 1], atol=1e-4, rtol=0)


def test_cached_equals_uncached(pair: Pair) -> None:
    """One token after the other, and in pieces that begin anywhere: the logits of the whole."""
    for sizes in ([1] * 60 + [LENGTH - 100] + [1] * 40, [50, 1, 17, 120, 112]):
        assert sum(sizes) == LENGTH
        cache, rows, start = _cache(pair.engine), [], 0
        with torch.inference_mode():
            for size in sizes:
                rows.append(pair.engine._model(torch.tensor([IDS[start : start + size]]), cache)[0])
                start += size
        torch.testing.assert_close(torch.cat(rows), pair.expected, atol=1e-4, rtol=0)


def test_greedy_text_is_identical(pair: Pair) -> None:
    """64 greedy tokens equal the reference's choice, up to where its best two lie within 1e-3."""
    engine = pair.engine
    prompt = "def fib(n):\n    return "
    ids = [engine.tokenizer.bos_id, *engine.tokenizer.encode(prompt)]
    ours = engine.complete(prompt, max_tokens=64).ids
    best = _expected(pair.reference, [*ids, *ours])[len(ids) - 1 : -1].topk(2)
    compared = 0
    for token, values, chosen in zip(ours, best.values, best.indices, strict=True):
        if values[0] - values[1] <= 1e-3:
            break
        assert token == int(chosen[0])
        compared += 1
    assert compared > 8
