"""Several requests on one model: whose block or step runs next.

There is no thread of its own: whoever waits for a result drives the model, a step at a time, and a step
serves whoever is due. Completions that someone waits for at the cursor go before long answers at every
border of a prefill block or a decode step. Where steps together are faster than one by one (on a GPU),
completions decode in one batch, between whose steps others' prompts run a block each; elsewhere they run one
after another, each to its end, since all that taking turns would bring is that the first waits as long as the
last.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from codellama.runtime.draft_model import ModelDraft
from codellama.runtime.generation import LanguageModel, prefill_block
from codellama.runtime.sampling import Sampler
from codellama.runtime.sessions import Session, Sessions
from codellama.runtime.speculate import Drafter, FirstOf, PromptLookup

# Decode steps after which a completion lets the others go before it where they run one after another: more
# than what is shown at a cursor takes, so that only an unusually long one is ever interrupted.
_TURN = 128


class Job:
    """One request in flight: prompt ids go in, ids with log-probabilities come out through `take`.

    `take` gets each id as it is chosen and says whether more are wanted; `allowed` names the ids that may
    come next, None for all, and `barred` those that may not. `interactive` jobs overtake the others.
    """

    def __init__(
        self,
        ids: Sequence[int],
        positions: int,
        sampler: Sampler,
        take: Callable[[int, float], bool],
        allowed: Callable[[], Sequence[int] | None],
        barred: Callable[[], Collection[int]],
        cancelled: Callable[[], bool],
        interactive: bool,
    ) -> None:
        self.ids = list(ids)
        self.sequence = list(ids)  # with what was run of the answer
        self.positions = positions
        self.sampler = sampler
        self.take, self.cancelled = take, cancelled
        self.allowed, self.barred = allowed, barred
        self.interactive = interactive
        self.drafter: Drafter | None = PromptLookup(ids) if sampler.greedy else None
        self.session: Session | None = None
        self.logits: Tensor | None = None  # [V] of the last position, once the prompt is through
        self.reused = 0
        self.prefill_s = self.decode_s = 0.0
        self.steps = 0
        self.ended = False
        self.was_cancelled = False
        self.error: Exception | None = None


class Scheduler:
    """The jobs of one model; its methods may be called from any thread."""

    def __init__(
        self,
        model: LanguageModel,
        sessions: Sessions,
        draft: tuple[LanguageModel, Sessions] | None = None,
    ) -> None:
        """`draft` is a smaller model that guesses what comes next, and its caches."""
        self._model = model
        self._sessions = sessions
        self._draft = draft
        self._jobs: list[Job] = []
        self._lock = threading.Lock()
        # Whose threads wait while another drives: what each waits for, and how it is woken.
        self._asleep: dict[Job, tuple[Callable[[], bool], threading.Condition]] = {}
        self._pause = threading.Condition(self._lock)  # for threads that wait for one between two steps
        self._driven = False
        self._stopping = 0  # how many of those there are
        self._was_prefill = False  # what the last step was

    @property
    def jobs(self) -> int:
        """How many are in flight."""
        return len(self._jobs)

    @contextmanager
    def running(self, job: Job) -> Iterator[None]:
        """The job is served while the block lasts; leaving it ends the job within a step."""
        if self._draft and job.drafter:
            job.drafter = FirstOf(job.drafter, ModelDraft(*self._draft, job.ids, job.positions))
        with self._lock:
            self._jobs.append(job)
        try:
            yield
        finally:
            if not job.ended:
                with self.alone():
                    self._end(job)

    def advance(self, job: Job, waits: Callable[[], bool]) -> None:
        """Returns once the job has ended or `waits` no longer holds, and works on what is due until then."""

        def done() -> bool:
            return job.ended or not waits()

        with self._lock:
            while not done():
                if self._driven or self._stopping:
                    self._sleep(job, done)
                else:
                    self._drive(done)
            self._hand_over()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nothing else runs on the model within the block; it begins after the step that runs now."""
        with self._lock:
            self._stopping += 1
            self._pause.wait_for(lambda: not self._driven)
            self._stopping -= 1
            self._driven = True
        try:
            yield
        finally:
            with self._lock:
                self._driven = False
                self._hand_over()

    def _sleep(self, job: Job, done: Callable[[], bool]) -> None:
        """Until there is news for this thread, or the model is its to drive."""
        woken = threading.Condition(self._lock)
        self._asleep[job] = done, woken
        try:
            woken.wait()
        finally:
            del self._asleep[job]

    def _drive(self, done: Callable[[], bool]) -> None:
        """Runs steps until `done`, or until someone needs a pause; of the others it wakes who has news."""
        self._driven = True
        try:
            while not done() and not self._stopping:
                self._lock.release()
                try:
                    self._step()
                finally:
                    self._lock.acquire()
                for has_news, woken in self._asleep.values():
                    if has_news():
                        woken.notify()
        finally:
            self._driven = False
            self._hand_over()

    def _hand_over(self) -> None:
        """Wakes those who wait for a pause; else, where nobody drives, the one who has slept longest."""
        if self._driven:
            return
        if self._stopping:
            self._pause.notify_all()
        elif self._asleep:
            _, woken = next(iter(self._asleep.values()))
            woken.notify()

    @torch.inference_mode()
    def _step(self) -> None:
        """One block of a prefill, or one decode step of all jobs that are due."""
        with self._lock:
            jobs = [job for job in self._jobs if not job.ended]
        for job in jobs:
            if job.cancelled():
                job.was_cancelled = True
                self._end(job)
        jobs = [job for job in jobs if not job.ended]
        due = self._due(jobs)
        self._was_prefill = bool(due) and due[0].logits is None
        try:
            if self._was_prefill:
                self._prefill(due[0])
            elif due:
                self._decode(due)
        except Exception as error:  # noqa: BLE001 - it goes to those who wait for these jobs
            for job in due:
                if not job.ended:  # its answer may have been whole before the others' step
                    job.error = error
                    self._end(job)

    def _due(self, jobs: list[Job]) -> list[Job]:
        """The one whose prompt has a block to run, or all whose next step is taken together.

        Blocks and steps take turns where there are both: a long prompt holds nobody up for long, and steps
        do not keep a prompt waiting until the others' answers are whole.
        """
        first = [job for job in jobs if job.interactive]
        first = (first if self._model.batches else first[:1]) or jobs
        reading = [job for job in first if job.logits is None]
        writing = [job for job in first if job.logits is not None]
        return writing if writing and (self._was_prefill or not reading) else reading[:1]

    def _prefill(self, job: Job) -> None:
        """The next block of the prompt; reuses what a session has of it."""
        began = time.perf_counter()
        if job.session is None:
            job.session, job.reused = self._sessions.take(job.ids, job.positions)
        cache = job.session.cache
        logits = prefill_block(self._model, cache, job.ids)
        job.session.computed(job.ids)
        if cache.length == len(job.ids):
            job.logits = logits
        job.prefill_s += time.perf_counter() - began

    def _decode(self, jobs: list[Job]) -> None:
        """Each job's next id, and the logits after it."""
        began = time.perf_counter()
        chosen: list[tuple[Job, int]] = []
        for job in jobs:
            assert job.logits is not None
            token, logprob = job.sampler.choose(job.logits, job.allowed(), job.barred())
            if job.take(token, logprob):
                chosen.append((job, token))
            else:
                self._end(job)
        if len(chosen) == 1:
            self._go_on(*chosen[0])
        elif chosen:
            ids = torch.tensor([token for _, token in chosen], device=self._model.device)  # [B]
            logits = self._model.together(
                ids, [job.session.cache for job, _ in chosen if job.session]
            )  # [B, V]
            for (job, token), row in zip(chosen, logits, strict=True):
                job.logits = row
                job.sequence.append(token)
                if job.drafter:
                    job.drafter.extend((token,))
        spent = (time.perf_counter() - began) / len(jobs)
        for job in jobs:
            job.decode_s += spent
            job.steps += 1
            if job.steps % _TURN == 0:
                self._give_way(job)

    def _go_on(self, job: Job, token: int) -> None:
        """The logits after `token`; with a draft, as many steps at once as the model agrees with."""
        assert job.session is not None
        cache, drafter = job.session.cache, job.drafter
        draft: list[int] = []
        if drafter is not None:
            drafter.extend((token,))
            if job.allowed() is None and not job.barred():
                draft = drafter.draft(
                    min(cache.capacity - cache.length - 1, job.positions - cache.length - 1)
                )
        start = cache.length
        rows = torch.tensor([[token, *draft]], device=self._model.device)  # [1, 1 + draft]
        logits = self._model(rows, cache)[0]  # [1 + draft, V]
        kept = 0
        for guess, row in zip(draft, logits, strict=False):
            following, logprob = job.sampler.choose(row)
            if following != guess:
                break
            kept += 1
            if drafter is not None:
                drafter.extend((guess,))
            if not job.take(following, logprob):
                self._end(job)
                break
        if draft and drafter is not None:
            drafter.judged(len(draft), kept)
            cache.rewind(start + 1 + kept)
        job.sequence += (token, *draft[:kept])
        job.logits = logits[kept]

    def _give_way(self, job: Job) -> None:
        """Lets all that are in flight now go before it."""
        with self._lock:
            if job in self._jobs:
                self._jobs.remove(job)
                self._jobs.append(job)

    def _end(self, job: Job) -> None:
        job.ended = True
        if job.drafter:
            job.drafter.close()
        if job.session is not None:
            job.session.decoded(job.sequence)
            self._sessions.give_back(job.session)
            job.session = None
        if job in self._jobs:
            self._jobs.remove(job)
