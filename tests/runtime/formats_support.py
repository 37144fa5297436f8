"""One tiny Llama in every format, each written by another library than ours.

Hugging Face by transformers, Meta by torch.save after splitting as Meta's model parallelism does, GGUF by
the gguf package after llama.cpp's conversion.
"""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from runtime_support import write_tokenizer
from torch import Tensor
from transformers import Llama4ForCausalLM, Llama4TextConfig, LlamaConfig, LlamaForCausalLM

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e6}


def make_llama(**changes: Any) -> LlamaForCausalLM:
    """A seeded Llama whose heads, rows and vocabulary can be split into 8, and quantised in blocks of 32."""
    torch.manual_seed(1)
    config = LlamaConfig(
        **{
            "vocab_size": 272,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 2,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "max_position_embeddings": 512,
            "rope_parameters": PLAIN_ROPE,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "initializer_range": 0.2,
            **changes,
        }
    )
    return LlamaForCausalLM(config).eval()


def write_hugging_face(folder: Path, model: LlamaForCausalLM, shard: str = "1GB") -> Path:
    model.save_pretrained(folder, max_shard_size=shard)
    write_tokenizer(folder)
    return folder


def write_pickled(folder: Path, model: LlamaForCausalLM, shards: int = 1) -> Path:
    """A folder with pytorch_model.bin, in so many files."""
    write_hugging_face(folder, model)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    state = model.state_dict()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    places = {
        name: f"pytorch_model-{n % shards + 1:05}-of-{shards:05}.bin" for n, name in enumerate(sorted(state))
    }
    for file in set(places.values()):
        torch.save({name: state[name] for name, place in places.items() if place == file}, folder / file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def pairs_from_halves(rows: Tensor, head_dim: int) -> Tensor:
    """Query or key rows in Meta's order, from Hugging Face's; llama.cpp's conversion does the same."""
    return rows.view(-1, 2, head_dim // 2, rows.shape[-1]).transpose(1, 2).reshape(rows.shape)


META_NAMES = {
    "self_attn.q_proj": ("attention.wq", 0),
    "self_attn.k_proj": ("attention.wk", 0),
    "self_attn.v_proj": ("attention.wv", 0),
    "self_attn.o_proj": ("attention.wo", 1),
    "mlp.gate_proj": ("feed_forward.w1", 0),
    "mlp.down_proj": ("feed_forward.w2", 1),
    "mlp.up_proj": ("feed_forward.w3", 0),
    "input_layernorm": ("attention_norm", None),
    "post_attention_layernorm": ("ffn_norm", None),
}


def write_meta(
    folder: Path, model: LlamaForCausalLM, ranks: int, *, embeddings: int = 1, scale: float | None = None
) -> Path:
    """A folder of `ranks` files; `embeddings` is the dimension that they are split along.

    Slices are saved as views, as a naive script leaves them: with strides, inside the storage of the whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    head_dim = config.head_dim
    tensors: dict[str, tuple[Tensor, int | None]] = {}
    for name, tensor in model.state_dict().items():
        if name == "model.embed_tokens.weight":
            tensors["tok_embeddings.weight"] = (tensor, embeddings)
        elif name == "model.norm.weight":
            tensors["norm.weight"] = (tensor, None)
        elif name == "lm_head.weight":
            if not config.tie_word_embeddings:
                tensors["output.weight"] = (tensor, 0)
        else:
            _, _, layer, inner = name.removesuffix(".weight").split(".", 3)
            theirs, dimension = META_NAMES[inner]
            turned = theirs in ("attention.wq", "attention.wk")
            rows = pairs_from_halves(tensor, head_dim) if turned else tensor
            tensors[f"layers.{layer}.{theirs}.weight"] = (rows, dimension)
    tensors["rope.freqs"] = (torch.ones(head_dim // 2), None)
    for rank in range(ranks):
        part = {
            name: tensor if dimension is None else _slice(name, tensor, dimension, rank, ranks, config)
            for name, (tensor, dimension) in tensors.items()
        }
        torch.save(part, folder / f"consolidated.{rank:02}.pth")
    params = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "multiple_of": config.intermediate_size // 4,
        "ffn_dim_multiplier": 0.95 * config.intermediate_size / int(8 * config.hidden_size / 3),
        "norm_eps": config.rms_norm_eps,
        "vocab_size": -1,
        "rope_theta": config.rope_parameters["rope_theta"],
    }
    if scale:
        params |= {"use_scaled_rope": True, "rope_scaling_factor": scale}
    if head_dim * config.num_attention_heads != config.hidden_size:
        params["head_dim"] = head_dim
    (folder / "params.json").write_text(json.dumps(params))
    write_tokenizer(folder)
    return folder


META_LLAMA4_NAMES = {
    "self_attn.o_proj.weight": ("attention.wo.weight", 1),
    "input_layernorm.weight": ("attention.wqkv.layer_norm_weight", None),
    "feed_forward.down_proj.weight": ("feed_forward.mlp.fc2_weight", 1),
    "feed_forward.experts.down_proj": ("feed_forward.experts.moe_w_out_eF_D", 1),
    "feed_forward.shared_expert.gate_proj.weight": ("feed_forward.w_in_shared_FD.weight", 0),
    "feed_forward.shared_expert.up_proj.weight": ("feed_forward.w_swiglu_FD.weight", 0),
    "feed_forward.shared_expert.down_proj.weight": ("feed_forward.w_out_shared_DF.weight", 1),
}


def write_meta_llama4(folder: Path, model: Llama4ForCausalLM, ranks: int, *, flat: bool = True) -> Path:
    """As Meta hands out Llama 4: attention and dense layers fused, experts of a layer one below the other.

    `flat` False leaves the experts stacked and the projections of attention apart, which Meta's code
    takes as well. What its layers keep beside weights, and what sees pictures, is there too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    state = model.state_dict()
    for rank in range(ranks):
        part: dict[str, Any] = {
            "tok_embeddings.weight": state["model.embed_tokens.weight"].chunk(ranks)[rank],
            "output.weight": state["lm_head.weight"].chunk(ranks)[rank],
            "norm.weight": state["model.norm.weight"],
            "rope.freqs": torch.ones(config.head_dim // 2),
            "vision_projection.weight": torch.ones(4, 4),
        }
        for layer in range(config.num_hidden_layers):
            before = f"model.layers.{layer}."
            own = {name.removeprefix(before): t for name, t in state.items() if name.startswith(before)}
            for name, tensor in _meta_llama4_layer(own, rank, ranks, flat).items():
                part[f"layers.{layer}.{name}"] = tensor
            part[f"layers.{layer}.attention.wqkv._extra_state"] = io.BytesIO(b"\x80state" * layer)
        torch.save(part, folder / f"consolidated.{rank:02}.pth")
    params = {
        **{"dim": config.hidden_size, "n_layers": config.num_hidden_layers, "vocab_size": config.vocab_size},
        **{"n_heads": config.num_attention_heads, "n_kv_heads": config.num_key_value_heads},
        **{"multiple_of": 16, "ffn_exp": 4.0, "norm_eps": config.rms_norm_eps},
        "ffn_dim_multiplier": 0.995 * config.intermediate_size_mlp / int(8 * config.hidden_size / 3),
        "rope_theta": config.rope_parameters["rope_theta"],
        "use_scaled_rope": True,
        "attention_chunk_size": config.attention_chunk_size,
        "nope_layer_interval": 4,
        "use_qk_norm": config.use_qk_norm,
        "attn_temperature_tuning": bool(config.attn_temperature_tuning),
        "floor_scale": config.floor_scale,
        "vision_args": {"dim": 8},
        "moe_args": {
            **{"num_experts": config.num_local_experts, "top_k": config.num_experts_per_tok},
            **{"capacity_factor": 1.0, "interleave_moe_layer_step": config.interleave_moe_layer_step},
        },
    }
    (folder / "params.json").write_text(json.dumps(params))
    write_tokenizer(folder)
    return folder


def _meta_llama4_layer(own: dict[str, Tensor], rank: int, ranks: int, flat: bool) -> dict[str, Tensor]:
    """One layer's tensors in one file."""

    def mine(name: str, dimension: int = 0) -> Tensor:
        return own[name].chunk(ranks, dimension)[rank]

    norm = own["post_attention_layernorm.weight"]
    queries, keys, values = (mine(f"self_attn.{n}_proj.weight") for n in "qkv")
    part = (
        {"attention.wqkv.weight": torch.cat([queries, keys, values])}
        if flat
        else {f"attention.w{n}.weight": t for n, t in zip("qkv", (queries, keys, values), strict=True)}
    )
    for name, (theirs, dimension) in META_LLAMA4_NAMES.items():
        if name in own:
            part[theirs] = own[name] if dimension is None else mine(name, dimension)
    if "feed_forward.router.weight" in own:
        gate, up = own["feed_forward.experts.gate_up_proj"].chunk(2, -1)
        part["feed_forward.experts.moe_w_in_eD_F"] = gate.chunk(ranks, -1)[rank]
        part["feed_forward.experts.moe_w_swiglu_eD_F"] = up.chunk(ranks, -1)[rank]
        part["feed_forward.router_DE"] = own["feed_forward.router.weight"].T.contiguous()
        part["feed_forward.norm.weight"] = norm
        for name in [name for name in part if ".moe_w_" in name and flat]:
            part[name] = part[name].flatten(0, 1)
    else:
        both = [mine(f"feed_forward.{n}_proj.weight") for n in ("gate", "up")]
        part["feed_forward.mlp.fc1_weight"] = torch.cat(both)
        part["feed_forward.mlp.layer_norm_weight"] = norm
    return part


def _slice(name: str, tensor: Tensor, dimension: int, rank: int, ranks: int, config: LlamaConfig) -> Tensor:
    heads = config.num_key_value_heads
    if name.endswith(("wk.weight", "wv.weight")) and heads < ranks:
        return tensor.chunk(heads)[rank // (ranks // heads)]  # neighbouring ranks hold the same head
    return tensor.chunk(ranks, dimension)[rank]


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.down_proj": "ffn_down",
    "mlp.up_proj": "ffn_up",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
GGUF_LLAMA4_NAMES = {
    **{theirs.replace("mlp.", "feed_forward."): name for theirs, name in GGUF_NAMES.items()},
    "feed_forward.router": "ffn_gate_inp",
    "feed_forward.experts.down_proj": "ffn_down_exps",
    "feed_forward.shared_expert.gate_proj": "ffn_gate_shexp",
    "feed_forward.shared_expert.down_proj": "ffn_down_shexp",
    "feed_forward.shared_expert.up_proj": "ffn_up_shexp",
}
GGUF_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    file: Path,
    model: LlamaForCausalLM | Llama4ForCausalLM,
    kind: str = "F32",
    divisors: Tensor | None = None,
    pieces: int = 4,
    entries: dict[str, int] | None = None,
) -> Path:
    """A .gguf file with matrices in `kind`, norms in F32 and a vocabulary of nothing but names, or none."""
    config = model.config
    llama4 = isinstance(config, Llama4TextConfig)
    writer = gguf.GGUFWriter(file, "llama4" if llama4 else "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    if llama4:
        writer.add_feed_forward_length(config.intermediate_size_mlp)
        writer.add_expert_feed_forward_length(config.intermediate_size)
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_interleave_moe_layer_step(config.interleave_moe_layer_step)
        writer.add_rope_dimension_count(config.head_dim)
    else:
        writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("llama" if pieces else "no_vocab")
    if pieces:
        writer.add_token_list([f"piece{n}" for n in range(pieces)])
        writer.add_token_scores([float(-n) for n in range(pieces)])
        writer.add_token_types([1] * pieces)
    for key, value in (entries or {}).items():
        writer.add_uint32(key, value)
    if divisors is not None:
        writer.add_tensor("rope_freqs.weight", divisors.numpy())
    for name, tensor in gguf_tensors(model).items():
        if kind == "F32" or tensor.dim() == 1:
            writer.add_tensor(name, tensor.numpy())
        elif kind == "F16":
            writer.add_tensor(name, tensor.half().numpy())
        else:
            quantised = gguf.GGMLQuantizationType[kind]
            data = _meaningless(tensor, kind) if kind.endswith("_K") else quantize(tensor.numpy(), quantised)
            writer.add_tensor(name, data, raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _meaningless(tensor: Tensor, kind: str) -> np.ndarray:
    """Bytes of a K-quant, which the gguf package cannot write; small enough for finite scales."""
    per_block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    shape = (tensor.shape[0], tensor.shape[1] // per_block * block_bytes)
    return np.random.default_rng(0).integers(0, 64, shape, dtype=np.uint8)


def gguf_tensors(model: LlamaForCausalLM | Llama4ForCausalLM) -> dict[str, Tensor]:
    """The weights by llama.cpp's names, rows of queries and keys in its order.

    Llama 4's rows are in order already; its experts are transposed, and gate and up taken apart.
    """
    config = model.config
    head_dim = config.head_dim
    llama4 = isinstance(config, Llama4TextConfig)
    names = GGUF_LLAMA4_NAMES if llama4 else GGUF_NAMES
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        stem = name.removesuffix(".weight")
        if stem in GGUF_TOP:
            if stem == "lm_head" and config.tie_word_embeddings:
                continue
            tensors[f"{GGUF_TOP[stem]}.weight"] = tensor
            continue
        _, _, layer, inner = stem.split(".", 3)
        if inner == "feed_forward.experts.gate_up_proj":
            gate, up = tensor.chunk(2, -1)
            tensors[f"blk.{layer}.ffn_gate_exps.weight"] = gate.mT.contiguous()
            tensors[f"blk.{layer}.ffn_up_exps.weight"] = up.mT.contiguous()
            continue
        turned = inner in ("self_attn.q_proj", "self_attn.k_proj") and not llama4
        rows = pairs_from_halves(tensor, head_dim) if turned else tensor
        rows = rows.mT if rows.dim() == 3 else rows
        tensors[f"blk.{layer}.{names[inner]}.weight"] = rows.contiguous()
    return tensors


def copy(source: Path, target: Path) -> Path:
    """A checkpoint of any format, to be damaged."""
    return Path(shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target))
