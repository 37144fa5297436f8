"""The model server under many clients, many requests, and kills: `python -m benchmarks.serve PART`.

`load`: one client and sixteen at once, answers that are left, then two thousand completions in a row, with
the server's memory and descriptors. `kills`: the server is killed while requests are under way, again and
again; each must end with an answer or an error. Everything runs in a home of its own, with the pocket model.

One client and sixteen are compared like with like: in turns, at the same places of the same file, each time
under a first line of its own, so that no prompt is found in a cache; over connections that stand already.
"""

import argparse
import asyncio
import os
import random
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import httpx
import psutil
from benchmarks import report
from benchmarks.report import Figure

from codellama.runtime.errors import CodellamaError
from codellama.runtime.native_build import native_library
from codellama.runtime.records import InfillRequest
from codellama.serve import daemon
from codellama.serve.client import ModelClient, ServeSettings

CLIENTS, TURNS, ROUNDS, TOKENS = 16, 6, 3, 24
HUNG_S = 180.0
_COMPILE_S = 120.0
_LINES = Path(__file__).read_text(encoding="utf-8").splitlines(keepends=True)
# Nothing is compiled or measured at its start, so that restarts take as long as they must.
_PLAIN = ServeSettings(quantize="none")


def main() -> None:
    """Measures one part and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("load", "kills"))
    parser.add_argument("--completions", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        Path(home, "run").mkdir(mode=0o700)
        os.environ |= {"HOME": home, "XDG_RUNTIME_DIR": f"{home}/run"}
        for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "CODELLAMA_TOKEN"):
            os.environ.pop(name, None)
        try:
            if arguments.part == "load":
                name, figures = "serve", asyncio.run(load(arguments.completions))
            else:
                name, figures = "serve-kills", asyncio.run(kills(arguments.kills))
        finally:
            daemon.stop()
    busy = f"load average {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores at the end"
    print(report.write(name, figures, ("torch", "uvicorn", "starlette"), {"note": busy}))


def request(number: int, tokens: int = TOKENS, lines: int = 30) -> InfillRequest:
    """A completion at a place of this file; no two neighbours share a prompt."""
    place = 10 + (37 * number) % (len(_LINES) - 20)
    prefix = f"# {number}\n" + "".join(_LINES[max(0, place - lines) : place])
    return InfillRequest(prefix, "".join(_LINES[place + 1 : place + 10]), max_tokens=tokens)


async def load(completions: int) -> list[Figure]:
    """Latencies alone and in a crowd, then what a long row of completions leaves behind."""
    settings = ServeSettings()
    native_library(patience_s=_COMPILE_S)  # as it is from a machine's second start on
    async with ModelClient(settings) as client:
        await asyncio.gather(*(client.infill(request(number)) for number in range(4)))
        clients = [ModelClient(settings) for _ in range(CLIENTS)]
        try:
            await asyncio.gather(*(each.models() for each in clients))  # they connect
            rounds = [await a_round(clients, number) for number in range(ROUNDS)]
            reused = await typed_along(clients)
        finally:
            await asyncio.gather(*(each.aclose() for each in clients))
        free = await freed_after_leaving(client, 20)
        kept = await long_row(client, completions)
    return [
        *crowd_figures(rounds),
        Figure("sixteen documents typed in, reused of prompts", 100 * reused, "%", "over 90", reused > 0.9),
        Figure("engine free after a call was left, median", 1000 * statistics.median(free), "ms"),
        Figure(
            "engine free after a call was left, longest",
            1000 * max(free),
            "ms",
            "under 200",
            max(free) < 0.2,
            f"{len(free)} calls of 1200 tokens; by the server's own count of running requests",
        ),
        *kept,
    ]


def crowd_figures(rounds: list[tuple[list[float], list[list[float]]]]) -> list[Figure]:
    """Of each round the seconds of one client's requests, and of those of each of a crowd."""
    alone = [statistics.median(one) for one, _ in rounds]
    everyone = [[seconds for each in crowd for seconds in each] for _, crowd in rounds]
    p95 = [statistics.quantiles(seconds, n=20)[-1] for seconds in everyone]
    ratio = statistics.median(late / single for late, single in zip(p95, alone, strict=True))
    means = [statistics.mean(chain(*turns)) for turns in zip(*(crowd for _, crowd in rounds), strict=True)]
    tokens = f"{TOKENS} tokens each, prompts that no cache holds"
    return [
        Figure("one client, median", 1000 * statistics.median(alone), "ms", note=tokens),
        Figure(
            "sixteen clients, median",
            1000 * statistics.median(map(statistics.median, everyone)),
            "ms",
            note=tokens,
        ),
        Figure("sixteen clients, 95th percentile", 1000 * statistics.median(p95), "ms"),
        Figure(
            "that, by the median of one",
            ratio,
            "times",
            "at most 16",
            ratio <= 16,
            f"middle of {ROUNDS} rounds",
        ),
        Figure(
            "slowest client by fastest",
            max(means) / min(means),
            "times",
            note=f"means of {ROUNDS * TURNS} each: no starvation",
        ),
    ]


def places(head: int) -> list[InfillRequest]:
    """As many requests as a crowd asks; those of another `head` have the same sizes, and share nothing."""
    return [request(1000 + number + 10 * head * (len(_LINES) - 20)) for number in range(CLIENTS * TURNS)]


async def a_round(clients: list[ModelClient], number: int) -> tuple[list[float], list[list[float]]]:
    """Seconds of each request of one client, and then of each of sixteen that ask at once."""

    async def row(client: ModelClient, wanted: list[InfillRequest]) -> list[float]:
        return [await timed(partial(client.infill, each)) for each in wanted]

    alone = await row(clients[0], places(2 * number + 1))
    wanted = places(2 * number + 2)
    return alone, await asyncio.gather(*(row(c, wanted[n::CLIENTS]) for n, c in enumerate(clients)))


async def typed_along(clients: list[ModelClient]) -> float:
    """The share of their prompts that is reused where each types along in a document of its own."""

    async def types(client: ModelClient, number: int) -> tuple[int, int]:
        prompt = request(20_000 + number)
        along = [prompt.prefix + typed for typed in ("", "value", "value = some", "value = something(")]
        found = [await client.infill(replace(prompt, prefix=prefix)) for prefix in along]
        stats = [result.stats for result in found[1:]]
        return sum(each.reused_tokens for each in stats), sum(each.prompt_tokens for each in stats)

    typed = await asyncio.gather(*(types(client, number) for number, client in enumerate(clients)))
    return sum(reused for reused, _ in typed) / sum(asked for _, asked in typed)


async def freed_after_leaving(client: ModelClient, count: int) -> list[float]:
    """Seconds from a call's cancelling until the server runs nothing any more, so many times."""
    address = daemon.find()
    assert address is not None
    async with httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=address.uds or None),
        base_url=address.url,
        headers={"Authorization": f"Bearer {address.token}"},
    ) as http:

        async def running() -> bool:
            return "codellama_requests_running 0.0" not in (await http.get("/metrics")).text

        found: list[float] = []
        for number in range(20 * count):
            call = asyncio.ensure_future(client.infill(request(5000 + number, tokens=1200)))
            while not (call.done() or await running()):
                await asyncio.sleep(0.001)
            left = time.perf_counter()
            if call.cancel():  # else it had ended before it was seen to run
                while await running():
                    await asyncio.sleep(0.001)
                found.append(time.perf_counter() - left)
            await asyncio.gather(call, return_exceptions=True)
            if len(found) == count:
                break
        return found


async def long_row(client: ModelClient, completions: int) -> list[Figure]:
    """What many completions leave behind in the server's process."""
    address = daemon.find()
    assert address is not None
    process = psutil.Process(address.pid)
    for number in range(completions // 5):  # caches fill
        await client.infill(request(number, tokens=2, lines=5))
    memory, descriptors = process.memory_info().rss, process.num_fds()
    for number in range(completions):
        await client.infill(request(number, tokens=2, lines=5))
    growth = process.memory_info().rss / memory - 1
    leaked = process.num_fds() - descriptors
    many = f"over {completions} completions"
    return [
        Figure("memory, growth", 100 * growth, "%", "under 5", growth < 0.05, many),
        Figure("memory", process.memory_info().rss / 1e6, "MB"),
        Figure("descriptors, more than before", leaked, "", "0", leaked <= 0, many),
    ]


async def kills(count: int) -> list[Figure]:
    """Four clients ask without pause; the server is killed at random moments of their requests."""
    outcomes: Counter[str] = Counter()
    over = asyncio.Event()

    async def asks(number: int) -> None:
        async with ModelClient(_PLAIN) as client:
            for turn in range(10**6):
                if over.is_set():
                    return
                try:
                    async with asyncio.timeout(HUNG_S):
                        await client.infill(request(1000 * number + turn, tokens=200))
                    outcomes["answered"] += 1
                except TimeoutError:
                    outcomes["hung"] += 1
                except CodellamaError as error:
                    outcomes[type(error).__name__] += 1

    askers = [asyncio.ensure_future(asks(number)) for number in range(4)]
    chance = random.Random(0)
    done, last = 0, 0
    while done < count:
        address = await asyncio.to_thread(daemon.find)
        if address is None or address.pid == last:  # one that was killed may take a moment to be gone
            await asyncio.sleep(0.05)
            continue
        await asyncio.sleep(chance.uniform(0.05, 1.0))
        os.kill(address.pid, signal.SIGKILL)
        done, last = done + 1, address.pid
    over.set()
    await asyncio.gather(*askers)
    hung = outcomes["hung"]
    return [
        Figure("kills", done, "", "100", done >= 100),
        Figure("requests that hung", hung, "", "0", hung == 0, f"longer than {HUNG_S:.0f} s"),
        *(
            Figure(f"requests: {kind}", number, "")
            for kind, number in sorted(outcomes.items())
            if kind != "hung"
        ),
    ]


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """The seconds that it took."""
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
