"""The engine: one model in memory, its tokenizer and its caches; requests to text.

`stream` is the one way in; `run`, `infill`, `complete` and `chat` wrap it. Any number of threads may ask at
once: `scheduler` says whose step runs next, `sessions` keeps the caches of recent prompts, and a request
reuses the whole blocks of ids that it begins with.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from codellama.runtime.chat import ChatFormat
from codellama.runtime.errors import ContextTooLong, InvalidRequest
from codellama.runtime.generation import LanguageModel, StreamedText
from codellama.runtime.healing import Spelling
from codellama.runtime.memory import check_room, generation_needs, logits_needs, usable_bytes
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
from codellama.runtime.sampling import Sampler
from codellama.runtime.scheduler import Job, Scheduler
from codellama.runtime.sessions import Sessions
from codellama.runtime.tokenizer import Tokenizer

# Of the memory that is free at load, what the caches of earlier prompts may keep: a quarter, and half of a
# GPU's, which few others use: 100,000 tokens of a 7B take 52 GB.
_CACHE_SHARE, _GPU_CACHE_SHARE = 4, 2


def _never() -> bool:
    return False


class Engine:
    """A loaded model; safe to use from several threads at once."""

    def __init__(
        self,
        name: str,
        model: LanguageModel,
        tokenizer: Tokenizer,
        chat: ChatFormat | None = None,
        family: str | None = None,
        draft: LanguageModel | None = None,
    ) -> None:
        """`draft` is a smaller model with the same tokenizer, which guesses what comes next."""
        self.name = name
        self.tokenizer = tokenizer
        self._prompts = PromptBuilder(name, tokenizer, model.config, chat)
        self.config = replace(
            model.config,
            family=family or model.config.family,
            can_infill=self._prompts.can_infill,
            can_chat=self._prompts.can_chat,
        )
        self._model = model
        self._device = model.device
        cached = model.position_bytes + (draft.position_bytes if draft else 0)
        self._needs = generation_needs(self.config, model.dtype, model.block, cached)
        share = _GPU_CACHE_SHARE if self._device.type == "cuda" else _CACHE_SHARE
        budget = usable_bytes(self._device) // share
        self._sessions = Sessions(model.new_cache, budget, model.resume_every)
        drafts = (draft, Sessions(draft.new_cache, budget // 4, draft.resume_every)) if draft else None
        self._scheduler = Scheduler(model, self._sessions, drafts)

    @property
    def model(self) -> LanguageModel:
        """What computes."""
        return self._model

    def stream(
        self, request: Request, cancelled: Callable[[], bool] = _never
    ) -> Generator[Piece, None, Result]:
        """Yields text as it is generated and returns the Result; closing it, or `cancelled`, ends it.

        Someone waits at the cursor for an infill: it overtakes other requests. Raises InvalidRequest,
        InfillUnsupported or ContextTooLong before anything is generated.
        """
        with self._in_flight(request, cancelled) as (job, answer):
            while not job.ended or answer.pieces:
                if answer.pieces:
                    yield answer.pieces.popleft()
                else:
                    self._scheduler.advance(job, lambda: not answer.pieces)
        last = answer.finish()
        if last:
            yield Piece(last, ())
        return answer.result(job)

    def run(self, request: Request, cancelled: Callable[[], bool] = _never) -> Result:
        """The whole at once, as `stream` gives it, for less: nobody is woken for each piece."""
        with self._in_flight(request, cancelled) as (job, answer):
            self._scheduler.advance(job, lambda: True)
        answer.finish()
        return answer.result(job)

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
        with self._scheduler.alone():
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

    @contextmanager
    def _in_flight(
        self, request: Request, cancelled: Callable[[], bool]
    ) -> Generator[tuple[Job, "_Answer"], None, None]:
        """The request's job, which is in the scheduler while the block lasts, and what it comes to.

        Raises what went wrong with the job at the block's end.
        """
        _check(request)
        prompt = self._prompts.build(request)
        answer = _Answer(self.tokenizer, self._prompts, prompt, request)
        job = Job(
            ids=answer.ids_to_run,
            positions=len(answer.ids_to_run) + answer.spelled_bytes + request.max_tokens,
            sampler=Sampler(request.sampling, self._device),
            take=answer.take,
            allowed=answer.allowed,
            cancelled=cancelled,
            interactive=isinstance(request, InfillRequest),
        )
        self._admit(job.positions)
        with self._scheduler.running(job):
            yield job, answer
        if isinstance(job.error, torch.OutOfMemoryError):  # another program took what was free before
            raise ContextTooLong(
                f"The device ran out of memory for a prompt of {len(job.ids)} tokens: shorten it, "
                "close other programs, or choose a smaller model."
            ) from job.error
        if job.error is not None:
            raise job.error

    def _admit(self, positions: int) -> None:
        """Raises ContextTooLong where memory has no room for a request; unused caches make room."""
        check_room(self._needs, positions, self._device, self._sessions.idle_bytes)
        short = self._needs.bytes(positions) - usable_bytes(self._device)
        if short > 0:
            with self._scheduler.alone():  # a step may be taking the very cache that would be given back
                self._sessions.make_room(short)


class _Answer:
    """What one request has come to so far: ids and text as the scheduler hands them over."""

    def __init__(
        self, tokenizer: Tokenizer, prompts: PromptBuilder, prompt: Prompt, request: Request
    ) -> None:
        self._tokenizer, self._index = tokenizer, prompts.index
        self._prompt = prompt
        self._spelling = Spelling(prompts.index, prompt.healing) if prompt.healing else None
        self._max_tokens = request.max_tokens
        decode = tokenizer.decode if prompt.new_text else tokenizer.decode_continuation
        self._text = StreamedText(decode, request.stop)
        self._ids: list[int] = []
        self._steps: list[tuple[int, float]] = []
        self._reason: FinishReason = "length"
        self.pieces: deque[Piece] = deque()

    @property
    def ids_to_run(self) -> list[int]:
        """The prompt without the tokens that healing takes back."""
        healing = self._prompt.healing
        return self._prompt.ids[: -healing.count] if healing else self._prompt.ids

    @property
    def spelled_bytes(self) -> int:
        """The most tokens that may spell the prompt's end again: one for each byte."""
        return len(self._prompt.healing.text) if self._prompt.healing else 0

    def allowed(self) -> list[int] | None:
        """The ids that may come next; None for all."""
        return self._spelling.allowed() if self._spelling else None

    def take(self, token: int, logprob: float) -> bool:
        """Adds one id to the answer; whether more are wanted."""
        ids = self._answered(token)
        if not ids:
            return True
        more = self._add(token, ids)
        self._steps.append((len(self._text.text), logprob))
        return more

    def _add(self, token: int, ids: Sequence[int]) -> bool:
        if token in self._prompt.stop_ids:
            self._reason = "stop"
            return False
        for i in ids:
            self._ids.append(i)
            piece = self._text.push(i)
            if piece:
                self.pieces.append(Piece(piece, (i,)))
            if self._text.stopped:
                self._reason = "stop"
                return False
            if len(self._ids) == self._max_tokens:
                return False
        return True

    def finish(self) -> str:
        """The text that was held back, once nothing more comes."""
        return self._text.finish()

    def result(self, job: Job) -> Result:
        """The whole, once `job` has ended."""
        mean = sum(logprob for _, logprob in self._steps) / len(self._steps) if self._steps else None
        stats = Stats(
            prompt_tokens=len(self._prompt.ids),
            reused_tokens=job.reused,
            prefill_s=job.prefill_s,
            decode_s=job.decode_s,
            tokens=len(self._ids),
            mean_logprob=mean,
        )
        reason = "cancelled" if job.was_cancelled else self._reason
        text = self._text.text
        steps = tuple((min(end, len(text)), logprob) for end, logprob in self._steps)
        return Result(text, tuple(self._ids), reason, stats, self._prompt.packed, steps)

    def _answered(self, token: int) -> list[int]:
        """What of the token is answer: all of it, or as ids of their own what goes beyond a healed prompt."""
        if self._spelling is None or self._spelling.done:
            return [token]
        beyond = self._spelling.push(token)
        try:
            return self._tokenizer.encode_continuation(beyond.decode())
        except UnicodeDecodeError:  # it ends inside a character
            return self._index.single_bytes(beyond)


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
