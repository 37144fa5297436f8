"""Conversion there and back: nothing is lost, nothing half is left, nothing of the user's is overwritten."""

import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from family_support import LLAMA4_IN_GGUF, LLAMAS, write_family
from formats_support import make_llama, write_hugging_face, write_meta
from llama_cpp_peer import Peer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from codellama.runtime import load_tokenizer
from codellama.runtime.errors import CheckpointError, CodellamaError, InvalidRequest
from codellama.runtime.footprint import weight_bytes
from codellama.runtime.locate import POCKET, locate
from codellama.runtime.weights import write_hugging_face as writer
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.runtime.weights.convert import convert
from codellama.runtime.weights.gguf import read_header
from codellama.runtime.weights.loading import load_transformer

IDS = torch.tensor([[*range(40, 90), 3, 264, 65]])


def logits(path: Path) -> Tensor:
    """Ours, [T, V], in float32."""
    model = load_transformer(open_checkpoint(path), torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        found: Tensor = model(IDS)[0]
    return found


def reference(folder: Path) -> Tensor:
    """transformers', from a folder alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        found: Tensor = model(IDS).logits[0]
    return found


@pytest.mark.parametrize("family", LLAMAS)
def test_a_folder_from_every_family(tmp_path: Path, family: str) -> None:
    """A written folder holds the same model, to us bit for bit, and transformers loads it."""
    (tmp_path / "a").mkdir()
    write_family(tmp_path / "a", family)
    convert(tmp_path / "a", tmp_path / "b", "f32")
    expected = logits(tmp_path / "a")
    assert torch.equal(logits(tmp_path / "b"), expected)
    torch.testing.assert_close(reference(tmp_path / "b"), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", [family for family in LLAMAS if not family.startswith("llama-4")])
def test_a_gguf_file_from_every_family_and_back(tmp_path: Path, family: str) -> None:
    """A GGUF file of F32 holds the same model bit for bit, and so does the folder that is made of it.

    Only llama3 scaling is rounded: a GGUF file holds a float32 for each frequency.
    """
    (tmp_path / "a").mkdir()
    write_family(tmp_path / "a", family)
    convert(tmp_path / "a", tmp_path / "b.gguf", "f32")
    convert(tmp_path / "b.gguf", tmp_path / "c", "f32")
    expected, file, folder = (logits(tmp_path / name) for name in ("a", "b.gguf", "c"))
    if LLAMAS[family].get("rope_parameters", {}).get("rope_type") == "llama3":
        torch.testing.assert_close(file, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(folder, expected, atol=1e-4, rtol=0)
    else:
        assert torch.equal(file, expected)
        assert torch.equal(folder, expected)
    torch.testing.assert_close(reference(tmp_path / "c"), expected, atol=1e-4, rtol=0)


def test_from_a_meta_folder(tmp_path: Path) -> None:
    """Meta's shards become a folder that transformers loads, and a GGUF file."""
    model = make_llama()
    write_meta(tmp_path / "meta", model, 4)
    expected = model(IDS).logits[0]
    convert(tmp_path / "meta", tmp_path / "folder", "f32")
    convert(tmp_path / "meta", tmp_path / "file.gguf", "f32")
    torch.testing.assert_close(reference(tmp_path / "folder"), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits(tmp_path / "file.gguf"), expected, atol=1e-4, rtol=0)


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound the weights are spread over files, which transformers joins again."""
    monkeypatch.setattr(writer, "SHARD_BYTES", 200_000)
    write_hugging_face(tmp_path / "a", make_llama())
    convert(tmp_path / "a", tmp_path / "b", "f32")
    shards = sorted((tmp_path / "b").glob("*.safetensors"))
    assert len(shards) > 2
    assert all(file.stat().st_size < 300_000 for file in shards)
    torch.testing.assert_close(reference(tmp_path / "b"), reference(tmp_path / "a"), atol=0, rtol=0)


@pytest.mark.parametrize("type_", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_sizes_are_those_that_are_told(tmp_path: Path, type_: str) -> None:
    """Tensors take the bytes that `weight_bytes` says; vectors stay float32, logits have eight bits."""
    write_hugging_face(tmp_path / "a", make_llama())
    convert(tmp_path / "a", tmp_path / "b.gguf", type_)
    tensors = {t.name: t for t in read_header(tmp_path / "b.gguf").tensors}
    kinds = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
    assert tensors["blk.0.ffn_up.weight"].dtype == kinds[type_]
    assert tensors["token_embd.weight"].dtype == kinds[type_]
    assert tensors["output.weight"].dtype == ("Q8_0" if type_ == "q4_0" else kinds[type_])
    assert tensors["output_norm.weight"].dtype == "F32"
    config = open_checkpoint(tmp_path / "a").config
    vectors = sum(t.nbytes for t in tensors.values() if len(t.shape) == 1)
    total = sum(t.nbytes for t in tensors.values())
    precision = "bf16" if type_ == "f16" else type_
    # Folders keep vectors in the type of the rest, GGUF files in float32.
    spared = vectors // 2 if precision == "bf16" else 0
    assert total - spared == weight_bytes(config, precision)  # type: ignore[arg-type]


def test_rows_that_no_block_divides(tmp_path: Path) -> None:
    """Blocks have 32 weights: rows of 48 stay in float16, and the model is the same."""
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    write_hugging_face(tmp_path / "a", make_llama(**shape))
    convert(tmp_path / "a", tmp_path / "b.gguf", "q8_0")
    kinds = {t.name: t.dtype for t in read_header(tmp_path / "b.gguf").tensors}
    assert (kinds["blk.0.ffn_up.weight"], kinds["blk.0.ffn_down.weight"]) == ("F16", "Q8_0")
    expected = logits(tmp_path / "a")
    assert (logits(tmp_path / "b.gguf") - expected).norm() < 0.02 * expected.norm()


def test_half_precision_is_kept(tmp_path: Path) -> None:
    """Without a type the source's own is kept, bit for bit."""
    write_hugging_face(tmp_path / "a", make_llama().bfloat16())
    for name in ("b.gguf", "c"):
        written = convert(tmp_path / "a", tmp_path / name)
        assert written.type == "bf16"
        assert torch.equal(logits(tmp_path / name), logits(tmp_path / "a"))
    assert AutoConfig.from_pretrained(tmp_path / "c").dtype == torch.bfloat16


VOCABULARIES = {"llama2.model": "llama-spm", "llama3.model": "llama3-bpe"}


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_tokenizers_survive(tmp_path: Path, shared_data: Path, vocabulary: str) -> None:
    """The tokenizer of a folder, of the file made of it, and of the folder made of that: the same ids.

    transformers reads the last one, which holds nothing but what the GGUF file says.
    """
    source = shared_data / "tokenizers" / vocabulary
    size = 32_000 if vocabulary == "llama2.model" else 128_256
    make_llama(vocab_size=size, hidden_size=32, intermediate_size=32).save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "tokenizer.model").write_bytes(source.read_bytes())
    convert(tmp_path / "a", tmp_path / "b.gguf", "f16")
    convert(tmp_path / "b.gguf", tmp_path / "c", "f16")
    (tmp_path / "d").mkdir()
    for file in (tmp_path / "c").iterdir():
        if file.name != "tokenizer.json":
            (tmp_path / "d" / file.name).write_bytes(file.read_bytes())
    tokenizers = [load_tokenizer(tmp_path / name) for name in ("a", "b.gguf", "c", "d")]
    theirs = AutoTokenizer.from_pretrained(tmp_path / "c")
    vectors = shared_data / "tokenizers" / f"{VOCABULARIES[vocabulary]}.inp"
    for text in vectors.read_bytes().decode().split("\n__ggml_vocab_test__\n"):
        ids = tokenizers[0].encode(text)
        assert [tokenizer.encode(text) for tokenizer in tokenizers[1:]] == [ids] * 3, text
        assert theirs.encode(text) == [tokenizers[0].bos_id, *ids], text
        assert theirs.decode(ids) == tokenizers[0].decode(ids)
    assert len({(t.bos_id, t.eos_id, t.stop_ids) for t in tokenizers}) == 1


def test_the_pocket_model_for_transformers(tmp_path: Path) -> None:
    """The folder that others load has ids, special tokens and the ends of an answer."""
    convert(locate(POCKET), tmp_path / "p")
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "p"), load_tokenizer(locate(POCKET))
    text = Path(__file__).read_text(encoding="utf-8")
    assert theirs.encode(text) == [ours.bos_id, *ours.encode(text)]
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id)
    assert {name: theirs.convert_tokens_to_ids(name) for name in ours.control.names} == ours.control.names
    assert theirs.decode(list(ours.control.ids), skip_special_tokens=True) == ""
    ends = json.loads((tmp_path / "p" / "generation_config.json").read_text())["eos_token_id"]
    assert set(ends) == ours.stop_ids
    assert open_checkpoint(tmp_path / "p").config.family == "pocket"


def test_a_chat_template_goes_along(tmp_path: Path) -> None:
    """From a folder's configuration into a GGUF file, and from there into a folder."""
    write_hugging_face(tmp_path / "a", make_llama())
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (tmp_path / "a" / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    convert(tmp_path / "a", tmp_path / "b.gguf")
    convert(tmp_path / "b.gguf", tmp_path / "c")
    assert read_header(tmp_path / "b.gguf").metadata["tokenizer.chat_template"] == template
    assert (tmp_path / "c" / "chat_template.jinja").read_text() == template


@pytest.mark.parametrize("family", ["code-llama-34b", "llama-3.2-1b", "biases"])
def test_a_folder_in_int8(tmp_path: Path, family: str) -> None:
    """The layers' matrices in int8, a scale a row: transformers, by compressed-tensors, computes alike.

    Every weight is within half a step of its row; from there nothing more is lost on the way back.
    """
    (tmp_path / "a").mkdir()
    model = write_family(tmp_path / "a", family)
    written = convert(tmp_path / "a", tmp_path / "b", "int8")
    convert(tmp_path / "b", tmp_path / "c", "f32")
    assert written.bytes < 0.7 * (tmp_path / "c" / "model.safetensors").stat().st_size
    torch.testing.assert_close(logits(tmp_path / "b"), logits(tmp_path / "c"), atol=0, rtol=0)
    kept = load_transformer(open_checkpoint(tmp_path / "b"), torch.device("cpu"), torch.float32)
    for name, parameter in model.named_parameters():
        ours, weight = kept.get_parameter(name.removeprefix("model.")), parameter.detach()
        if ".layers." in name and weight.ndim == 2:
            half_a_step = 0.51 * weight.abs().amax(-1, keepdim=True) / 127
            assert ((ours - weight).abs() <= half_a_step).all(), name
        else:
            assert torch.equal(ours, weight.half().float()), name
    torch.testing.assert_close(reference(tmp_path / "b"), logits(tmp_path / "b"), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama-4-scout", {}),
        ("llama-4-maverick", {"num_local_experts": 128}),
        ("llama-4-two-experts", {"attn_temperature_tuning": True}),
    ],
)
def test_llama_4_as_a_gguf_file_and_back(tmp_path: Path, family: str, changes: dict[str, int]) -> None:
    """Experts apart and transposed, as llama.cpp wants them: it computes the same logits, and so do we."""
    (tmp_path / "a").mkdir()
    write_family(tmp_path / "a", family, **LLAMA4_IN_GGUF | changes)
    convert(tmp_path / "a", tmp_path / "b.gguf", "f32")
    convert(tmp_path / "b.gguf", tmp_path / "c", "f32")
    expected = reference(tmp_path / "a")
    for name in ("b.gguf", "c"):
        torch.testing.assert_close(logits(tmp_path / name), expected, atol=1e-4, rtol=0)
    with Peer(tmp_path / "b.gguf") as peer:
        torch.testing.assert_close(peer.logits(IDS[0].tolist()), expected, atol=1e-4, rtol=0)


def test_llama_4_in_eight_bits(tmp_path: Path) -> None:
    """Quantised experts are within their rounding; routers stay whole, as llama.cpp leaves them."""
    (tmp_path / "a").mkdir()
    shape = {"hidden_size": 96, "intermediate_size": 64, "num_attention_heads": 6}
    model = write_family(tmp_path / "a", "llama-4-scout", **LLAMA4_IN_GGUF | shape)
    convert(tmp_path / "a", tmp_path / "b.gguf", "q8_0")
    kinds = {t.name: t.dtype for t in read_header(tmp_path / "b.gguf").tensors}
    assert kinds["blk.1.ffn_up_exps.weight"] == kinds["blk.1.ffn_down_exps.weight"] == "Q8_0"
    assert kinds["blk.1.ffn_gate_inp.weight"] == "F32"
    found = load_transformer(open_checkpoint(tmp_path / "b.gguf"), torch.device("cpu"), torch.float32)
    ours = dict(found.named_parameters())
    for name, weight in model.named_parameters():
        if ".experts." in name:
            step = float(weight.detach().abs().max()) / 250
            torch.testing.assert_close(ours[name.removeprefix("model.")], weight, atol=step, rtol=0)


def test_a_llama_4_of_another_make_has_no_gguf_file(tmp_path: Path) -> None:
    """GGUF cannot say what it is: it is refused before anything is written, with what to do instead."""
    (tmp_path / "a").mkdir()
    write_family(tmp_path / "a", "llama-4-scout")
    with pytest.raises(InvalidRequest, match="name a folder"):
        convert(tmp_path / "a", tmp_path / "b.gguf", "f32")
    assert listing(tmp_path) == {"a"}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_hugging_face(tmp_path / "tiny", make_llama())


def listing(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_nothing_is_overwritten_unasked(tmp_path: Path, tiny: Path) -> None:
    """What exists stays, without --force; with it only what is a model goes."""
    file, folder, stranger = tmp_path / "x.gguf", tmp_path / "x", tmp_path / "notes"
    file.write_text("mine")
    stranger.mkdir()
    (stranger / "diary.txt").write_text("mine")
    with pytest.raises(InvalidRequest, match="--force"):
        convert(tiny, file)
    with pytest.raises(InvalidRequest, match=r"diary\.txt"):
        convert(tiny, stranger, force=True)
    with pytest.raises(InvalidRequest, match="choose another destination"):
        convert(tiny, tiny, force=True)
    assert file.read_text() == "mine"
    assert listing(stranger) == {"diary.txt"}
    convert(tiny, file, force=True)
    convert(tiny, folder, "f16")
    convert(tiny, folder, "f32", force=True)
    assert torch.equal(logits(folder), logits(file))
    assert listing(tmp_path) == {"tiny", "x.gguf", "x", "notes"}


@pytest.mark.parametrize(
    ("destination", "type_", "words"),
    [
        ("x.gguf", "q3_k", "q8_0"),
        ("x", "q8_0", r"\.gguf"),
        ("no/such/x.gguf", "f32", "make it first"),
    ],
)
def test_requests_that_cannot_be_done(
    tmp_path: Path, tiny: Path, destination: str, type_: str, words: str
) -> None:
    """Each is refused before anything is written, with what to do instead."""
    with pytest.raises(InvalidRequest, match=words):
        convert(tiny, tmp_path / destination, type_)
    assert listing(tmp_path) == {"tiny"}


def spoil(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("destination", ["x.gguf", "x"])
def test_a_damaged_source_leaves_nothing(tmp_path: Path, tiny: Path, destination: str) -> None:
    """A number that is none, in the last tensor that is read, ends the work with its name."""
    spoil(tiny, lambda tensors: tensors["lm_head.weight"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match="lm_head"):
        convert(tiny, tmp_path / destination, "f16")
    assert listing(tmp_path) == {"tiny"}


def test_numbers_beyond_float16(tmp_path: Path, tiny: Path) -> None:
    """They are refused rather than made infinite; bfloat16 holds them."""
    spoil(tiny, lambda tensors: tensors["lm_head.weight"].mul_(1e6))
    with pytest.raises(CheckpointError, match="choose bfloat16"):
        convert(tiny, tmp_path / "x.gguf", "f16")
    convert(tiny, tmp_path / "x.gguf", "bf16")


@pytest.mark.parametrize("destination", ["x.gguf", "x"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, tiny: Path, destination: str) -> None:
    """Where writing fails half way, one sentence says what to do, and no half file stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(CodellamaError, match="free some space"):
            convert(tiny, tmp_path / destination, "f32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert listing(tmp_path) == {"tiny"}


def test_a_disk_without_room_is_seen_before(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot fit is refused at once, with both sizes."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10_000_000}))
    with pytest.raises(CodellamaError, match=r"needs 0\.1 GB, and its disk has 0\.0 GB"):
        convert(tiny, tmp_path / "x.gguf")


def test_what_a_killed_conversion_left_is_removed(tmp_path: Path, tiny: Path) -> None:
    """The next one to the same place takes it away; what a living process writes stays, and all else."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f".x.{ended.pid}.part").mkdir()
    (tmp_path / f".x.{os.getpid()}.part").write_text("of an earlier process with our number")
    kept = {f".x.{os.getppid()}.part", ".x.notes.part", f".y.{ended.pid}.part"}
    for name in kept:
        (tmp_path / name).write_text("")
    convert(tiny, tmp_path / "x", "f32")
    assert listing(tmp_path) == {"tiny", "x", *kept}


@pytest.mark.parametrize("destination", ["x.gguf", "x"])
def test_an_interrupt_leaves_nothing(
    tmp_path: Path, tiny: Path, destination: str, request: pytest.FixtureRequest
) -> None:
    """Ctrl-C in the middle ends the work, and there is no file, whole or half."""
    heard = []

    def interrupt(done: int, of: int) -> None:
        heard.append(done)
        if done > of / 2:
            signal.raise_signal(signal.SIGINT)

    # Whoever starts the tests in the background has Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt):
        convert(tiny, tmp_path / destination, "f32", progress=interrupt)
    assert len(heard) > 3
    assert listing(tmp_path) == {"tiny"}
