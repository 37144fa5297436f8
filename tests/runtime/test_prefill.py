"""Prefill in blocks, weights in shards and theta in two spellings change no number."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from codellama.runtime import Engine, load_engine
from codellama.runtime.cache import KVCache
from codellama.runtime.generation import BLOCK, prefill, warm_up


def _load(folder: Path) -> Engine:
    return load_engine(str(folder), device="cpu", dtype="float32")


def _ids(count: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(256) for _ in range(count)]


def _cache(engine: Engine) -> KVCache:
    return KVCache(engine.config, engine.config.max_context, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
def test_prefill_by_blocks_equals_the_whole(checkpoints: dict[str, Path], length: int) -> None:
    """Prefill in blocks gives the last logits of one pass over all."""
    engine = _load(checkpoints["untied"])
    ids = _ids(length, seed=length)
    last = prefill(engine._model, _cache(engine), ids)
    torch.testing.assert_close(last, engine.logits(ids)[-1], atol=1e-4, rtol=0)


def test_shards_hold_the_same_model(checkpoints: dict[str, Path]) -> None:
    """A checkpoint in several files computes bit for bit what it does in one."""
    assert len(list(checkpoints["sharded"].glob("*.safetensors"))) > 1
    ids = _ids(100, seed=2)
    assert torch.equal(_load(checkpoints["sharded"]).logits(ids), _load(checkpoints["untied"]).logits(ids))


def test_theta_is_read_in_both_spellings(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """`rope_parameters` (transformers 5) and a bare `rope_theta` mean the same base, and matter."""
    original = json.loads((checkpoints["untied"] / "config.json").read_text())
    assert original.pop("rope_parameters")["rope_theta"] == 1e6
    original.pop("rope_theta", None)
    logits = {}
    ids = _ids(100, seed=3)
    for name, theta in (("old", {"rope_theta": 1e6}), ("default", {})):
        folder = shutil.copytree(checkpoints["untied"], tmp_path / name)
        (folder / "config.json").write_text(json.dumps(original | theta))
        logits[name] = _load(folder).logits(ids)
    assert torch.equal(logits["old"], _load(checkpoints["untied"]).logits(ids))
    assert not torch.allclose(logits["old"], logits["default"], atol=1e-2)


def test_warming_up_leaves_nothing_behind(checkpoints: dict[str, Path]) -> None:
    """What a GPU computes as it loads changes no answer."""
    engine = _load(checkpoints["untied"])
    before = engine.complete("return", max_tokens=8).ids
    warm_up(engine.model)
    assert engine.complete("return", max_tokens=8).ids == before
    assert (
        engine.complete("def re", max_tokens=8).ids == _load(checkpoints["untied"]).complete("def re", 8).ids
    )
