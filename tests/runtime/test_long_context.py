"""A hundred thousand tokens in one prompt: right, in bounded memory, beyond the trained context."""

from pathlib import Path

import pytest
import torch
from runtime_support import write_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from codellama.runtime import load_engine
from codellama.runtime.errors import ContextTooLong
from codellama.runtime.generation import prefill

LENGTH = 100_000


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    """A Llama of one layer and one head, trained for 16,384 tokens as Code Llama is."""
    folder = tmp_path_factory.mktemp("long")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=write_tokenizer(folder),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=16_384,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    return folder, model


def test_the_last_logits_of_100k_tokens(one_layer: tuple[Path, LlamaForCausalLM]) -> None:
    """Prefill in blocks of 100,000 tokens gives transformers' last logits within 1e-4.

    Our angles are float64's and transformers' float32's: this bounds their difference too (with bfloat16
    tables it is 1e-3).
    """
    folder, reference = one_layer
    engine = load_engine(str(folder), device="cpu", max_context=LENGTH)
    ids = torch.randint(256, (LENGTH,), generator=torch.Generator().manual_seed(0))
    cache = engine._model.new_cache(LENGTH)
    last = prefill(engine._model, cache, ids.tolist())
    with torch.inference_mode():
        expected = reference(ids[None], use_cache=False, logits_to_keep=1).logits[0, -1]
    torch.testing.assert_close(last, expected, atol=1e-4, rtol=0)


def test_the_trained_context_is_the_default(one_layer: tuple[Path, LlamaForCausalLM]) -> None:
    """More than the model was trained for has to be asked for; then it is computed."""
    folder, _ = one_layer
    prompt = "a" * 16_400
    with pytest.raises(ContextTooLong, match="16384"):
        load_engine(str(folder), device="cpu").complete(prompt, max_tokens=1)
    asked = load_engine(str(folder), device="cpu", max_context=20_000)
    assert asked.complete(prompt, max_tokens=1).stats.prompt_tokens > 16_384
