"""Which line fills a hole best, where taking the likeliest step each time is not sure of one.

For a small model. The likeliest line is often not what the likeliest steps make, so others are tried that
leave the first where it was least sure: a search for the likeliest whole (as in arXiv 1702.01806). And what
stands after the hole says more about a line than such a model gathers from its prompt: of the likeliest lines
that one is taken which makes the text after it likeliest too, read from left to right (a noisy channel, arXiv
1611.02554). Every try and every reading is a job of the scheduler's like any other.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch

from codellama.runtime.answer import Answer
from codellama.runtime.healing import PieceIndex
from codellama.runtime.line_sampling import LineKinds, LineSampler
from codellama.runtime.prompt_builder import Prompt
from codellama.runtime.reading import Reading
from codellama.runtime.records import InfillRequest, Request, Result
from codellama.runtime.scheduler import Job
from codellama.runtime.tokenizer import Tokenizer

# A line this sure is not looked at again, nor one whose log-probability is this far below the best's.
SURE, FAR = 0.7, -3.0
# Lines that are decoded beside the first; those that end where it was still going on cost nothing.
TRIES = 2
# Lines among which the text after the hole chooses, and what its log-probability counts beside theirs.
JUDGED, WEIGHT = 4, 0.5
# Characters before the hole and after it that are read for that.
BEFORE, AFTER = 300, 40
_FORKS = 24  # that are looked at


def asks_for_line(request: Request) -> TypeGuard[InfillRequest]:
    """Whether the request wants one line, the likeliest."""
    return (
        isinstance(request, InfillRequest)
        and request.stop == ("\n",)
        and request.sampling.temperature == 0
        and request.top_logprobs is None
    )


class Attempt:
    """A way to fill the line: the ids chosen, and what else was likely at each."""

    def __init__(self, answer: Answer, sampler: LineSampler) -> None:
        self.answer, self.sampler = answer, sampler
        self.tokens: list[int] = []
        self._logprobs: list[float] = []
        self._others: list[list[tuple[int, float]]] = []
        self.ended = False
        self.least = -math.inf  # log-probability under which it is given up

    def take(self, token: int, logprob: float) -> bool:
        """Adds an id; whether more are wanted."""
        self._others.append(self.sampler.likeliest)
        self._add(token, logprob)
        return not self.ended and self.logprob >= self.least

    def follow(self, other: "Attempt", n: int, token: int, logprob: float) -> None:
        """Goes the first `n` steps of another, then its own."""
        for known, its in zip(other.tokens[:n], other._logprobs[:n], strict=True):
            self._others.append([])
            self._add(known, its)
        self._others.append([])
        self._add(token, logprob)

    @property
    def logprob(self) -> float:
        """Of all of it, its end included."""
        return sum(self._logprobs)

    def forks(self) -> Iterator[tuple[float, int, int, float]]:
        """Where it may be left: the log-probability so far, the step, the other id and its share of it."""
        before = 0.0
        for n, (token, its) in enumerate(zip(self.tokens, self._logprobs, strict=True)):
            for other, logprob in self._others[n]:
                if other != token:
                    yield before + logprob, n, other, logprob
            before += its

    def _add(self, token: int, logprob: float) -> None:
        self.tokens.append(token)
        self._logprobs.append(logprob)
        self.ended = not self.answer.take(token, logprob)


@dataclass(frozen=True, slots=True)
class _Fork:
    """An id that was not taken, at a step of an attempt; `logprob` with all before it, `share` its own."""

    logprob: float
    step: int
    token: int
    share: float
    parent: Attempt

    def __lt__(self, other: "_Fork") -> bool:
        return self.logprob > other.logprob


@dataclass(frozen=True, slots=True)
class Asked:
    """One request under way: what its attempts have in common."""

    request: InfillRequest
    prompt: Prompt
    cancelled: Callable[[], bool]
    interactive: bool


class LineChoice:
    """Fills single lines with one model; safe in several threads, as the scheduler is."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        index: PieceIndex,
        kinds: LineKinds,
        device: torch.device,
        finish: Callable[[Job], None],
    ) -> None:
        """`finish` runs a job to its end and raises what went wrong with it."""
        self._tokenizer, self._index = tokenizer, index
        self._kinds, self._device = kinds, device
        self._finish = finish

    def run(self, asked: Asked) -> Result:
        """The line that fits best."""
        first = self._attempt(asked)
        job = self._decode(asked, first)
        result = first.answer.result(job)
        if not first.answer.stopped or math.exp(first.logprob) >= SURE:
            return result
        others, tries = self._others(asked, first)
        best, sure, readings = self._judged(asked, _by_text([first, *others]))
        spent = [*tries, *readings]
        if any(one.was_cancelled for one in spent):
            return replace(result, finish_reason="cancelled")
        result = best.answer.result(job)
        end, logprob = result.steps[-1]
        return replace(
            result,
            steps=(*result.steps[:-1], (end, logprob + sure - best.logprob)),
            stats=replace(result.stats, choice_s=sum(one.prefill_s + one.decode_s for one in spent)),
        )

    def _attempt(self, asked: Asked) -> Attempt:
        sampler = LineSampler(self._kinds, self._device)
        return Attempt(Answer(self._tokenizer, self._index, asked.prompt, asked.request, sampler), sampler)

    def _decode(self, asked: Asked, attempt: Attempt) -> Job:
        """Goes on with the attempt to its end."""
        answer = attempt.answer
        job = Job(
            ids=[*answer.ids_to_run, *attempt.tokens],
            positions=len(answer.ids_to_run) + answer.spelled_bytes + asked.request.max_tokens,
            sampler=attempt.sampler,
            take=attempt.take,
            allowed=answer.allowed,
            barred=answer.barred,
            cancelled=asked.cancelled,
            interactive=asked.interactive,
        )
        self._finish(job)
        answer.finish()
        return job

    def _others(self, asked: Asked, first: Attempt) -> tuple[list[Attempt], list[Job]]:
        """Attempts that leave the first, or one another, where that is likeliest; and what was run."""
        found: list[Attempt] = []
        jobs: list[Job] = []
        best, forks = first.logprob, [_Fork(*fork, first) for fork in first.forks()]
        heapq.heapify(forks)
        for _ in range(_FORKS):
            if not forks or forks[0].logprob < best + FAR:
                break
            fork = heapq.heappop(forks)
            attempt = self._attempt(asked)
            attempt.follow(fork.parent, fork.step, fork.token, fork.share)
            if not attempt.ended and len(jobs) < TRIES:
                attempt.least = best + FAR
                jobs.append(self._decode(asked, attempt))
                for found_on in attempt.forks():
                    heapq.heappush(forks, _Fork(*found_on, attempt))
            if attempt.answer.stopped:
                attempt.answer.finish()
                found.append(attempt)
                best = max(best, attempt.logprob)
        return found, jobs

    def _judged(
        self, asked: Asked, lines: Sequence[tuple[Attempt, float]]
    ) -> tuple[Attempt, float, list[Job]]:
        """The best of some lines with their log-probabilities, and its own, by the text after the hole."""
        jobs: list[Job] = []
        after = _after(asked.request)
        judged = sorted(lines, key=lambda line: -line[1])[:JUDGED]
        if len(judged) == 1 or not after.strip():
            return *judged[0], jobs
        said = []
        for attempt, logprob in judged:
            follows, job = self._follows(asked, attempt.answer.text, after)
            jobs.append(job)
            said.append(logprob + WEIGHT * follows)
        n = max(range(len(said)), key=said.__getitem__)
        # Bayes, among those that were looked at: together they are as likely as before.
        sure = _total([logprob for _, logprob in judged]) + said[n] - _total(said)
        return judged[n][0], sure, jobs

    def _follows(self, asked: Asked, line: str, after: str) -> tuple[float, Job]:
        """The log-probability of what follows the hole, behind what precedes it and a line in it.

        Without the first id, which may hold the line's own end.
        """
        before = _end(asked.request.prefix) + line
        ids = self._tokenizer.encode(before + after)
        size = count = 0
        while size <= len(before.encode()) and count < len(ids) - 1:
            size += len(self._index.pieces[ids[count]])
            count += 1
        reading = Reading(ids[count:], self._device)
        begun = [self._tokenizer.bos_id, *ids[:count]]
        job = Job(
            ids=begun,
            positions=len(ids) + 2,
            sampler=reading,
            take=reading.take,
            allowed=_all,
            barred=frozenset,
            cancelled=asked.cancelled,
            interactive=asked.interactive,
        )
        job.drafter = reading
        self._finish(job)
        return reading.logprob, job


def _by_text(attempts: Sequence[Attempt]) -> list[tuple[Attempt, float]]:
    """One attempt for each text, the likeliest, and the log-probability of all that say it."""
    same: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        same.setdefault(attempt.answer.text.rstrip(), []).append(attempt)
    return [
        (max(group, key=lambda one: one.logprob), _total([one.logprob for one in group]))
        for group in same.values()
    ]


def _total(logs: Sequence[float]) -> float:
    most = max(logs)
    return most + math.log(sum(math.exp(one - most) for one in logs))


def _after(request: InfillRequest) -> str:
    """What follows the line; its end too, where a whole line is missing and the rest begins with the next."""
    whole = not request.prefix.rpartition("\n")[2] and not request.suffix.startswith(("\n", "\r"))
    return ("\n" if whole else "") + request.suffix[:AFTER]


def _end(prefix: str) -> str:
    """The last characters before the hole, from a line's beginning where there is one."""
    end = prefix[-BEFORE:]
    return end.partition("\n")[2] if len(prefix) > BEFORE and "\n" in end else end


def _all() -> None:
    """Any id may come next."""
