"""Damaged and hostile files of every format: one sentence that names file and tensor, soon and cheaply.

Pickles and Meta's folders: test_bad_pickles; GGUF: test_bad_gguf.
"""

import contextlib
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_files_support import HF, WQ, change, file_of, refused
from formats_support import (
    make_llama,
    write_hugging_face,
)
from safetensors.torch import load_file, save_file

from codellama.runtime import load_engine
from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import CheckpointError, CodellamaError
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.runtime.weights.convert import convert
from codellama.runtime.weights.loading import load_transformer


@pytest.mark.parametrize("kind", ["safetensors", "bin", "meta", "gguf"])
@pytest.mark.parametrize("part", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_truncated(bad: Callable[[str], Path], kind: str, part: float) -> None:
    """A download that broke off, wherever it did."""
    path = bad(kind)
    file = file_of(path)
    file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
    refused(path, str(file))


@pytest.mark.parametrize("kind", ["safetensors", "bin", "meta"])
def test_missing_shard(bad: Callable[[str], Path], kind: str) -> None:
    """One of several files is not there."""
    path = bad(kind)
    file = file_of(path)
    file.unlink()
    refused(path, str(file), "missing")


@pytest.mark.parametrize("kind", ["safetensors", "bin", "meta"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(bad: Callable[[str], Path], kind: str, value: float) -> None:
    """One NaN in the last row."""
    path = bad(kind)
    name = WQ.get(kind, HF)
    file = change(path, kind, lambda tensors: tensors[name][-1, -1].fill_(value))
    refused(path, str(file) if kind != "meta" else str(path / "consolidated.*.pth"), HF, "NaN")


def test_weights_that_are_no_numbers_in_gguf(bad: Callable[[str], Path]) -> None:
    """The same in a GGUF file."""
    path = bad("gguf")
    tensor = next(t for t in open_checkpoint(path).header.tensors if t.name == WQ["gguf"])
    with path.open("r+b") as file:
        file.seek(tensor.start)
        file.write(struct.pack("<f", float("nan")))
    refused(path, str(path), HF, "NaN")


def test_weights_beyond_the_dtype(bad: Callable[[str], Path]) -> None:
    """float16 ends at 65,504: such a model loads in float32, and float16 says why not."""
    path = bad("safetensors")
    change(path, "safetensors", lambda tensors: tensors[HF][0, 0].fill_(1e5))
    load_transformer(open_checkpoint(path), torch.device("cpu"), torch.float32)
    with pytest.raises(CheckpointError, match=r"q_proj.*float16.*bfloat16"):
        load_transformer(open_checkpoint(path), torch.device("cpu"), torch.float16)


@pytest.mark.parametrize("kind", ["safetensors", "bin", "meta"])
def test_wrong_shape(bad: Callable[[str], Path], kind: str) -> None:
    """A tensor of another model."""
    path = bad(kind)
    name = WQ.get(kind, HF)
    file = change(path, kind, lambda tensors: tensors.update({name: torch.zeros(8, 64)}))
    refused(path, str(file), name, "(8, 64)")


@pytest.mark.parametrize("kind", ["safetensors", "bin", "meta"])
def test_missing_tensor(bad: Callable[[str], Path], kind: str) -> None:
    """A tensor that no file holds."""
    path = bad(kind)
    name = WQ.get(kind, HF)
    change(path, kind, lambda tensors: tensors.pop(name))
    refused(path, str(path), name if kind == "meta" else "layers.1.self_attn.q_proj.weight")


@pytest.mark.parametrize("kind", ["safetensors", "bin", "meta"])
def test_weights_of_another_kind(bad: Callable[[str], Path], kind: str) -> None:
    """Integers, as quantised checkpoints of other tools hold, are no weights by themselves."""
    path = bad(kind)
    name = WQ.get(kind, HF)
    for file in path.glob("*.pth") if kind == "meta" else [file_of(path)]:
        change(path, kind, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}), file)
    refused(path, str(path), name, "I8")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize(
    "place", ["../m.safetensors", "/etc/passwd", "link/x.safetensors", "", 3, None, ".."]
)
def test_index_that_leaves_its_folder(bad: Callable[[str], Path], kind: str, place: object) -> None:
    """Paths, links and things that are no names."""
    path = bad(kind)
    index = next(path.glob("*.index.json"))
    (path / "link").symlink_to(path.parent)
    if kind == "bin" and isinstance(place, str):
        place = place.replace("safetensors", "bin")
    index.write_text(json.dumps({"weight_map": {HF: place}}))
    refused_index = str(index)
    with pytest.raises(CheckpointError, match=r"index\.json names") as caught:
        open_checkpoint(path).infos()
    assert refused_index in str(caught.value)


ODD_VALUES = (
    *(None, True, 0, -1, 3, 10**9, 10**30, 1.5, float("nan"), float("inf"), "x", "", [], [1], ["a"], [10**9]),
    *({}, {"rope_type": []}, {"rope_type": "linear"}, {"rope_type": "linear", "factor": float("nan")}),
)
LLAMA4 = {
    **{"model_type": "llama4_text", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 48},
    **{"intermediate_size_mlp": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 16},
    **{"num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1, "moe_layers": [0, 1]},
    **{"attention_chunk_size": 16, "max_position_embeddings": 128, "no_rope_layers": [1, 1, 1, 0]},
    **{"interleave_moe_layer_step": 1, "no_rope_layer_interval": 4, "attn_scale": 0.1, "floor_scale": 8},
    **{"rms_norm_eps": 1e-5, "rope_theta": 1e4, "rope_scaling": None, "tie_word_embeddings": False},
}


@pytest.mark.parametrize("key", LLAMA4)
def test_odd_descriptions(key: str) -> None:
    """Whatever stands at a key of config.json: a description, or an error of ours, at once."""
    for kind in ("llama", "llama4_text", "llama4"):
        for value in ODD_VALUES:
            text = LLAMA4 | {"model_type": kind} | {key: value}
            data = {"model_type": kind, "text_config": text} if kind == "llama4" else text
            with contextlib.suppress(CheckpointError):
                ModelConfig.from_hugging_face(data, "config.json")


@pytest.mark.parametrize(
    "key", ["num_local_experts", "intermediate_size", "vocab_size", "intermediate_size_mlp"]
)
def test_absurd_experts(tmp_path: Path, key: str) -> None:
    """Llama 4's experts are one tensor: its size is looked at before it is laid out."""
    layers = {f"model.layers.{n}.input_layernorm.weight": torch.ones(64) for n in range(4)}
    save_file(layers, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA4 | {key: 10**18}))
    refused(tmp_path, str(tmp_path), "size")


INT8 = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("name", "edit", "word"),
    [
        (INT8 + "_scale", None, "has no"),
        (INT8 + "_scale", lambda t: t[:-1].clone(), "shape"),
        (INT8 + "_scale", lambda t: t.to(torch.int8), "I8"),
        (INT8 + "_scale", lambda t: t * float("nan"), "NaN"),
        (INT8, lambda t: t[:-1].clone(), "shape"),
        (INT8, lambda t: t.flatten(), "shape"),
    ],
)
def test_int8_and_its_scales(
    tmp_path: Path, name: str, edit: Callable[[torch.Tensor], torch.Tensor] | None, word: str
) -> None:
    """A matrix in int8 is nothing without a scale for each of its rows."""
    convert(write_hugging_face(tmp_path / "a", make_llama()), tmp_path / "b", "int8")
    file = tmp_path / "b" / "model.safetensors"
    tensors = load_file(file)
    if edit is None:
        del tensors[name]
    else:
        tensors[name] = edit(tensors[name])
    save_file(tensors, file)
    refused(tmp_path / "b", str(file), INT8, word)


@pytest.mark.parametrize(
    "table", [{"format": "pack-quantized"}, {"config_groups": {}}, {"config_groups": [8]}]
)
def test_other_quantised_folders(tmp_path: Path, table: dict[str, Any]) -> None:
    """Other formats of the library are refused by config.json alone."""
    convert(write_hugging_face(tmp_path / "a", make_llama()), tmp_path / "b", "int8")
    config = tmp_path / "b" / "config.json"
    described = json.loads(config.read_text())
    described["quantization_config"] |= table
    config.write_text(json.dumps(described))
    refused(tmp_path / "b", str(config), "quantised", "int8")


# safetensors


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    raw = file.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write_header(file: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("length", [2**20, 90 * 2**20, 2**40, 2**63, 2**64 - 1])
def test_oversized_header(bad: Callable[[str], Path], length: int) -> None:
    """A header that claims more than the file, or than any header."""
    path = bad("safetensors")
    file = file_of(path)
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    refused(path, str(file))


@pytest.mark.parametrize(
    "edit",
    [
        lambda entry, other: entry.update(data_offsets=other["data_offsets"], shape=other["shape"]),
        lambda entry, other: entry.update(data_offsets=[n + 4 for n in entry["data_offsets"]]),
        lambda entry, other: entry.update(data_offsets=entry["data_offsets"][::-1]),
        lambda entry, other: entry.update(data_offsets=[0, 2**50]),
        lambda entry, other: entry.update(shape=[2**40, 2**40]),
        lambda entry, other: entry.update(shape=[65, 64]),
        lambda entry, other: entry.update(shape=[-1, 64]),
        lambda entry, other: entry.update(dtype="X7"),
        lambda entry, other: entry.pop("shape"),
    ],
)
def test_contradictory_header(bad: Callable[[str], Path], edit: Callable[..., object]) -> None:
    """Overlapping tensors, places out of the file, shapes that do not fit their bytes."""
    path = bad("safetensors")
    file = file_of(path)
    header, data = header_of(file)
    other = next(name for name in header if name not in (HF, "__metadata__"))
    edit(header[HF], header[other])
    write_header(file, header, data)
    message = refused(path, str(file))
    # Two tensors at one place: either may be named.
    assert f"`{HF}`" in message or (
        header[HF].get("data_offsets") == header[other]["data_offsets"] and other in message
    )


@pytest.mark.parametrize("kind", ["safetensors", "bin", "meta"])
def test_tokenizer_that_does_not_fit(bad: Callable[[str], Path], kind: str) -> None:
    """More pieces than the model embeds."""
    path = bad(kind)
    with (path / "tokenizer.model").open("a") as file:
        file.writelines(f"{word}== {264 + n}\n" for n, word in enumerate(("ZmZmZg", "Z2dnZw", "aGhoaA")))
    with pytest.raises(CheckpointError, match=r"tokenizer has 273 pieces.*272"):
        load_engine(str(path), device="cpu")


@pytest.mark.parametrize("kind", ["safetensors", "bin", "meta", "gguf"])
def test_damage_anywhere_is_an_error_of_ours(bad: Callable[[str], Path], kind: str) -> None:
    """Bytes changed at random in the headers: the file opens, or the error is one of ours."""
    path = bad(kind)
    file = file_of(path)
    raw = file.read_bytes()
    head = range(min(4096, len(raw)))
    tail = range(max(0, len(raw) - 4096), len(raw)) if kind in ("bin", "meta") else head
    seeds = random.Random(0)
    refusals = []
    for _ in range(150):
        damaged = bytearray(raw)
        for _ in range(seeds.randint(1, 8)):
            damaged[seeds.choice(seeds.choice((head, tail)))] = seeds.randrange(256)
        file.write_bytes(damaged)
        try:
            open_checkpoint(path).infos()
        except CodellamaError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert not [message for message in refusals if not message.isprintable()]
