"""Pickles that hold code or lies, and what is peculiar to Meta's folders, which are made of them."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_files_support import HF, change, file_of, refused
from family_support import write_family
from formats_support import make_llama, write_meta, write_meta_llama4

from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.runtime.weights.loading import load_transformer


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
