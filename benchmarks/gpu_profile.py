"""Where the time goes: the kernels of a decode step and of prompts' passes, by torch's profiler."""

import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from benchmarks.gpu_bench import Bench
from benchmarks.gpu_models import cache_of, ids_of
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.profiler import profile as watch

from codellama.runtime.generation import prefill_block

_ROWS, _WIDTH = 14, 70


def profile(bench: Bench, file: Path | None) -> None:
    """Prints a short table for each, and writes all of them into `file`."""
    model, _ = bench.model("7b")
    past = 32768 if bench.cuda else 128
    caches = {start: cache_of(model, start + 2049, start) for start in (0, past)}
    ids = ids_of(past + 2048)
    one = torch.ones(1, 1, dtype=torch.long, device=bench.device)

    def step(start: int) -> None:
        caches[start].rewind(start)
        model(one, caches[start])

    def block(start: int, most: int) -> None:
        caches[start].rewind(start)
        prefill_block(model, caches[start], ids[: start + most])

    runs: dict[str, Callable[[], object]] = {
        "a step at 0": lambda: step(0),
        f"a step at {past}": lambda: step(past),
        "a prompt of 512": lambda: block(0, 512),
        f"a pass behind {past}": lambda: block(past, 2048),
        f"256 behind {past}": lambda: block(past, 256),
    }
    texts = []
    for name, run in runs.items():
        try:
            texts.append(f"{name}\n{_table(bench, run)}")
        except Exception:  # noqa: BLE001 - the next one may work
            texts.append(f"{name}\n{traceback.format_exc(limit=-3)}")
        print(texts[-1], flush=True)
    if file is not None:
        file.write_text("\n\n".join(texts) + "\n", encoding="utf-8")


@torch.inference_mode()
def _table(bench: Bench, run: Callable[[], object]) -> str:
    run()
    bench.wait()
    seconds = bench.seconds(run, 3, warm=False)
    activities = [ProfilerActivity.CUDA] if bench.cuda else [ProfilerActivity.CPU]
    with watch(activities=activities) as found:
        run()
        bench.wait()
    kind = DeviceType.CUDA if bench.cuda else DeviceType.CPU
    spent = [
        (event.self_device_time_total if bench.cuda else event.self_cpu_time_total, event.count, event.key)
        for event in found.key_averages()
        if event.device_type == kind
    ]
    total, kernels = sum(time for time, _, _ in spent), sum(count for _, count, _ in spent)
    lines = [f"  {1000 * seconds:.2f} ms by the clock, {total / 1000:.2f} ms in {kernels} kernels"]
    for time, count, key in sorted(spent, reverse=True)[:_ROWS]:
        lines.append(f"  {time / 1000:8.3f} ms {time / max(total, 1e-9):5.1%} {count:5d} x {key[:_WIDTH]}")
    return "\n".join(lines)
