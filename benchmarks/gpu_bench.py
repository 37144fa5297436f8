"""How `benchmarks.gpu` measures: times, models that sections share, figures kept as they come."""

import math
import statistics
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from benchmarks import report
from benchmarks.gpu_models import Shape, random_model
from benchmarks.report import Figure

from codellama.runtime.generation import LanguageModel
from codellama.runtime.linear import Quantisation


@dataclass(slots=True)
class Bench:
    """Where and how large: `long` stands for 100,000 tokens, `bandwidth` and `rate` for what was measured."""

    device: torch.device
    shapes: dict[str, Shape]
    lengths: tuple[int, ...]
    long: int
    fresh: int
    steps: int
    rounds: int
    bandwidth: float = math.nan  # bytes a second, read and written
    rate: float = math.nan  # operations a second
    _models: dict[tuple[str, Quantisation | None], tuple[LanguageModel, int]] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.cuda else torch.float32

    @property
    def precisions(self) -> tuple[Quantisation | None, ...]:
        return (None, "fp8", "int8", "int4") if self.cuda else (None, "int8", "int4")

    def shape(self, size: str) -> Shape:
        """A size's; the smallest where there is none such, in a rehearsal."""
        return self.shapes.get(size) or next(iter(self.shapes.values()))

    def model(self, size: str, precision: Quantisation | None = None) -> tuple[LanguageModel, int]:
        """A model of random weights, and the bytes that a step reads of it; made once and kept."""
        key = (size, precision)
        if key not in self._models:
            began = time.perf_counter()
            self._models[key] = random_model(self.shape(size), self.device, self.dtype, precision)
            self.wait()
            print(f"  made {size} {precision or 'bf16'} in {time.perf_counter() - began:.1f} s", flush=True)
        return self._models[key]

    def keep(self, *sizes: str) -> None:
        """Gives back all models but the plain ones of these sizes."""
        self._models = {key: kept for key, kept in self._models.items() if key[1] is None and key[0] in sizes}
        if self.cuda:
            torch.cuda.empty_cache()

    def seconds(self, run: Callable[[], object], rounds: int | None = None, warm: bool = True) -> float:
        """The median time of several runs after one that is not counted, the device's work included."""
        if warm:
            run()
        times = []
        for _ in range(rounds or self.rounds):
            self.wait()
            began = time.perf_counter()
            run()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def peak(self) -> float:
        """The most memory in use since `forget_peak`, GB."""
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self.cuda else 0.0

    def forget_peak(self) -> None:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)


class Record:
    """One section's figures, written after each; what fails or finds no time is named."""

    def __init__(self, name: str, folder: Path | None, deadline: float, more: dict[str, object]) -> None:
        """Nothing is written where there is no folder."""
        self._name, self._folder, self._deadline, self._more = name, folder, deadline, more
        self.figures: list[Figure] = []
        self.missing: dict[str, str] = {}

    def section(self, run: Callable[[], None]) -> None:
        """Runs a section; what fails outside its measurements, a model that has no room, ends it alone."""

        def whole() -> Iterator[Figure]:
            run()
            return iter(())

        self.take("the section", whole)

    def take(self, what: str, measure: Callable[[], Iterator[Figure]]) -> None:
        """Runs one measurement and prints its figures as they come."""
        began = time.monotonic()
        if began > self._deadline:
            self.missing[what] = "no time was left"
            print(f"{self._name} SKIPPED {what}", flush=True)
            return
        try:
            for figure in measure():
                self.figures.append(figure)
                note = f"  ({figure.note})" if figure.note else ""
                mark = {True: "  reached", False: "  MISSED", None: ""}[figure.reached]
                print(
                    self._name, figure.name, f"{figure.value:.4g}", f"{figure.unit}{mark}{note}", flush=True
                )
        except Exception as failure:  # noqa: BLE001 - a minute of a GPU is worth more than a clean end
            self.missing[what] = f"{type(failure).__name__}: {failure}"[:1500]  # its place is printed only
            print(f"{self._name} FAILED {what}\n{traceback.format_exc(limit=-4).strip()}", flush=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        print(f"  {what}: {time.monotonic() - began:.1f} s", flush=True)
        self._write()

    def _write(self) -> None:
        if self._folder is not None and self.figures:
            more = self._more | ({"missing": self.missing} if self.missing else {})
            report.write(self._name, self.figures, ("torch", "transformers"), more, self._folder)


def often(run: Callable[[], object], times: int) -> None:
    """Runs something several times, so that a GPU need not wait for the host in between."""
    for _ in range(times):
        run()


def versions() -> dict[str, object]:
    """The GPU, its driver and what drives it."""
    ask = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        card = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        card = torch.cuda.get_device_name()
    try:
        import triton

        compiler = triton.__version__
    except ImportError:
        compiler = "none"
    cudnn = str(torch.backends.cudnn.version())
    return {"gpu": {"card": card, "cuda": str(torch.version.cuda), "cudnn": cudnn, "triton": compiler}}
