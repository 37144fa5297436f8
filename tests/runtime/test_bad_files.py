"""Damaged and hostile files of every format: one sentence that names file and tensor, soon and cheaply."""

import contextlib
import json
import os
import pickle
import random
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from family_support import write_family
from formats_support import (
    copy,
    make_llama,
    write_gguf,
    write_hugging_face,
    write_meta,
    write_meta_llama4,
    write_pickled,
)
from safetensors.torch import load_file, save_file

from codellama.runtime import load_engine
from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import CheckpointError, CodellamaError
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.runtime.weights.convert import convert
from codellama.runtime.weights.loading import load_transformer

WQ = {"meta": "layers.1.attention.wq.weight", "gguf": "blk.1.attn_q.weight"}
HF = "model.layers.1.self_attn.q_proj.weight"
EXPERTS = "feed_forward.experts.gate_up_proj"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model in every format."""
    root = tmp_path_factory.mktemp("good")
    model = make_llama(hidden_size=64, intermediate_size=256)
    return {
        "safetensors": write_hugging_face(root / "st", model, "100KB"),
        "bin": write_pickled(root / "bin", model, 2),
        "meta": write_meta(root / "meta", model, 2),
        "gguf": write_gguf(root / "m.gguf", model),
    }


@pytest.fixture
def bad(good: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy to be damaged."""
    return lambda kind: copy(good[kind], tmp_path / good[kind].name)


def refused(path: Path, *words: str) -> str:
    """Loads, which has to fail within 2 s and on less memory than the files take; returns the sentence."""
    size = path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.iterdir())
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(CheckpointError) as caught:
            load_transformer(open_checkpoint(path), torch.device("cpu"), torch.float32)
        took, peak = time.monotonic() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.isprintable()
    assert len(message) < 600
    assert took < 2
    assert peak < max(size, 2**20)
    return message


def file_of(path: Path, tensor: str = HF) -> Path:
    """The file that holds a tensor (in Meta's folders the last rank's)."""
    if path.is_file():
        return path
    for index in path.glob("*.index.json"):
        return path / json.loads(index.read_text())["weight_map"][tensor]
    return max(path.glob("*.pth"))


def change(
    path: Path, kind: str, edit: Callable[[dict[str, torch.Tensor]], object], file: Path | None = None
) -> Path:
    """Rewrites a file, by default the one that holds HF, with its tensors edited."""
    file = file or file_of(path)
    if kind == "safetensors":
        tensors = load_file(file)
        edit(tensors)
        save_file(tensors, file)
    else:
        tensors = torch.load(file, weights_only=True)
        edit(tensors)
        torch.save(tensors, file)
    return file


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


# pickles


class Code:
    """What would run a function where it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("kind", ["bin", "meta"])
@pytest.mark.parametrize("function", [os.system, eval, getattr, torch.load, torch.hub.load])
def test_code_in_a_pickle(
    bad: Callable[[str], Path], tmp_path: Path, kind: str, function: Callable[..., object]
) -> None:
    """Nothing is run; the sentence says what the file asked for."""
    path = bad(kind)
    mark = tmp_path / "ran"
    trap = Code(function, f"touch {mark}")
    file = change(path, kind, lambda tensors: tensors.update({"x": trap}))
    refused(path, str(file), f".{function.__name__}: it holds code beside weights")
    assert not mark.exists()


def repack(file: Path, name: str, content: bytes, packed: bool = False) -> None:
    """Replaces one entry of PyTorch's archive."""
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    place = next(entry for entry in entries if entry.endswith(name))
    entries[place] = content
    with zipfile.ZipFile(file, "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED if packed and entry == place else None)


def tensor_bytes(shape: str, strides: str, elements: int = 16) -> bytes:
    """The pickle of {HF: a tensor over a storage of 16 numbers}, its tuples given as opcodes."""
    text = (
        b"\x80\x02}X" + struct.pack("<I", len(HF)) + HF.encode() + b"ctorch._utils\n_rebuild_tensor_v2\n"
        b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        b"J" + struct.pack("<i", elements) + b"tQK\x00"
    )
    return text + eval(f"b'{shape}'") + eval(f"b'{strides}'") + b"\x89ccollections\nOrderedDict\n)RtRs."


ABSURD = r"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x01"  # 2 ** 56


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02}.trailing"[:2],
        b"\x80\x02].",
        b"\x80\x02}K\x01K\x02s.",  # a number as a name
        b"\x80\x02}X\x01\x00\x00\x00aK\x02s.",  # a number as a tensor
        b"\x80\x02B\xff\xff\xff\x7f.",  # bytes without end
        b"\x80\x05\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02}" + b"(" * 1000 + b"K\x01" + b"\x86" * 3 + b".",
        b"\x80\x02}K\x01" + b"2\x86" * 60 + b"K\x02s.",  # hashing it as a key would take 2 ** 60 steps
        b"\x80\x02K\x01" + b"2\x86" * 60 + b"K\x02\x86ccollections\nOrderedDict\n(]ttR.",
        tensor_bytes(f"{ABSURD}K\\x10\\x86", r"K\x00K\x01\x86"),  # strides of 0 make 16 numbers many
        tensor_bytes(r"K\x08K\x08\x86", r"K\x08K\x01\x86"),  # out of its storage
        tensor_bytes(r"K\x04K\x04\x86", r"K\x08K\x01\x86"),
        tensor_bytes(r"K\x04K\x04\x86", r"K\x04\x85"),
        tensor_bytes(r"K\x04K\x04\x86", r"K\x04K\x01\x86", 2**31 - 1),  # a storage larger than its entry
        tensor_bytes(r"J\xff\xff\xff\xffK\x04\x86", r"K\x04K\x01\x86"),
    ],
)
def test_damaged_pickle(bad: Callable[[str], Path], table: bytes) -> None:
    """Tables that would run, hash or allocate without end, or describe what is not there."""
    path = bad("bin")
    file = file_of(path)
    repack(file, "/data.pkl", table)
    message = refused(path, str(file))
    assert "lacks the tensor" not in message  # the table itself is refused


@pytest.mark.parametrize("table", [b"\x80\x02}r\xff\xff\xff\x7f.", b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f}."])
def test_pickles_that_claim_much(bad: Callable[[str], Path], table: bytes) -> None:
    """A place in the memo that would need 32 GB, a frame without end: empty tables, and nothing allocated."""
    path = bad("bin")
    repack(file_of(path), "/data.pkl", table)
    refused(path, "lacks the tensor")


def test_damaged_pickles_are_what_they_seem(bad: Callable[[str], Path]) -> None:
    """The description that the damaged ones vary is a good one."""
    from codellama.runtime.weights import pickled

    file = file_of(bad("bin"))
    repack(file, "/data.pkl", tensor_bytes(r"K\x04K\x04\x86", r"K\x04K\x01\x86"))
    assert [extent.shape for extent in pickled.extents(file)] == [(4, 4)]


def test_packed_archives(bad: Callable[[str], Path]) -> None:
    """PyTorch never compresses: an entry that would unfold to more than the file is refused."""
    path = bad("bin")
    file = file_of(path)
    repack(file, "/data.pkl", bytes(2**24), packed=True)
    refused(path, str(file), "packed")


def test_other_pickles(bad: Callable[[str], Path]) -> None:
    """A bare pickle, and PyTorch's format from before 1.6."""
    path = bad("bin")
    file = file_of(path)
    file.write_bytes(pickle.dumps({HF: 1}))
    refused(path, str(file), "PyTorch")
    torch.save({HF: torch.zeros(4)}, file, _use_new_zipfile_serialization=False)
    refused(path, str(file), "1.6")


def test_overlapping_storages(bad: Callable[[str], Path]) -> None:
    """An archive whose directory gives two storages one place."""
    path = bad("bin")
    file = file_of(path)
    raw = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        storages = [info for info in archive.infolist() if "/data/" in info.filename]
    entry = raw.rindex(storages[-1].filename.encode()) - 46
    assert raw[entry : entry + 4] == b"PK\x01\x02"
    raw[entry + 42 : entry + 46] = struct.pack("<I", storages[0].header_offset)
    file.write_bytes(raw)
    refused(path, str(file), "overlap")


def test_archives_without_end(bad: Callable[[str], Path]) -> None:
    """An archive that claims a directory larger than any."""
    path = bad("bin")
    file = file_of(path)
    raw = bytearray(file.read_bytes())
    end = raw.rfind(b"PK\x05\x06")
    raw[end + 12 : end + 16] = struct.pack("<I", 2**31)
    file.write_bytes(raw)
    refused(path, str(file), "directory")


# Meta


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"n_layers": 10**9}, "layers"),
        ({"n_layers": 1}, "layers"),
        ({"n_layers": 0}, "size"),
        ({"n_layers": None}, "params.json"),
        ({"dim": 10**12}, "size"),
        ({"dim": "wide"}, "params.json"),
        ({"n_heads": 0}, "params.json"),
        ({"n_kv_heads": 3}, "heads"),
        ({"norm_eps": float("nan")}, "norm_eps"),
        ({"rope_theta": -1}, "base"),
        ({"multiple_of": 0}, "params.json"),
        ({"moe_args": {"num_experts": 16}}, "ffn_exp"),
        ({"moe_args": 16}, "params.json"),
        ({"use_qk_norm": True, "n_layers": 10**9}, "layers"),
        ({"vision_chunk_size": 560}, "vision_chunk_size"),
        ({"quantization_args": {"scheme": "int8"}}, "quantization_args"),
        ({"ffn_dim_multiplier": 1e300}, "size"),
    ],
)
def test_contradictory_params(bad: Callable[[str], Path], changes: dict[str, Any], word: str) -> None:
    """params.json against the files."""
    path = bad("meta")
    params = path / "params.json"
    params.write_text(json.dumps(json.loads(params.read_text()) | changes))
    refused(path, str(path), word)


DENSE, EXPERT = "layers.0.feed_forward.mlp.fc1_weight", "layers.1.feed_forward.experts.moe_w_in_eD_F"


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("layers.0.attention.wqkv.weight", lambda t: t[:-1]),
        (DENSE, lambda t: t[:-1]),
        (DENSE, lambda t: t[0, 0]),
        (DENSE, lambda t: t.to(torch.int8)),
        (EXPERT, lambda t: t[:-1]),
        (EXPERT, lambda t: t[:0]),
        (EXPERT, lambda t: t[:, :-1]),
        (EXPERT, lambda t: t[:, 0]),
        (EXPERT, lambda t: t.to(torch.int8)),
        (EXPERT, None),
        ("layers.1.feed_forward.experts.moe_w_out_eF_D", lambda t: t[:, :-1]),
        ("layers.1.feed_forward.router_DE", lambda t: t[:, :-1]),
        ("layers.1.feed_forward.w_in_shared_FD.weight", None),
    ],
)
def test_contradictory_meta_llama4(
    tmp_path: Path, name: str, edit: Callable[[torch.Tensor], torch.Tensor] | None
) -> None:
    """Llama 4's fused and stacked weights against its description."""
    (tmp_path / "h").mkdir()
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 20}
    model = write_family(tmp_path / "h", "llama-4-maverick", **shape)
    path = write_meta_llama4(tmp_path / "m", model, 2)
    file = path / "consolidated.01.pth"
    tensors = torch.load(file, weights_only=False)
    if edit is None:
        del tensors[name]
    else:
        tensors[name] = edit(tensors[name])
    torch.save(tensors, file)
    refused(path, str(path))


def test_ranks_that_differ(tmp_path: Path) -> None:
    """Where ranks hold copies of the same heads, the copies have to agree."""
    model = make_llama(hidden_size=64, intermediate_size=256, num_key_value_heads=4)
    path = write_meta(tmp_path / "m", model, 8, embeddings=0)
    load_transformer(open_checkpoint(path), torch.device("cpu"), torch.float32)
    file = path / "consolidated.03.pth"
    tensors = torch.load(file, weights_only=True)
    tensors["layers.0.attention.wv.weight"][0, 0] += 1
    torch.save(tensors, file)
    refused(path, str(file), "layers.0.attention.wv.weight", "differs")


# GGUF


def patch(path: Path, after: bytes, skip: int, content: bytes) -> Path:
    """Overwrites bytes `skip` behind the first place where `after` ends."""
    raw = bytearray(path.read_bytes())
    place = (raw.index(after) + len(after) if after else 0) + skip
    raw[place : place + len(content)] = content
    path.write_bytes(raw)
    return path


TENSOR = b"blk.1.attn_q.weight"  # then: dimensions u32, two sizes u64, type u32, offset u64
TOKENS = b"tokenizer.ggml.tokens"  # then: type u32 (9), items u32 (8), count u64, length u64, text


@pytest.mark.parametrize(
    ("after", "skip", "content", "word"),
    [
        (b"", 0, b"GGML", "GGUF"),
        (b"", 4, struct.pack("<I", 1), "version"),
        (b"", 4, struct.pack(">I", 3), "version"),
        (b"", 8, struct.pack("<Q", 2**63), "tensors"),
        (b"", 8, struct.pack("<Q", 60000), "tensors"),
        (b"", 16, struct.pack("<Q", 2**64 - 1), "entries"),
        (b"", 16, struct.pack("<Q", 30), ""),
        (b"", 24, struct.pack("<Q", 2**62), "ends inside"),
        (TOKENS, 0, struct.pack("<I", 77), "type 77"),
        (TOKENS, 4, struct.pack("<I", 9), "type 9"),
        (TOKENS, 8, struct.pack("<Q", 2**61), "texts"),
        (TOKENS, 8, struct.pack("<Q", 100000), "texts"),
        (TOKENS, 16, struct.pack("<Q", 2**61), "ends inside"),
        (b"tokenizer.ggml.scores", 8, struct.pack("<Q", 2**62), "array"),
        (TENSOR, 0, struct.pack("<I", 2**31), "dimensions"),
        (TENSOR, 0, struct.pack("<I", 0), "dimensions"),
        (TENSOR, 4, struct.pack("<Q", 2**63), "shape"),
        (TENSOR, 4, struct.pack("<QQ", 2**40, 2**40), "ends before"),
        (TENSOR, 4, struct.pack("<QQ", 0, 64), "shape"),
        (TENSOR, 4, struct.pack("<QQ", 32, 64), "(64, 32)"),
        (TENSOR, 20, struct.pack("<I", 999), "type 999"),
        (TENSOR, 20, struct.pack("<I", 16), "IQ2_XXS"),
        (TENSOR, 24, struct.pack("<Q", 2**63), "ends before"),
        (TENSOR, 24, struct.pack("<Q", 2**40), "ends before"),
        (TENSOR, 24, struct.pack("<Q", 0), "overlap"),
        (TENSOR, 24, struct.pack("<Q", 1), "align"),
    ],
)
def test_absurd_gguf(bad: Callable[[str], Path], after: bytes, skip: int, content: bytes, word: str) -> None:
    """Every count, size and offset of a header, set to what cannot be."""
    path = patch(bad("gguf"), after, skip, content)
    message = refused(path, str(path), word)
    if after == TENSOR:
        assert "blk.1.attn_q.weight" in message or HF in message


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("llama.block_count", 10**9, "layers"),
        ("llama.block_count", 0, "block_count"),
        ("llama.embedding_length", 2**31, "size"),
        ("llama.attention.head_count", 0, "head_count"),
        ("llama.attention.head_count_kv", 3, "heads"),
        ("llama.context_length", 0, "context_length"),
    ],
)
def test_contradictory_gguf(bad: Callable[[str], Path], key: str, value: int, word: str) -> None:
    """The description against the tensors."""
    path = patch(bad("gguf"), key.encode(), 4, struct.pack("<I", value))
    refused(path, str(path), word)


def test_gguf_of_other_kinds(bad: Callable[[str], Path], tmp_path: Path) -> None:
    """Another architecture, and a tokenizer with more pieces than the model embeds."""
    path = bad("gguf")
    path.write_bytes(path.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0qwen2", 1))
    refused(path, str(path), "qwen2")
    split = write_gguf(tmp_path / "split.gguf", make_llama(), entries={"split.count": 2})
    refused(split, str(split), "2 parts", "--merge")
    for divisors in (torch.zeros(4), torch.ones(3)):
        scaled = write_gguf(tmp_path / "scaled.gguf", make_llama(), divisors=divisors)
        refused(scaled, str(scaled), "rotary")
    experts = write_gguf(tmp_path / "moe.gguf", make_llama(), entries={"llama.expert_count": 8})
    refused(experts, str(experts), "mixture of experts")
    refused(write_gguf(tmp_path / "t.gguf", make_llama(), pieces=273), "t.gguf", "273", "token_embd.weight")


@pytest.fixture(scope="module")
def llama4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("llama4")
    model = write_family(root, "llama-4-scout")
    entries = {"llama4.attention.sliding_window": 8192}
    return write_gguf(root / "m.gguf", model, pieces=0, entries=entries)


@pytest.mark.parametrize(
    ("after", "skip", "content", "words"),
    [
        (b"llama4.block_count", 4, struct.pack("<I", 10**9), ("layers",)),
        (b"llama4.expert_count", 4, struct.pack("<I", 0), ("expert_count",)),
        (b"llama4.expert_count", 4, struct.pack("<I", 5), ("router", "(4, 80)")),
        (b"llama4.expert_count", 4, struct.pack("<I", 2**31), ("size",)),
        (b"llama4.expert_used_count", 4, struct.pack("<I", 5), ("5 of 4 experts",)),
        (b"llama4.expert_feed_forward_length", 4, struct.pack("<I", 32), (EXPERTS, "(4, 80, 64)")),
        (b"llama4.interleave_moe_layer_step", 4, struct.pack("<I", 0), ("interleave_moe_layer_step",)),
        (b"llama4.interleave_moe_layer_step", 4, struct.pack("<I", 2), ("feed_forward.gate_proj",)),
        (b"llama4.attention.sliding_window", 4, struct.pack("<I", 0), ("without chunks",)),
        (b"blk.1.ffn_up_exps", 0, b".wei_ht", ("lacks the tensor blk.1.ffn_up_exps.weight",)),
        (b"blk.1.ffn_up_exps.weight", 4, struct.pack("<Q", 40), ("blk.1.ffn_up_exps.weight", "(4, 48, 40)")),
    ],
)
def test_contradictory_llama4(
    llama4: Path, tmp_path: Path, after: bytes, skip: int, content: bytes, words: tuple[str, ...]
) -> None:
    """Llama 4's description against its experts."""
    path = patch(copy(llama4, tmp_path / "m.gguf"), after, skip, content)
    refused(path, str(path), *words)


def test_flat_llama4_experts(llama4: Path, tmp_path: Path) -> None:
    """Experts in a matrix, as many numbers as they need."""
    path, name = copy(llama4, tmp_path / "m.gguf"), b"blk.1.ffn_down_exps.weight"
    raw, size = path.read_bytes(), struct.pack("<Q", 4)
    flat = raw.replace(name + struct.pack("<IQQQ", 3, 48, 80, 4), name + struct.pack("<IQQ", 2, 48, 320))
    # The name of the model takes the place that is left, so that all else stays where it was.
    flat = flat.replace(size + b"tiny", struct.pack("<Q", 12) + b"tinytinytiny", 1)
    assert len(flat) == len(raw)
    assert flat != raw
    path.write_bytes(flat)
    refused(path, str(path), name.decode(), "(320, 48)")


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
