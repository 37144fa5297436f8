"""Our transformer against transformers': the same numbers, the same text."""

import json
from pathlib import Path

import pytest
import torch
from runtime_support import write_llama

from codellama.runtime import load_engine
from codellama.runtime.cache import KVCache

IDS = [264 + 0, *range(60, 130), 3, 256, 257, 258]


@pytest.mark.parametrize(
    ("tied", "shard", "theta"), [(False, "1GB", 1e6), (True, "1GB", 1e4), (False, "60KB", 5e5)]
)
def test_logits_equal_the_reference(tmp_path: Path, tied: bool, shard: str, theta: float) -> None:
    """Tied or not, one file or shards, whatever the base: logits within 1e-4 in float32."""
    reference = write_llama(tmp_path, tied=tied, shard=shard, theta=theta)
    assert (shard == "1GB") != (tmp_path / "model.safetensors.index.json").exists()
    with torch.no_grad():
        expected = reference(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(load_engine(str(tmp_path)).logits(IDS), expected, atol=1e-4, rtol=0)


def test_an_old_config_names_theta_elsewhere(tmp_path: Path) -> None:
    """rope_theta stands at the top of checkpoints written before transformers 5."""
    write_llama(tmp_path, theta=12345.0)
    first = load_engine(str(tmp_path)).config
    data = json.loads((tmp_path / "config.json").read_text())
    data["rope_theta"] = data.pop("rope_parameters")["rope_theta"]
    (tmp_path / "config.json").write_text(json.dumps(data))
    assert load_engine(str(tmp_path)).config == first
    assert first.rope_theta == 12345.0


def test_greedy_text_is_identical(tmp_path: Path) -> None:
    """64 greedy tokens, cached, equal the reference's uncached, wherever its margin exceeds 1e-3."""
    reference = write_llama(tmp_path)
    engine = load_engine(str(tmp_path))
    prompt = "def fib(n):\n    return "
    ids = [engine.tokenizer.bos_id, *engine.tokenizer.encode(prompt)]
    ours = engine.complete(prompt, max_tokens=64).ids
    assert len(ours) > 8
    for token in ours:
        with torch.no_grad():
            last = reference(torch.tensor([ids])).logits[0, -1]
        best = last.topk(2).values
        if best[0] - best[1] > 1e-3:
            assert token == int(last.argmax())
        ids.append(token)


def test_cached_equals_uncached(engine: object, tiny: Path) -> None:
    """Prefill in pieces and one by one gives the logits of the whole."""
    engine = load_engine(str(tiny))
    model = engine._model
    whole = engine.logits(IDS)
    for sizes in ([len(IDS)], [40, len(IDS) - 40], [1] * len(IDS)):
        cache = KVCache(engine.config, 128, torch.device("cpu"), torch.float32)
        rows, start = [], 0
        with torch.inference_mode():
            for size in sizes:
                rows.append(model(torch.tensor([IDS[start : start + size]]), cache)[0])
                start += size
        torch.testing.assert_close(torch.cat(rows), whole, atol=1e-4, rtol=0)
