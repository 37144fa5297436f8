"""The same model from every format: the same numbers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from family_support import LLAMA4_IN_GGUF, LLAMAS, write_family
from formats_support import (
    LLAMA3_ROPE,
    make_llama,
    write_gguf,
    write_hugging_face,
    write_meta,
    write_meta_llama4,
    write_pickled,
)
from llama_cpp_peer import Peer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Llama4ForCausalLM, LlamaForCausalLM

from codellama.runtime import load_tokenizer
from codellama.runtime.catalogue import known_models
from codellama.runtime.config import FrequencyDivisors, Llama3Scaling, ModelConfig
from codellama.runtime.model import Transformer
from codellama.runtime.rope import frequencies
from codellama.runtime.weights.checkpoint import Checkpoint, open_checkpoint
from codellama.runtime.weights.description import description
from codellama.runtime.weights.loading import load_transformer

IDS = [*range(1, 200, 3), 268, 0, 269]


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    return make_llama()


@pytest.fixture(scope="module")
def expected(llama: LlamaForCausalLM) -> Tensor:
    return reference_logits(llama)


def reference_logits(model: LlamaForCausalLM | Llama4ForCausalLM) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([IDS])).logits[0]
    return logits


def load(path: Path) -> tuple[Checkpoint, Transformer]:
    checkpoint = open_checkpoint(path)
    return checkpoint, load_transformer(checkpoint, torch.device("cpu"), torch.float32)


def logits_of(path: Path) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = load(path)[1](torch.tensor([IDS]))[0]
    return logits


def tensors_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Every tensor in the dtype that it is stored in (float32 where quantised)."""
    tensors: dict[str, Tensor] = {}
    for info in checkpoint.infos():
        for place, block in checkpoint.blocks(info):
            whole = tensors.setdefault(info.name, torch.empty(info.shape, dtype=block.dtype))
            whole[place] = block
    return tensors


def assert_same_model(path: Path, like: LlamaForCausalLM | Llama4ForCausalLM, expected: Tensor) -> None:
    """Logits within 1e-4 of the reference, and every weight bit for bit."""
    state = like.state_dict()
    tensors = tensors_of(open_checkpoint(path))
    ignored = {"lm_head.weight"} if like.config.tie_word_embeddings else set()
    assert tensors.keys() | ignored >= state.keys()
    for name in state.keys() - ignored:
        assert torch.equal(tensors[name], state[name]), name
    torch.testing.assert_close(logits_of(path), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shard", ["1GB", "200KB"])
def test_safetensors(tmp_path: Path, llama: LlamaForCausalLM, expected: Tensor, shard: str) -> None:
    """One file or several."""
    folder = write_hugging_face(tmp_path / "m", llama, shard)
    assert (shard == "1GB") != (folder / "model.safetensors.index.json").exists()
    assert_same_model(folder, llama, expected)


def test_the_index_tells_which_file_counts(tmp_path: Path, llama: LlamaForCausalLM, expected: Tensor) -> None:
    """A tensor that a second file holds as well, and otherwise, is read from the file that is named."""
    folder = write_hugging_face(tmp_path / "m", llama, "200KB")
    places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    files = sorted(set(places.values()))
    for name, file in (("lm_head.weight", files[0]), ("model.layers.0.mlp.up_proj.weight", files[-1])):
        assert places[name] != file
        save_file(
            load_file(folder / file) | {name: torch.zeros(llama.state_dict()[name].shape)}, folder / file
        )
    assert_same_model(folder, llama, expected)


@pytest.mark.parametrize("shards", [1, 3])
def test_pickled_weights(tmp_path: Path, llama: LlamaForCausalLM, expected: Tensor, shards: int) -> None:
    """pytorch_model.bin, one file or several."""
    assert_same_model(write_pickled(tmp_path / "m", llama, shards), llama, expected)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("embeddings", [0, 1])
def test_meta(tmp_path: Path, llama: LlamaForCausalLM, expected: Tensor, ranks: int, embeddings: int) -> None:
    """Meta's folders, whatever the number of files, embeddings split as before and since Llama 3."""
    assert_same_model(write_meta(tmp_path / "m", llama, ranks, embeddings=embeddings), llama, expected)


def test_meta_with_more_ranks_than_heads(tmp_path: Path, llama: LlamaForCausalLM, expected: Tensor) -> None:
    """16 files of a model with 8 key/value heads: each head is held twice, and read once."""
    assert_same_model(write_meta(tmp_path / "m", llama, 16, embeddings=0), llama, expected)


def test_meta_without_grouped_heads(tmp_path: Path) -> None:
    """params.json of Llama 1 and 2 does not give n_kv_heads where there are no groups."""
    model = make_llama(num_key_value_heads=16)
    folder = write_meta(tmp_path / "m", model, 2)
    params = (folder / "params.json").read_text().replace('"n_kv_heads": 16, ', "")
    assert "n_kv_heads" not in params
    (folder / "params.json").write_text(params)
    assert_same_model(folder, model, reference_logits(model))


def test_gguf(tmp_path: Path, llama: LlamaForCausalLM, expected: Tensor) -> None:
    """F32 is exact."""
    assert_same_model(write_gguf(tmp_path / "m.gguf", llama), llama, expected)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K"])
def test_gguf_quantised(tmp_path: Path, kind: str) -> None:
    """Every type holds the numbers that the gguf package reads in it, whole tensors at once."""
    import gguf

    llama = make_llama(hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    file = write_gguf(tmp_path / "m.gguf", llama, kind)
    theirs = {t.name: t for t in gguf.GGUFReader(file).tensors}
    ours = tensors_of(open_checkpoint(file))
    for name, tensor in (("mlp.down_proj", "ffn_down"), ("self_attn.v_proj", "attn_v")):
        stored = theirs[f"blk.0.{tensor}.weight"]
        whole = torch.from_numpy(gguf.quants.dequantize(stored.data, stored.tensor_type))
        assert torch.equal(ours[f"model.layers.0.{name}.weight"].float(), whole.float())
    if kind.endswith("_K"):
        return  # bytes without meaning: what llama.cpp writes is tested on its own fixtures
    close = {"F16": 1e-3, "BF16": 1e-2, "Q8_0": 2e-2}.get(kind, 0.3)
    for name, tensor in llama.state_dict().items():
        assert (ours[name].float() - tensor).abs().max() <= close * tensor.abs().max(), name


def test_gguf_ties_embeddings(tmp_path: Path) -> None:
    """Without output.weight the embeddings are the head."""
    model = make_llama(tie_word_embeddings=True)
    file = write_gguf(tmp_path / "m.gguf", model)
    assert open_checkpoint(file).config.tie_embeddings
    assert_same_model(file, model, reference_logits(model))


def test_llama3_scaling(tmp_path: Path) -> None:
    """Llama 3.1's frequencies: from config.json, from params.json, and as GGUF's divisors."""
    model = make_llama(rope_parameters=LLAMA3_ROPE, max_position_embeddings=131072)
    expected = reference_logits(model)
    plain = reference_logits(make_llama(rope_parameters={"rope_type": "default", "rope_theta": 5e5}))
    assert (plain - expected).abs().max() > 1e-2  # else the scaling would not show
    assert_same_model(write_hugging_face(tmp_path / "h", model), model, expected)
    write_meta(tmp_path / "m", model, 2, embeddings=0, scale=8)
    assert_same_model(tmp_path / "m", model, expected)
    head_dim = model.config.head_dim
    divisors = (1 / 5e5 ** (torch.arange(0, head_dim, 2) / head_dim)) / model.model.rotary_emb.inv_freq
    file = write_gguf(tmp_path / "m.gguf", model, divisors=divisors)
    assert isinstance(open_checkpoint(file).config.rope_scaling, FrequencyDivisors)
    assert_same_model(file, model, expected)


FAMILIES = [family for family in LLAMAS if not family.startswith(("llama-4", "linear", "biases"))]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_from_every_format(tmp_path: Path, family: str) -> None:
    """The logits of each family do not depend on the format: Meta's in two files, GGUF in F32."""
    (tmp_path / "h").mkdir()
    model = write_family(tmp_path / "h", family)
    assert isinstance(model, LlamaForCausalLM)
    rope, divisors = model.config.rope_parameters, None
    if "factor" in rope:  # params.json does not give the original context: 8192 in all published models
        rope["original_max_position_embeddings"] = 8192
        model.save_pretrained(tmp_path / "h")
        model = LlamaForCausalLM.from_pretrained(tmp_path / "h").eval()
        head_dim = model.config.head_dim
        divisors = rope["rope_theta"] ** -(torch.arange(0, head_dim, 2) / head_dim)
        divisors /= model.model.rotary_emb.inv_freq
    embeddings = 0 if rope["rope_theta"] == 5e5 else 1  # since Llama 3 their rows are split
    write_meta(tmp_path / "m", model, 2, embeddings=embeddings, scale=rope.get("factor"))
    file = write_gguf(tmp_path / "m.gguf", model, divisors=divisors)
    for path in (tmp_path / "h", tmp_path / "m", file):
        assert_same_model(path, model, reference_logits(model))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama-4-scout", {}),
        ("llama-4-maverick", {"num_local_experts": 128}),
        ("llama-4-two-experts", {}),
    ],
)
def test_llama4_from_gguf(tmp_path: Path, family: str, changes: dict[str, int]) -> None:
    """As llama.cpp's conversion lays it out: the folder's description, weights, logits; llama.cpp's too.

    What a folder made of it would say is the first one's description again.
    """
    (tmp_path / "h").mkdir()
    model = write_family(tmp_path / "h", family, **LLAMA4_IN_GGUF | changes)
    assert isinstance(model, Llama4ForCausalLM)
    rope, head_dim = model.config.rope_parameters, model.config.head_dim
    divisors = rope["rope_theta"] ** -(torch.arange(0, head_dim, 2) / head_dim)
    divisors /= model.model.rotary_emb.inv_freq
    file = write_gguf(tmp_path / "m.gguf", model, divisors=divisors, pieces=0)
    described, wanted = open_checkpoint(file).config, open_checkpoint(tmp_path / "h").config
    assert isinstance(described.rope_scaling, FrequencyDivisors)
    assert replace(described, rope_scaling=wanted.rope_scaling, norm_eps=wanted.norm_eps) == wanted
    fields = description(described, load_tokenizer(tmp_path / "h"), "float32", file)
    again = ModelConfig.from_hugging_face(fields, "config.json")
    torch.testing.assert_close(frequencies(again), frequencies(wanted), rtol=1e-5, atol=0)
    assert replace(again, rope_scaling=wanted.rope_scaling, norm_eps=wanted.norm_eps) == wanted
    expected = reference_logits(model)
    assert_same_model(file, model, expected)
    with Peer(file) as peer:
        torch.testing.assert_close(peer.logits(IDS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("family", "ranks", "flat"),
    [
        ("llama-4-scout", 1, True),
        ("llama-4-scout", 2, True),
        ("llama-4-maverick", 2, True),
        ("llama-4-maverick", 1, False),
        ("llama-4-two-experts", 2, False),
    ],
)
def test_llama4_from_meta(tmp_path: Path, family: str, ranks: int, flat: bool) -> None:
    """Meta's own layout, in one and two files, fused or not: the folder's description, weights, logits."""
    (tmp_path / "h").mkdir()
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 20}
    rope = LLAMAS["llama-4-scout"]["rope_parameters"] | {"original_max_position_embeddings": 8192}
    model = write_family(tmp_path / "h", family, **shape, rope_parameters=rope)
    assert isinstance(model, Llama4ForCausalLM)
    folder = write_meta_llama4(tmp_path / "m", model, ranks, flat=flat)
    found, wanted = open_checkpoint(folder).config, open_checkpoint(tmp_path / "h").config
    assert replace(found, max_context=wanted.max_context) == wanted  # params.json gives no context
    assert_same_model(folder, model, reference_logits(model))


def test_llama4_without_experts_from_meta(tmp_path: Path) -> None:
    """A dense model of Llama 4's make, as Llama Guard 4 is: all layers without experts."""
    (tmp_path / "h").mkdir()
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 20, "moe_layers": []}
    rope = LLAMAS["llama-4-scout"]["rope_parameters"] | {"original_max_position_embeddings": 8192}
    model = write_family(tmp_path / "h", "llama-4-scout", **shape, rope_parameters=rope)
    assert isinstance(model, Llama4ForCausalLM)
    folder = write_meta_llama4(tmp_path / "m", model, 2)
    params = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps({"model": params | {"moe_args": None}}))
    assert_same_model(folder, model, reference_logits(model))


@pytest.mark.parametrize(
    ("dim", "moe", "width"),
    [
        (5120, {"num_experts": 16, "capacity_factor": 1.0}, 8192),
        (5120, {"num_experts": 128, "capacity_factor": 1.0, "auto_scale_F": True}, 8192),
        (5120, {"num_experts": 16, "auto_scale_F": False}, 16384),
    ],
)
def test_meta_expert_width(dim: int, moe: dict[str, float], width: int) -> None:
    """The published models' experts are 8,192 wide, half of a dense layer's width."""
    from codellama.runtime.weights.meta_llama4 import expert_dim

    params = {"dim": dim, "ffn_exp": 4.0, "ffn_dim_multiplier": 1.2, "multiple_of": 2048}
    assert expert_dim(params, moe) == width


def test_llama4_experts_in_q8_0(tmp_path: Path) -> None:
    """Quantised experts are those that were written, each within half a step of its block."""
    (tmp_path / "h").mkdir()
    shape = {"hidden_size": 96, "intermediate_size": 64, "num_attention_heads": 6}
    model = write_family(tmp_path / "h", "llama-4-scout", **LLAMA4_IN_GGUF, **shape)
    assert isinstance(model, Llama4ForCausalLM)
    found = tensors_of(open_checkpoint(write_gguf(tmp_path / "m.gguf", model, "Q8_0")))
    for name, weight in model.state_dict().items():
        if ".experts." in name:
            torch.testing.assert_close(found[name], weight, atol=float(weight.abs().max()) / 250, rtol=0)


@pytest.mark.parametrize(
    ("dim", "multiple", "factor", "width"),
    [
        *((4096, 256, None, 11008), (5120, 256, None, 13824), (6656, 256, None, 17920)),
        *((8192, 256, None, 22016), (8192, 4096, 1.3, 28672), (4096, 1024, 1.3, 14336)),
        *((16384, 4096, 1.2, 53248), (2048, 256, 1.5, 8192), (3072, 256, 1.0, 8192)),
    ],
)
def test_meta_feed_forward_width(dim: int, multiple: int, factor: float | None, width: int) -> None:
    """params.json gives a rule for it: the published models' widths follow."""
    from codellama.runtime.weights.meta import ffn_dim

    assert ffn_dim(dim, {"multiple_of": multiple, "ffn_dim_multiplier": factor}) == width
    assert width in {model.shape.ffn_dim for model in known_models() if model.shape.dim == dim}


@pytest.mark.parametrize(("dim", "factor"), [(2048, 32.0), (3072, 32.0), (4096, 8.0), (8192, 8.0)])
def test_meta_scaling_factor(dim: int, factor: float) -> None:
    """params.json says only that there is scaling: by 32 in Llama 3.2 1B and 3B, by 8 in the others."""
    from codellama.runtime.weights.meta import rope_scaling

    assert rope_scaling({"dim": dim, "use_scaled_rope": True}) == Llama3Scaling(factor, 1.0, 4.0, 8192)
    assert rope_scaling({"dim": dim}) is None


def test_llama4_with_pictures(tmp_path: Path) -> None:
    """Llama 4's own folders: the text decoder is read, what sees pictures is left."""
    from transformers import Llama4Config, Llama4ForConditionalGeneration

    torch.manual_seed(2)
    text = {
        **{"vocab_size": 272, "hidden_size": 64, "intermediate_size": 48, "intermediate_size_mlp": 96},
        **{"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
        **{"num_local_experts": 2, "attention_chunk_size": 16, "max_position_embeddings": 128},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    }
    vision = {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"image_size": 28, "patch_size": 14, "projector_input_dim": 32, "projector_output_dim": 32},
        **{"vision_output_dim": 32},
    }
    model = Llama4ForConditionalGeneration(Llama4Config(text_config=text, vision_config=vision)).eval()
    model.save_pretrained(tmp_path)
    names = {info.name for info in open_checkpoint(tmp_path).infos()}
    assert names == {name for name, _ in model.language_model.named_parameters()}
    torch.testing.assert_close(logits_of(tmp_path), reference_logits(model.language_model), atol=1e-4, rtol=0)
