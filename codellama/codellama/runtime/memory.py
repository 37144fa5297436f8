"""What a request needs in memory and what is free, so that one too long is refused before it starts.

The sums count what lives at the same time; each is checked against a measured run in
tests/runtime/test_memory.py. Nothing is allocated here.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import ContextTooLong
from codellama.runtime.footprint import cache_bytes

# Left to everybody else: a tenth of what is free, a GiB at most.
_SPARED_SHARE, _MOST_SPARED = 0.1, 2**30
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that a request takes: for each position of prompt and answer, and whatever their number."""

    per_token: int
    fixed: int

    def bytes(self, positions: int) -> int:
        """What a request of so many positions takes."""
        return self.fixed + self.per_token * positions

    def tokens_within(self, usable: int) -> int:
        """The most positions that `usable` bytes have room for."""
        return max(0, usable - self.fixed) // self.per_token


def generation_needs(
    config: ModelConfig, dtype: torch.dtype, block: int, position_bytes: int | None = None
) -> Needs:
    """Prefill in passes of `block` positions, then decode: the cache, one pass, one row of logits.

    `position_bytes` are the cache's for one position, by default keys and values in `dtype`.
    """
    mask = block * dtype.itemsize  # one row of keys for each query of a pass
    logits = 4 * config.vocab_size * 4  # float32: as they come, log-probabilities, weights, their order
    cached = position_bytes or cache_bytes(config, 1, dtype.itemsize)
    per_token = cached + mask + _table_bytes(config)
    return Needs(per_token, block * _pass_bytes(config, dtype) + logits)


def logits_needs(config: ModelConfig, dtype: torch.dtype) -> Needs:
    """One pass over everything, without a cache, and the logits of each position."""
    logits = config.vocab_size * (dtype.itemsize + (4 if dtype != torch.float32 else 0))
    return Needs(_pass_bytes(config, dtype) + _table_bytes(config) + logits, 0)


def check_room(needs: Needs, positions: int, device: torch.device, held: int = 0) -> None:
    """Raises ContextTooLong, naming the limit, where memory has no room for so many positions.

    `held` bytes are in use already and will serve this request.
    """
    limit = needs.tokens_within(usable_bytes(device) + held)
    if positions > limit:
        raise ContextTooLong(
            f"The request needs memory for {positions} tokens of prompt and answer, and there is room for "
            f"{limit}: shorten it, close other programs, or choose a smaller model."
        )


def usable_bytes(device: torch.device) -> int:
    """What requests may take of the memory that is free on `device`."""
    free = _free_bytes(device)
    return free - min(int(free * _SPARED_SHARE), _MOST_SPARED)


def _pass_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Activations of one position in a pass: layers follow one another and reuse each other's."""
    size = dtype.itemsize
    heads = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
    residual = config.dim * (3 * size + 2 * 4)  # as it is, normed, and the norm's float32
    attention = heads * (2 * size + 3 * 4)  # projected, rotated, and the rotation's float32
    hidden = config.ffn_dim
    if config.llama4:  # the experts' and, for a moment, the copies of their inputs and outputs
        hidden = max(hidden, config.llama4.expert_dim)
        residual += config.dim * 4 * size
    return residual + max(attention, 4 * hidden * size)


def _table_bytes(config: ModelConfig) -> int:
    """Rotary tables of one position, which double as they grow, and the float64 they are made from."""
    return 2 * (config.head_dim // 2) * (2 * 4 + 4 * 8)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + kept
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    if device.type == "cpu":
        return min(int(psutil.virtual_memory().available), _free_in_container())
    return sys.maxsize


def _free_in_container() -> int:
    """What a Linux control group (a container's, a service's) leaves; without bound where there is none."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit == "max":
            return sys.maxsize
        used = int((_CGROUP / "memory.current").read_text())
        counts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - used + int(counts["file"]))  # cached files give way
    except (OSError, ValueError, KeyError):
        return sys.maxsize
