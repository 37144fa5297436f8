"""Damaged checkpoints: one sentence that names the file, and quickly."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from codellama.runtime import load_engine
from codellama.runtime.errors import CheckpointError


@pytest.fixture
def folder(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the sharded checkpoint, to be damaged."""
    return shutil.copytree(checkpoints["sharded"], tmp_path / "model")


@pytest.fixture(autouse=True)
def quick(checkpoints: dict[str, Path]) -> Iterator[None]:
    """Every refusal comes within seconds: nothing is computed before it."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 5


def _refused(folder: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_engine(str(folder), device="cpu")
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 1


def _shard_of(folder: Path, tensor: str) -> Path:
    places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    return folder / places[tensor]


def _change(folder: Path, tensor: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    file = _shard_of(folder, tensor)
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return file


def test_a_missing_shard_is_named(folder: Path) -> None:
    """The index names a file that is not there."""
    file = _shard_of(folder, "model.norm.weight")
    file.unlink()
    _refused(folder, file.name, "missing")


@pytest.mark.parametrize("keep", [0, 4, 100, -10])
def test_a_truncated_file_is_named(folder: Path, keep: int) -> None:
    """A download that broke off, wherever it did."""
    file = _shard_of(folder, "model.norm.weight")
    file.write_bytes(file.read_bytes()[:keep])
    _refused(folder, file.name, "damaged")


def test_a_wrong_shape_is_named(folder: Path) -> None:
    """The file, the tensor and both shapes."""
    name = "model.layers.1.self_attn.k_proj.weight"
    file = _change(folder, name, lambda tensors: tensors.update({name: torch.zeros(16, 64)}))
    _refused(folder, file.name, name, "(16, 64)", "(32, 64)")


def test_a_missing_tensor_is_named(folder: Path) -> None:
    """A tensor that no file holds."""
    name = "model.layers.0.mlp.up_proj.weight"
    _change(folder, name, lambda tensors: (tensors.pop(name), tensors.update(x=torch.zeros(1))))
    _refused(folder, str(folder), name.removeprefix("model."))


def test_a_checkpoint_without_weights_is_refused(folder: Path) -> None:
    """Neither an index nor model.safetensors."""
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    _refused(folder, "model.safetensors", "missing")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "../../x"}}'])
def test_a_damaged_index_is_named(folder: Path, content: str) -> None:
    """No JSON, the wrong JSON, or a path out of the folder."""
    (folder / "model.safetensors.index.json").write_text(content)
    _refused(folder, "model.safetensors.index.json")


@pytest.mark.parametrize("content", [b"", b"no json", b"[1]", b"\xff\xfe"])
def test_a_config_that_is_no_json_is_named(folder: Path, content: bytes) -> None:
    """config.json of any other content."""
    (folder / "config.json").write_bytes(content)
    _refused(folder, "config.json")


def test_a_description_without_end_is_not_read(folder: Path) -> None:
    """A config.json larger than any, here a hole of a gigabyte."""
    with (folder / "config.json").open("r+b") as file:
        file.truncate(2**30)
    _refused(folder, "config.json", "larger than any description")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"model_type": None}, "llama"),
        ({"hidden_size": None}, "config.json"),
        ({"hidden_size": "wide"}, "wide"),
        ({"num_attention_heads": 0, "head_dim": None}, "config.json"),
        ({"num_attention_heads": 3}, "heads"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5}}, "low_freq_factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": -2.0}}, "scaling"),
        ({"rope_parameters": None, "rope_scaling": {"type": "spiral", "factor": 2.0}}, "spiral"),
        ({"rope_parameters": "default"}, "config.json"),
        ({"hidden_act": "swirl"}, "swirl"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised"),
    ],
)
def test_a_config_of_another_model_is_refused(folder: Path, changes: dict[str, Any], word: str) -> None:
    """What the transformer does not compute is refused by name."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    _refused(folder, str(folder), word)


def test_a_missing_key_is_named(folder: Path) -> None:
    """A config.json without a size."""
    file = folder / "config.json"
    data = json.loads(file.read_text())
    del data["intermediate_size"]
    file.write_text(json.dumps(data))
    _refused(folder, "config.json", "intermediate_size")


def test_a_tokenizer_that_does_not_fit_is_refused(folder: Path) -> None:
    """More pieces than the model embeds."""
    with (folder / "tokenizer.model").open("a") as file:
        file.write("ZmZmZg== 264\n")
    _refused(folder, str(folder), "tokenizer", "271", "270")


@pytest.mark.parametrize("content", [b"", b"\n\x07garbage", b"YQ== 0\n", b"no ranks\n", b"\x00\xff" * 50])
def test_a_damaged_tokenizer_is_named(folder: Path, content: bytes) -> None:
    """Neither SentencePiece nor tiktoken."""
    (folder / "tokenizer.model").write_bytes(content)
    _refused(folder, "tokenizer.model")


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    """A folder without tokenizer.model."""
    (folder / "tokenizer.model").unlink()
    _refused(folder, "tokenizer.model")
