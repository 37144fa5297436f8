"""The compiled pass computes what torch's layers do, and every position alike however it is reached."""

import ctypes
import os
import platform
import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runtime_support import write_llama
from torch import Tensor

from codellama.runtime import Engine, load_engine, native_build
from codellama.runtime.cache import PackedKVCache
from codellama.runtime.errors import InvalidRequest
from codellama.runtime.generation import LanguageModel
from codellama.runtime.kernels import Kernels, choose_kernels, fastest, measure
from codellama.runtime.linear import Int4Linear, Int8Linear, Quantisation, quantised
from codellama.runtime.native import NativeModel, fits, product
from codellama.runtime.native_build import native_library
from codellama.runtime.records import CompletionRequest, InfillRequest, Sampling
from codellama.runtime.weights import loading
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.runtime.weights.loading import load_transformer

needs_compiler = pytest.mark.skipif(
    native_library(patience_s=300) is None, reason="the compiled pass needs a C compiler"
)


# Of a model whose numbers are rounded alike: a value between two steps may fall on either.
_NEAR = {"int8": 2e-3, "int4": 1e-2}


def _compiled(folder: Path, quantize: str = "int8", **options: str) -> Engine:
    return load_engine(str(folder), device="cpu", quantize=quantize, kernels="compiled", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose answers do not end by themselves."""
    folder = tmp_path_factory.mktemp("deep")
    model = write_llama(folder, positions=2048)
    vocabulary = model.config.vocab_size
    model.lm_head.weight.data[[*range(32), *range(127, 256), *range(vocabulary - 6, vocabulary)]] = 0
    model.save_pretrained(folder)
    return folder


def _ids(count: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(256) for _ in range(count)]


def _run(model: LanguageModel, ids: list[int], pieces: list[int]) -> Tensor:
    """The logits of all positions, run in pieces of these lengths and then one by one."""
    cache, found, at = model.new_cache(len(ids)), [], 0
    while at < len(ids):
        step = pieces.pop(0) if pieces else 1
        found.append(model(torch.tensor([ids[at : at + step]]), cache)[0])
        at += step
    return torch.cat(found)


@needs_compiler
@pytest.mark.parametrize(("quantize", "cache"), [("int8", "none"), ("int8", "int8"), ("int4", "none")])
def test_every_position_is_computed_alike(deep: Path, quantize: str, cache: str) -> None:
    """A text at once, in pieces of any length, and token by token gives the same bits; so does a batch."""
    model = _compiled(deep, quantize, quantize_cache=cache)._model
    ids = _ids(300)
    whole = _run(model, ids, [300])
    assert torch.equal(_run(model, ids, [1, 7, 128, 2, 6, 100]), whole)
    caches = [model.new_cache(300) for _ in range(3)]
    for n, one in enumerate(caches):
        model(torch.tensor([ids[: 290 - 60 * n]]), one)
    beside = model.together(torch.tensor([ids[290 - 60 * n] for n in range(3)]), caches)
    assert torch.equal(beside, torch.stack([whole[290 - 60 * n] for n in range(3)]))


@needs_compiler
def test_more_sequences_than_a_pass_has_rows(deep: Path) -> None:
    """Together they are run in pieces: the room of a pass is for 128 rows."""
    model = _compiled(deep)._model
    ids = torch.tensor(_ids(131))
    found = model.together(ids, [model.new_cache(1) for _ in ids])
    assert torch.equal(found[128:], torch.cat([model(one.view(1, 1))[0] for one in ids[128:]]))


@needs_compiler
def test_ids_beyond_the_vocabulary(deep: Path) -> None:
    """They are refused, not looked up in whatever memory lies there; the cache stays as it was."""
    model = _compiled(deep)._model
    cache = model.new_cache(8)
    for wrong in (-1, model.config.vocab_size):
        with pytest.raises(InvalidRequest, match="ids from 0 to"):
            model(torch.tensor([[97, wrong]]), cache)
    assert cache.length == 0


@needs_compiler
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_weights_lie_in_memory_once(deep: Path, quantize: Quantisation) -> None:
    """The layers' own are given back as they are packed."""
    library = native_library()
    assert library is not None
    checkpoint, kernels = open_checkpoint(deep), Kernels(compiled=True)
    model = load_transformer(
        checkpoint, torch.device("cpu"), torch.float32, quantize=quantize, kernels=kernels
    )
    layers = [layer for layer in model.modules() if isinstance(layer, Int8Linear | Int4Linear)]
    assert any(isinstance(layer, Int4Linear) for layer in layers) == (quantize == "int4")
    NativeModel(model, library)
    kept = [tensor for layer in layers for name, tensor in layer.named_buffers() if name != "scale"]
    assert not any(tensor.untyped_storage().nbytes() for tensor in kept)


def _rounded(x: Tensor) -> Tensor:
    groups = torch.nn.functional.pad(x, (0, -x.shape[-1] % 32)).unflatten(-1, (-1, 32))
    step = groups.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
    return ((groups / step).round() * step).flatten(-2)[..., : x.shape[-1]]


def _expected(
    folder: Path, ids: list[int], monkeypatch: pytest.MonkeyPatch, quantize: str = "int8"
) -> Tensor:
    """Logits by torch's layers with the same weights, and activations rounded as the compiled code does:
    each 32 of a row to 127 steps of their own on either side of zero.
    """

    def forward(layer: Int8Linear | Int4Linear, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(_rounded(x), layer.dequantised(), layer.bias)

    with monkeypatch.context() as patch:
        patch.setattr(loading, "quantised", lambda *given: quantised(*given[:-1], compiled=True))
        engine = load_engine(str(folder), device="cpu", quantize=quantize, kernels="torch")
        patch.setattr(Int8Linear, "forward", forward)
        patch.setattr(Int4Linear, "forward", forward)
        return engine.logits(ids)


def _check_products(library: ctypes.CDLL) -> None:
    """Products of any number of rows are those of the rounded numbers, to what float32 holds."""
    chance = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(64, 96, generator=chance), torch.randn(64, generator=chance)
    for layer in (Int8Linear(weight[:, :80], bias), Int4Linear(weight, bias, layout="fours")):
        for rows in range(1, 15):
            x = torch.randn(rows, layer.in_features, generator=chance) * 100
            expected = _rounded(x).double() @ layer.dequantised().double().T + bias
            assert (product(library, layer)(x) - expected).norm() < 1e-6 * expected.norm()


@needs_compiler
def test_products_are_those_of_the_rounded_numbers() -> None:
    """In eight bits and in four, of one row and of as many as share what is loaded."""
    library = native_library()
    assert library is not None
    _check_products(library)


@needs_compiler
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_it_computes_what_torch_does(deep: Path, monkeypatch: pytest.MonkeyPatch, quantize: str) -> None:
    """Logits of torch's layers, weights and activations rounded alike; nothing is left out."""
    ids = _ids(200, seed=1)
    expected = _expected(deep, ids, monkeypatch, quantize)
    found = _compiled(deep, quantize).logits(ids)
    assert found.shape == expected.shape
    assert (found - expected).norm() < _NEAR[quantize] * expected.norm()


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86")
@pytest.mark.parametrize("without", ["-mno-avx512f", "-mno-avx512vnni -mno-avxvnni", "-mno-avx2"])
def test_processors_with_shorter_vectors(
    deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    """AVX-VNNI, AVX2 and the plain loop add the same integers as AVX-512, whatever is beside a position."""
    compiler = native_build._compiler()
    assert compiler is not None
    known = [compiler, *without.split(), "-E", "-x", "c", os.devnull]
    if subprocess.run(known, capture_output=True, check=False).returncode:
        pytest.skip(f"{compiler} does not know {without}")
    _compiler(tmp_path, f'exec {compiler} "$@" {without}')
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    monkeypatch.setenv("CODELLAMA_NATIVE", str(tmp_path / "made"))
    library = native_library(patience_s=300)
    assert library is not None
    assert ctypes.c_int64.in_dll(library, "codellama_lanes").value == 8
    _check_products(library)
    if without == "-mno-avx2":  # the plain loop, which is slow
        return
    ids = _ids(80, seed=1)
    for quantize, cache in (("int8", "none"), ("int4", "none"), ("int8", "int8")):
        model = _compiled(deep, quantize, quantize_cache=cache)._model
        whole = _run(model, ids, [80])
        assert torch.equal(_run(model, ids, [1, 7, 40, 2]), whole)
        if cache == "none":
            expected = _expected(deep, ids, monkeypatch, quantize)
            assert (whole - expected).norm() < _NEAR[quantize] * expected.norm()


@needs_compiler
def test_what_is_no_number_stays_none() -> None:
    """A row with a NaN or an infinity in it gives none either, and the rows beside it what they give."""
    library = native_library()
    assert library is not None
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    for layer in (Int8Linear(weight), Int4Linear(weight, layout="fours")):
        x = torch.ones(4, 96)
        sound = product(library, layer)(x)
        x[1, 40], x[2, 90] = torch.nan, torch.inf
        found = product(library, layer)(x)
        assert not found[1:3].isfinite().any()
        assert torch.equal(found[[0, 3]], sound[[0, 3]])


def _write_shape(folder: Path, **shape: int | bool) -> None:
    """A checkpoint of two layers of another shape, with biases where it has any."""
    from transformers import LlamaConfig, LlamaForCausalLM

    write_llama(folder)
    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=270, num_hidden_layers=2, initializer_range=0.2, **shape)  # type: ignore[arg-type]
    )
    for layer in model.model.layers:
        if layer.self_attn.q_proj.bias is not None:
            layer.self_attn.q_proj.bias.data.normal_()
    model.save_pretrained(folder)


@needs_compiler
def test_layers_of_both_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a layer's shape has no groups of four bits it has eight, and stands beside the others."""
    _write_shape(tmp_path, hidden_size=64, intermediate_size=80, num_attention_heads=4, num_key_value_heads=2)
    ids = _ids(100, seed=2)
    expected = _expected(tmp_path, ids, monkeypatch, "int4")
    assert (_compiled(tmp_path, "int4").logits(ids) - expected).norm() < _NEAR["int4"] * expected.norm()


@needs_compiler
def test_shapes_that_fill_no_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of 48, a vocabulary and a width that tiles do not divide, biases, one key head for three."""
    _write_shape(
        tmp_path,
        **{"hidden_size": 96, "intermediate_size": 112, "head_dim": 48, "attention_bias": True},
        **{"num_attention_heads": 3, "num_key_value_heads": 1},
    )
    ids = _ids(150, seed=2)
    expected = _expected(tmp_path, ids, monkeypatch)
    assert (_compiled(tmp_path).logits(ids) - expected).norm() < 1e-3 * expected.norm()


@needs_compiler
def test_all_but_the_last_token_is_reused(deep: Path) -> None:
    """A prompt that goes on from an earlier one's answer runs what is new; its answer is a cold one's."""
    warm, cold = _compiled(deep), _compiled(deep)
    prompt = "def f(ab):\n    return ab\n" * 9
    first = warm.complete(prompt, max_tokens=20)
    longer = prompt + first.text
    again, fresh = warm.complete(longer, max_tokens=12), cold.complete(longer, max_tokens=12)
    assert again.ids == fresh.ids
    assert again.stats.mean_logprob == fresh.stats.mean_logprob
    assert again.stats.reused_tokens > first.stats.prompt_tokens, "the answer is reused as it was decoded"
    assert warm.complete(longer, max_tokens=12).stats.reused_tokens == again.stats.prompt_tokens - 1


@needs_compiler
def test_history_changes_no_answer(deep: Path) -> None:
    """Prompts that share beginnings, after one another on one engine: each as on a new one."""
    warm = _compiled(deep)
    chance = random.Random(3)
    text = "".join(chance.choice(["ab", "def ", "\n", "return ", "x"]) for _ in range(200))
    for n in range(12):
        end = chance.randrange(50, 400)
        sampling = Sampling(temperature=chance.choice([0.0, 0.8]), seed=n)
        request = chance.choice(
            [
                CompletionRequest(text[:end], 9, sampling),
                InfillRequest(text[:end], "ab\n", (), 9, "spm", sampling),
            ]
        )
        assert warm.run(request).ids == _compiled(deep).run(request).ids


@needs_compiler
def test_a_cache_grows_and_is_copied(deep: Path) -> None:
    """Room beyond what was asked first, and another sequence from the middle, change no number."""
    for kind in ("none", "int8"):
        model = _compiled(deep, quantize_cache=kind)._model
        ids = _ids(200, seed=4)
        expected = model(torch.tensor([ids]), model.new_cache(200))[0, -1]
        small, other = model.new_cache(70), model.new_cache(300)
        model(torch.tensor([ids[:70]]), small)
        other.copy(small, 65)
        small.grow(200)
        for cache, start in ((small, 70), (other, 65)):
            assert torch.equal(model(torch.tensor([ids[start:]]), cache)[0, -1], expected)


def test_what_does_not_fit_stays_with_torch(deep: Path) -> None:
    """Shapes beyond the compiled code's vectors, another dtype, and kernels='torch' run as they did."""
    config = load_engine(str(deep), device="cpu").config
    assert fits(config)
    assert not fits(replace(config, head_dim=24))
    assert not fits(replace(config, rope_interleaved=True))
    for options in ({"kernels": "torch"}, {"dtype": "bfloat16"}):
        engine = load_engine(str(deep), device="cpu", quantize="int8", **options)  # type: ignore[arg-type]
        assert not isinstance(engine._model, NativeModel)
    with pytest.raises(InvalidRequest, match="compiler"):
        load_engine(str(deep), device="cpu", dtype="bfloat16", quantize="int8", kernels="compiled")


def test_without_a_compiler(deep: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No compiler, or one that fails, means torch's kernels; a failure is tried once."""
    monkeypatch.setattr(native_build, "_COMPILERS", ())
    monkeypatch.delenv("CC", raising=False)
    assert native_library(tmp_path) is None
    assert load_engine(str(deep), device="cpu", quantize="int8").complete("ab", max_tokens=2).ids
    _compiler(tmp_path, f"echo run >> {tmp_path / 'runs'}\nexit 1")
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    assert native_library(tmp_path, patience_s=60) is None
    runs = (tmp_path / "runs").read_text()
    assert native_library(tmp_path, patience_s=60) is None
    assert (tmp_path / "runs").read_text() == runs + "run\n", "asked for its version only"


def _compiler(folder: Path, script: str) -> None:
    """A compiler in a shell, for CC."""
    program = folder / "cc"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose `cc`, once it is written, is the compiler, of a source that takes it no time."""
    source = tmp_path / "small.c"
    source.write_text("int one = 1;\n")
    monkeypatch.setattr(native_build, "SOURCE", source)
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    return tmp_path


@needs_compiler
def test_nobody_loads_what_another_may_write(small: Path) -> None:
    """A folder or a library that is open to others is not trusted; nor is another's."""
    _compiler(small, 'exec gcc "$@"')
    folder = small / "made"
    assert native_library(folder, patience_s=60) is not None
    (library,) = folder.glob("*.so")
    for path in (folder, library):
        path.chmod(0o722)
        assert native_library(folder) is None
        path.chmod(0o700)
    assert native_library(folder) is not None
    if os.geteuid() == 0:
        os.chown(library, 12345, -1)
        assert native_library(folder) is None


@needs_compiler
@pytest.mark.parametrize(
    "spoil", ["exit 1", 'for made; do :; done; [ "$made" = --version ] || printf "" > "$made"']
)
def test_half_a_library_is_not_installed(small: Path, monkeypatch: pytest.MonkeyPatch, spoil: str) -> None:
    """What a failing compiler leaves, and what does not load, is no library; a day later it is tried anew."""
    once = small / "failed"
    _compiler(small, f'gcc "$@"; [ -e {once} ] && exit; {spoil}')
    assert native_library(small, patience_s=60) is None
    assert not list(small.glob("*.so"))
    once.touch()
    assert native_library(small, patience_s=60) is None, "a failure is not repeated at every start"
    monkeypatch.setattr(native_build, "REFUSAL_S", 0.0)
    assert native_library(small, patience_s=60) is not None


def test_a_compiler_that_cannot_be_asked(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs, and one that is no program, mean torch's kernels."""
    monkeypatch.setattr(native_build, "_VERSION_S", 0.1)
    _compiler(small, "exec sleep 20")
    assert native_library(small) is None
    (small / "cc").write_bytes(b"\x7fELF")
    assert native_library(small) is None


def test_a_folder_that_cannot_be_written(
    small: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says so; no thread dies of it, which pytest would tell."""
    _compiler(small, 'exec gcc "$@"')

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(native_build.tempfile, "TemporaryDirectory", refuse)
    assert native_library(small, patience_s=60) is None
    assert [record.message for record in caplog.records if "read-only" in record.message]


@needs_compiler
def test_nobody_waits_for_a_slow_compiler(small: Path) -> None:
    """Beyond its patience a load goes on without; the library is there for a later one."""
    tmp_path, go = small, small / "go"
    _compiler(small, f'[ "$1" = --version ] && exit\nwhile [ ! -e {go} ]; do sleep 0.02; done\nexec gcc "$@"')
    assert native_library(tmp_path, patience_s=0.05) is None
    assert not list(tmp_path.glob("*.so"))
    go.touch()
    while not list(tmp_path.glob("*.so")):
        subprocess.run(["sleep", "0.02"], check=True)


def test_the_choice_follows_the_figures() -> None:
    """The least time for steps and blocks wins, and the compiled pass only where it beats both together."""
    torchs = {"bfloat16": (1.0, 30.0), "halves": (2.0, 10.0)}
    assert fastest(torchs) == Kernels("bfloat16", "halves", False)
    assert fastest({**torchs, "compiled": (0.5, 12.0)}).compiled
    assert not fastest({**torchs, "compiled": (0.9, 30.0)}).compiled
    assert fastest({"bfloat16": (1.0, 3.0), "halves": (2.0, 10.0)}).many == "bfloat16"


def test_a_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found is kept, and read again for the same shape only."""
    library = native_library(patience_s=300)
    found = choose_kernels(192, 64, library, tmp_path)
    assert len(list(tmp_path.glob("kernels-*.json"))) == 1
    monkeypatch.setattr("codellama.runtime.kernels.measure", lambda *a: {}["not again"])
    assert choose_kernels(192, 64, library, tmp_path) == found
    with pytest.raises(KeyError):
        choose_kernels(256, 64, library, tmp_path)


@pytest.mark.parametrize("wrong", [Int8Linear, Int4Linear, None])
def test_a_wrong_kernel_is_out(monkeypatch: pytest.MonkeyPatch, wrong: type[torch.nn.Module] | None) -> None:
    """Compiled code whose products of either kind are off beyond a first row is not measured."""

    def product(library: ctypes.CDLL, layer: Int8Linear | Int4Linear) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            out = x @ layer.dequantised().T
            out[1:] += 1.0 if wrong is not None and isinstance(layer, wrong) else 0.0
            return out

        return run

    monkeypatch.setattr("codellama.runtime.kernels.product", product)
    assert ("compiled" in measure(192, 64, ctypes.CDLL(None))) == (wrong is None)


def test_a_packed_cache_loses_little(deep: Path) -> None:
    """In torch too int8 and fp8 keys and values give nearly the same logits, in a fraction of the memory."""
    plain = load_engine(str(deep), device="cpu")
    ids = torch.tensor([_ids(200, seed=5)])
    expected = plain._model(ids, plain._model.new_cache(200))[0]
    for kind, bound in (("int8", 0.06), ("fp8", 0.3)):
        engine = load_engine(str(deep), device="cpu", quantize_cache=kind)
        cache = engine._model.new_cache(200)
        assert isinstance(cache, PackedKVCache)
        out = engine._model(ids, cache)[0]
        assert 0 < (out - expected).norm() < bound * expected.norm()
        assert cache.nbytes == 200 * engine._model.position_bytes
        assert engine._model.position_bytes < plain._model.position_bytes / 2
