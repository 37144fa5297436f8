"""The engine on a GPU as users drive it, with the model that ships: does each way through it work at all?

`python -m benchmarks.gpu_smoke` takes seconds; `--device cpu` rehearses it. It is a section of the benchmark.
"""

import argparse
import functools
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from benchmarks.report import Figure

from codellama.runtime import Engine, load_engine
from codellama.runtime.records import CompletionRequest, Sampling

Check = Callable[[], Iterator[Figure]]

_PREFIX = "import os\n\n\ndef read_lines(path):\n    with open(path) as file:\n        "
_SUFFIX = "\n\n\ndef main():\n    print(read_lines('a.txt'))\n"
_LONG = "".join(f"def value_{n}(x):\n    return x + {n}\n\n\n" for n in range(24))
_TOKENS = 12


def checks(device: str) -> dict[str, Check]:  # noqa: PLR0915 - a list of small checks
    """Names and what to run; each is for itself."""

    @functools.cache
    def engine(dtype: str = "auto", quantize: str = "none", cache: str | None = None) -> Engine:
        return load_engine("pocket", device=device, dtype=dtype, quantize=quantize, quantize_cache=cache)

    @functools.cache
    def expected(prompt: str) -> tuple[int, ...]:
        """What the CPU says in float32, without quantisation."""
        plain = load_engine("pocket", device="cpu", dtype="float32", quantize="none")
        return plain.complete(prompt, max_tokens=_TOKENS).ids

    def infill() -> Iterator[Figure]:
        began = time.perf_counter()
        first = engine().infill(_PREFIX, _SUFFIX, max_tokens=_TOKENS)
        yield Figure("first infill, load and compilation included", time.perf_counter() - began, "s")
        began = time.perf_counter()
        second = engine().infill(_PREFIX, _SUFFIX, max_tokens=_TOKENS)
        note = f"reused {second.stats.reused_tokens} of {second.stats.prompt_tokens}; {first.text[:40]!r}"
        yield Figure("the same again", 1000 * (time.perf_counter() - began), "ms", note=note)
        yield _same("an infill again", first.ids, second.ids)

    def streamed() -> Iterator[Figure]:
        whole = engine().complete(_LONG, max_tokens=_TOKENS)
        pieces = [piece.text for piece in engine().stream(CompletionRequest(_LONG, _TOKENS, Sampling()))]
        reached = "".join(pieces) == whole.text
        yield Figure(
            "streamed pieces make the text", float(reached), "", "1", reached, f"{len(pieces)} pieces"
        )

    def near(dtype: str, quantize: str, cache: str | None, most: int) -> Iterator[Figure]:
        found = engine(dtype, quantize, cache).complete(_LONG, max_tokens=_TOKENS)
        name = f"{dtype} {quantize} weights, {cache or 'plain'} cache"
        yield _same(name, found.ids, expected(_LONG), most)

    def together() -> Iterator[Figure]:
        """Two at once give what each gives alone."""
        requests = [CompletionRequest(_LONG + f"def other_{n}(", _TOKENS, Sampling()) for n in range(2)]
        alone = [engine().run(request).ids for request in requests]
        found: dict[int, tuple[int, ...]] = {}

        def run(n: int) -> None:
            found[n] = engine().run(requests[n]).ids

        threads = [threading.Thread(target=run, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for n in range(2):
            yield _same(f"two at once, number {n}", found.get(n, ()), alone[n], 6)

    def cancelled() -> Iterator[Figure]:
        began = time.perf_counter()
        calls = iter(range(10_000))
        request = CompletionRequest(_LONG, 500, Sampling())
        result = engine().run(request, cancelled=lambda: next(calls) > 5)
        reached = result.finish_reason == "cancelled"
        ms = 1000 * (time.perf_counter() - began)
        yield Figure("cancelled after a few steps", ms, "ms", "ends cancelled", reached, result.finish_reason)

    def sampled() -> Iterator[Figure]:
        sampling = Sampling(temperature=0.8, top_p=0.9, seed=7)
        one, two = (engine().run(CompletionRequest(_LONG, _TOKENS, sampling)).ids for _ in range(2))
        yield _same("sampled twice with a seed", one, two, 6)

    def extended() -> Iterator[Figure]:
        """A prompt that goes on from its own answer."""
        first = engine().complete(_LONG, max_tokens=_TOKENS)
        second = engine().complete(_LONG + first.text + "\n", max_tokens=4)
        stats = second.stats
        note = f"of {stats.prompt_tokens}"
        yield Figure("ids reused by a prompt that goes on", stats.reused_tokens, note=note)

    def logits() -> Iterator[Figure]:
        rows = engine().logits(list(range(1, 200)))
        reached = bool(rows.isfinite().all())
        yield Figure(
            "logits of every position", float(reached), "", "finite", reached, str(tuple(rows.shape))
        )

    found: dict[str, Check] = {
        "infill": infill,
        "streamed": streamed,
        "float32": functools.partial(near, "float32", "none", None, _TOKENS),
        "bfloat16": functools.partial(near, "auto", "none", None, 8),
        "two at once": together,
        "cancelled": cancelled,
        "sampled": sampled,
        "extended": extended,
        "logits": logits,
    }
    for kind in ("int8", "int4", *(("fp8",) if device == "cuda" else ())):
        found[f"{kind} weights"] = functools.partial(near, "auto", kind, None, 1)
    for cache in ("int8", "fp8"):
        found[f"{cache} cache"] = functools.partial(near, "auto", "none", cache, 4)
    return found


def _same(name: str, found: tuple[int, ...], expected: tuple[int, ...], most: int = _TOKENS) -> Figure:
    """How many ids agree before the first that does not; `most` are enough."""
    alike = 0
    for one, other in zip(found, expected, strict=False):
        if one != other:
            break
        alike += 1
    enough = min(most, len(expected))
    return Figure(
        f"{name}, ids alike", alike, "", f"at least {enough}", alike >= enough, f"of {len(expected)}"
    )


def main() -> None:
    """Runs all checks and prints a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    for name, check in checks(arguments.device).items():
        began = time.perf_counter()
        try:
            for figure in check():
                mark = {True: "yes", False: "NO", None: ""}[figure.reached]
                print(f"{figure.name}: {figure.value:.4g} {figure.unit} {mark} {figure.note}", flush=True)
        except Exception:  # noqa: BLE001 - the others are still worth knowing
            print(f"{name} FAILED\n{traceback.format_exc(limit=-4)}", flush=True)
        print(f"  {name}: {time.perf_counter() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
