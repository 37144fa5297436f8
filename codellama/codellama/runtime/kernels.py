"""Which kernels multiply with int8 weights fastest on this machine: measured once, at load, and kept.

With int4 weights the compiled code is taken where it is with int8.

Measured is the widest product of a layer, for one row (a step) and for a block (a prompt), in turns, since
other work on the machine slows single turns down; the least time of each counts. A kernel that is not there,
or whose result is off, is out. What was found lies beside the compiled library and is measured anew when the
processor, torch, the number of threads or the shape changes.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from codellama.runtime.linear import Int4Linear, Int8Linear, Kernel
from codellama.runtime.native import product
from codellama.runtime.native_build import processor

# Rows of a step and of a prompt's block, and how many of each an infill takes: 24 tokens after 512.
ROWS, WEIGHTS = (1, 128), (24, 4)
# What measuring may take, and the most rounds.
_SECONDS, _ROUNDS = 0.3, 12
# The error of bfloat16 activations is 0.003, that of int8 ones 0.005; a kernel that is wrong is beyond this.
_MOST_OFF = 0.02


@dataclass(frozen=True, slots=True)
class Kernels:
    """The fastest torch kernel for few and for many rows, and whether the compiled pass beats both."""

    few: Kernel = "bfloat16"
    many: Kernel = "halves"
    compiled: bool = False


def choose_kernels(outputs: int, inputs: int, library: ctypes.CDLL | None, folder: Path) -> Kernels:
    """What is kept for this machine and a product of weights [outputs, inputs], or measured now."""
    subject = (
        processor(),
        torch.__version__,
        torch.get_num_threads(),
        outputs,
        inputs,
        library and library._name,
    )
    name = hashlib.sha256(repr(subject).encode()).hexdigest()[:16]
    file = folder / f"kernels-{name}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Kernels(**json.loads(file.read_text(encoding="utf-8")))
    found = fastest(measure(outputs, inputs, library))
    with contextlib.suppress(OSError):  # a folder that cannot be written: measured again next time
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as new:
            json.dump(asdict(found), new)
        os.replace(new.name, file)
    return found


def fastest(seconds: dict[str, tuple[float, float]]) -> Kernels:
    """The choice from what each kernel takes for a step's product and a block's."""
    step = {name: pair[0] for name, pair in seconds.items() if name != "compiled"}
    block = {name: pair[1] for name, pair in seconds.items() if name != "compiled"}
    few, many = min(step, key=step.__getitem__), min(block, key=block.__getitem__)
    best = _whole((step[few], block[many]))
    compiled = "compiled" in seconds and _whole(seconds["compiled"]) < best
    return Kernels(
        "halves" if few == "halves" else "bfloat16", "halves" if many == "halves" else "bfloat16", compiled
    )


def _whole(pair: tuple[float, float]) -> float:
    return sum(weight * part for weight, part in zip(WEIGHTS, pair, strict=True))


@torch.inference_mode()
def measure(outputs: int, inputs: int, library: ctypes.CDLL | None) -> dict[str, tuple[float, float]]:
    """Seconds of each kernel that computes rightly, for one row and for a block."""
    chance = torch.Generator().manual_seed(0)
    layer = Int8Linear(torch.randn(outputs, inputs, generator=chance))
    blocks = [torch.randn(rows, inputs, generator=chance) for rows in ROWS]
    sides: dict[str, Callable[[Tensor], Tensor]] = {"bfloat16": layer.in_bfloat16, "halves": layer.in_halves}
    expected = blocks[0] @ layer.dequantised().T
    if library is not None and _multiplies(library):
        sides["compiled"] = product(library, layer)
    sides = {name: side for name, side in sides.items() if _right(side, blocks[0], expected)}
    times: dict[str, list[list[float]]] = {name: [[], []] for name in sides}
    deadline = time.perf_counter() + _SECONDS
    for turn in range(_ROUNDS):
        for name, side in sides.items():
            for place, block in enumerate(blocks):
                if turn > 1 and time.perf_counter() > deadline:  # the first turn warms up
                    break
                began = time.perf_counter()
                side(block)
                times[name][place].append(time.perf_counter() - began)
    return {name: (min(step), min(block)) for name, (step, block) in times.items()}


def _multiplies(library: ctypes.CDLL) -> bool:
    """Whether the compiled code's products are right: of both kinds, of several rows, with odd ends."""
    chance = torch.Generator().manual_seed(0)
    weight, rows = torch.randn(64, 96, generator=chance), torch.randn(9, 96, generator=chance)
    eight, four = Int8Linear(weight[:, :80]), Int4Linear(weight, layout="fours")
    return all(
        _right(product(library, layer), x, x @ layer.dequantised().T)
        for layer, x in ((eight, rows[:, :80].contiguous()), (four, rows))
    )


def _right(side: Callable[[Tensor], Tensor], rows: Tensor, expected: Tensor) -> bool:
    try:
        return bool((side(rows) - expected).norm() <= _MOST_OFF * expected.norm())
    except (RuntimeError, NotImplementedError):  # torch has no such kernel here
        return False
