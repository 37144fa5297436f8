"""What headers alone tell: family, size, context, infill, dtype, memory."""

import json
import struct
import subprocess
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
from formats_support import LLAMA3_ROPE, make_llama, write_gguf, write_hugging_face, write_meta, write_pickled

from codellama.runtime.catalogue import known_models
from codellama.runtime.config import Llama3Scaling, ModelConfig
from codellama.runtime.identify import identify, usual_context
from codellama.runtime.inspection import inspect
from codellama.runtime.locate import locate

SCALED = Llama3Scaling(8.0, 1.0, 4.0, 8192)


def shape(sizes: tuple[int, ...], vocabulary: int, theta: float, context: int) -> ModelConfig:
    dim, layers, heads, kv_heads, ffn = sizes
    return ModelConfig(
        vocabulary, dim, layers, heads, kv_heads, dim // heads, ffn, rope_theta=theta, max_context=context
    )


SEVEN = (4096, 32, 32, 32, 11008)
THIRTEEN = (5120, 40, 40, 40, 13824)
THIRTY_FOUR = (8192, 48, 64, 8, 22016)
SEVENTY = (8192, 80, 64, 8, 28672)
EIGHT = (4096, 32, 32, 8, 14336)


@pytest.mark.parametrize(
    ("config", "hint", "family", "infill", "one_of"),
    [
        (shape(SEVEN, 32016, 1e6, 16384), "", "Code Llama", "yes", "CodeLlama-7b-Instruct"),
        (shape(THIRTEEN, 32016, 1e6, 16384), "", "Code Llama", "yes", "CodeLlama-13b-hf"),
        (shape(SEVEN, 32000, 1e6, 16384), "", "Code Llama", "no", "CodeLlama-7b-Python"),
        (shape(THIRTY_FOUR, 32000, 1e6, 16384), "", "Code Llama", "no", "CodeLlama-34b-hf"),
        (shape(SEVENTY, 32016, 1e6, 16384), "", "Code Llama", "yes", "CodeLlama-70b-hf"),
        (shape(SEVENTY, 32016, 1e4, 4096), "m/Instruct", "Code Llama", "unsure", "70b-Instruct"),
        (shape(SEVENTY, 32016, 1e4, 4096), "m/python", "Code Llama", "unsure", "70b-Python"),
        (shape(SEVEN, 32000, 1e4, 2048), "", "Llama 1", "no", "llama-7b"),
        (shape(SEVEN, 32000, 1e4, 4096), "", "Llama 2", "no", "Llama-2-7b"),
        (shape(SEVENTY, 32000, 1e4, 4096), "chat", "Llama 2", "no", "70b-chat"),
        (shape(EIGHT, 128256, 5e5, 8192), "", "Llama 3", "no", "Llama-3-8B"),
        (replace(shape(EIGHT, 128256, 5e5, 131072), rope_scaling=SCALED), "", "Llama 3.1", "no", "3.1-8B"),
        (
            *(replace(shape(SEVENTY, 128256, 5e5, 131072), rope_scaling=SCALED), ""),
            *("Llama 3.1 or Llama 3.3", "no", "3.3-70B"),
        ),
        (
            *(replace(shape(SEVENTY, 128256, 5e5, 131072), rope_scaling=SCALED), "Llama-3.3-70B"),
            *("Llama 3.3", "no", "3.3-70B"),
        ),
        (shape(SEVEN, 32017, 1e6, 16384), "CodeLlama", "unknown Llama", "no", None),
        (shape(SEVEN, 32016, 2e6, 16384), "CodeLlama", "unknown Llama", "no", None),
    ],
)
def test_families(config: ModelConfig, hint: str, family: str, infill: str, one_of: str | None) -> None:
    """Shape, vocabulary and rotary base tell the family; a name tells what they leave open."""
    identity = identify(config, hint)
    assert (identity.family, identity.infill) == (family, infill)
    assert one_of is None or any(one_of in model for model in identity.models)
    assert not hint or one_of is None or all(one_of in model for model in identity.models)


def test_every_published_model_is_known() -> None:
    """Each is found again by its own shape and name."""
    for model in known_models():
        scaled = model.shape.max_context == 131072
        config = replace(model.shape, rope_scaling=SCALED if scaled else None)
        assert model.name in identify(config, model.name).models


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (replace(shape(SEVEN, 32000, 1e4, 1), norm_eps=1e-6), 2048),
        (shape(SEVEN, 32000, 1e4, 1), 4096),
        (shape((8192, 80, 64, 64, 22016), 32000, 1e4, 1), 2048),
        (shape(SEVEN, 32016, 1e6, 1), 16384),
        (shape(SEVENTY, 32016, 1e4, 1), 4096),
        (shape(EIGHT, 128256, 5e5, 1), 8192),
        (replace(shape(EIGHT, 128256, 5e5, 1), rope_scaling=SCALED), 131072),
        (shape((64, 2, 4, 4, 96), 300, 1e6, 1), 16384),
        (shape((64, 2, 4, 4, 96), 300, 1e4, 1), 2048),
    ],
)
def test_context_where_the_format_does_not_say(config: ModelConfig, context: int) -> None:
    """params.json has no context: it follows from the model."""
    assert usual_context(config) == context


def test_formats_agree(tmp_path: Path) -> None:
    """The same model from every format: the same facts, but for what they are stored in."""
    model = make_llama(max_position_embeddings=16384)
    places = {
        "hugging-face": write_hugging_face(tmp_path / "h", model),
        "meta": write_meta(tmp_path / "m", model, 2),
        "gguf": write_gguf(tmp_path / "m.gguf", model, "F16"),
    }
    seen = {kind: inspect(path, "tiny") for kind, path in places.items()}
    seen["bin"] = inspect(write_pickled(tmp_path / "b", model, 2), "tiny")
    for kind, facts in seen.items():
        assert facts.format == ("hugging-face" if kind == "bin" else kind)
        assert facts.parameters == model.num_parameters()
        assert facts.memory["float32"].weights == 4 * model.num_parameters()
        assert (facts.family, facts.context, facts.vocabulary) == ("unknown Llama", 16384, 272)
        assert facts.dtypes.keys() == ({"F16", "F32"} if kind == "gguf" else {"F32"})
    assert seen["meta"].tokenizer == seen["hugging-face"].tokenizer
    assert seen["hugging-face"].infill
    cache = seen["gguf"].memory["bfloat16"]
    assert cache.cache_per_token == 2 * 2 * 8 * 8 * 2  # keys and values, layers, heads, head size, bytes
    assert cache.cache == 16384 * cache.cache_per_token


def write_headers_of_7b(folder: Path) -> None:
    """A Code Llama 7B of 13.5 GB that is nothing but its header: the rest of the file is a hole."""
    config = shape(SEVEN, 32016, 1e6, 16384)
    dim, ffn, vocabulary = config.dim, config.ffn_dim, config.vocab_size
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, dim)}
    for layer in range(config.n_layers):
        stem = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"{stem}.self_attn.{name}.weight"] = (dim, dim)
        for name in ("gate_proj", "up_proj"):
            tensors[f"{stem}.mlp.{name}.weight"] = (ffn, dim)
        tensors[f"{stem}.mlp.down_proj.weight"] = (dim, ffn)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{stem}.{name}.weight"] = (dim,)
    tensors |= {"model.norm.weight": (dim,), "lm_head.weight": (vocabulary, dim)}
    header, at = {}, 0
    for name, sizes in tensors.items():
        header[name] = {"dtype": "BF16", "shape": sizes, "data_offsets": [at, at + 2 * prod(sizes)]}
        at += 2 * prod(sizes)
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    description = {
        **{"model_type": "llama", "vocab_size": vocabulary, "hidden_size": dim, "intermediate_size": ffn},
        **{"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32},
        **{"max_position_embeddings": 16384, "rms_norm_eps": 1e-5, "rope_theta": 1000000},
    }
    (folder / "config.json").write_text(json.dumps(description))


def test_headers_are_enough(tmp_path: Path) -> None:
    """A model of real size, of which only the header exists; no tokenizer is noted, not fatal."""
    write_headers_of_7b(tmp_path)
    facts = inspect(tmp_path, "CodeLlama-7b-Instruct")
    assert (facts.family, facts.published) == ("Code Llama", ("codellama/CodeLlama-7b-Instruct-hf",))
    assert facts.parameters == 6_738_546_688
    assert facts.infill
    assert facts.tokenizer is None
    assert any("tokenizer" in note for note in facts.notes)
    assert facts.dtypes == {"BF16": facts.parameters}
    assert round(facts.memory["bfloat16"].weights / 1e9, 1) == 13.5


def test_what_differs_is_noted(tmp_path: Path) -> None:
    """Files that hold another number of weights than the description says."""
    folder = write_hugging_face(tmp_path / "m", make_llama())
    description = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(description | {"intermediate_size": 385}))
    assert any("description" in note for note in inspect(folder, "m").notes)


def test_scaling_tells_the_generation(tmp_path: Path) -> None:
    """Divisors in a GGUF file count as scaling."""
    import torch

    model = make_llama(rope_parameters=LLAMA3_ROPE, max_position_embeddings=131072)
    file = write_gguf(tmp_path / "m.gguf", model, divisors=torch.ones(4))
    assert inspect(file, "m").context == 131072


def test_pocket() -> None:
    """The model that comes with codellama names itself."""
    facts = inspect(locate("pocket"), "pocket")
    assert (facts.family, facts.infill, facts.notes) == ("pocket", True, ())
    assert facts.tokenizer


def test_the_command_needs_no_torch(tmp_path: Path) -> None:
    """`codellama models inspect` of every format: one JSON list, the contract's keys, no torch."""
    model = make_llama()
    places = [
        *(str(write_hugging_face(tmp_path / "h", model)), str(write_meta(tmp_path / "m", model, 2))),
        *(str(write_gguf(tmp_path / "m.gguf", model)), str(write_pickled(tmp_path / "b", model)), "pocket"),
    ]
    code = (
        "import sys, codellama_cli.app\n"
        "for place in sys.argv[1:]:\n"
        "    codellama_cli.app.app(['models', 'inspect', place, '--json'], standalone_mode=False)\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *places], capture_output=True, text=True, check=True)
    *documents, heavy = done.stdout.splitlines()
    assert heavy == "False False"
    assert len(documents) == len(places)
    for place, document in zip(places, documents, strict=True):
        (facts,) = json.loads(document)
        assert facts.keys() >= {"name", "family", "parameters", "context", "infill", "path"}
        assert facts["name"] == place
        assert facts["infill"] == (not place.endswith(".gguf"))
