"""The engine beside llama.cpp and transformers, and beside what two cores can read and multiply.

llama.cpp is asked through its low-level decode with two threads; sampling, which that leaves out, is in our
figures. What runs it, and what else of the engine is measured: `benchmarks.engine`.
"""

import ctypes
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from benchmarks.report import Figure, at_least
from transformers import LlamaForCausalLM

from codellama.runtime import Engine, load_engine
from codellama.runtime.records import CompletionRequest, Sampling
from codellama.runtime.weights.convert import convert

THREADS = 2
PROMPT, STEPS = 512, 48  # tokens
_NUMBERS = itertools.count()
_CODE = Path(__file__).read_text(encoding="utf-8")


def best(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """The least seconds of each side, which take turns."""
    times = [[side() for side in sides] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]


def _step_seconds(engine: Engine) -> float:
    """Of a step; not greedy, so that no draft is looked up: every token is a step of its own."""
    request = CompletionRequest("def f(", STEPS, Sampling(temperature=1.0, seed=0))
    return engine.run(request).stats.decode_s / STEPS


def _position_seconds(engine: Engine, ids: list[int]) -> float:
    """Of a position of a prompt that no cache has seen."""
    text = f"# {next(_NUMBERS)}\n" + engine.tokenizer.decode(ids)
    stats = engine.run(CompletionRequest(text, 1)).stats
    return stats.prefill_s / stats.prompt_tokens


def against_peers(folder: Path, rounds: int) -> list[Figure]:
    """Decode and prefill beside llama.cpp at the same bits, decode beside transformers."""
    engine = load_engine(str(folder), device="cpu", quantize="int8")
    plain = load_engine(str(folder), device="cpu", quantize="int8", kernels="torch")
    peer = _llama_cpp(folder, "q8_0")
    reference = LlamaForCausalLM.from_pretrained(folder).eval()
    ids = engine.tokenizer.encode(_CODE)[:PROMPT]

    def transformers() -> float:
        rows = torch.tensor([ids[:8]])
        began = time.perf_counter()
        with torch.inference_mode():
            reference.generate(
                rows, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, pad_token_id=0
            )
        return (time.perf_counter() - began) / STEPS

    step, peer_step, reference_step, plain_step = best(
        rounds,
        lambda: _step_seconds(engine),
        lambda: peer.decode(ids[:8], STEPS) / STEPS,
        transformers,
        lambda: _step_seconds(plain),
    )
    block, peer_block, plain_block, product = best(
        rounds,
        lambda: _position_seconds(engine, ids),
        lambda: peer.prefill(ids) / len(ids),
        lambda: _position_seconds(plain, ids),
        _product,
    )
    peer.close()
    weights, read = _weights(engine), _read_seconds(rounds, _weights(engine))
    operations = 2 * (weights - engine.config.vocab_size * engine.config.dim)  # one position has logits
    return [
        Figure("40M decode, int8", 1 / step, "tokens/s"),
        Figure("llama.cpp decode, Q8_0", 1 / peer_step, "tokens/s", note="two threads, as built from source"),
        Figure("transformers decode, float32", 1 / reference_step, "tokens/s"),
        at_least("decode against llama.cpp", peer_step / step, 1.0),
        at_least("decode against transformers", reference_step / step, 4.0),
        Figure("40M prefill, int8", 1 / block, "tokens/s"),
        Figure("llama.cpp prefill, Q8_0", 1 / peer_block, "tokens/s"),
        at_least("prefill against llama.cpp", peer_block / block, 2.0),
        Figure("40M decode by torch's kernels", 1 / plain_step, "tokens/s", note="without a compiler"),
        Figure("40M prefill by torch's kernels", 1 / plain_block, "tokens/s"),
        Figure(
            "reading so many bytes", weights / read / 1e9, "GB/s", note="two threads, a copy of the weights"
        ),
        Figure("decode, share of that reading", read / step, "x"),
        Figure("bfloat16 matrix rate", 1 / product / 1e9, "GFLOP/s", note="torch, 2048 x 2048"),
        Figure("prefill, share of that rate", operations / block * product, "x"),
    ]


def in_four_bits(folder: Path, size: str, rounds: int) -> list[Figure]:
    """int4 beside int8, and beside llama.cpp's Q4_0."""
    fours, eights, torchs = (
        load_engine(str(folder), device="cpu", quantize=bits, kernels=kernels)
        for bits, kernels in (("int4", "auto"), ("int8", "auto"), ("int4", "torch"))
    )
    peer = _llama_cpp(folder, "q4_0")
    ids = fours.tokenizer.encode(_CODE)[:PROMPT]
    ours = [partial(_step_seconds, engine) for engine in (fours, eights, torchs)]
    step, eight, torch_step, peer_step = best(rounds, *ours, lambda: peer.decode(ids[:8], STEPS) / STEPS)
    ours = [partial(_position_seconds, engine, ids) for engine in (fours, eights, torchs)]
    block, eight_block, torch_block, peer_block = best(rounds, *ours, lambda: peer.prefill(ids) / len(ids))
    peer.close()
    return [
        Figure(f"{size} decode, int4", 1 / step, "tokens/s"),
        Figure(f"{size} decode, int8", 1 / eight, "tokens/s"),
        Figure("llama.cpp decode, Q4_0", 1 / peer_step, "tokens/s", note="two threads, as built from source"),
        Figure("decode, int4 against int8", eight / step, "x"),
        Figure("decode, int4 against torch's kernel", torch_step / step, "x"),
        at_least("decode, int4 against llama.cpp", peer_step / step, 1.0),
        Figure(f"{size} prefill, int4", 1 / block, "tokens/s"),
        Figure("prefill, int4 against int8", eight_block / block, "x"),
        Figure("prefill, int4 against torch's kernel", torch_block / block, "x"),
        at_least("prefill, int4 against llama.cpp", peer_block / block, 1.0),
    ]


def _llama_cpp(folder: Path, kind: Literal["q8_0", "q4_0"]) -> "LlamaCpp":
    file = folder.parent / f"{kind}.gguf"
    convert(folder, file, kind)
    return LlamaCpp(file)


def _weights(engine: Engine) -> int:
    """Bytes of int8 weights that a step reads, about one for each."""
    config = engine.config
    layer = config.dim * (2 * config.n_heads + 2 * config.n_kv_heads) * config.head_dim
    return config.n_layers * (layer + 3 * config.dim * config.ffn_dim) + config.vocab_size * config.dim


def _read_seconds(rounds: int, nbytes: int) -> float:
    """Seconds to read so many bytes once, all cores at it, again and again as a step does."""
    data = torch.ones(nbytes // 4)

    def read() -> float:
        began = time.perf_counter()
        for _ in range(5):
            data.sum()
        return (time.perf_counter() - began) / 5

    return best(rounds, read)[0]


def _product() -> float:
    """Seconds for one operation of a large bfloat16 product."""
    a = torch.ones(2048, 2048, dtype=torch.bfloat16)
    began = time.perf_counter()
    a @ a
    return (time.perf_counter() - began) / (2 * 2048**3)


class LlamaCpp:
    """llama.cpp's low-level decode on one GGUF file, two threads; prints nothing."""

    def __init__(self, file: Path) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        llama_cpp.llama_log_set(_silence, ctypes.c_void_p(0))
        self._model = llama_cpp.llama_model_load_from_file(
            str(file).encode(), llama_cpp.llama_model_default_params()
        )
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = 2048
        parameters.n_threads = parameters.n_threads_batch = THREADS
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        assert self._context

    def prefill(self, ids: list[int]) -> float:
        """Seconds for the prompt alone."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        began = time.perf_counter()
        self._run(ids)
        return time.perf_counter() - began

    def decode(self, ids: list[int], steps: int) -> float:
        """Seconds for `steps` single tokens after a prompt."""
        self.prefill(ids)
        began = time.perf_counter()
        for n in range(steps):
            self._run([ids[n % len(ids)]])
        return time.perf_counter() - began

    def close(self) -> None:
        """Frees model and context."""
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)

    def _run(self, ids: list[int]) -> None:
        tokens = (self._lib.llama_token * len(ids))(*ids)
        assert self._lib.llama_decode(self._context, self._lib.llama_batch_get_one(tokens, len(ids))) == 0


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _silence(level: int, text: bytes, data: int) -> None:
    pass
