"""HumanEval-Infilling (arXiv 2207.14255), measured: greedy, one answer a hole, judged by its tests.

The problems are only ever read here, to be asked; the training code reads them to leave them out.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from codellama.assist import execution, scores
from codellama.runtime.errors import InvalidRequest
from codellama.runtime.records import InfillRequest
from codellama.serve.client import ModelClient

FILES = {
    "single-line": "HumanEval-SingleLineInfilling.jsonl.gz",
    "random-span-light": "HumanEval-RandomSpanInfillingLight.jsonl.gz",
}
_TOKENS = {"single-line": 96, "random-span-light": 256}
# A hole of one line ends with its line, as an editor that asks for one line shows it.
_STOPS = {"single-line": ("\n",), "random-span-light": ()}


@dataclass(frozen=True, slots=True)
class Problem:
    """One hole: the code around it, what stood in it, and the tests of the whole."""

    task: str
    prefix: str
    suffix: str
    middle: str
    test: str
    entry_point: str

    def program(self, middle: str) -> str:
        """The whole with a middle, and its tests run."""
        return f"{self.prefix}{middle}{self.suffix}\n{self.test}\ncheck({self.entry_point})\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said for a problem, whether that passes, and the milliseconds it took."""

    problem: Problem
    text: str
    passed: bool
    milliseconds: float


def read_problems(folder: Path, name: str, limit: int | None = None) -> list[Problem]:
    """The problems of one part, evenly spread where `limit` takes fewer; raises InvalidRequest."""
    file = folder / FILES[name]
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        problems = [
            Problem(
                r["task_id"], r["prompt"], r["suffix"], r["canonical_solution"], r["test"], r["entry_point"]
            )
            for r in rows
        ]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            f"{file} cannot be read ({error}): name a folder that holds HumanEval-Infilling's files."
        ) from error
    if limit is None or limit >= len(problems):
        return problems
    return [problems[n * len(problems) // limit] for n in range(limit)]


async def answers(
    client: ModelClient, problems: list[Problem], name: str, progress: Callable[[int, int], None]
) -> list[Answer]:
    """Asks for every middle and runs what comes.

    A single line ends where the line does, any other middle where the model ends it.
    """
    done = []
    for n, problem in enumerate(problems):
        stop = _STOPS[name]
        request = InfillRequest(problem.prefix, problem.suffix, max_tokens=_TOKENS[name], stop=stop)
        result = await client.infill(request)
        text = result.text + "".join(stop)
        spent = (result.stats.prefill_s + result.stats.decode_s + result.stats.choice_s) * 1000
        # What stood there passes: that is how the benchmark was made.
        passed = text == problem.middle or execution.passes(problem.program(text))
        done.append(Answer(problem, text, passed, spent))
        progress(n + 1, len(problems))
    return done


def report(done: list[Answer]) -> dict[str, object]:
    """pass@1 with its interval, and how near the answers come to what stood there."""
    passed = scores.share_of([answer.passed for answer in done])
    times = [answer.milliseconds for answer in done]
    pairs = [(answer.text.strip(), answer.problem.middle.strip()) for answer in done]
    return {
        "n": len(done),
        "pass_at_1": passed["share"],
        "interval": passed["interval"],
        "exact_match": scores.share_of([one == other for one, other in pairs])["share"],
        "edit_similarity": round(sum(scores.edit_similarity(*p) for p in pairs) / max(len(pairs), 1), 4),
        "p50_ms": round(scores.quantile(times, 0.5), 1),
        "p95_ms": round(scores.quantile(times, 0.95), 1),
    }
