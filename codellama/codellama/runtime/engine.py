"""The engine: one model in memory, its tokenizer and its cache; runs one request at a time.

`stream` is the one way in; `run`, `infill`, `complete` and `chat` wrap it. Requests from several threads
wait for each other. The cache of the last prompt is kept, and a request reuses the whole blocks of ids
that it begins with.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from codellama.runtime.cache import KVCache
from codellama.runtime.errors import (
    ContextTooLong,
    InfillUnsupported,
    InvalidRequest,
)
from codellama.runtime.generation import BLOCK, Cancelled, StreamedText, decode, prefill
from codellama.runtime.locate import locate
from codellama.runtime.model import Transformer
from codellama.runtime.packing import Parts, pack
from codellama.runtime.prompts import infill_ids
from codellama.runtime.records import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    Extra,
    FinishReason,
    InfillMode,
    InfillRequest,
    Packed,
    Piece,
    Request,
    Result,
    Sampling,
    Stats,
)
from codellama.runtime.sampling import Sampler
from codellama.runtime.tokenizer import Tokenizer
from codellama.runtime.tokenizer_files import load_tokenizer
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.runtime.weights.loading import Progress, load_transformer

# Up to here the suffix goes first, so that it stays cached while one types; beyond, the larger part does.
SPM_TOKENS = 1024
_CONTROL_IDS = 4  # BOS PRE SUF MID


def _never() -> bool:
    return False


class Engine:
    """A loaded model; safe to use from several threads, which take turns."""

    def __init__(self, name: str, model: Transformer, tokenizer: Tokenizer) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.config = replace(model.config, can_infill=tokenizer.infill is not None, can_chat=False)
        self._model = model
        self._device = model.embed_tokens.weight.device
        self._cache = self._new_cache(min(2 * BLOCK, self.config.max_context))
        self._cached: list[int] = []  # the ids whose keys and values the cache holds from a prefill
        self._turn = threading.Lock()

    def stream(
        self, request: Request, cancelled: Callable[[], bool] = _never
    ) -> Generator[Piece, None, Result]:
        """Yields text as it is generated and returns the Result; closing it, or `cancelled`, ends it.

        Raises InvalidRequest, InfillUnsupported or ContextTooLong before anything is generated.
        """
        _check(request)
        ids, stop_ids, packed = self._prompt(request)
        sampler = Sampler(request.sampling, self._device)
        text = StreamedText(self.tokenizer.decode_continuation, request.stop)
        run = _Run(stats=Stats(prompt_tokens=len(ids)))
        with self._turn:
            try:
                logits = self._prefill(ids, request.max_tokens, run, cancelled)
                yield from self._decode(logits, sampler, text, stop_ids, request, run, cancelled)
            except Cancelled:
                run.reason = "cancelled"
        last = text.finish()
        if last:
            yield Piece(last, ())
        return Result(text.text, tuple(run.ids), run.reason, run.finished_stats(), packed)

    def run(self, request: Request, cancelled: Callable[[], bool] = _never) -> Result:
        """The whole of `stream` at once."""
        stream = self.stream(request, cancelled)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                result: Result = end.value
                return result

    def infill(
        self,
        prefix: str,
        suffix: str,
        extra: Sequence[Extra] = (),
        max_tokens: int = 64,
        temperature: float = 0.0,
        mode: InfillMode = "auto",
    ) -> Result:
        """Fills the gap between `prefix` and `suffix`."""
        sampling = Sampling(temperature=temperature)
        return self.run(InfillRequest(prefix, suffix, tuple(extra), max_tokens, mode, sampling))

    def complete(self, prompt: str, max_tokens: int = 64, temperature: float = 0.0) -> Result:
        """Continues `prompt`."""
        return self.run(CompletionRequest(prompt, max_tokens, Sampling(temperature=temperature)))

    def chat(
        self, messages: Sequence[dict[str, str]], max_tokens: int = 256, temperature: float = 0.0
    ) -> Result:
        """Answers the last of `messages`; raises InvalidRequest for models without a chat format."""
        turns = tuple(ChatMessage(m["role"], m["content"]) for m in messages)
        return self.run(ChatRequest(turns, max_tokens, Sampling(temperature=temperature)))

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits of every position for `ids`, [T, V] float32, computed without the cache."""
        with self._turn:
            rows = torch.tensor([list(ids)], device=self._device)
            out: Tensor = self._model(rows)[0].float()
            return out

    def infill_ids(
        self, prefix: str, suffix: str, mode: InfillMode = "auto", extra: Sequence[Extra] = ()
    ) -> list[int]:
        """The exact prompt of an infill request, BOS included, packed for an answer of 64 tokens."""
        return self._infill(InfillRequest(prefix, suffix, tuple(extra), mode=mode))[0]

    def _prompt(self, request: Request) -> tuple[list[int], frozenset[int], tuple[Packed, ...]]:
        """Prompt ids, the ids that end the answer, and what became of the extras."""
        if isinstance(request, InfillRequest):
            return self._infill(request)
        if isinstance(request, ChatRequest):
            raise InvalidRequest(
                f"The model {self.name} has no chat format: set chat.model to an instruct model."
            )
        ids = [self.tokenizer.bos_id, *self.tokenizer.encode(request.prompt)]
        self._check_length(len(ids), request.max_tokens)
        return ids, frozenset({self.tokenizer.eos_id}), ()

    def _infill(self, request: InfillRequest) -> tuple[list[int], frozenset[int], tuple[Packed, ...]]:
        room = self.config.max_context - request.max_tokens - _CONTROL_IDS
        self._check_length(_CONTROL_IDS + 1, request.max_tokens)
        tokens, bos, eos = self.tokenizer.infill, self.tokenizer.bos_id, self.tokenizer.eos_id
        suffix = "" if request.mode == "prefix" else request.suffix
        parts = pack(self.tokenizer, request.prefix, suffix, request.extras, room)
        head = [i for extra in parts.extras for i in extra]
        if request.mode == "prefix" or (tokens is None and request.mode == "auto"):
            return [bos, *head, *parts.prefix], frozenset({eos}), parts.packed
        if tokens is None:
            raise InfillUnsupported(
                f"The model {self.name} was not trained to infill: use mode 'prefix', or a model "
                "that infills, such as Code Llama 7B or 13B."
            )
        mode = _layout(request.mode, parts)
        ids = infill_ids(tokens, bos, mode, parts.prefix, parts.suffix, parts.extras)
        return ids, frozenset({tokens.eot, eos}), parts.packed

    def _prefill(self, ids: list[int], max_tokens: int, run: "_Run", cancelled: Callable[[], bool]) -> Tensor:
        """Reuses the cached blocks that `ids` begins with and computes the rest; logits [V]."""
        started = time.perf_counter()
        shared = _common_length(self._cached, ids[:-1]) // BLOCK * BLOCK
        self._make_room(len(ids) + max_tokens, shared)
        self._cache.length = shared
        self._cached = ids[:shared]
        try:
            logits = prefill(self._model, self._cache, ids, cancelled)
        finally:
            # Whole blocks are whole whatever interrupts the rest.
            self._cached = ids[: self._cache.length]
            run.stats = replace(run.stats, reused_tokens=shared, prefill_s=time.perf_counter() - started)
        return logits

    def _decode(
        self,
        logits: Tensor,
        sampler: Sampler,
        text: StreamedText,
        stop_ids: frozenset[int],
        request: Request,
        run: "_Run",
        cancelled: Callable[[], bool],
    ) -> Generator[Piece, None, None]:
        started = time.perf_counter()
        try:
            for token, logprob in decode(self._model, self._cache, logits, sampler, cancelled):
                run.logprobs.append(logprob)
                if token in stop_ids:
                    run.reason = "stop"
                    return
                run.ids.append(token)
                piece = text.push(token)
                if piece:
                    yield Piece(piece, (token,))
                if text.stopped:
                    run.reason = "stop"
                    return
                if len(run.ids) == request.max_tokens:
                    return
        finally:
            run.stats = replace(run.stats, decode_s=time.perf_counter() - started)

    def _make_room(self, positions: int, keep: int) -> None:
        """Grows the cache to hold `positions`, keeping the first `keep`."""
        if positions <= self._cache.capacity:
            return
        capacity = min(-(-positions // BLOCK) * BLOCK, self.config.max_context)
        grown = self._new_cache(capacity)
        grown.keys[..., :keep, :] = self._cache.keys[..., :keep, :]
        grown.values[..., :keep, :] = self._cache.values[..., :keep, :]
        self._cache = grown

    def _new_cache(self, capacity: int) -> KVCache:
        return KVCache(self.config, capacity, self._device, self._model.embed_tokens.weight.dtype)

    def _check_length(self, prompt: int, answer: int) -> None:
        if prompt + answer > self.config.max_context:
            raise ContextTooLong(
                f"The prompt of {prompt} tokens and an answer of {answer} do not fit the "
                f"{self.config.max_context} tokens of context of the model {self.name}: shorten one "
                "of them."
            )


class _Run:
    """What one request has come to so far."""

    def __init__(self, stats: Stats) -> None:
        self.stats = stats
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.reason: FinishReason = "length"

    def finished_stats(self) -> Stats:
        mean = sum(self.logprobs) / len(self.logprobs) if self.logprobs else None
        return replace(self.stats, tokens=len(self.ids), mean_logprob=mean)


def load_engine(
    name: str,
    device: str = "auto",
    dtype: str = "auto",
    max_context: int | None = None,
    progress: Progress | None = None,
) -> Engine:
    """Loads the model `name` (see `locate`) onto a device.

    `device`: auto (CUDA, then MPS, then CPU) or torch's name of one. `dtype`: auto (float32 on a CPU,
    bfloat16 elsewhere), float32, bfloat16 or float16. `max_context`: at most this many tokens in prompt
    and answer together. `progress`: called with the bytes of weights that are loaded, and all there are.
    Raises UnknownModel, CheckpointError or InvalidRequest.
    """
    path = locate(name)
    checkpoint = open_checkpoint(path)
    place = _device(device)
    if max_context:
        checkpoint.config = replace(checkpoint.config, max_context=max_context)
    config = checkpoint.config
    tokenizer = load_tokenizer(path)
    tokenizer.fit(config.vocab_size, str(path))
    model = load_transformer(checkpoint, place, _dtype(dtype, place), progress)
    return Engine(name, model, tokenizer)


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cpu":
        # More threads than cores only get in each other's way.
        torch.set_num_threads(min(torch.get_num_threads(), os.cpu_count() or 1))
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidRequest(
            f"The device {name!r} cannot be used here: choose auto, cpu, cuda or mps."
        ) from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    known: dict[str, torch.dtype] = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }
    if name not in known:
        raise InvalidRequest(f"There is no dtype {name!r}: choose auto, {', '.join(known)}.")
    return known[name]


def _layout(mode: InfillMode, parts: Parts) -> Literal["psm", "spm"]:
    """Depends on the request alone, so that the same request always gets the same prompt."""
    if mode == "psm" or mode == "spm":  # noqa: PLR1714 - mypy narrows this form only
        return mode
    before = len(parts.prefix) + sum(map(len, parts.extras))
    return "spm" if before <= SPM_TOKENS else "psm"


def _check(request: Request) -> None:
    sampling = request.sampling
    problems: list[tuple[bool, str]] = [
        (request.max_tokens < 1, f"max_tokens is {request.max_tokens}: give at least 1."),
        (
            not 0 <= sampling.temperature < math.inf,
            f"temperature is {sampling.temperature}: give a number from 0 up.",
        ),
        (not 0 < sampling.top_p <= 1, f"top_p is {sampling.top_p}: give more than 0, at most 1."),
    ]
    for wrong, message in problems:
        if wrong:
            raise InvalidRequest(message)


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    count = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        count += 1
    return count
