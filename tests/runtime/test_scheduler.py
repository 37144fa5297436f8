"""Several requests on one model: everyone gets what he would get alone, and those in a hurry first."""

import random
import threading
import time
from collections.abc import Callable, Generator
from itertools import groupby
from pathlib import Path

import pytest
import torch
from runtime_support import write_llama

from codellama.runtime import Engine, load_engine, scheduler, sessions
from codellama.runtime.generation import BLOCK
from codellama.runtime.model import Transformer
from codellama.runtime.records import (
    CompletionRequest,
    InfillRequest,
    Piece,
    Request,
    Result,
    Sampling,
)
from codellama.runtime.sessions import Sessions
from codellama.runtime.speculate import MAX_DRAFT, PromptLookup


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose answers do not end by themselves."""
    folder = tmp_path_factory.mktemp("deep")
    model = write_llama(folder, positions=4096)
    model.lm_head.weight.data[-6:] = 0
    model.save_pretrained(folder)
    return folder


def _after(steps: int) -> Callable[[], bool]:
    """Asks to cancel once it has been asked so often."""
    asked = iter(range(10_000))
    return lambda: next(asked) >= steps


def _requests(count: int, seed: int) -> list[Request]:
    chance = random.Random(seed)
    text = "".join(chance.choice(["def ", "return ", "a", "b", "\n", "    "]) for _ in range(400))
    found: list[Request] = []
    for n in range(count):
        start = chance.randrange(0, 300, 10)
        sampling = Sampling(temperature=chance.choice([0.0, 0.0, 1.0]), top_p=0.9, seed=n)
        size = chance.randint(1, 12)
        if chance.random() < 0.5:
            found.append(InfillRequest(text[: start + 60], text[start + 60 :], (), size, "psm", sampling))
        else:
            found.append(CompletionRequest(text[start : start + 80], size, sampling))
    return found


def test_together_as_one_by_one(deep: Path) -> None:
    """A thousand requests from eight threads, some of them cancelled: the answers of one by one.

    Afterwards no request is left behind, and no cache is in use.
    """
    requests = _requests(1000, seed=1)
    alone = load_engine(str(deep), device="cpu", quantize="int8")
    expected = [alone.run(request) for request in requests[::10]]
    engine = load_engine(str(deep), device="cpu", quantize="int8")
    found: dict[int, Result] = {}
    queue = list(enumerate(requests))

    def work(seed: int) -> None:
        chance = random.Random(seed)
        while queue:
            try:
                n, request = queue.pop()
            except IndexError:
                return
            cancelled = _after(chance.randint(0, 6)) if chance.random() < 0.3 and n % 10 else lambda: False
            found[n] = engine.run(request, cancelled)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1000
    assert [found[n].ids for n in range(0, 1000, 10)] == [result.ids for result in expected]
    assert any(result.finish_reason == "cancelled" for result in found.values())
    assert engine._scheduler.jobs == 0
    assert engine._sessions.idle_bytes == engine._sessions.nbytes


def test_a_completion_overtakes_an_answer(deep: Path) -> None:
    """While an infill runs, a long answer that another thread drives stands still."""
    engine = load_engine(str(deep), device="cpu")
    engine.infill("def f(", "\n", max_tokens=1)  # what is made once is made
    enough = threading.Event()
    answered = 0

    def answer() -> None:
        nonlocal answered
        for _ in engine.stream(CompletionRequest("ab\n" * 40, 3000), enough.is_set):
            answered += 1

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        while answered < 3 and thread.is_alive():
            thread.join(0.01)
        before = answered
        result = engine.infill("def f(", "\n", max_tokens=200)
        during = answered - before
        while answered < before + during + 3 and thread.is_alive():  # and then it goes on
            thread.join(0.01)
    finally:
        enough.set()
        thread.join()
    assert len(result.ids) == 200
    assert answered >= before + during + 3
    assert during < 100, "only what ran before the infill was in flight"
    assert engine._scheduler.jobs == 0


def _to_the_end(*streams: Generator[Piece, None, Result]) -> list[Result]:
    """The results of streams of which all are begun before any is read on."""
    for stream in streams:
        next(stream)
    return [_rest(stream) for stream in streams]


def _rest(stream: Generator[Piece, None, Result]) -> Result:
    """The result of a stream that is begun."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            found: Result = end.value
            return found


def test_what_nobody_waits_for_overtakes_nobody(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A completion is done before a prompt that was to be put into the cache earlier is through."""
    engine = load_engine(str(deep), device="cpu")
    order: list[bool] = []
    prefill, jobs = scheduler.Scheduler._prefill, engine._scheduler
    ahead = threading.Thread(
        target=lambda: engine.run(InfillRequest("x" * 1500, "", (), 1, "prefix"), waited_for=False)
    )

    def watched(self: scheduler.Scheduler, job: scheduler.Job) -> None:
        order.append(job.interactive)
        prefill(self, job)
        while len(order) == 1 and jobs.jobs < 2:  # the completion comes while the first block runs
            time.sleep(0.001)

    monkeypatch.setattr(scheduler.Scheduler, "_prefill", watched)
    ahead.start()
    while not order:
        ahead.join(0.001)
    engine.infill("def f(", "\n", max_tokens=4)
    ahead.join()
    assert order[:2] == [False, True]
    assert len(order) > 10
    assert not any(order[2:])


@pytest.mark.parametrize("batches", [True, False])
def test_infills_decode_in_one_batch_where_that_pays(
    deep: Path, monkeypatch: pytest.MonkeyPatch, batches: bool
) -> None:
    """Two completions at once share a GPU's steps, not a CPU's; both get what they get alone."""
    engine = load_engine(str(deep), device="cpu", quantize="int8")
    assert not engine._model.batches, "this is a CPU"
    monkeypatch.setattr(type(engine._model), "batches", batches)
    requests = [InfillRequest(text, "\n", (), 12) for text in ("def f(a, b", "return a")]
    alone = [engine.run(request).ids for request in requests]
    sizes: list[int] = []
    together = engine._model.together
    monkeypatch.setattr(
        engine._model, "together", lambda ids, caches: (sizes.append(len(ids)), together(ids, caches))[1]
    )
    found = _to_the_end(*(engine.stream(request) for request in requests))
    assert [result.ids for result in found] == alone
    assert (2 in sizes) == batches


def test_in_a_batch_prompts_and_steps_take_turns(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt holds an answer that is begun up for a block at a time, not until it is through."""
    engine = load_engine(str(deep), device="cpu", quantize="int8")
    monkeypatch.setattr(type(engine._model), "batches", True)
    requests = InfillRequest("def f(", "\n", (), 60), InfillRequest("x" * 1500, "", (), 2, "prefix")
    alone = [engine.run(request).ids for request in requests]
    engine._sessions.make_room(engine._sessions.nbytes)
    order: list[str] = []

    def watched(name: str) -> Callable[..., None]:
        plain = getattr(scheduler.Scheduler, name)

        def step(self: scheduler.Scheduler, jobs: object) -> None:
            order.append(name)
            plain(self, jobs)

        return step

    for name in ("_prefill", "_decode"):
        monkeypatch.setattr(scheduler.Scheduler, name, watched(name))
    answer, prompt = (engine.stream(request) for request in requests)
    next(answer)
    order.clear()
    next(prompt)
    assert order[:20] == ["_prefill", "_decode"] * 10
    assert [_rest(answer).ids, _rest(prompt).ids] == alone


def test_a_gpu_batches(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands on a GPU decodes several completions in one step."""
    model = load_engine(str(deep), device="cpu", quantize="none")._model
    assert isinstance(model, Transformer)
    assert not model.batches
    monkeypatch.setattr(Transformer, "device", torch.device("cuda"))
    assert model.batches


def test_on_a_cpu_completions_run_one_after_another(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first to come is the first to be done; a long one lets the others go before it after its turn."""
    monkeypatch.setattr(PromptLookup, "draft", lambda self, most=MAX_DRAFT: [])  # a step for each id
    engine = load_engine(str(deep), device="cpu", quantize="int8")
    order: list[int] = []
    decode = scheduler.Scheduler._decode

    def watched(self: scheduler.Scheduler, jobs: list[scheduler.Job]) -> None:
        assert len(jobs) == 1
        order.append(jobs[0].ids[-1])
        decode(self, jobs)

    monkeypatch.setattr(scheduler.Scheduler, "_decode", watched)
    turn = scheduler._TURN
    sizes = {"a": 10, "b": turn + 5, "c": 10}
    requests = [InfillRequest(text, "", (), size, "prefix") for text, size in sizes.items()]
    results = _to_the_end(*(engine.stream(request) for request in requests))
    assert [len(result.ids) for result in results] == list(sizes.values())
    a, b, c = dict.fromkeys(order)
    turns = [(key, len(list(steps))) for key, steps in groupby(order)]
    assert turns == [(a, 10), (b, turn), (c, 10), (b, 5)]


def test_drafts_change_no_id(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that repeats itself is drafted and accepted, and the ids are those without drafts."""
    prompts = ["def a(b):\n    return b\n" * 6, "ab" * 50, "abde" * 30 + "x", "return a\n"]
    engine = load_engine(str(deep), device="cpu", quantize="int8")
    drafted = [engine.complete(prompt, max_tokens=60) for prompt in prompts]
    monkeypatch.setattr(PromptLookup, "draft", lambda self, most=MAX_DRAFT: [])
    plain = [
        load_engine(str(deep), device="cpu", quantize="int8").complete(p, max_tokens=60) for p in prompts
    ]
    assert [result.ids for result in drafted] == [result.ids for result in plain]
    assert [round(r.stats.mean_logprob or 0, 4) for r in drafted] == [
        round(r.stats.mean_logprob or 0, 4) for r in plain
    ]


def test_the_family_is_told(deep: Path) -> None:
    """The engine says what it runs, and says so where that is no published model."""
    assert load_engine("pocket", device="cpu").config.family == "pocket"
    assert load_engine(str(deep), device="cpu").config.family == "unknown Llama"


def test_lookup_drafts_what_followed() -> None:
    """The ids after the longest ending's last place; wrong guesses make it cautious, right ones bold."""
    lookup = PromptLookup([1, 2, 3, 4, 5, 6, 9, 1, 2, 3])
    assert lookup.draft() == [4, 5, 6, 9]
    lookup.judged(4, 4)
    assert lookup.draft() == [4, 5, 6, 9, 1, 2, 3]
    assert lookup.draft(most=2) == [4, 5]
    for _ in range(6):
        lookup.judged(1, 0)
    assert lookup.draft() in ([], [4])
    assert PromptLookup([1, 2, 3]).draft() == []


def _sessions(engine: Engine, budget: int) -> Sessions:
    return Sessions(engine._model.new_cache, budget)


def _prefilled(caches: Sessions, ids: list[int], engine: Engine) -> int:
    """Runs a prompt through the sessions as the scheduler does; returns what was reused."""
    from codellama.runtime.generation import prefill

    session, shared = caches.take(ids, len(ids) + 1)
    prefill(engine._model, session.cache, ids)
    session.computed(ids)
    caches.give_back(session)
    return shared


def test_two_documents_keep_their_caches(deep: Path) -> None:
    """Going to and fro between prompts that begin alike reuses each one's own blocks."""
    engine = load_engine(str(deep), device="cpu")
    sessions = _sessions(engine, 10**9)
    head = [1] * BLOCK
    first, second = head + [2] * (3 * BLOCK) + [5], head + [3] * (3 * BLOCK) + [5]
    assert _prefilled(sessions, first, engine) == 0
    assert _prefilled(sessions, second, engine) == BLOCK
    assert _prefilled(sessions, first, engine) == 4 * BLOCK
    assert _prefilled(sessions, second, engine) == 4 * BLOCK
    assert len(sessions) == 2


def test_the_longest_unused_session_goes_first(deep: Path) -> None:
    """The budget is kept by giving back what waits longest; what is in use stays."""
    engine = load_engine(str(deep), device="cpu")
    one = engine._model.new_cache(2 * BLOCK)
    size = one.keys.nbytes + one.values.nbytes
    sessions = _sessions(engine, 2 * size)
    prompts = [[n] * (BLOCK + 1) for n in range(1, 5)]
    for ids in prompts:
        _prefilled(sessions, ids, engine)
    assert sessions.nbytes <= 2 * size
    assert _prefilled(sessions, prompts[-1], engine) == BLOCK
    assert _prefilled(sessions, prompts[0], engine) == 0
    held = [sessions.take(ids, 2 * BLOCK)[0] for ids in prompts]
    assert all(session.in_use for session in held)
    assert len(sessions) == 4
    for session in held:
        sessions.give_back(session)
    assert sessions.nbytes <= 2 * size


def test_a_teams_documents_keep_their_caches(deep: Path) -> None:
    """Small caches are kept for more documents than one person has open; large ones are not."""
    engine = load_engine(str(deep), device="cpu")
    prompts = [[n] * (BLOCK + 1) for n in range(1, 40)]
    for budget, small, kept in [(10**9, 10**9, True), (10**9, 1, False)]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sessions, "_SMALL_BYTES", small)
            caches = _sessions(engine, budget)
            for ids in prompts:
                _prefilled(caches, ids, engine)
            assert (_prefilled(caches, prompts[0], engine) == BLOCK) == kept
            assert len(caches) == (len(prompts) if kept else sessions._SESSIONS)


def test_an_error_spares_what_was_done_before(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last id of one completion and another's failure in the same step: the first has its answer."""
    monkeypatch.setattr(PromptLookup, "draft", lambda self, most=MAX_DRAFT: [])
    engine = load_engine(str(deep), device="cpu", quantize="int8")
    monkeypatch.setattr(type(engine._model), "batches", True)
    done, failing = (
        engine.stream(InfillRequest(text, "\n", (), n)) for text, n in (("def f(", 20), ("a", 99))
    )
    next(done)
    next(failing)
    # Both decode in one batch, so that the first to run by itself is the one that is left.
    monkeypatch.setattr(scheduler.Scheduler, "_go_on", lambda *_: 1 / 0)
    assert len(_rest(done).ids) == 20
    with pytest.raises(ZeroDivisionError):
        _rest(failing)
    assert engine._scheduler.jobs == 0


def test_an_error_reaches_its_caller_and_frees_the_engine(
    deep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong inside a step is raised where the request was made; the next one runs."""
    engine = load_engine(str(deep), device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(type(engine._model), "forward", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.complete("ab", max_tokens=2)
    assert len(engine.complete("ab", max_tokens=2).ids) == 2
    assert engine._scheduler.jobs == 0
