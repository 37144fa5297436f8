"""Where a model computes, in what dtype, and in how many bits its weights are kept."""

import os

import torch

from codellama.runtime.cache import CacheKind
from codellama.runtime.errors import InvalidRequest
from codellama.runtime.linear import Quantisation

# Hopper: from here on rows may have scales of their own.
_FP8_CAPABILITY = (9, 0)


def find_device(name: str) -> torch.device:
    """`auto` (CUDA, then MPS, then CPU) or torch's name of a device; raises InvalidRequest."""
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cpu":
        # More threads than cores only get in each other's way.
        torch.set_num_threads(min(torch.get_num_threads(), os.cpu_count() or 1))
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.type == "cuda":
            plan_no_attention()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidRequest(
            f"The device {name!r} cannot be used here: choose auto, cpu, cuda or mps."
        ) from error
    return device


def plan_no_attention() -> None:
    """Leaves cuDNN out of torch's attention: on Hopper it comes first since 2.11, and plans each new length.

    A plan takes some fifty milliseconds, and every step of a decode has a new length.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` (float32 on a CPU, bfloat16 elsewhere) or a dtype's name; raises InvalidRequest."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    known: dict[str, torch.dtype] = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }
    if name not in known:
        raise InvalidRequest(f"There is no dtype {name!r}: choose auto, {', '.join(known)}.")
    return known[name]


def find_quantisation(name: str | None, device: torch.device) -> Quantisation | None:
    """`auto` (int8 on a CPU, none elsewhere), int8, int4, fp8 where there are units for it, or none.

    Raises InvalidRequest.
    """
    if name is None or name == "none":
        return None
    if name == "auto":
        return "int8" if device.type == "cpu" else None
    if name == "int8":
        return "int8"
    if name == "int4":
        return "int4"
    if name == "fp8":
        if device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FP8_CAPABILITY:
            return "fp8"
        raise InvalidRequest("This device multiplies no fp8 numbers: choose auto, none, int8 or int4.")
    raise InvalidRequest(f"There is no quantisation {name!r}: choose auto, none, int8, int4 or fp8.")


def find_cache_kind(name: str | None, device: torch.device) -> CacheKind | None:
    """none, int8 or, on a GPU that has it and on a CPU, fp8; raises InvalidRequest."""
    if name is None or name == "none":
        return None
    if name == "int8":
        return "int8"
    if name == "fp8" and device.type in ("cpu", "cuda"):
        return "fp8"
    raise InvalidRequest(f"There is no quantised cache {name!r} on {device.type}: choose none or int8.")
