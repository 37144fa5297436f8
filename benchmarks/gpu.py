"""The runtime on one GPU at Code Llama's shapes, random weights: `python -m benchmarks.gpu --section all`.

`--section` takes names with commas (gpu_sections has them); sections that run in one process share the models
they load. Each figure is written to DEVICE-SECTION.json the moment it is there; what fails is named there
and the rest goes on, and so is what `--seconds` left no time for. The first section, ceilings, measures
bandwidth and matrix rate, which the others read from its file where they run without it. `--profile` prints
where a step's and a pass's time goes. `--tiny` runs the same code on a CPU at sizes of no meaning and writes
nothing: a rehearsal.
"""

import argparse
import json
import logging
import re
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from benchmarks import report
from benchmarks.gpu_bench import Bench, Record, versions
from benchmarks.gpu_models import shapes, tiny_shapes
from benchmarks.gpu_profile import profile
from benchmarks.gpu_sections import SECTIONS

from codellama.runtime.device import find_device


def main() -> None:
    """Runs sections in the order in which they are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--section", default="all", help=f"all, or some of {','.join(SECTIONS)}")
    parser.add_argument("--seconds", type=float, default=500.0, help="what remains after so many is skipped")
    parser.add_argument("--out", type=Path, default=report.RESULTS, help="the folder of the results")
    parser.add_argument("--profile", action="store_true", help="print the kernels that take longest, as well")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    logging.basicConfig(format="  %(message)s")  # what falls back to torch
    names = list(SECTIONS) if arguments.section == "all" else arguments.section.split(",")
    if unknown := [name for name in names if name not in (*SECTIONS, "")]:
        parser.error(f"there is no section {', '.join(unknown)}")
    if not arguments.tiny and not torch.cuda.is_available():
        parser.error("there is no CUDA GPU here; --tiny rehearses on a CPU")
    if arguments.tiny:
        torch.set_num_threads(1)  # at these sizes threads wait for one another
        bench = Bench(torch.device("cpu"), tiny_shapes(), (16, 48), 48, 9, 3, 1)
        _run(bench, names, None, "tiny", deadline, {})
        if arguments.profile:
            profile(bench, None)
        return
    place = find_device("cuda")
    device = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(place).lower().removeprefix("nvidia "))
    bench = Bench(place, shapes(), (512, 8192, 32768, 100_000), 100_000, 256, 48, 3)
    _read_ceilings(bench, [arguments.out, report.RESULTS], device)
    _run(bench, names, arguments.out, device, deadline, versions())
    if arguments.profile:
        profile(bench, arguments.out / f"{device}-profile.txt")


def _run(
    bench: Bench,
    names: Iterable[str],
    folder: Path | None,
    device: str,
    deadline: float,
    more: dict[str, object],
) -> None:
    missed = []
    for name in filter(None, names):
        section = SECTIONS[name]
        began = time.monotonic()
        record = Record(f"{device}-{name}" if folder else name, folder, deadline, more)
        record.section(partial(section, bench, record))
        missed += [f"{name}: {figure.name}" for figure in record.figures if figure.reached is False]
        missed += [f"{name}: {what} has no figure" for what in record.missing]
        print(f"== {name}: {time.monotonic() - began:.1f} s", flush=True)
    print("\n".join(["MISSED OR MISSING", *missed]) if missed else "all goals reached")


def _read_ceilings(bench: Bench, folders: Iterable[Path], device: str) -> None:
    """Bandwidth and matrix rate as measured before; unknown where they were not."""
    for folder in folders:
        file = folder / f"{device}-ceilings.json"
        if file.is_file():
            rows = json.loads(file.read_text(encoding="utf-8"))["figures"]
            figures = {row["name"]: row["value"] for row in rows}
            bench.bandwidth = 1e9 * figures.get("bandwidth", float("nan"))
            bench.rate = 1e12 * figures.get("matrix rate", float("nan"))
            return


if __name__ == "__main__":
    main()
