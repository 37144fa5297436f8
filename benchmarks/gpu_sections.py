"""What `benchmarks.gpu` measures, a section each; every measurement may fail alone."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from benchmarks.gpu_attention import attention
from benchmarks.gpu_bench import Bench, Record, often
from benchmarks.gpu_correctness import correctness
from benchmarks.gpu_models import cache_of, ids_of
from benchmarks.report import Figure

from codellama.runtime.cache import CacheKind
from codellama.runtime.footprint import cache_bytes
from codellama.runtime.generation import LanguageModel, pass_rows, prefill, prefill_block
from codellama.runtime.linear import Quantisation

# Tokens before the first step that is timed.
_PROMPT = 64


def ceilings(bench: Bench, record: Record) -> None:
    """What the device can do at best: copying memory, multiplying matrices."""

    def memory() -> Iterator[Figure]:
        source = torch.randn(2**31 if bench.cuda else 2**20, dtype=bench.dtype, device=bench.device)
        target = torch.empty_like(source)
        bench.bandwidth = 2 * source.nbytes / bench.seconds(lambda: target.copy_(source), 10)
        yield Figure("bandwidth", bench.bandwidth / 1e9, "GB/s", note="read and written by a copy")
        read = source.nbytes / bench.seconds(source.max, 5)
        yield Figure("read bandwidth", read / 1e9, "GB/s", note="only read, by torch's maximum")

    def products() -> Iterator[Figure]:
        for width in (8192, 4096) if bench.cuda else (128,):
            a, b = (torch.randn(width, width, device=bench.device, dtype=bench.dtype) for _ in range(2))
            out = torch.empty_like(a)
            run = partial(often, lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 10)
            rate = 10 * 2 * width**3 / bench.seconds(run)
            if width == (8192 if bench.cuda else 128):
                bench.rate = rate
                yield Figure("matrix rate", rate / 1e12, "TFLOP/s", note=f"{width} cubed, {bench.dtype}")
            else:
                yield Figure(f"matrix rate, {width} cubed", rate / 1e12, "TFLOP/s")

    record.take("bandwidth", memory)
    record.take("matrix rate", products)


def decode(bench: Bench, record: Record) -> None:
    """Tokens a second at batch 1 and 8 by precision, and the share of reading the weights once."""
    plain: list[float] = []
    for precision in bench.precisions:
        record.take(f"7b {precision or 'bf16'}", partial(_decode, bench, "7b", precision, plain))
        bench.keep("7b")


def _decode(
    bench: Bench, size: str, precision: Quantisation | None, plain: list[float], batches: bool = True
) -> Iterator[Figure]:
    """A model's steps; `plain` holds the seconds of the first that is asked for, which is not quantised."""
    kind = precision or "bf16"
    bench.forget_peak()
    model, nbytes = bench.model(size, precision)
    made = bench.peak()
    single = _step_seconds(bench, model, 1)
    share = nbytes / bench.bandwidth / single
    note = f"{share:.0%} of the roofline, {1000 * single:.2f} ms a step, {nbytes / 1e9:.1f} GB read"
    note += f"; peak {made:.1f} GB while made" if bench.cuda else ""
    if precision is None:
        plain.append(single)
        yield Figure(f"{size} {kind} decode", 1 / single, "tokens/s", note=note)
        yield Figure(f"{size} {kind} of the roofline", share, "", "at least 0.8", share >= 0.8)
    else:
        yield Figure(f"{size} {kind} decode", 1 / single, "tokens/s", note=note)
        goal = {"int8": 1.6, "int4": 2.3}.get(kind)
        if plain:
            gain = plain[0] / single
            words, reached = (f"at least {goal} x", gain >= goal) if goal else ("", None)
            yield Figure(f"{size} {kind} against bf16", gain, "x", words, reached)
    if batches:
        eight = _step_seconds(bench, model, 8)
        yield Figure(
            f"{size} {kind} decode, batch 8", 8 / eight, "tokens/s", note=f"{1000 * eight:.2f} ms a step"
        )


def _step_seconds(bench: Bench, model: LanguageModel, batch: int) -> float:
    """Of one step, the likeliest id of one going into the next."""
    caches = [cache_of(model, _PROMPT + bench.steps + 1, _PROMPT) for _ in range(batch)]

    @torch.inference_mode()
    def run() -> None:
        for cache in caches:
            cache.rewind(_PROMPT)
        ids = torch.ones(batch, dtype=torch.long, device=bench.device)
        for _ in range(bench.steps):
            logits = model(ids[None], caches[0])[0] if batch == 1 else model.together(ids, caches)
            ids = logits.argmax(-1)

    return bench.seconds(run) / bench.steps


def prompts(bench: Bench, record: Record) -> None:
    """Seconds for prompts of several lengths, in the passes of real requests, and the share of the rate.

    Counted is what must be computed: the products, without the logits that nobody asks for, and of
    attention the half that a causal mask leaves.
    """
    model, nbytes = bench.model("7b")
    for length in bench.lengths:
        record.take(f"prefill {length}", partial(_prompt, bench, "7b", model, nbytes, length))


def _prompt(bench: Bench, size: str, model: LanguageModel, nbytes: int, length: int) -> Iterator[Figure]:
    config = model.config
    bench.forget_peak()
    cache = model.new_cache(length + 1)
    ids = ids_of(length)

    def run() -> None:
        cache.rewind(0)
        prefill(model, cache, ids).argmax().item()

    long = length > 16384
    seconds = bench.seconds(run, 1 if long else None, warm=not long)
    products = 2 * (nbytes / bench.dtype.itemsize - config.vocab_size * config.dim) * length
    looks = 2 * config.n_layers * config.n_heads * config.head_dim * length**2
    rate = (products + looks) / seconds
    share = rate / bench.rate
    note = f"{rate / 1e12:.0f} TFLOP/s, passes of {pass_rows(model, 0)} to {pass_rows(model, length)}"
    note += f", peak {bench.peak():.1f} GB" if bench.cuda else ""
    goal = "at most 12 s" if length == bench.long else ""
    yield Figure(f"{size} prefill of {length}", seconds, "s", goal, seconds <= 12 if goal else None, note)
    yield Figure(f"{size} prefill of {length}, of the matrix rate", share, "", "at least 0.55", share >= 0.55)


def long(bench: Bench, record: Record) -> None:
    """Decode behind a long prompt, by the cache's precision; the roofline counts weights and cache."""
    model, nbytes = bench.model("7b")
    kinds: tuple[CacheKind | None, ...] = (None, "int8", "fp8")

    def steps(kind: CacheKind | None) -> Iterator[Figure]:
        bench.forget_peak()
        count = bench.steps // 4 + 1
        cache = cache_of(model, bench.long + count + 1, bench.long, kind)

        @torch.inference_mode()
        def run() -> None:
            cache.rewind(bench.long)
            ids = torch.ones(1, 1, dtype=torch.long, device=bench.device)
            for _ in range(count):
                ids = model(ids, cache)[:, -1].argmax(-1, keepdim=True)

        step = bench.seconds(run, 2) / count
        read = nbytes + cache_bytes(model.config, bench.long, 1 if kind else bench.dtype.itemsize)
        share = read / bench.bandwidth / step
        what = f"7b decode at {bench.long}, {kind or 'bf16'} cache"
        note = f"{1000 * step:.2f} ms a step" + (f", peak {bench.peak():.1f} GB" if bench.cuda else "")
        yield Figure(what, 1 / step, "tokens/s", note=note)
        yield Figure(f"{what}, of the roofline", share, "", "at least 0.65", share >= 0.65)

    for kind in kinds:
        record.take(f"{kind or 'bf16'} cache", partial(steps, kind))
        bench.keep("7b")


def ttft(bench: Bench, record: Record) -> None:
    """Time to the first token where all but the last few tokens of a long prompt are cached."""
    model, _ = bench.model("7b")

    def first(kind: CacheKind | None) -> Iterator[Figure]:
        cached = (bench.long - bench.fresh) // model.resume_every * model.resume_every
        ids = ids_of(bench.long)
        cache = cache_of(model, bench.long + 1, cached, kind)

        @torch.inference_mode()
        def run() -> None:
            cache.rewind(cached)
            while cache.length < bench.long:
                logits = prefill_block(model, cache, ids)
            logits.argmax().item()

        ms = 1000 * bench.seconds(run, 3)
        what = f"7b first token, {cached} of {bench.long} reused, {kind or 'bf16'} cache"
        yield Figure(what, ms, "ms", "under 100 ms", ms < 100)

    for kind in (None, "int8"):
        record.take(f"{kind or 'bf16'} cache", partial(first, kind))  # type: ignore[arg-type]
        bench.keep("7b")


def peers(bench: Bench, record: Record) -> None:
    """transformers' generate beside our steps: the same shape and dtype, prompt, tokens and moment."""
    model, _ = bench.model("7b")

    def beside() -> Iterator[Figure]:
        ours = _step_seconds(bench, model, 1)
        yield Figure("7b decode", 1 / ours, "tokens/s")
        theirs = []
        for plans in (False, True) if bench.cuda else (False,):
            theirs.append(_generate(bench, plans))
            note = "torch's choice of attention" if plans else "cuDNN's attention off, as here"
            yield Figure("7b transformers", 1 / theirs[-1], "tokens/s", note=f"{note}; prompt of 64 included")
        gain = min(theirs) / ours
        yield Figure("against transformers at its best", gain, "x", "at least 5 x", gain >= 5)

    record.take("transformers", beside)


def _generate(bench: Bench, plans: bool) -> float:
    """Seconds a token of transformers' generate, with cuDNN's attention or without."""
    from transformers import LlamaForCausalLM

    usual, before = torch.get_default_dtype(), torch.backends.cuda.cudnn_sdp_enabled()
    torch.set_default_dtype(bench.dtype)
    try:
        with torch.device(bench.device):
            peer = LlamaForCausalLM(bench.shape("7b").transformers()).eval()
    finally:
        torch.set_default_dtype(usual)
    rows = torch.ones(1, _PROMPT, dtype=torch.long, device=bench.device)
    count = min(bench.steps, 32)
    options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}

    @torch.inference_mode()
    def run() -> None:
        peer.generate(rows, attention_mask=torch.ones_like(rows), **options)

    torch.backends.cuda.enable_cudnn_sdp(plans)
    try:
        return bench.seconds(run, 2) / count
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def larger(bench: Bench, record: Record) -> None:
    """The other sizes on the one card: steps, a prompt, and the most memory that they take."""

    def one(size: str, precision: Quantisation | None, plain: list[float]) -> Iterator[Figure]:
        yield from _decode(bench, size, precision, plain, batches=False)
        model, nbytes = bench.model(size, precision)
        bench.forget_peak()
        length = bench.lengths[1] // (4 if precision else 1)
        cache, ids = model.new_cache(length + 1), ids_of(length)

        def run() -> None:
            cache.rewind(0)
            prefill(model, cache, ids).argmax().item()

        seconds = bench.seconds(run, 1)
        kind = precision or "bf16"
        yield Figure(f"{size} {kind} prefill of {length}", seconds, "s")
        note = f"weights {nbytes / 1e9:.1f} GB, prompt of {length}"
        yield Figure(f"{size} {kind} peak memory", bench.peak(), "GB", "fits", None, note)

    plain: list[float] = []
    bench.keep()
    for size, precision in (("13b", None), ("13b", "int4"), ("34b", None), ("70b", "int8")):
        if size != "13b":
            plain.clear()
        record.take(f"{size} {precision or 'bf16'}", partial(one, size, precision, plain))  # type: ignore[arg-type]
        bench.keep(*(["13b"] if (size, precision) == ("13b", None) else []))


def smoke(bench: Bench, record: Record) -> None:
    """The engine itself with the model that ships, as users call it."""
    from benchmarks.gpu_smoke import checks

    for name, check in checks(bench.device.type).items():
        record.take(name, check)


SECTIONS: dict[str, Callable[[Bench, Record], None]] = {
    "ceilings": ceilings,
    "correctness": correctness,
    "attention": attention,
    "decode": decode,
    "prefill": prompts,
    "long": long,
    "ttft": ttft,
    "peers": peers,
    "larger": larger,
    "smoke": smoke,
}
