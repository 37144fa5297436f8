"""One line asked for: what ends it counts together, and of likely lines the best is chosen."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from codellama.runtime import Engine, load_engine
from codellama.runtime.line_choice import LineChoice
from codellama.runtime.line_sampling import LineKinds, LineSampler
from codellama.runtime.locate import POCKET
from codellama.runtime.reading import Reading
from codellama.runtime.records import InfillRequest, Result, Sampling
from codellama.runtime.scheduler import Job

PIECES = (b"x", b"\n", b"\n\n", b")", b")\n", b") \r\n", b"y")
STOP = 7
KINDS = LineKinds(PIECES, {STOP}, size=9)


RESULT = "def read(path):\n    result = "


@pytest.fixture(scope="module")
def pocket() -> Engine:
    """The pocket model with its choice of lines, though without compiled code it would have none."""
    engine = load_engine(POCKET, device="cpu", quantize="int8")
    tokenizer = engine.tokenizer
    assert tokenizer.infill is not None
    stops = {*tokenizer.stop_ids, tokenizer.infill.eot}
    kinds = LineKinds(tokenizer.pieces, stops, engine.config.vocab_size)
    index = engine._prompts.index
    engine._lines = LineChoice(tokenizer, index, kinds, torch.device("cpu"), engine._finish)
    return engine


def line(prefix: str, suffix: str, **more: Any) -> InfillRequest:
    return InfillRequest(prefix, suffix, max_tokens=32, stop=("\n",), **more)


def sure(result: Result) -> float:
    return math.exp(sum(logprob for _, logprob in result.steps))


def chosen(*chances: float, allowed: list[int] | None = None, barred: tuple[int, ...] = ()) -> LineSampler:
    sampler = LineSampler(KINDS, torch.device("cpu"))
    sampler.choose(torch.tensor(chances).log(), allowed, barred)
    return sampler


def test_what_ends_a_line_alike_counts_together() -> None:
    """A line break, two, and the end of the answer; a bracket before them is another line's end."""
    sampler = chosen(0.3, 0.15, 0.1, 0.0, 0.0, 0.0, 0.0, 0.2, 0.25)
    assert [token for token, _ in sampler.likeliest] == [STOP, 0, 8]
    assert math.exp(sampler.likeliest[0][1]) == pytest.approx(0.45)
    sampler = chosen(0.3, 0.1, 0.0, 0.2, 0.15, 0.25, 0.0, 0.0, 0.0)
    assert [(token, round(math.exp(logprob), 3)) for token, logprob in sampler.likeliest] == [
        (5, 0.4),
        (0, 0.3),
        (3, 0.2),
        (1, 0.1),
    ]


def test_what_is_barred_or_not_allowed_is_not_chosen() -> None:
    """What is barred keeps its share of the probability, what is not allowed has none."""
    chances = (0.3, 0.15, 0.1, 0.0, 0.0, 0.0, 0.0, 0.2, 0.25)
    assert chosen(*chances, barred=(1, 2, STOP)).likeliest[0] == (0, pytest.approx(math.log(0.3)))
    assert chosen(*chances, allowed=[0, 1]).likeliest[0] == (0, pytest.approx(math.log(2 / 3)))


def test_a_known_text_is_as_likely_as_its_ids_one_by_one(tiny: Path) -> None:
    """It is read by the scheduler as a draft that the model agrees with, whatever it would have chosen."""
    engine = load_engine(str(tiny), device="cpu", quantize="none")
    ids = engine.tokenizer.encode("value = compute(first, second)")
    reading = Reading(ids[4:], torch.device("cpu"))
    job = Job(ids[:4], len(ids) + 1, reading, reading.take, lambda: None, frozenset, lambda: False, True)
    job.drafter = reading
    with engine._scheduler.running(job):
        engine._scheduler.advance(job, lambda: True)
    assert job.error is None
    logprobs = engine.logits(ids).log_softmax(-1)
    expected = sum(float(logprobs[n - 1, ids[n]]) for n in range(4, len(ids)))
    assert reading.logprob == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("\n    result[path] = 1\n    return result\n", "{}"),
        ("\n    result.append(path)\n    return result\n", "[]"),
    ],
)
def test_what_stands_after_the_hole_chooses(pocket: Engine, after: str, expected: str) -> None:
    """Of the likely lines; whoever streams gets the same, in one piece."""
    request = line(RESULT, after)
    result = pocket.run(request)
    assert (result.text, result.finish_reason) == (expected, "stop")
    assert 0 < sure(result) < 1
    streamed = pocket.stream(request)
    assert next(streamed).text == expected
    with pytest.raises(StopIteration) as end:
        next(streamed)
    again = end.value.value
    assert (again.text, again.ids) == (result.text, result.ids)
    assert sure(again) == pytest.approx(sure(result))


def test_a_likelier_line_than_the_likeliest_steps_make(pocket: Engine) -> None:
    """Where nothing stands after the hole, the likeliest of the lines that were tried is the answer."""
    plain = replace(line(RESULT, ""), top_logprobs=1)  # those who ask for logprobs get the steps as they are
    assert sure(pocket.run(line(RESULT, ""))) > sure(pocket.run(plain))


def test_a_second_look_is_bounded(pocket: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more lines are decoded and four read at most; of a line that is sure nothing more is run."""
    ran: list[Job] = []
    lines, finish = pocket._lines, pocket._finish
    assert lines is not None
    monkeypatch.setattr(lines, "_finish", lambda job: (ran.append(job), finish(job)))
    result = pocket.run(line(RESULT, "\n    result[path] = 1\n    return result\n"))
    readings = [job for job in ran if isinstance(job.sampler, Reading)]
    assert (len(ran) - len(readings), 2 <= len(readings) <= 4) == (3, True)
    assert result.stats.choice_s > 0
    ran.clear()
    result = pocket.run(
        line("class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.", "")
    )
    assert sure(result) > 0.7
    assert (len(ran), result.stats.choice_s) == (1, 0)


def test_other_requests_are_answered_step_by_step(pocket: Engine) -> None:
    """Several lines, sampling, and whoever wants the tokens."""
    for request in (
        InfillRequest(RESULT, "", max_tokens=8),
        line(RESULT, "", sampling=Sampling(temperature=1.0, seed=1)),
        line(RESULT, "", top_logprobs=1),
    ):
        result = pocket.run(request)
        assert result.stats.mean_logprob == pytest.approx(sum(p for _, p in result.steps) / len(result.steps))


def test_it_ends_when_it_is_cancelled(pocket: Engine) -> None:
    """At any moment, in the first line or in a later try; nothing stays in flight."""
    request, steps = line(RESULT, "\n    result[path] = 1\n"), 0

    def cancelled_after(most: int) -> Result:
        def cancelled() -> bool:
            nonlocal steps
            steps += 1
            return steps > most

        return pocket.run(request, cancelled)

    assert cancelled_after(10**6).finish_reason == "stop"
    for most in (0, steps // 3, steps // 2, steps - 1):
        steps = 0
        assert cancelled_after(most).finish_reason == "cancelled"
        assert pocket._scheduler.jobs == 0
