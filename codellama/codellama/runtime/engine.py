"""The engine: one model in memory, its tokenizer and its cache; runs one request at a time.

`stream` is the one way in; `run`, `infill`, `complete` and `chat` wrap it. Requests from several threads
wait for each other. The cache of the last prompt is kept, and a request reuses the whole blocks of ids
that it begins with.
"""

import math
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from codellama.runtime.chat import ChatFormat, chat_format
from codellama.runtime.device import find_device, find_dtype
from codellama.runtime.errors import (
    ContextTooLong,
    InvalidRequest,
    UnsupportedArchitecture,
)
from codellama.runtime.generation import BLOCK, Cancelled, LanguageModel, StreamedText, decode, prefill
from codellama.runtime.healing import Spelling
from codellama.runtime.locate import locate
from codellama.runtime.memory import check_room, generation_needs, logits_needs, usable_bytes
from codellama.runtime.model import Transformer
from codellama.runtime.prompt_builder import Prompt, PromptBuilder
from codellama.runtime.records import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    Extra,
    FinishReason,
    InfillMode,
    InfillRequest,
    Piece,
    Request,
    Result,
    Sampling,
    Stats,
)
from codellama.runtime.reference import ReferenceModel, load_reference
from codellama.runtime.sampling import Sampler
from codellama.runtime.tokenizer import Tokenizer
from codellama.runtime.tokenizer_files import load_tokenizer
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.runtime.weights.loading import Progress, load_transformer


def _never() -> bool:
    return False


class Engine:
    """A loaded model; safe to use from several threads, which take turns."""

    def __init__(
        self, name: str, model: LanguageModel, tokenizer: Tokenizer, chat: ChatFormat | None = None
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self._prompts = PromptBuilder(name, tokenizer, model.config, chat)
        self.config = replace(
            model.config, can_infill=self._prompts.can_infill, can_chat=self._prompts.can_chat
        )
        self._model = model
        self._device = model.device
        self._needs = generation_needs(self.config, model.dtype, BLOCK)
        self._cache = model.new_cache(min(2 * BLOCK, self.config.max_context))
        self._cached: list[int] = []  # the ids whose keys and values the cache holds from a prefill
        self._turn = threading.Lock()

    def stream(
        self, request: Request, cancelled: Callable[[], bool] = _never
    ) -> Generator[Piece, None, Result]:
        """Yields text as it is generated and returns the Result; closing it, or `cancelled`, ends it.

        Raises InvalidRequest, InfillUnsupported or ContextTooLong before anything is generated.
        """
        _check(request)
        prompt = self._prompts.build(request)
        sampler = Sampler(request.sampling, self._device)
        run = _Run(prompt, Spelling(self._prompts.index, prompt.healing) if prompt.healing else None)
        tokenizer = self.tokenizer
        text = StreamedText(
            tokenizer.decode if prompt.new_text else tokenizer.decode_continuation, request.stop
        )
        with self._turn:
            try:
                logits = self._prefill(request.max_tokens, run, cancelled)
                yield from self._decode(logits, sampler, text, request.max_tokens, run, cancelled)
            except Cancelled:
                run.reason = "cancelled"
            except torch.OutOfMemoryError as error:  # another program took what was free before
                raise ContextTooLong(
                    f"The device ran out of memory for a prompt of {len(run.prompt.ids)} tokens: shorten it, "
                    "close other programs, or choose a smaller model."
                ) from error
        last = text.finish()
        if last:
            yield Piece(last, ())
        return Result(text.text, tuple(run.ids), run.reason, run.finished_stats(), prompt.packed)

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
        return self.run(ChatRequest(_turns(messages), max_tokens, Sampling(temperature=temperature)))

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits of every position for `ids`, [T, V] float32, computed without the cache.

        Raises ContextTooLong where memory has no room for them.
        """
        with self._turn:
            check_room(logits_needs(self.config, self._model.dtype), len(ids), self._device)
            rows = torch.tensor([list(ids)], device=self._device)
            out: Tensor = self._model(rows)[0].float()
            return out

    def infill_ids(
        self, prefix: str, suffix: str, mode: InfillMode = "auto", extra: Sequence[Extra] = ()
    ) -> list[int]:
        """The exact prompt of an infill request, BOS included, packed for an answer of 64 tokens.

        It is the prompt before healing (see `healing`), which happens as it is run.
        """
        return self._prompts.build(InfillRequest(prefix, suffix, tuple(extra), mode=mode)).ids

    def chat_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The exact prompt of a conversation, BOS included; raises InvalidRequest as `chat` does."""
        return self._prompts.chat_ids(_turns(messages))

    def _answered(self, token: int, run: "_Run") -> list[int]:
        """What of the token is answer: all of it, or as ids of their own what goes beyond a healed prompt."""
        if run.spelling is None or run.spelling.done:
            return [token]
        beyond = run.spelling.push(token)
        try:
            return self.tokenizer.encode_continuation(beyond.decode())
        except UnicodeDecodeError:  # it ends inside a character
            return self._prompts.index.single_bytes(beyond)

    def _prefill(self, max_tokens: int, run: "_Run", cancelled: Callable[[], bool]) -> Tensor:
        """Reuses the cached blocks that the prompt begins with and computes the rest; logits [V]."""
        started = time.perf_counter()
        ids = run.ids_to_run
        shared = _common_length(self._cached, ids[:-1]) // BLOCK * BLOCK
        self._make_room(len(ids) + run.spelled_bytes + max_tokens, shared)
        shared = self._cache.length
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
        max_tokens: int,
        run: "_Run",
        cancelled: Callable[[], bool],
    ) -> Generator[Piece, None, None]:
        started = time.perf_counter()
        try:
            steps = decode(self._model, self._cache, logits, sampler, cancelled, run.allowed)
            for token, logprob in steps:
                ids = self._answered(token, run)
                if not ids:
                    continue
                run.logprobs.append(logprob)
                if token in run.prompt.stop_ids:
                    run.reason = "stop"
                    return
                for i in ids:
                    run.ids.append(i)
                    piece = text.push(i)
                    if piece:
                        yield Piece(piece, (i,))
                    if text.stopped:
                        run.reason = "stop"
                        return
                    if len(run.ids) == max_tokens:
                        return
        finally:
            run.stats = replace(run.stats, decode_s=time.perf_counter() - started)

    def _make_room(self, positions: int, keep: int) -> None:
        """Rewinds the cache to `keep` positions and grows it to hold `positions`, if memory has room."""
        capacity = min(-(-positions // BLOCK) * BLOCK, self.config.max_context)
        fits = capacity <= self._cache.capacity
        # What has to be copied to a larger cache needs both for a moment.
        held = self._cache.nbytes if fits or keep == 0 else 0
        check_room(self._needs, positions, self._device, held)
        self._cache.rewind(keep)
        if not fits:
            self._cache.grow(capacity)


class _Run:
    """What one request has come to so far."""

    def __init__(self, prompt: Prompt, spelling: Spelling | None) -> None:
        self.prompt = prompt
        self.spelling = spelling
        self.stats = Stats(prompt_tokens=len(prompt.ids))
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.reason: FinishReason = "length"

    @property
    def ids_to_run(self) -> list[int]:
        """The prompt without the tokens that healing takes back."""
        healing = self.prompt.healing
        return self.prompt.ids[: -healing.count] if healing else self.prompt.ids

    @property
    def spelled_bytes(self) -> int:
        """The most tokens that may spell the prompt's end again: one for each byte."""
        return len(self.prompt.healing.text) if self.prompt.healing else 0

    def allowed(self) -> list[int] | None:
        """The ids that may come next; None for all."""
        return self.spelling.allowed() if self.spelling else None

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
    bfloat16 elsewhere), float32, bfloat16 or float16. `max_context`: this many tokens in prompt and answer
    together, be it more than the model was made for (as Code Llama reads 100,000); by default its own
    context, or what memory has room for. `progress`: called with the bytes of weights that are loaded, and
    all there are. Raises UnknownModel, CheckpointError or InvalidRequest.
    """
    path = locate(name)
    place = find_device(device)
    kind = find_dtype(dtype, place)
    model: Transformer | ReferenceModel
    try:
        checkpoint = open_checkpoint(path)
    except UnsupportedArchitecture as refusal:
        model = load_reference(path, place, kind, refusal)
        tokenizer = load_tokenizer(path)
        tokenizer.fit(model.config.vocab_size, str(path))
    else:
        tokenizer = load_tokenizer(path)
        tokenizer.fit(checkpoint.config.vocab_size, str(path))
        model = load_transformer(checkpoint, place, kind, progress)
    room = generation_needs(model.config, model.dtype, BLOCK).tokens_within(usable_bytes(place))
    # Packing fills the context, so it must not promise what memory cannot hold.
    context = max_context or min(model.config.max_context, max(room // BLOCK, 2) * BLOCK)
    model.config = replace(model.config, max_context=context)
    return Engine(name, model, tokenizer, chat_format(path, tokenizer, model.config))


def _turns(messages: Sequence[dict[str, str]]) -> tuple[ChatMessage, ...]:
    return tuple(ChatMessage(m["role"], m["content"]) for m in messages)


def _check(request: Request) -> None:
    sampling = request.sampling
    problems: list[tuple[bool, str]] = [
        (request.max_tokens < 1, f"max_tokens is {request.max_tokens}: give at least 1."),
        (
            not 0 <= sampling.temperature < math.inf,
            f"temperature is {sampling.temperature}: give a number from 0 up.",
        ),
        (not 0 < sampling.top_p <= 1, f"top_p is {sampling.top_p}: give more than 0, at most 1."),
        (not 0 <= sampling.min_p <= 1, f"min_p is {sampling.min_p}: give a number from 0 to 1."),
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
