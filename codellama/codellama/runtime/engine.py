"""The engine: one model in memory, its tokenizer and its caches; requests to text.

`stream` is the one way in; `run`, `infill`, `complete` and `chat` wrap it. Any number of threads may ask at
once: `scheduler` says whose step runs next, `sessions` keeps the caches of recent prompts, and a request
reuses the whole blocks of ids that it begins with.
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from codellama.runtime.answer import Answer
from codellama.runtime.chat import ChatFormat
from codellama.runtime.errors import ContextTooLong, InvalidRequest
from codellama.runtime.generation import LanguageModel
from codellama.runtime.line_choice import Asked, LineChoice, asks_for_line
from codellama.runtime.line_sampling import LineKinds
from codellama.runtime.memory import check_room, generation_needs, logits_needs, usable_bytes
from codellama.runtime.prompt_builder import PromptBuilder
from codellama.runtime.records import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    Extra,
    InfillMode,
    InfillRequest,
    Piece,
    Request,
    Result,
    Sampling,
)
from codellama.runtime.sampling import Sampler
from codellama.runtime.scheduler import Job, Scheduler
from codellama.runtime.sessions import Sessions
from codellama.runtime.tokenizer import Tokenizer

# Of the memory that is free at load, what the caches of earlier prompts may keep: a quarter, and half of a
# GPU's, which few others use: 100,000 tokens of a 7B take 52 GB.
_CACHE_SHARE, _GPU_CACHE_SHARE = 4, 2
# And no more whole contexts than this, or a small model's caches would be most of what its server takes.
_CACHED_CONTEXTS = 8
# How many of the likeliest tokens are told at most, as OpenAI has it.
_MOST_LOGPROBS = 20


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
        most = _CACHED_CONTEXTS * cached * self.config.max_context
        budget = min(usable_bytes(self._device) // share, most)
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
        if self._lines is not None and asks_for_line(request):
            result = self.run(request, cancelled)
            yield Piece(result.text, result.ids)
            return result
        with self._in_flight(request, cancelled) as (job, answer):
            while not job.ended or answer.pieces:
                if answer.pieces:
                    yield answer.pieces.popleft()
                else:
                    self._scheduler.advance(job, lambda: not answer.pieces)
        last = answer.finish()
        if last:
            yield last
        return answer.result(job)

    def run(
        self, request: Request, cancelled: Callable[[], bool] = _never, waited_for: bool = True
    ) -> Result:
        """The whole at once, as `stream` gives it, for less: nobody is woken for each piece.

        An infill that is not `waited_for`, but fills the cache for the next one, overtakes nobody.
        """
        if self._lines is not None and asks_for_line(request):
            return self._line(self._lines, request, cancelled, waited_for)
        with self._in_flight(request, cancelled, waited_for) as (job, answer):
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
        self, request: Request, cancelled: Callable[[], bool], waited_for: bool = True
    ) -> Generator[tuple[Job, Answer], None, None]:
        """The request's job, which is in the scheduler while the block lasts, and what it comes to.

        Raises what went wrong with the job at the block's end.
        """
        _check(request)
        prompt = self._prompts.build(request)
        sampler = Sampler(request.sampling, self._device, request.top_logprobs or 0)
        answer = Answer(self.tokenizer, self._prompts.index, prompt, request, sampler)
        job = Job(
            ids=answer.ids_to_run,
            positions=len(answer.ids_to_run) + answer.spelled_bytes + request.max_tokens,
            sampler=sampler,
            take=answer.take,
            allowed=answer.allowed,
            barred=answer.barred,
            cancelled=cancelled,
            interactive=waited_for and isinstance(request, InfillRequest),
        )
        with self._running(job):
            yield job, answer

    def _line(
        self, lines: LineChoice, request: InfillRequest, cancelled: Callable[[], bool], waited_for: bool
    ) -> Result:
        """The best of several lines."""
        _check(request)
        return lines.run(Asked(request, self._prompts.build(request), cancelled, waited_for))

    @cached_property
    def _lines(self) -> LineChoice | None:
        """For a model so small that a second look is quick, where a prompt is gone on with anywhere."""
        tokenizer, index = self.tokenizer, self._prompts.index
        if self.config.family != "pocket" or not tokenizer.infill or self._model.resume_every > 1:
            return None
        stops = tokenizer.stop_ids | {tokenizer.infill.eot}
        kinds = LineKinds(index.pieces, stops, self.config.vocab_size)
        return LineChoice(tokenizer, index, kinds, self._device, self._finish)

    def _finish(self, job: Job) -> None:
        """Runs a job to its end."""
        with self._running(job):
            self._scheduler.advance(job, lambda: True)

    @contextmanager
    def _running(self, job: Job) -> Generator[None, None, None]:
        """The job is in the scheduler while the block lasts; raises what went wrong with it at its end."""
        self._admit(job.positions)
        with self._scheduler.running(job):
            yield
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
        (
            request.top_logprobs is not None and not 0 <= request.top_logprobs <= _MOST_LOGPROBS,
            f"logprobs of {request.top_logprobs} tokens a place are asked for: give 0 to {_MOST_LOGPROBS}.",
        ),
        (not 0 <= sampling.min_p <= 1, f"min_p is {sampling.min_p}: give a number from 0 to 1."),
    ]
    for wrong, message in problems:
        if wrong:
            raise InvalidRequest(message)
