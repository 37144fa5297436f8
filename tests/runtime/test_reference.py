"""Other architectures through transformers, behind the same engine and the same promises."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from runtime_support import write_tokenizer
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MllamaConfig,
    MllamaForConditionalGeneration,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from codellama.runtime import Engine, load_engine
from codellama.runtime.errors import CheckpointError, ContextTooLong
from codellama.runtime.generation import BLOCK
from codellama.runtime.records import CompletionRequest, Sampling

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}

VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_global_layers": 1,
    "attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "vision_output_dim": 64,
    "max_num_tiles": 1,
    "supported_aspect_ratios": [[1, 1]],
    "intermediate_layers_indices": [0],
}


def _write(folder: Path, architecture: str) -> PreTrainedModel:
    shape = SHAPE | {"vocab_size": write_tokenizer(folder)}
    torch.manual_seed(0)
    model: PreTrainedModel
    if architecture == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**shape))
    elif architecture == "mllama":  # Llama 3.2's vision models, asked for text alone
        rope = {"rope_type": "default", "rope_theta": 5e5}
        text = shape | {"cross_attention_layers": [1], "rope_parameters": rope, "bos_token_id": 1}
        model = MllamaForConditionalGeneration(MllamaConfig(text_config=text, vision_config=VISION))
    elif architecture == "yarn":  # a Llama whose RoPE scaling our own transformer does not compute
        rope = {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 128,
        }
        model = LlamaForCausalLM(LlamaConfig(**shape, rope_parameters=rope))
    else:  # a window shorter than the prompts below
        model = MistralForCausalLM(MistralConfig(**shape, sliding_window=40))
    model.eval().save_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=["qwen2", "mistral", "mllama", "yarn"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Engine, PreTrainedModel]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    model = _write(folder, request.param)
    return load_engine(str(folder), device="cpu"), model


def test_it_says_what_it_is(pair: tuple[Engine, PreTrainedModel]) -> None:
    """The family is "reference"; size and context are the checkpoint's."""
    engine, model = pair
    assert engine.config.family == "reference"
    assert engine.config.max_context == 512
    assert engine.config.vocab_size == model.config.get_text_config().vocab_size
    assert engine.config.n_kv_heads == 2


def test_text_and_logits_are_transformers_own(pair: tuple[Engine, PreTrainedModel]) -> None:
    """Beyond a block of prefill, and whatever was asked before: its logits, its greedy choice."""
    engine, model = pair
    for prompt in ("def a(b):\n" * 20, "def a(b):\n" * 19 + "return"):
        ids = [engine.tokenizer.bos_id, *engine.tokenizer.encode(prompt)]
        assert len(ids) > BLOCK
        result = engine.complete(prompt, max_tokens=8)
        with torch.inference_mode():
            expected = model(torch.tensor([[*ids, *result.ids]]), use_cache=False).logits[0]
        torch.testing.assert_close(engine.logits([*ids, *result.ids]), expected, atol=1e-4, rtol=0)
        assert list(result.ids) == expected[len(ids) - 1 : -1].argmax(-1).tolist()
        assert (result.stats.prompt_tokens, result.stats.tokens) == (len(ids), len(result.ids))
        assert result.stats.mean_logprob is not None
        assert result.stats.prefill_s > 0


def test_it_streams_cancels_and_stops(pair: tuple[Engine, PreTrainedModel]) -> None:
    """Pieces join to the text; a cancel comes between two tokens; a stop text is not shown."""
    engine, _ = pair
    request = CompletionRequest("ab", max_tokens=30, sampling=Sampling(temperature=1.0, seed=1))
    stream, pieces = engine.stream(request), []
    try:
        while True:
            pieces.append(next(stream).text)
    except StopIteration as end:
        result = end.value
    assert "".join(pieces) == result.text
    calls = iter(range(100))
    cancelled = engine.run(CompletionRequest("ab", max_tokens=100), lambda: next(calls) > 3)
    assert cancelled.finish_reason == "cancelled"
    assert 0 < cancelled.stats.tokens <= 4
    shown = next(text for text in pieces if text)
    stopped = engine.run(CompletionRequest("ab", 30, request.sampling, stop=(shown,)))
    assert (stopped.text, stopped.finish_reason) == (result.text[: result.text.index(shown)], "stop")
    with pytest.raises(ContextTooLong, match="512"):
        engine.complete("a" * 600)


@pytest.mark.parametrize("damage", ["unknown", "remote code", "missing tensor", "truncated"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    """What transformers does not know, cannot read or would fill with random weights is refused."""
    _write(tmp_path, "qwen2")
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    if damage == "unknown":
        config.write_text(config.read_text().replace('"qwen2"', '"qwen99"'))
    elif damage == "remote code":
        code = '{"auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}, '
        config.write_text(code + config.read_text().replace('"qwen2"', '"qwen99"')[1:])
        (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    elif damage == "missing tensor":
        tensors = load_file(weights)
        tensors.pop("model.norm.weight")
        save_file(tensors, weights, {"format": "pt"})
    else:
        weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))) as caught:
        load_engine(str(tmp_path), device="cpu")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "ran").exists()
    if damage == "missing tensor":
        assert "norm" in str(caught.value)
